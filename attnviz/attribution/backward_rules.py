"""The rules of AttnLRP for one operation, by the names of autograd's nodes.

With the ε-rule, ε → 0, AttnLRP (Achtibat et al. 2024, 2402.05602) is gradient × input with a
modified backward pass. With R = x⊙g, that is relevance R divided by x, every rule becomes a rule
for g. A rule says how to compute the g of each input of a node.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional as F

from attnviz.attribution.graph_patterns import Edge, is_gated, is_length, is_softmax, operator
from attnviz.attribution.linear_maps import PRODUCTS, wide
from attnviz.errors import RecordingError

BackwardRule = float | Callable[[Tensor], Tensor]
"""How to compute the g of an input: a factor on its ordinary gradient, or a function of the
output's g. 0 makes the input a constant."""


@dataclass(frozen=True)
class Step:
    """A node between a score and tokens.

    Attributes:
        node: a node of autograd's graph; its saved tensors are found by name.
        depends: for each of its inputs, whether it depends on the model's input.
    """

    node: Any
    depends: tuple[bool, ...]

    @property
    def edges(self) -> Sequence[Edge]:
        """Where its inputs come from."""
        edges: Sequence[Edge] = self.node.next_functions
        return edges

    def ordinary(self) -> list[BackwardRule]:
        """Ordinary gradients for all inputs."""
        return [1.0] * len(self.depends)


Rule = Callable[[Step], list[BackwardRule]]
RuleName = Literal["epsilon", "gamma", "cp", "libra"]
"""Whether relevance goes through attention weights, too, or they are constants (cp, libra);
whether linear maps have the γ-rule, and whether biases keep their share or it counts (libra)."""


def rules_for(
    node: Node, depends: tuple[bool, ...], rule: RuleName = "epsilon"
) -> list[BackwardRule]:
    """How to compute the g of each input of a node.

    Raises:
        RecordingError: there is no rule for such a node.
    """
    name, step = operator(node), Step(node, depends)
    constant = _constant_weights(step) if rule in ("cp", "libra") else None
    if constant is not None:
        return constant
    if name in _ORDINARY:
        return step.ordinary()
    if name.startswith("ScaledDotProduct"):
        return _attention(step)
    if name not in _RULES:
        raise no_rule(step)
    return _RULES[name](step)


def _constant_weights(step: Step) -> list[BackwardRule] | None:
    """The rule of a node if attention weights are constants; None if they take no part in it."""
    name = operator(step.node)
    if name.startswith("ScaledDotProduct"):
        return [1.0 if i == 2 else 0.0 for i in range(len(step.depends))]
    if name not in PRODUCTS:
        return None
    first, second = PRODUCTS[name]
    weights = [i for i in (first, second) if is_softmax(step.edges[i])]
    return [0.0 if i in weights else 1.0 for i in range(len(step.depends))] if weights else None


def no_rule(
    step: Step, what: str = "", *, method: str = "attnlrp", other: str = "input-gradient"
) -> RecordingError:
    """The error for an operation between tokens and score that has no rule."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operator(step.node)).lower()
    return RecordingError(
        f"{method} has no rule for {words}{what}, by which the score depends on the tokens; "
        f"take --method {other}"
    )


def _product(first: int, second: int) -> Rule:
    """The uniform rule: two factors that both depend on the model's input get half each."""

    def rule(step: Step) -> list[BackwardRule]:
        if not (step.depends[first] and step.depends[second]):
            return step.ordinary()
        return [0.5 if i in (first, second) else 1.0 for i in range(len(step.depends))]

    return rule


def _multiplied(step: Step) -> list[BackwardRule]:
    """An elementwise product; one factor may be a length, or a gate that the other one makes."""
    if step.depends != (True, True):
        return step.ordinary()
    one, other = step.edges
    if is_length(other) or is_gated(one, other):
        return [1.0, 0.0]
    if is_length(one) or is_gated(other, one):
        return [0.0, 1.0]
    return [0.5, 0.5]


