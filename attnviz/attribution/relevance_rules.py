"""The rules of Chefer et al. 2021 (2012.09838) for one operation, by the names of autograd's nodes.

What goes back here is relevance R itself, in the place of gradients. Where the paper's code has a
module for an operation, its rule is taken; `docs/formulas.md` says where they differ.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from attnviz.attribution.backward_rules import ELEMENTWISE, REARRANGED, Step, no_rule
from attnviz.attribution.graph_patterns import is_centred, is_gated, is_length, operator
from attnviz.attribution.linear_maps import PRODUCTS, by_alpha, divided, linear_map
from attnviz.attribution.operator_inputs import Stored
from attnviz.attribution.turning import Gradients, Turn

ROWS = 1 << 21
"""Weights of a block of rows of attention."""


def relevance_turn(node: Node, depends: tuple[bool, ...], stored: Stored | None) -> Turn:
    """How relevance goes back through a node; the error for one without a rule comes when it runs.

    Args:
        node: a node of autograd's graph.
        depends: for each of its inputs, whether it depends on the model's input.
        stored: what its operator was given.
    """
    name, step = operator(node), Step(node, depends)
    if name in REARRANGED or name == "AccumulateGrad" or not any(depends):
        return Turn(depends)
    if name in ELEMENTWISE or (name in _ONE_OF_TWO and sum(depends) == 1):
        return _identity(depends)
    if stored is not None and name in _RULES:
        return _RULES[name](step, stored)
    if stored is not None and name.startswith("ScaledDotProduct") and not any(depends[3:]):
        return Turn(depends, lambda _, relevance: of_attention(stored.arguments, relevance, node))
    if name in ("Mul", "Div"):
        return _multiplied(step)
    return _without_rule(step)


def _without_rule(step: Step, what: str = "") -> Turn:
    def fail(*_: Any) -> Gradients:
        raise no_rule(step, what, method="attribution", other="relevance")

    return Turn(step.depends, fail)


def _identity(goes: tuple[bool, ...]) -> Turn:
    """R_x = R_y."""
    return Turn(goes, lambda _, relevance: tuple(relevance if each else None for each in goes))


def _simple(step: Step, stored: Stored) -> Turn:
    """R_x = x⊙∂y/∂x(R_y/y) for what is linear with positive weights, such as means."""
    x = stored.tensor(0)
    return Turn(
        step.depends,
        lambda ordinary, _: (_times(ordinary[0], x), *ordinary[1:]),
        lambda relevance: divided(relevance, stored.again(0, x)),
    )


def _summed(step: Step, stored: Stored) -> Turn:
    """A sum; of an elementwise product with a constant it is a linear map, α = 1, β = 0."""
    inside = step.edges[0][0]
    if inside is None or operator(inside) != "Mul":
        return _simple(step, stored)
    x = stored.tensor(0).clamp(min=0)
    return Turn(
        step.depends,
        lambda ordinary, _: (_times(ordinary[0], x), *ordinary[1:]),
        lambda relevance: divided(relevance, stored.again(0, x)),
    )


def _added(step: Step, stored: Stored) -> Turn:
    """Each term's share of R by its part of every element, and in all by the size of its sum."""
    if sum(step.depends[:2]) == 1:
        return _identity(step.depends)
    if operator(step.node) == "Sub" and is_centred(*step.edges[:2]):
        return _identity((True, False))
    one, other = stored.tensor(0), stored.tensor(1)
    factor = stored.arguments.get("alpha", 1) * (-1 if operator(step.node) == "Sub" else 1)

    def after(_: Gradients, relevance: Tensor) -> Gradients:
        a, b = one.to(relevance.dtype), other.to(relevance.dtype) * factor
        share = divided(relevance, a + b)
        parts = [a * share, b * share]
        sums = [part.sum() for part in parts]
        total = sums[0].abs() + sums[1].abs()
        facts = [divided(each.abs(), total) * relevance.sum() for each in sums]
        return tuple(
            part * divided(fact, each) for part, fact, each in zip(parts, facts, sums, strict=True)
        )

    return Turn(step.depends, after)


def _product(step: Step, stored: Stored) -> Turn:
    """A linear map by α = 1, β = 0; of two matrices that depend, R_x = x⊙∂y/∂x(R_y/y)/2."""
    linear = linear_map(operator(step.node), step.depends, stored)
    if linear is not None:

        def alpha(ordinary: Gradients, relevance: Tensor) -> Gradients:
            found: list[Tensor | None] = [None] * len(ordinary)
            found[linear.place] = by_alpha(linear, relevance).to(relevance.dtype)
            return tuple(found)

        goes = tuple(i == linear.place for i in range(len(step.depends)))
        return Turn(goes, alpha)
    first, second = PRODUCTS.get(operator(step.node), (0, 0))
    if not (step.depends[first] and step.depends[second]) or any(step.depends[:first]):
        return _without_rule(step)
    factors = {first: stored.tensor(first), second: stored.tensor(second)}
    factor = stored.arguments.get("alpha", 1)

    def after(ordinary: Gradients, _: Tensor) -> Gradients:
        return tuple(
            _times(each, factors[i] / 2) if i in factors else None
            for i, each in enumerate(ordinary)
        )

    def before(relevance: Tensor) -> Tensor:
        return divided(relevance, factor * (factors[first] @ factors[second]))

    return Turn(step.depends, after, before)


