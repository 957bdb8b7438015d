"""`ExplicitWeights`: weights that a model made in another way than as a softmax of q·kᵀ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnviz.recording.axes import Axis, Dims, leaves
from attnviz.recording.products import Axes, Product


@dataclass(frozen=True)
class ExplicitWeights:
    """Weights that the model made in another way than as a softmax of q·kᵀ.

    Attributes:
        kind: how the model made them.
        dims: the dimensions of this tensor.
        tokens: axes that values may be summed over; a softmax is over the first of them. Empty for
            gates, which may be weights of any axis.
        lead: the axes of each of the other dimensions when the weights were made; heads are the
            last ones that are not queries.
        product: the product that they come from, if they come from one.
    """

    kind: str
    dims: Dims
    tokens: tuple[Axes, ...]
    lead: tuple[Axes, ...] = ()
    product: Product | None = None

    def are_tokens(self, axes: Dims) -> bool:
        """Whether these dimensions are axes that values may be summed over."""
        return not self.tokens or leaves(axes) in [leaves([each]) for each in self.tokens]

    def altered(self, operator: str) -> "ExplicitWeights":
        """The weights after an operator that changes them."""
        name = operator.rstrip("_")
        return replace(self, kind=KINDS.get(name, f"altered by {name}"))

    def moved(
        self, before: Sequence[int], after: Sequence[int], operator: str
    ) -> "ExplicitWeights":
        """The weights with another size along some dimensions: a part of them, or repeated."""
        node, dims = self, list(self.dims)
        for dim, (old, new) in enumerate(zip(before, after, strict=True)):
            if old == new:
                continue
            if new < old and leaves([dims[dim]]) == leaves(self.tokens[:1]) != []:
                node = replace(node, kind="sink")
            node = node.renamed(dims[dim], axes := (Axis(new),))
            dims[dim] = axes
        node = replace(node, dims=tuple(dims))
        return node if operator in ("slice", "expand", "select") else node.altered(operator)

    def renamed(self, old: Axes, new: Axes) -> "ExplicitWeights":
        """The same with new axes in the place of others, except in `dims`."""

        def each(groups: tuple[Axes, ...]) -> tuple[Axes, ...]:
            return tuple(new if leaves([axes]) == leaves([old]) else axes for axes in groups)

        return replace(self, tokens=each(self.tokens), lead=each(self.lead))


KINDS = {
    "sub": "difference",
    "rsub": "difference",
    "add": "sum",
    "mul": "gate",
    "where": "gate",
    "masked_fill": "gate",
    "div": "renormalised",
    "convolution": "mixed",
    "bmm": "mixed",
    "mm": "mixed",
    "native_dropout": "dropout",
    "exp": "exponential",
    "pow": "power",
}
"""Kinds of weights by the operator that made them of other weights."""
