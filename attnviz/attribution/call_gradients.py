"""Gradients of a score at the outputs of calls, found by the numbers of autograd's nodes.

Autograd numbers its nodes in each thread. The recording watches the dispatcher below autograd.
There, the node of the running operator is the last one that was made. Its number keeps nothing
alive, and is enough to find the node again in a score's graph.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from attnviz.errors import RecordingError, UsageError

Lay = Callable[[Tensor], Tensor]
"""A function from an operator's first result to (B, Hv, Nq, Dv)."""


@dataclass(frozen=True)
class Trace:
    """How a call's output was computed.

    Attributes:
        operator: the name of the operator that made it.
        node: number of the operator's node in autograd's graph; None if it has none.
        lay: lays the operator's first result, or its gradient, out like the call's output.
    """

    operator: str
    node: int | None
    lay: Lay


@dataclass(frozen=True)
class JoinedTrace:
    """How a call's output was computed, if it consists of pieces side by side along `dim`.

    `sizes` are the sizes of the pieces' outputs along this dimension.
    """

    parts: "tuple[Trace | JoinedTrace, ...]"
    dim: int
    sizes: tuple[int, ...]

    @property
    def leaves(self) -> tuple[Trace, ...]:
        """The traces of all pieces."""
        found: tuple[Trace, ...] = ()
        for part in self.parts:
            found += (part,) if isinstance(part, Trace) else part.leaves
        return found

    def lay(self, gradients: Iterator[Tensor | None]) -> Tensor | None:
        """Join the gradients at the pieces' outputs into one, laid out; None if all are None."""
        found = [
            next(gradients) if isinstance(part, Trace) else part.lay(gradients)
            for part in self.parts
        ]
        like = next((gradient for gradient in found if gradient is not None), None)
        if like is None:
            return None
        parts = []
        for size, gradient in zip(self.sizes, found, strict=True):
            shape = (*like.shape[: self.dim], size, *like.shape[self.dim + 1 :])
            parts.append(like.new_zeros(shape) if gradient is None else gradient)
        return torch.cat(parts, self.dim)


def gradients(score: Tensor, traces: Mapping[int, Trace | JoinedTrace | None]) -> dict[int, Tensor]:
    """∂score/∂output of calls, (B, Hv, Nq, Dv) by their numbers; see `Recording.gradients`.

    The backward pass stops at the requested outputs.
    """
    if score.numel() != 1:
        raise UsageError(f"a score is one number, not {tuple(score.shape)}; choose or sum")
    if score.grad_fn is None:
        raise RecordingError(
            "the score depends on nothing that requires gradients; call pixels.requires_grad_() "
            "and run the model without torch.no_grad()"
        )
    pieces = {
        number: trace.leaves if isinstance(trace, JoinedTrace) else (trace,)
        for number, trace in traces.items()
    }
    checked = {
        (number, i): _checked(number, trace)
        for number, leaves in pieces.items()
        for i, trace in enumerate(leaves)
    }
    laid_out = _laid_out(score, checked)
    gradients_of: dict[int, Tensor | None] = {}
    for number, trace in traces.items():
        of_pieces = (laid_out.get((number, i)) for i in range(len(pieces[number])))
        if isinstance(trace, JoinedTrace):
            gradients_of[number] = trace.lay(of_pieces)
        else:
            gradients_of[number] = next(of_pieces)
    return {number: gradient for number, gradient in gradients_of.items() if gradient is not None}


_Piece = tuple[int, int]
"""The number of a call, and the number of a piece of it."""


def calls_behind(root: Node, traces: Sequence[Trace | JoinedTrace | None], number: int) -> set[int]:
    """Numbers of the calls that a call's output depends on; those without a node are among them."""
    of_calls = {n: {leaf.node for leaf in _leaves(trace)} for n, trace in enumerate(traces)}
    nodes = _nodes(root, set().union(*of_calls.values()) - {None})
    stack = [node for each in of_calls[number] for node in nodes.get(each, ())]
    visited = set(stack)
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None and following not in visited:
                visited.add(following)
                stack.append(following)
    seen = {node._sequence_nr() for node in visited}  # noqa: SLF001 — torch's own name for it
    return {
        n
        for n, of_call in of_calls.items()
        if n < number and (not of_call - {None} or not of_call.isdisjoint(seen))
    }


def _leaves(trace: Trace | JoinedTrace | None) -> tuple[Trace, ...]:
    if trace is None:
        return ()
    return trace.leaves if isinstance(trace, JoinedTrace) else (trace,)


def _laid_out(score: Tensor, traces: Mapping[_Piece, Trace]) -> dict[_Piece, Tensor]:
    """∂score/∂output of pieces of calls, laid out like the calls' outputs."""
    assert score.grad_fn is not None
    nodes = _nodes(score.grad_fn, {trace.node for trace in traces.values()})
    edges = {
        piece: GradientEdge(_the_one(nodes[trace.node], piece[0], trace), 0)
        for piece, trace in traces.items()
        if trace.node in nodes
    }
    if not edges:
        return {}
    found = torch.autograd.grad(score, list(edges.values()), retain_graph=True, allow_unused=True)
    return {
        piece: traces[piece].lay(gradient)
        for piece, gradient in zip(edges, found, strict=True)
        if gradient is not None
    }


def _checked(number: int, trace: Trace | None) -> Trace:
    """A trace, if it has a node in autograd's graph.

    Raises:
        RecordingError: the call has no trace, or the trace has no node.
    """
    if trace is None:
        raise RecordingError(
            f"call {number} has no gradients; record with gradients=True, or leave it out of calls="
        )
    if trace.node is None:
        raise RecordingError(
            f"autograd did not see {trace.operator} of call {number}; call pixels.requires_grad_(),"
            " run without torch.no_grad() and custom autograd functions, or name other calls="
        )
    return trace


def _nodes(root: Node, numbers: set[int | None]) -> dict[int | None, list[Node]]:
    """The nodes of the graph behind `root` that have the wanted numbers."""
    found: dict[int | None, list[Node]] = {}
    visited, stack = {root}, [root]
    while stack:
        node = stack.pop()
        number = node._sequence_nr()  # noqa: SLF001 — torch's own name for it
        if number in numbers:
            found.setdefault(number, []).append(node)
        for following, _ in node.next_functions:
            if following is not None and following not in visited:
                visited.add(following)
                stack.append(following)
    return found


def _the_one(nodes: list[Node], number: int, trace: Trace) -> Any:
    """The node of the call's operator; a node of another thread may have the same number.

    Raises:
        RecordingError: there is not exactly one such node.
    """
    expected = f"{trace.operator.replace('_', '')}backward".lower()  # as in BmmBackward0
    named = [node for node in nodes if node.name().lower().rstrip("0123456789") == expected]
    if len(named) != 1:
        others = ", ".join(node.name() for node in nodes)
        raise RecordingError(
            f"autograd has {others} where {trace.operator} of call {number} should be; "
            "run the model in one thread and with PyTorch's own attention"
        )
    return named[0]