def _divided(step: Step) -> list[BackwardRule]:
    """A division by a length counts as a division by a constant, as in the rule for layer norms."""
    if step.depends == (True, True):
        if not is_length(step.edges[1]):
            raise no_rule(step, " by what depends on the picture")
        return [1.0, 0.0]
    if step.depends[-1] and len(step.depends) == 2:
        raise no_rule(step, " by what depends on the picture")
    return step.ordinary()


def _attention(step: Step) -> list[BackwardRule]:
    """The rules of q·kᵀ + bias and of A·V together."""
    q, k, v, *bias = step.depends
    of_weights = 0.5 if v and (q or k or any(bias)) else 1.0
    of_scores = of_weights * (0.5 if q and k else 1.0)
    return [of_scores, of_scores, of_weights, *[of_weights for _ in bias]]


def _convolved(step: Step) -> list[BackwardRule]:
    if step.depends[1]:
        raise no_rule(step, " with kernels that depend on the picture")
    return step.ordinary()


def _batch_normed(step: Step) -> list[BackwardRule]:
    if step.node._saved_training:  # noqa: SLF001 — nodes save everything under such names
        raise no_rule(step, " in training")
    return step.ordinary()


def _layer_normed(step: Step) -> list[BackwardRule]:
    """(I − 1/N)(γ⊙g)/σ: the standard deviation is a constant (proposition 3.4)."""

    def turn(gradient: Tensor) -> Tensor:
        found = _weighted(gradient, step.node)
        over = range(-len(step.node._saved_normalized_shape), 0)  # noqa: SLF001
        inverse: Tensor = step.node._saved_result2  # noqa: SLF001 — 1/σ
        return (found - found.mean(tuple(over), keepdim=True)) * inverse

    return [turn, *step.ordinary()[1:]]


def _rms_normed(step: Step) -> list[BackwardRule]:
    def turn(gradient: Tensor) -> Tensor:
        inverse: Tensor = step.node._saved_result1  # noqa: SLF001 — 1 over the root mean square
        return _weighted(gradient, step.node) * inverse

    return [turn, *step.ordinary()[1:]]


def _weighted(gradient: Tensor, norm: Any) -> Tensor:
    """γ⊙g."""
    weight = norm._saved_weight  # noqa: SLF001
    return wide(gradient) if weight is None else wide(gradient) * weight.detach()


def _identity(ratio: Callable[[Any], Tensor]) -> Rule:
    """The identity rule for an elementwise function: R_x = R_y, so g_x = g_y·y/x.

    `ratio` computes y/x from a node's saved tensors.
    """
    return lambda step: [lambda gradient: gradient * ratio(step.node)]


def _of_input(ratio: Callable[[Tensor], Tensor]) -> Rule:
    """The identity rule for a node that saves its input."""
    return _identity(lambda node: ratio(wide(node._saved_self)))  # noqa: SLF001


def _gelu(node: Any) -> Tensor:
    x = wide(node._saved_self)  # noqa: SLF001
    if node._saved_approximate == "none":  # noqa: SLF001
        return (1 + torch.erf(x / math.sqrt(2))) / 2
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def _clamped(node: Any) -> Tensor:
    x = wide(node._saved_self)  # noqa: SLF001
    low, high = node._saved_min_val, node._saved_max_val  # noqa: SLF001
    return _over(x.clamp(low, high), x, at_zero=float(low <= 0 <= high))


def _of_result(inverse: Callable[[Tensor], Tensor], *, at_zero: float) -> Rule:
    """The identity rule for a node that saves only its result; `inverse` recovers its input."""

    def ratio(node: Any) -> Tensor:
        result: Tensor = node._saved_result.detach()  # noqa: SLF001
        nearest = 4 * torch.finfo(result.dtype).eps
        if bool((result.abs() > 1 - nearest).any()):
            raise RecordingError(
                f"{operator(node).lower()} is so close to 1 that its input "
                "cannot be recovered; load the model in a wider --dtype, or choose another method"
            )
        doubled = result.double()
        return _over(doubled, inverse(doubled), at_zero=at_zero)

    return _identity(ratio)


