"""Propagates relevance from a score back to tokens, by the rules of AttnLRP or of Chefer et al."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from attnviz.attribution.backward_rules import REARRANGED, BackwardRule, RuleName, rules_for
from attnviz.attribution.graph_patterns import operator
from attnviz.attribution.linear_maps import by_gamma, constant_of, divided, linear_map
from attnviz.attribution.operator_inputs import OperatorInputs
from attnviz.attribution.relevance_rules import relevance_turn
from attnviz.attribution.turning import Gradients, Graph, Turn, graph_of, turning, turns_of
from attnviz.errors import RecordingError, UsageError

GAMMA = 0.25
"""The γ of the rule `gamma`: zennit's."""


def propagate(
    score: Tensor,
    tokens: Tensor,
    *,
    rule: RuleName = "epsilon",
    gamma: float | None = None,
    inputs: OperatorInputs | None = None,
) -> Tensor:
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
    softmax, queries and keys. That is CP-LRP (Ali et al. 2022, 2202.07304). `libra` (Mehri et al.
    2025, 2411.16760) adds b⊙g of every bias that lies at a token, so that over all tokens R sums to
    the score less what is added behind them. A γ favours what speaks for the output of a linear
    map; see `by_gamma`.

    Achtibat et al. 2024, 2402.05602.

    Args:
        score: one number that is computed from the model's result.
        tokens: tokens with their graph, such as the input of a block: `Recording.blocks[3].input`.
        rule: `epsilon`; `gamma` with γ = 0.25; `cp`; or `libra`.
        gamma: another γ, of `gamma` and `cp`.
        inputs: what operators were given, for a γ and for `libra`: run the model inside of it.

    >>> with attnviz.record(gradients=True, blocks=model) as recording:
    ...     logits = model(pixels.requires_grad_())
    >>> propagate(logits[0, 281], recording.blocks[0].input).shape
    torch.Size([1, 197])

    Raises:
        UsageError: the score is more than one number.
        RecordingError: the score does not depend on the tokens, or depends on them by an operation
            that has no rule; the message names it.
    """
    biases = Biases(tokens.shape[:-1]) if rule == "libra" else None
    found = modified_gradient(score, tokens, rule, gamma=gamma, inputs=inputs, biases=biases)
    wide = torch.promote_types(tokens.dtype, torch.float32)
    relevance = (tokens.detach().to(wide) * found).sum(-1)
    return relevance if biases is None else relevance + biases.total


def modified_gradient(
    score: Tensor,
    tokens: Tensor,
    rule: RuleName = "epsilon",
    *,
    gamma: float | None = None,
    inputs: OperatorInputs | None = None,
    biases: "Biases | None" = None,
) -> Tensor:
    """The g of tokens, or of pixels, of their shape: R = x⊙g; see `propagate`.

    `biases` gets the share of biases on the way.
    """
    gamma = (GAMMA if rule == "gamma" else 0.0) if gamma is None else gamma
    if (gamma or biases is not None) and inputs is None:
        raise UsageError("γ and biases need what operators were given; run inside OperatorInputs()")
    if score.numel() != 1:
        raise UsageError(f"a score is one number, not {tuple(score.shape)}; choose or sum")
    if score.grad_fn is None or not tokens.requires_grad:
        raise RecordingError(
            "score or tokens have no graph; call pixels.requires_grad_(), run the model without "
            "torch.no_grad(), and record with gradients=True"
        )
    found = get_gradient_edge(tokens)
    edge = found.node, found.output_nr
    graph = graph_of(score.grad_fn, edge)
    if score.grad_fn not in graph.leading:
        raise RecordingError("the score does not depend on the tokens; take those of another block")

    def find(node: Node, depends: tuple[bool, ...]) -> Turn:
        ways = rules_for(node, depends, rule)
        stored = None if inputs is None else inputs.of(node)
        linear = None if stored is None else linear_map(operator(node), depends, stored)
        if linear is not None and gamma:
            ways = [0.0] * len(ways)
            ways[linear.place] = by_gamma(linear, gamma)
        changed = any(way != 1 for way in ways)
        turn = Turn(tuple(way != 0 for way in ways), partial(_turned, ways) if changed else None)
        return turn if biases is None else biases.noted(turn, constant_of(node, depends, stored))

    with turning(turns_of(score.grad_fn, graph, find, edge)):
        (gradient,) = torch.autograd.grad(score, [tokens], retain_graph=True)
    return gradient


class Biases:
    """What biases add to the relevance of the tokens at which they lie, (…).

    Attributes:
        total: the sum so far.
    """

    def __init__(self, shape: torch.Size) -> None:
        self._shape = shape
        self.total: Tensor | float = 0.0

    def noted(self, turn: Turn, bias: Tensor | None) -> Turn:
        """A turn that also adds bias⊙g, if the output of its node has a row for each token."""
        if bias is None:
            return turn

        def after(ordinary: Gradients, output: Tensor) -> Gradients:
            rows = output.shape[:-1].numel()
            if output.ndim > 1 and rows == self._shape.numel():
                self.total = self.total + (output * bias).sum(-1).view(self._shape)
            return ordinary if turn.after is None else turn.after(ordinary, output)

        return Turn(turn.goes, after)


def _turned(ways: list[BackwardRule], ordinary: Gradients, output: Tensor) -> Gradients:
    """The modified gradients of a node's inputs, instead of the ordinary ones."""
    return tuple(
        None if gradient is None or way == 0 else _modified_gradient(way, gradient, output)
        for way, gradient in zip(ways, ordinary, strict=True)
    )


