"""Changes what autograd's nodes give their inputs, for one backward pass.

This changes nothing in the model and needs no knowledge of it: hooks on the nodes between a score
and tokens do it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.checkpoint import CheckpointError

from attnviz.attribution.graph_patterns import Edge, is_given
from attnviz.errors import RecordingError

Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Turn:
    """How a node is gone back through.

    Attributes:
        goes: for each of its inputs, whether the way goes on there.
        after: what its inputs get, from what they ordinarily get and from what its first output
            has; None: what they ordinarily get.
        before: changes what its first output has, before the node runs.
    """

    goes: tuple[bool, ...]
    after: Callable[[Gradients, Tensor], Gradients] | None = None
    before: Callable[[Tensor], Tensor] | None = None


Find = Callable[[Node, tuple[bool, ...]], Turn]
"""How a node is gone back through; for each of its inputs, whether it depends on the model's."""


class Graph(NamedTuple):
    """Nodes behind a score.

    Attributes:
        from_input: nodes that depend on the model's input, not on parameters alone.
        leading: nodes that depend on the tokens.
    """

    from_input: set[Node]
    leading: set[Node]


def graph_of(root: Node, tokens: Edge | None = None) -> Graph:
    """The nodes behind a score."""
    graph = Graph(set(), set())
    for node in _inputs_first(root):
        edges = node.next_functions
        if tokens in edges or any(following in graph.leading for following, _ in edges):
            graph.leading.add(node)
        if (
            node in graph.leading
            or is_given(node)
            or any(following in graph.from_input for following, _ in edges)
        ):
            graph.from_input.add(node)
    return graph


def turns_of(root: Node, graph: Graph, find: Find, tokens: Edge | None = None) -> dict[Node, Turn]:
    """How to go back through each node between a score and tokens, or all that the input reaches.

    Raises:
        RecordingError: there is no rule for a node.
    """
    within = graph.from_input if tokens is None else graph.leading
    found: dict[Node, Turn] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        edges = node.next_functions
        depends = tuple(each == tokens or each[0] in graph.from_input for each in edges)
        found[node] = find(node, depends)
        stack += [
            edge[0]
            for edge, goes in zip(edges, found[node].goes, strict=True)
            if goes and edge != tokens and edge[0] is not None and edge[0] in within
        ]
    return found


@contextmanager
def turning(turns: Mapping[Node, Turn]) -> Iterator[None]:
    """Go back through nodes in this way, in every backward pass inside.

    Raises:
        RecordingError: a part of the graph is gone.
    """
    hooks = []
    for node, turn in turns.items():
        if turn.before is not None:
            hooks.append(node.register_prehook(partial(_before, turn.before)))
        if turn.after is not None:
            hooks.append(node.register_hook(partial(_after, turn.after)))
    try:
        yield
    except CheckpointError as error:  # a checkpoint gives its tensors only once
        raise RecordingError(
            "layers of the model are checkpointed, so relevance cannot be propagated through them; "
            "turn checkpointing off, or choose another method"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _before(change: Callable[[Tensor], Tensor], outputs: Gradients) -> Gradients:
    first = outputs[0]
    return outputs if first is None else (change(first).to(first.dtype), *outputs[1:])


def _after(
    change: Callable[[Gradients, Tensor], Gradients], ordinary: Gradients, outputs: Gradients
) -> Gradients:
    if outputs[0] is None:
        return ordinary
    return tuple(
        None if before is None or after is None else _as(before, after)
        for before, after in zip(ordinary, change(ordinary, outputs[0]), strict=True)
    )


def _as(before: Tensor, after: Tensor) -> Tensor:
    """What an input gets, in its own shape and type."""
    summed = after if after.shape == before.shape else after.sum_to_size(before.shape)
    return summed.to(before.dtype)


def _inputs_first(root: Node) -> list[Node]:
    """A node and all nodes behind it, in topological order: inputs come first."""
    order: list[Node] = []
    visited: set[Node] = set()
    stack = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in visited:
            visited.add(node)
            stack.append((node, True))
            inputs = (following for following, _ in node.next_functions if following is not None)
            stack += [(following, False) for following in inputs if following not in visited]
    return order