def _over(result: Tensor, x: Tensor, *, at_zero: float) -> Tensor:
    """y/x, and `at_zero` where x = 0: there relevance is lost if y ≠ 0, as on any input of 0."""
    zero = x == 0
    return torch.where(zero, at_zero, result / x.masked_fill(zero, 1))


_RULES: dict[str, Rule] = {
    "Mul": _multiplied,
    "Div": _divided,
    **{name: _product(*factors) for name, factors in PRODUCTS.items()},
    "GroupedMm": _product(0, 1),  # experts: a matrix for each group of tokens
    "Convolution": _convolved,
    "NativeBatchNorm": _batch_normed,
    "CudnnBatchNorm": _batch_normed,
    "NativeLayerNorm": _layer_normed,
    "FusedRmsNorm": _rms_normed,
    "Gelu": _identity(_gelu),
    "Silu": _of_input(torch.sigmoid),
    "Mish": _of_input(lambda x: F.softplus(x).tanh()),
    "Hardswish": _of_input(F.hardsigmoid),
    "Hardsigmoid": _of_input(lambda x: _over(F.hardsigmoid(x), x, at_zero=0)),
    "Hardtanh": _identity(_clamped),
    "Sigmoid": _of_result(torch.logit, at_zero=0),
    "Tanh": _of_result(torch.atanh, at_zero=1),
}

REARRANGED = frozenset({
    "View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Expand", "Repeat",
    "Unsqueeze", "Squeeze", "Select", "Slice", "Index", "IndexSelect", "Gather", "Cat", "Stack",
    "Split", "SplitWithSizes", "UnsafeSplit", "UnsafeSplitWithSizes", "Unbind", "Clone", "ToCopy",
    "Alias", "AsStrided", "Roll", "Flip", "Diagonal", "Tril", "Triu", "Unfold", "ConstantPadNd",
    "ReflectionPad1D", "ReflectionPad2D", "ReplicationPad1D", "ReplicationPad2D", "PixelShuffle",
    "PixelUnshuffle", "ViewAsComplex", "ViewAsReal", "IndexPut", "IndexAdd", "Scatter",
    "ScatterAdd", "SliceScatter", "SelectScatter", "Im2Col", "Col2Im", "Where", "MaskedFill",
    "MaskedScatter", "MaskedSelect", "IndexCopy", "Topk", "Sort",
})  # fmt: skip
"""Operators that rearrange, choose, copy or add up elements as they are."""
_SOFTMAX = frozenset({"Softmax", "SafeSoftmax"})
_RELU = frozenset({"Relu", "LeakyRelu", "PreluKernel"})
_ORDINARY = REARRANGED | _SOFTMAX | _RELU | {
    # Operators that are linear in all of their inputs together: sums,
    "Add", "Sub", "Rsub", "Neg", "Sum", "Mean", "Cumsum", "NativeDropout",
    # and operators that average places;
    "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "UpsampleLinear1D",
    "UpsampleNearest1D", "UpsampleNearest2D", "UpsampleBilinear2D", "UpsampleBicubic2D",
    "UpsampleBilinear2DAa", "UpsampleBicubic2DAa",
    # the softmax has Taylor's rule, which is gradient × input;
    # functions of elements and norms that are x times a local constant: y = x·∂y/∂x.
    "LinalgVectorNorm", "Norm",
}  # fmt: skip
"""Operators whose ordinary gradient is their rule."""
ELEMENTWISE = _RELU | _SOFTMAX | {
    "Gelu", "Silu", "Mish", "Hardswish", "Hardsigmoid", "Hardtanh", "Sigmoid", "Tanh", "Neg",
    "NativeDropout", "NativeLayerNorm", "FusedRmsNorm", "NativeBatchNorm", "CudnnBatchNorm",
}  # fmt: skip
"""Functions of elements, norms and the softmax: each output stands for the input at its place."""