def _modified_gradient(way: BackwardRule, gradient: Tensor, output: Tensor) -> Tensor:
    if not callable(way):
        return gradient if way == 1 else gradient * way
    return way(output)


def relevance_at(
    score: Tensor, inputs: OperatorInputs, gradients: Callable[[Tensor], Mapping[int, Tensor]]
) -> dict[int, Tensor]:
    """The relevance of tensors for a score by the rules of Chefer et al. 2021, by their numbers.

    R is the gradient of the score at the logits, such as 1 for a class, and goes back from there by
    `relevance_rules`. A difference of scores is one linear map of the last features, whose positive
    contributions share 1, as if the model's head computed it.

    Args:
        score: one number that is computed from the model's result.
        inputs: what operators were given, in a run of the model inside of it.
        gradients: the gradients of a score at the tensors, such as `Recording.gradients`.

    Raises:
        RecordingError: the score depends on a tensor by an operation that has no rule.
    """
    assert score.grad_fn is not None
    graph = graph_of(score.grad_fn)
    turns = turns_of(
        score.grad_fn, graph, lambda node, depends: relevance_turn(node, depends, inputs.of(node))
    )
    tail, ends = _tail(score.grad_fn, graph)
    edges = [GradientEdge(node, 0) for node in ends]
    seeds = torch.autograd.grad(score, edges, retain_graph=True)
    begins: dict[Node, Turn] = {}
    if any(bool((seed < 0).any()) for seed in seeds):
        for end in ends:
            passed, begin, features = _features(end, graph, inputs)
            tail |= passed
            begins[begin] = _shared(turns[begin], features)
    turns = {node: turn for node, turn in turns.items() if node not in tail}
    with turning(turns | begins):
        return dict(gradients(score))


def _shared(turn: Turn, features: Tensor) -> Turn:
    """A turn that begins with 1, shared by the positive parts of features⊙gradient."""

    def before(gradient: Tensor) -> Tensor:
        parts = (features * gradient).relu()
        seed = divided(parts, parts.sum())
        return seed if turn.before is None else turn.before(seed)

    return Turn(turn.goes, turn.after, before)


def _features(end: Node, graph: Graph, inputs: OperatorInputs) -> tuple[set[Node], Node, Tensor]:
    """The nodes of a linear map that ends a model, the node before it, and what the map is given.

    Raises:
        RecordingError: the end is no linear map.
    """
    node = end.next_functions[0][0] if operator(end) == "Sum" else end  # of a product
    stored = None if node is None else inputs.of(node)
    if node is not None and stored is not None:
        depends = tuple(each in graph.from_input for each, _ in node.next_functions)
        linear = linear_map(operator(node), depends, stored)
        place = depends.index(True) if operator(node) == "Mul" and sum(depends) == 1 else None
        place = place if linear is None else linear.place
        begin = None if place is None else node.next_functions[place][0]
        if place is not None and begin is not None:
            return {end, node}, begin, stored.tensor(place)
    raise RecordingError(
        "attribution of a difference needs scores that are linear in the model's last features; "
        "take --method relevance"
    )


def _tail(root: Node, graph: Graph) -> tuple[set[Node], list[Node]]:
    """The nodes between a score and the logits that it is of, and those that made these logits."""
    tail: set[Node] = set()
    ends: list[Node] = []
    stack = [root]
    while stack:
        node = stack.pop()
        if node in tail or node in ends:
            continue
        if not _is_of_scores(node):
            ends.append(node)
            continue
        tail.add(node)
        stack += [each for each, _ in node.next_functions if each in graph.from_input]
    return tail, ends


def _is_of_scores(node: Node) -> bool:
    """Whether a node chooses or adds up scores that are numbers."""
    name = operator(node)
    if name in REARRANGED:
        return True
    (size, *_), inside = node._input_metadata, node.next_functions[0][0]  # noqa: SLF001
    if math.prod(size.shape) != 1 or name not in _OF_SCORES:
        return False
    return name != "Sum" or inside is None or operator(inside) != "Mul"


_OF_SCORES = frozenset({"Add", "Sub", "Rsub", "Neg", "Mul", "Div", "Mean", "Sum"})
