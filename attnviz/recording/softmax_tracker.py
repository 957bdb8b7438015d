"""Follows scores to their softmax, also where the model computes it step by step."""

from dataclasses import replace

import torch
from torch import Tensor

from attnviz.recording.axes import Axis, leaves
from attnviz.recording.explicit_weights import ExplicitWeights
from attnviz.recording.operation import After, Operation, by_names
from attnviz.recording.products import Scores
from attnviz.recording.score_graph import Exponentials, Logarithm, Node, Weights
from attnviz.recording.score_tracker import Nodes, ScoreTracker
from attnviz.recording.to_call import softmax_of


class SoftmaxTracker(ScoreTracker):
    """Follows scores in a stream of operations, up to their softmax."""

    def _squashed(self, op: Operation, nodes: Nodes) -> After | None:
        """A sigmoid of a linear layer, or of no product at all: it may be a gate, or weights."""
        node = nodes[0]
        linear = isinstance(node, Scores) and (node.product.learned or not node.product.batch)
        if node is not None and not linear:
            return None
        dims = tuple((Axis(size),) for size in op.args[0].shape)
        return lambda result: self._put(result, ExplicitWeights("sigmoid", dims, (), dims))

    def _exponentiated(self, op: Operation, nodes: Nodes) -> After | None:
        """Exp of scores: this may be the start of a softmax that the model computes itself."""
        node = nodes[0]
        if isinstance(node, Logarithm):
            return lambda result: self._put(result, replace(node.weights, dims=node.dims))
        if node is not None and not isinstance(node, Scores):
            return None
        dims = tuple((Axis(size),) for size in op.args[0].shape) if node is None else node.dims
        return lambda result: self._put(result, Exponentials(node, dims, object()))

    def _summed_exponentials(self, op: Operation, nodes: Nodes) -> After | None:
        """The sum of exponentials along one dimension."""
        node, dims = nodes[0], op.get(1, "dim")
        if not isinstance(node, Exponentials) or node.summed is not None:
            return None
        dim = dims[0] if isinstance(dims, list | tuple) and len(dims) == 1 else dims
        if not isinstance(dim, int):
            return None
        dim %= op.args[0].ndim
        kept = ((),) if op.get(2, "keepdim", False) else ()
        left = (*node.dims[:dim], *kept, *node.dims[dim + 1 :])
        sums = replace(node, dims=left, summed=tuple(leaves([node.dims[dim]])))
        return lambda result: self._nodes.put(result, sums)

    def _normalised(self, op: Operation, nodes: Nodes) -> After | None:
        """Exponentials divided by their sum: a softmax that the model computes itself."""
        above, below = nodes[:2]
        if not isinstance(above, Exponentials) or above.summed is not None:
            return None
        if not isinstance(below, Exponentials) or below.summed is None:
            return None
        pairs = list(zip(above.dims, below.dims, strict=False))
        where = [n for n, (a, b) in enumerate(pairs) if leaves([a]) != leaves([b])]
        if above.mark is not below.mark or len(above.dims) != len(below.dims) or len(where) != 1:
            return None
        if tuple(leaves([above.dims[where[0]]])) != below.summed:
            return None
        node = above.scores
        node = None if node is None else replace(node, dims=above.dims)
        return self._softmax_of(op.args[0].log(), node, where[0])

    def _divided(self, op: Operation, nodes: Nodes) -> After | None:
        after = self._normalised(op, nodes)
        if after is not None:
            return after
        if not isinstance(nodes[0], Scores) or op.kwargs.get("rounding_mode"):
            return None
        return self._changed(nodes[0], op.args[0], "times", 1 / op.args[1])

    def _softmax(self, op: Operation, nodes: Nodes) -> After | None:
        return self._softmax_of(op.args[0], nodes[0], op.args[1])

    def _softmax_of(self, tensor: Tensor, node: Node | None, dim: int) -> After:
        weights = softmax_node(node, tensor, dim)
        return lambda result: self._put(result, weights)

    def _log_softmax(self, op: Operation, nodes: Nodes) -> After | None:
        weights = softmax_node(nodes[0], op.args[0], op.args[1])
        return lambda result: self._put(result, Logarithm(weights, weights.dims))

    def _masked_softmax(self, op: Operation, nodes: Nodes) -> After | None:
        """The fast paths' masked softmax: True masks out; mask type 1 is a mask of (B, Nk)."""
        node, mask = nodes[0], op.args[1]
        if isinstance(node, Scores):
            if op.get(3, "mask_type") == 1 and mask.ndim == 2:
                mask = mask[:, None, None]
            bias = torch.zeros_like(mask, dtype=torch.float32)
            node = node.changed("plus", bias.masked_fill_(mask.bool(), -torch.inf))
        dim = op.get(2, "dim")
        return self._softmax_of(op.args[0], node, -1 if dim is None else dim)


def softmax_node(node: Node | None, tensor: Tensor, dim: int) -> Weights | ExplicitWeights:
    """The node of the softmax of a tensor, of scores or of anything else."""
    found = softmax_of(node, tensor, dim) if isinstance(node, Scores) else None
    if found is not None:
        return found
    dim %= max(tensor.ndim, 1)
    if isinstance(node, Scores | ExplicitWeights | Weights):
        dims = node.dims
    else:
        dims = tuple((Axis(size),) for size in tensor.shape)
    lead = (*dims[:dim], *dims[dim + 1 :])
    return ExplicitWeights("softmax", dims, dims[dim : dim + 1], lead)


SoftmaxTracker.handlers = ScoreTracker.handlers | by_names(
    {
        "div div_": SoftmaxTracker._divided,  # noqa: SLF001
        "exp exp_": SoftmaxTracker._exponentiated,  # noqa: SLF001
        "sigmoid": SoftmaxTracker._squashed,  # noqa: SLF001
        "sum": SoftmaxTracker._summed_exponentials,  # noqa: SLF001
        "_softmax _safe_softmax softmax": SoftmaxTracker._softmax,  # noqa: SLF001
        "_log_softmax": SoftmaxTracker._log_softmax,  # noqa: SLF001
        "_masked_softmax": SoftmaxTracker._masked_softmax,  # noqa: SLF001
    }
)
