"""Linear maps that a model has run: their input and weight, forwards and back, and the γ-rule."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attribution.graph_patterns import operator
from attnviz.attribution.operator_inputs import Stored

Gradient = Callable[[Tensor], Tensor]
"""Gives the g of an input from the g of the output."""

PRODUCTS = {
    **dict.fromkeys(("Mm", "Bmm", "Mv", "Dot", "Linear"), (0, 1)),
    **dict.fromkeys(("Addmm", "Addmv", "Addbmm", "Baddbmm", "Addcmul"), (1, 2)),
}
"""Products by the names of autograd's nodes, with the numbers of their two factors."""
_MATRICES = frozenset(PRODUCTS) - {"Addbmm", "Addcmul"}


@dataclass(frozen=True)
class LinearMap:
    """y = L(x, weight) + bias, of which x depends on the model's input and the others do not.

    Attributes:
        place: the number of x among the inputs of the node.
        x, weight: float32 or wider.
        bias: broadcasts to y; None if there is none.
        run, back: L, and the gradient of L at x for one at y, given the weight.
        rows: whether each row of x makes a row of y, alone.
    """

    place: int
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    run: Callable[[Tensor, Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]
    rows: bool = False


def linear_map(name: str, depends: tuple[bool, ...], stored: Stored) -> LinearMap | None:
    """The linear map that a node stands for; None if it stands for none.

    Args:
        name: the operator of the node.
        depends: for each input of the node, whether it depends on the model's input.
        stored: what the operator was given.
    """
    if name == "Convolution":
        return _convolution(stored) if depends[0] and not any(depends[1:]) else None
    if name not in _MATRICES:
        return None
    first, second = PRODUCTS[name]
    if depends[first] == depends[second] or any(depends[:first]):  # what is added depends, too
        return None
    a, b = wide(stored.tensor(first)), wide(stored.tensor(second))
    if name == "Linear":
        a, b = (a, b.mT) if depends[first] else (b.mT, a)  # yᵀ = W·xᵀ if the weight is computed
    bias = _bias(stored)
    factor = stored.arguments.get("alpha", 1)
    if depends[first]:
        rows = a.ndim == b.ndim == 2
        return LinearMap(first, a, b * factor, bias, torch.matmul, _from_left, rows)
    return LinearMap(second, b, a * factor, bias, lambda x, w: w @ x, _from_right)


def constant_of(node: Any, depends: tuple[bool, ...], stored: Stored | None) -> Tensor | None:
    """What a node adds that does not depend on the model's input, as a row of features.

    That is the bias of a linear map or of a layer norm, or a constant term of a sum.
    """
    name = operator(node)
    if name == "NativeLayerNorm":
        bias: Tensor | None = node._saved_bias  # noqa: SLF001 — nodes save everything so
        return None if bias is None else bias.detach()
    if stored is None:
        return None
    if name in ("Add", "Sub") and sum(depends[:2]) == 1:
        constant, sign = stored.tensor(depends.index(False)), -1 if name == "Sub" else 1
        factor = stored.arguments.get("alpha", 1) * sign if depends[0] else 1
        return constant * factor if isinstance(constant, Tensor) else None
    linear = linear_map(name, depends, stored) if name in _MATRICES else None
    return None if linear is None else linear.bias


def by_gamma(linear: LinearMap, gamma: float) -> Gradient:
    """The γ-rule for an input of any sign (Montavon et al. 2019; Andéol et al. 2023).

        c = x * w                             # what each input contributes to each output
        z = c.sum() + b
        R_x = Σ R * (c + γ * relu(c)) / (z + γ * (relu(c).sum() + relu(b)))      # where z > 0

    and with −relu(−c), −relu(−b) where z < 0. relu(c) is (c + |x|·|w|)/2, so one product with |w|
    forwards and one back are enough.
    """

    def turn(gradient: Tensor) -> Tensor:
        x, weight, bias = linear.x, linear.weight, linear.bias
        plain = linear.run(x, weight)
        z = plain if bias is None else plain + bias
        sign = torch.where(z < 0, -1.0, 1.0).to(z.dtype)
        extra = (plain + sign * linear.run(x.abs(), weight.abs())) / 2
        if bias is not None:
            extra = extra + sign * (sign * bias).relu()
        share = divided(wide(gradient) * z, z + gamma * extra)
        share = torch.where(z.isfinite(), share, 0.0)  # scores that a mask adds −∞ to
        both = linear.back(share, weight) * (1 + gamma / 2)
        return both + x.sign() * linear.back(sign * share, weight.abs()) * (gamma / 2)

    return turn


def by_alpha(linear: LinearMap, relevance: Tensor) -> Tensor:
    """The relevance of x by the rule α = 1, β = 0, from that of y; the bias has none.

    c = x * w
    R_x = Σ R * relu(c) / relu(c).sum()
    """
    rows = relevance.any(-1) if linear.rows else None
    if rows is not None and 2 * int(rows.sum()) < len(rows):  # of the class token alone, for one
        found = torch.zeros_like(linear.x)
        found[rows] = by_alpha(replace(linear, x=linear.x[rows], rows=False), relevance[rows])
        return found
    positive, negative = linear.x.clamp(min=0), linear.x.clamp(max=0)
    up, down = linear.weight.clamp(min=0), linear.weight.clamp(max=0)
    share = divided(wide(relevance), linear.run(positive, up) + linear.run(negative, down))
    return positive * linear.back(share, up) + negative * linear.back(share, down)


def divided(a: Tensor, b: Tensor) -> Tensor:
    """A / (b + 1e-9), and 0 where b = 0, as in the code of Chefer et al. 2021."""
    return (a / (b + 1e-9)).masked_fill_(b == 0, 0.0)


def _from_left(gradient: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim > 1:
        return gradient @ weight.mT
    return gradient[..., None] * weight  # x @ vector


def _from_right(gradient: Tensor, weight: Tensor) -> Tensor:
    return weight.mT @ gradient if weight.ndim > 1 else weight * gradient  # vector · x


def _bias(stored: Stored) -> Tensor | None:
    name = next((n for n in ("bias", "self") if n in stored.arguments), None)
    added = name == "bias" or "mat1" in stored.arguments or "batch1" in stored.arguments
    added = added or ("vec" in stored.arguments and "mat" in stored.arguments)
    bias = stored.arguments[name] if name is not None and added else None
    return None if bias is None else wide(bias) * stored.arguments.get("beta", 1)


def _convolution(stored: Stored) -> LinearMap:
    given = stored.arguments
    settings: list[Any] = [
        given[name]
        for name in ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    ]
    x, weight, bias = wide(given["input"]), wide(given["weight"]), given["bias"]

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return torch.ops.aten.convolution(x, weight, None, *settings)  # type: ignore[no-any-return]

    def back(gradient: Tensor, weight: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, *settings, [True, False, False]
        )[0]
        return found

    if bias is not None:
        bias = wide(bias).view(-1, *[1] * (weight.ndim - 2))
    return LinearMap(0, x, weight, bias, run, back)


def wide(values: Tensor) -> Tensor:
    """Values in float32 or wider, without a graph."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))
