"""Methods: from layers that are read to maps. `METHODS` is the table.

A method is a function of one reading, or of those of the layers that it merges, first to last, and
of its options. It returns (windows, R, heads, key tokens): for each of R queries what the query
gives to every key; heads are 1 where the method merges them.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from attnviz.catalog import Entry

Need = Literal["gradient", "block gradient", "projection", "tokens", "keys"]


@dataclass(frozen=True)
class Method(Entry):
    """A line of the table.

    Attributes:
        merges: what one map is of: a head, all heads of a layer, or all layers up to one.
        needs: beside queries, keys and values: the gradient of a score (or of one computed from
            every layer's own tokens), the output projection, the tokens after each layer, or that
            queries and keys are the same tokens.
        asks: whether it looks from a query; others look from all tokens alike.
        options: names of the options that it takes.
        then: what becomes of the map once it lies on cells, as a function of (…, cells), of the
            cells that are drawn, (cells,), and of the options.
    """

    merges: Literal["nothing", "heads", "layers"] = "nothing"
    needs: tuple[Need, ...] = ()
    asks: bool = True
    options: tuple[str, ...] = ()
    then: str = ""

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of all that can be set: its options, and where it begins to merge layers."""
        return (*self.options, "start_layer") if self.merges == "layers" else self.options

    def defaults(self) -> dict[str, Any]:
        """What its options are unless they are given."""
        taker = self.load_then() if self.then else self.load()
        parameters = inspect.signature(taker).parameters
        return {name: parameters[name].default for name in self.options}

    def load_then(self) -> Any:
        """Import the code that `then` names."""
        return Entry(self.then, self.summary, self.reference).load()

    @property
    def scored(self) -> bool:
        """Whether it needs the gradient of a score."""
        return "gradient" in self.needs or "block gradient" in self.needs


METHODS: dict[str, Method] = {
    "attention": Method(
        "attnviz.methods.attention:attention",
        "the weights themselves: what the query attends to, one map per layer and head",
        "Vaswani et al. 2017, arXiv 1706.03762, eq. 1",
    ),
}
DEFAULT = "attention"
