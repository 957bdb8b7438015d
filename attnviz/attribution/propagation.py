"""Propagates relevance from a score back to tokens, by the rules of AttnLRP.

This changes nothing in the model and needs no knowledge of it. Hooks on the nodes of autograd's
graph between score and tokens modify the gradients of the nodes' inputs; `backward_rules` has the
rules.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.checkpoint import CheckpointError

from attnviz.attribution.backward_rules import BackwardRule, OfAttention, rules_for
from attnviz.attribution.graph_patterns import Edge, is_given
from attnviz.errors import RecordingError, UsageError

_Gradients = tuple[Tensor | None, ...]


def propagate(score: Tensor, tokens: Tensor, *, rule: OfAttention = "epsilon") -> Tensor:
    """R_j = Σ_f x_jf·g_jf, (…): the signed relevance of each of (…, F) tokens for a score.

        g = 1                                 # at the score, and back from there:
        g_x = W.T @ g                         # y = W @ x + b, and everything else that is linear
        g_a, g_b = g * b / 2, g * a / 2       # y = a * b, matrices too, where both depend on x
        g_x = g * f(x) / x                    # y = f(x), of elements
        g_x = (γ * g - mean(γ * g)) / σ       # y = γ * (x - mean(x)) / σ + b
        g_x = s * (g - (s * g).sum())         # s = softmax(x)
        R = (x * g).sum(-1)

    This is AttnLRP with the ε-rule for linear maps, ε → 0. Biases and softmax keep a share; without
    them R sums to the score. Values that depend on parameters alone are constants. Norms in a
    denominator are constants too, so relevance of a cosine is also distributed. A score that is a
    norm uses its gradient. The graph is kept for other scores.

    With the rule `cp` attention weights are constants: g_v = A.T @ g, and nothing goes back through
    softmax, queries and keys. That is CP-LRP (Ali et al. 2022, 2202.07304).

    Achtibat et al. 2024, 2402.05602.

    Args:
        score: one number that is computed from the model's result.
        tokens: tokens with their graph, such as the input of a block: `Recording.blocks[3].input`.
        rule: `epsilon`, or `cp`.

    >>> with attnviz.record(gradients=True, blocks=model) as recording:
    ...     logits = model(pixels.requires_grad_())
    >>> propagate(logits[0, 281], recording.blocks[0].input).shape
    torch.Size([1, 197])

    Raises:
        UsageError: the score is more than one number.
        RecordingError: the score does not depend on the tokens, or depends on them by an operation
            that has no rule; the message names it.
    """
    found = modified_gradient(score, tokens, rule)
    wide = torch.promote_types(tokens.dtype, torch.float32)
    return (tokens.detach().to(wide) * found).sum(-1)


def modified_gradient(score: Tensor, tokens: Tensor, rule: OfAttention = "epsilon") -> Tensor:
    """The g of tokens, or of pixels, of their shape: R = x⊙g; see `propagate`."""
    if score.numel() != 1:
        raise UsageError(f"a score is one number, not {tuple(score.shape)}; choose or sum")
    if score.grad_fn is None or not tokens.requires_grad:
        raise RecordingError(
            "score or tokens have no graph; call pixels.requires_grad_(), run the model without "
            "torch.no_grad(), and record with gradients=True"
        )
    edge = get_gradient_edge(tokens)
    ways = _nodes_with_rules(score.grad_fn, (edge.node, edge.output_nr), rule)
    hooks = [node.register_hook(partial(_turned, each)) for node, each in ways.items()]
    try:
        (found,) = torch.autograd.grad(score, [tokens], retain_graph=True)
    except CheckpointError as error:  # a checkpoint gives its tensors only once
        raise RecordingError(
            "layers of the model are checkpointed, so relevance cannot be propagated through them; "
            "turn checkpointing off, or choose another method"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _turned(ways: list[BackwardRule], ordinary: _Gradients, outputs: _Gradients) -> _Gradients:
    """The modified gradients of a node's inputs, instead of the ordinary ones."""
    return tuple(
        None if gradient is None or way == 0 else _modified_gradient(way, gradient, outputs[0])
        for way, gradient in zip(ways, ordinary, strict=True)
    )


def _modified_gradient(way: BackwardRule, gradient: Tensor, output: Tensor | None) -> Tensor:
    if not callable(way):
        return gradient if way == 1 else gradient * way
    assert output is not None  # else there is no gradient
    return way(output).to(gradient.dtype)


def _nodes_with_rules(
    root: Node, tokens: Edge, rule: OfAttention
) -> Mapping[Node, list[BackwardRule]]:
    """The nodes between a score and tokens whose gradients are modified, with their rules.

    Raises:
        RecordingError: there is no node between them, or a node has no rule.
    """
    graph = _graph(root, tokens)
    if root not in graph.leading:
        raise RecordingError("the score does not depend on the tokens; take those of another block")
    found: dict[Node, list[BackwardRule]] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        edges = node.next_functions
        depends = tuple(each == tokens or each[0] in graph.from_input for each in edges)
        found[node] = rules_for(node, depends, rule)
        stack += [
            edge[0]
            for edge, way in zip(edges, found[node], strict=True)
            if way != 0 and edge != tokens and edge[0] is not None and edge[0] in graph.leading
        ]
    return {node: ways for node, ways in found.items() if any(way != 1 for way in ways)}


class _Graph(NamedTuple):
    """Nodes behind a score.

    Attributes:
        from_input: nodes that depend on the model's input, not on parameters alone.
        leading: nodes that depend on the tokens.
    """

    from_input: set[Node]
    leading: set[Node]


def _graph(root: Node, tokens: Edge) -> _Graph:
    graph = _Graph(set(), set())
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
