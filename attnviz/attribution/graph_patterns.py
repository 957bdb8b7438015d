"""Patterns of several nodes in autograd's graph: lengths, and gates made from their input."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.autograd.graph import Node

Edge = tuple[Node | None, int]
"""A node, and the number of one of its results."""

_AROUND = {
    *(
        "Add",
        "Mul",
        "Div",
        "ClampMin",
        "Clamp",
        "ToCopy",
        "Clone",
        "Expand",
        "Unsqueeze",
        "Squeeze",
    ),
    *("View", "UnsafeView", "ReshapeAlias"),
}
_REARRANGED = {"NativeDropout", "Transpose", "Permute", "T", "Slice", "Select", "Index"}
_ELEMENTWISE = {
    *("Add", "Sub", "Rsub", "Neg", "Mul", "Div", "Pow", "Exp", "ToCopy", "Clamp", "ClampMin"),
    *("ClampMax", "Relu", "Gelu", "Silu", "Sigmoid", "Tanh", "Erf", "Softplus", "Hardtanh"),
    "Hardsigmoid",
}


def operator(node: Node) -> str:
    """The operator of a node: Mul for MulBackward0. Only PyTorch's own nodes have a number."""
    name = node.name().rpartition("::")[2]
    numberless = name.rstrip("0123456789")
    return name if numberless == name else numberless.removesuffix("Backward")


def is_given(node: Any) -> bool:
    """Whether a node is the model's input: a leaf that is not a parameter of the model."""
    return operator(node) == "AccumulateGrad" and not isinstance(node.variable, nn.Parameter)


def is_length(edge: Edge) -> bool:
    """Whether a tensor of any shape is a norm or a standard deviation, or 1 divided by it.

    The model may write it out: rsqrt(mean(x²) + ε), sqrt(var(x) + ε), max(‖x‖₂, ε).
    """
    node = _inside(edge)
    if node is None:
        return False
    name = operator(node)
    if name in ("Sqrt", "Rsqrt"):
        return _is_spread(_inside(node.next_functions[0]))
    return name in ("LinalgVectorNorm", "Norm", "Std")


def is_centred(one: Edge, other: Edge) -> bool:
    """Whether `other` is the mean of `one`: their difference is a step of a layer norm."""
    node = other[0]
    return node is not None and operator(node) == "Mean" and node.next_functions[0] == one


def is_softmax(edge: Edge) -> bool:
    """Whether a tensor is a softmax, perhaps rearranged, dropped out or scaled."""
    node = edge[0]
    while node is not None and operator(node) not in ("Softmax", "SafeSoftmax"):
        inputs = list(_inputs(node))
        if operator(node) not in _AROUND | _REARRANGED or len(inputs) != 1:
            return False
        node = inputs[0][0]
    return node is not None


def _is_spread(node: Node | None) -> bool:
    """Whether a tensor is a mean of squares, a sum of squares, or a variance."""
    if node is None or operator(node) not in ("Mean", "Sum"):
        return node is not None and operator(node) == "Var"
    (square, _), *_ = node.next_functions
    if square is None:
        return False
    return _is_power(square) or (
        operator(square) == "Mul" and square.next_functions[0] == square.next_functions[1]
    )


def _is_power(node: Any) -> bool:
    return operator(node) == "Pow" and getattr(node, "_saved_exponent", None) == 2


def _inside(edge: Edge) -> Node | None:
    """Skip nodes that only scale, shift, clamp or rearrange; returns the node behind them."""
    node = edge[0]
    while node is not None and operator(node) in _AROUND:
        inputs = list(_inputs(node))
        if len(inputs) != 1:
            return None
        node = inputs[0][0]
    return node


def is_gated(one: Edge, other: Edge) -> bool:
    """Whether `other` is a function of the elements of `one` alone, up to constants.

    Examples: x·sigmoid(1.7·x) and x/2·(1 + erf(x/√2)), each one function of the elements of x.
    """
    sources: list[Edge] = [one]
    node = one[0]
    while node is not None and operator(node) in ("Mul", "Div"):
        inputs = list(_inputs(node))
        if len(inputs) != 1:
            break
        sources.append(inputs[0])
        node = inputs[0][0]
    return any(_is_made_of(other, each) for each in sources)


def _is_made_of(edge: Edge, source: Edge) -> bool:
    """Whether a tensor is computed from another one alone, element by element."""
    stack, visited = [edge], {edge}
    while stack:
        each = stack.pop()
        node = each[0]
        if each == source:
            continue
        if node is None or operator(node) not in _ELEMENTWISE:
            return False
        new = [following for following in _inputs(node) if following not in visited]
        visited.update(new)
        stack += new
    return True


def _inputs(node: Node) -> Iterator[Edge]:
    """The edges to a node's inputs, without constants and parameters."""
    for following, number in node.next_functions:
        if following is None:
            continue
        if operator(following) == "AccumulateGrad" and not is_given(following):
            continue
        yield following, number