def _multiplied(step: Step) -> Turn:
    """An elementwise product or quotient: norms and gates made of the other factor pass nothing."""
    one, other = step.edges[:2]
    if is_length(other) or is_gated(one, other):
        return _identity((True, False))
    if operator(step.node) == "Div":
        return _without_rule(step, " by what depends on the picture")
    if is_length(one) or is_gated(other, one):
        return _identity((False, True))
    return Turn(step.depends, lambda _, relevance: (relevance / 2, relevance / 2))


def _length(step: Step, stored: Stored) -> Turn:
    """‖x‖ as x·x over a constant."""
    squares = stored.tensor(0).square()
    return Turn(step.depends, lambda _, relevance: (squares * divided(relevance, squares.sum()),))


def of_attention(given: Any, relevance: Tensor, node: Node) -> Gradients:
    """R of queries, keys and values from that of softmax(q·kᵀ·scale + bias)·v, in O(N) memory.

        S = R / out / 2                       # (queries, features)
        R_v = v * (A.T @ S)
        R_A = A * (S @ v.T)                   # softmax and bias pass it on as it is
        T = R_A / (q @ k.T) / 2
        R_q = q * (T @ k)
        R_k = k * (T.T @ q)

    Args:
        given: the arguments of the fused operator by their names.
        relevance: R of its output, (B, H, Nq, Dv).
        node: its node, for an error.
    """
    wide = torch.promote_types(relevance.dtype, torch.float32)
    q, k, v = (given[name].to(wide) for name in ("query", "key", "value"))
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (each.repeat_interleave(groups, 1) for each in (k, v))
    scale = given.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    bias = next((given[name] for name in ("attn_mask", "attn_bias") if name in given), None)
    share, parts = relevance.to(wide) / 2, [torch.zeros_like(each) for each in (q, k, v)]
    size = max(1, ROWS // (q.shape[0] * q.shape[1] * k.shape[2]))
    for first in range(0, q.shape[2], size):
        rows = slice(first, first + size)
        products = q[:, :, rows] @ k.mT
        a = _softmax(products * scale, bias, rows, causal=bool(given.get("is_causal")))
        s = divided(share[:, :, rows], a @ v)
        parts[2] += a.mT @ s
        t = divided(a.mul_(s @ v.mT), products).div_(2)
        parts[0][:, :, rows] = t @ k
        parts[1] += t.mT @ q[:, :, rows]
    found = [each * part for each, part in zip((q, k, v), parts, strict=True)]
    if groups > 1:
        found[1:] = [each.unflatten(1, (-1, groups)).sum(2) for each in found[1:]]
    rest = [None] * (len(node.next_functions) - 3)
    return (*(each.to(relevance.dtype) for each in found), *rest)


def _softmax(scores: Tensor, bias: Tensor | None, rows: slice, *, causal: bool) -> Tensor:
    """Some rows of A; one without any key is 0."""
    if bias is not None:
        bias = bias if bias.shape[-2] == 1 else bias[..., rows, :]
        scores = (
            scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias
        )
    if causal:
        queries = torch.arange(rows.start, rows.start + scores.shape[-2], device=scores.device)
        later = torch.arange(scores.shape[-1], device=scores.device) > queries[:, None]
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0)


def _times(ordinary: Tensor | None, x: Tensor) -> Tensor | None:
    return None if ordinary is None else ordinary * x


_ONE_OF_TWO = frozenset({"Mul", "Div", "Rsub"})
"""Elementwise operators whose other argument is a constant."""
_RULES: dict[str, Callable[[Step, Stored], Turn]] = {
    **dict.fromkeys(("Add", "Sub"), _added),
    **dict.fromkeys((*PRODUCTS, "Convolution"), _product),
    **dict.fromkeys(("LinalgVectorNorm", "Norm"), _length),
    "Sum": _summed,
    **dict.fromkeys(
        (
            "Mean", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D",
            "UpsampleLinear1D", "UpsampleNearest1D", "UpsampleNearest2D", "UpsampleBilinear2D",
            "UpsampleBilinear2DAa",
        ),
        _simple,
    ),
}  # fmt: skip
