"""Methods: from layers that are read to maps. `METHODS` is the table.

A method is a function of one reading, or of those of the layers that it merges, first to last, and
of its options. It returns (windows, R, heads, key tokens): for each of R queries what the query
gives to every key; heads are 1 where the method merges them.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from attnviz.registry import TableEntry

Need = Literal["gradient", "block gradient", "propagation", "projection", "tokens", "keys"]


@dataclass(frozen=True)
class Method(TableEntry):
    """A line of the table.

    Attributes:
        merges: what one map is of: a head, all heads of a layer, or all layers up to one.
        needs: beside queries, keys and values: the gradient of a score (or of one computed from
            every layer's own tokens), relevance that is propagated from a score, the output
            projection, the tokens after each layer, or that queries and keys are the same tokens.
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
        return TableEntry(self.then, self.summary, self.reference).load()

    @property
    def scored(self) -> bool:
        """Whether it needs a score, of which gradients or relevance go back."""
        return not {"gradient", "block gradient", "propagation"}.isdisjoint(self.needs)


METHODS: dict[str, Method] = {
    "attention": Method(
        "attnviz.methods.attention:attention",
        "the weights themselves: what the query attends to, one map per layer and head",
        "Vaswani et al. 2017, arXiv 1706.03762, eq. 1",
    ),
    "rollout": Method(
        "attnviz.methods.rollout:rollout",
        "attention multiplied through the layers, from the last one asked back to the first",
        "Abnar & Zuidema 2020, arXiv 2005.00928",
        merges="layers",
        options=("fusion", "discard"),
    ),
    "gradient-attention": Method(
        "attnviz.methods.gradients:gradient_attention",
        "the weights that speak for a score: positive products with their gradients",
        "Chefer et al. 2021, arXiv 2103.15679, eq. 5",
        merges="heads",
        needs=("gradient",),
    ),
    "gradient-rollout": Method(
        "attnviz.methods.gradients:gradient_rollout",
        "rollout of the weights that speak for a score",
        "Gildenblat 2020, github.com/jacobgil/vit-explain",
        merges="layers",
        needs=("gradient",),
        options=("discard",),
    ),
    "relevance": Method(
        "attnviz.methods.gradients:relevance",
        "how much each token matters to a score, summed up through the layers",
        "Chefer et al. 2021, arXiv 2103.15679, eqs. 5 to 11",
        merges="layers",
        needs=("gradient",),
    ),
    "legrad": Method(
        "attnviz.methods.gradients:legrad",
        "what every layer's own score would gain from more attention to a token",
        "Bousselham et al. 2024, arXiv 2404.03214",
        merges="layers",
        needs=("block gradient",),
        asks=False,
    ),
    "attnlrp": Method(
        "attnviz.methods.gradients:attnlrp",
        "what each token says for a score, for or against, propagated through all of the model",
        "Achtibat et al. 2024, arXiv 2402.05602",
        merges="layers",
        needs=("propagation",),
        asks=False,
    ),
    "value-norm": Method(
        "attnviz.methods.value_weighting:value_norm",
        "the weights times the length of what they carry to the tokens",
        "Kobayashi et al. 2020, arXiv 2004.10102",
        needs=("projection",),
    ),
    "value-norm-sum": Method(
        "attnviz.methods.value_weighting:value_norm_sum",
        "the length of what all heads together carry from a token",
        "Kobayashi et al. 2020, arXiv 2004.10102",
        merges="heads",
        needs=("projection",),
    ),
    "received": Method(
        "attnviz.methods.attention:received",
        "who is looked at: the mean of the weights over all queries",
        "Gu et al. 2025, arXiv 2410.10781",
        asks=False,
    ),
    "similarity": Method(
        "attnviz.methods.similarity:similarity",
        "cosine of each key with the query's key",
        "Amir et al. 2021, arXiv 2112.05814",
        needs=("keys",),
    ),
    "token-similarity": Method(
        "attnviz.methods.similarity:token_similarity",
        "cosine of each token after the layer with the query's",
        "Amir et al. 2021, arXiv 2112.05814",
        merges="heads",
        needs=("tokens",),
    ),
    "mass": Method(
        "attnviz.methods.mass:mass",
        "the smallest set of cells that holds 60 % of the attention, or --keep",
        "Caron et al. 2021, arXiv 2104.14294",
        options=("keep",),
        then="attnviz.methods.mass:smallest_set",
    ),
}
DEFAULT = "attention"


def without_score() -> str:
    """Names of the methods that any model can be asked, whatever head it has."""
    return ", ".join(name for name, method in METHODS.items() if not method.scored)
