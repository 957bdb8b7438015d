"""Follows weights to the sum of values over tokens, by a matrix product or elementwise.

Weights that are a softmax of q·kᵀ give an exact call. Others (additive scores, sigmoids, parts and
differences of softmaxes, pooling by a small network) give an explicit one: the weights themselves,
as the model multiplies them with its values.
"""

from dataclasses import replace

from torch import Tensor

from attnviz.attention.call import MATRIX_LIMIT
from attnviz.attribution.call_gradients import Trace
from attnviz.recording.axes import Axis, Dims, arrange, leaves
from attnviz.recording.explicit_weights import ExplicitWeights
from attnviz.recording.operation import After, Operation, by_names, node_of
from attnviz.recording.output_nodes import WeightedValues
from attnviz.recording.output_tracker import Outputs
from attnviz.recording.products import Axes, Product, Scores
from attnviz.recording.score_graph import (
    Elementwise,
    Exponentials,
    Node,
    NotAttention,
    Weights,
    explicit_weights,
)
from attnviz.recording.score_tracker import Nodes, nothing
from attnviz.recording.softmax_tracker import SoftmaxTracker
from attnviz.recording.to_call import (
    OutputLayout,
    attention_call,
    explicit_call_weights,
    output_places,
)
from attnviz.recording.value_sums import (
    CallListener,
    Pairing,
    WeightedSum,
    explicit_of,
    is_parameter,
    is_textbook,
    query_places,
    spread,
)

MEMORY = "weights over a memory that is no part of the picture"


class ValuesTracker(SoftmaxTracker):
    """Finds the sums of values over tokens."""

    def __init__(self, listener: CallListener, outputs: Outputs) -> None:
        super().__init__()
        self._listener, self._outputs = listener, outputs

    def _weigh(
        self, op: Operation, node: Node | None, weights: Tensor, value: Tensor, *, turned: bool
    ) -> After | None:
        """A matrix product of weights, (b, n, m), and values, (b, m, Dv), if it is one."""
        if not isinstance(node, Weights | ExplicitWeights | Scores | Elementwise | Exponentials):
            return None
        features: Axes = (Axis(value.shape[2]),)
        b, n, _ = node.dims
        result: Dims = (b, features, n) if turned else (b, n, features)
        result = result[1:] if op.name == "mm" else result
        if isinstance(node, Weights) and is_textbook(node, node.dims):
            return self._found(op, node, value, result, features)
        explicit = explicit_of(node)
        if explicit is None:
            return None
        of_weights, of_value = (op.args[1], op.args[0]) if turned else op.args[:2]
        queries = self._listener.places(of_weights, -2 if turned else -1, weights=True)
        keys = self._listener.places(of_value, -2 if turned else -1)
        if op.name == "mm":
            queries = None if queries is None else queries[None]
            keys = None if keys is None else keys[None]
        places = queries, keys
        found = WeightedSum(weights, value, node.dims, result, features, places)
        return self._found_explicit(op, node, explicit, found, learned=is_parameter(of_value))

    def _found(
        self, op: Operation, weights: Weights, value: Tensor, dims: Dims, features: Axes
    ) -> After:
        """Report a call whose output is the result of an operation, with `dims`."""
        trace = Trace(op.name, node_of(op), OutputLayout.of(weights, dims, features))
        b, n = weights.dims[:2]

        def after(result: Tensor) -> None:
            output = arrange(result.detach(), dims, [leaves([each]) for each in (b, n, features)])
            values = WeightedValues(weights, value.detach(), output, dims, features)
            call = attention_call(weights, values.value, values.output)
            product = weights.scores.product
            of_queries = output_places(weights, dims, features, result.device)
            places = None if product.of_channels else of_queries
            number = self._listener.found(call, result, places, trace)
            self._nodes.forget(result)
            self._outputs.by_hand(result, number, values)

        return after

    def _found_explicit(
        self,
        op: Operation,
        node: Node,
        explicit: ExplicitWeights,
        found: WeightedSum,
        *,
        learned: bool,
    ) -> After | None:
        """Report a call of weights that are no softmax of q·kᵀ, unless they are not over tokens."""
        if not explicit.are_tokens(found.dims[2:]) or not self._over_tokens(
            node, explicit, found, learned
        ):
            return None
        size = found.weights.element_size() * found.weights.numel()
        if size > MATRIX_LIMIT or learned or (self._listener.traced and found.places[1] is None):
            large = f"weights that take {size / 1e9:.1f} GB ({explicit.kind})"
            self._listener.unread(large if size > MATRIX_LIMIT else MEMORY)
            return nothing
        if explicit.product is not None:
            queries = query_places(explicit.product, found.dims)
            if queries is not None:
                found = replace(found, places=(queries, found.places[1]))
        explicit = replace(explicit, kind=found.kind(explicit))
        heads = found.heads(explicit)
        weights = explicit_call_weights(explicit, found.weights, found.dims, heads, found.places)
        return self._found(op, weights, found.value, found.result, found.features)

    def _over_tokens(
        self, node: Node, explicit: ExplicitWeights, found: WeightedSum, learned: bool
    ) -> bool:
        """Whether weights are over tokens, and not over branches, classes or features."""
        of_values = spread(found.places[1])
        if not isinstance(node, Scores):
            if explicit.tokens:
                return of_values != "one"
            return of_values == "different" and found.places[0] is not None
        if not node.product.batch or node.product.learned or learned:
            return False
        traced = self._listener.traced
        return of_values in ("different", "lost") if traced else node.unfollowed > 0

    def _summed(self, op: Operation, nodes: Nodes) -> After | None:
        """A sum of an elementwise product: q·kᵀ, or weights times values."""
        node, over = nodes[0], op.get(1, "dim")
        if isinstance(node, NotAttention) and node.reason:
            self._listener.unread(node.reason)
        if not isinstance(node, Elementwise) or not over:
            return self._summed_exponentials(op, nodes)
        dims = {dim % len(node.dims) for dim in ([over] if isinstance(over, int) else over)}
        kept = op.get(2, "keepdim", False)
        summed = tuple(leaves([node.dims[dim] for dim in sorted(dims)]))
        result = tuple(
            () if dim in dims else axes
            for dim, axes in enumerate(node.dims)
            if kept or dim not in dims
        )
        pairing = Pairing.of(node, summed, result)
        if pairing is None:
            return None
        if node.weights is not None:
            return self._weighed(op, node.weights, pairing)
        if not pairing.of_left and not pairing.of_right:
            return None
        places = self._listener.places
        product = Product(
            query=pairing.left(node.left) * node.factor,
            key=pairing.right(node.right).mT,
            batch=pairing.batch,
            queries=pairing.of_left,
            keys=pairing.of_right,
            query_places=places(node.left, -1, lay=pairing.left),
            key_places=places(node.right, -2, lay=pairing.right),
        )
        return lambda found: self._put(found, Scores(product, result))

    def _averaged(self, op: Operation, nodes: Nodes) -> None:
        """A mean of weights times values: the sum divided by the number of tokens."""
        node, over = nodes[0], op.get(1, "dim")
        if isinstance(node, Elementwise) and isinstance(node.weights, Weights | ExplicitWeights):
            dims = [over] if isinstance(over, int) else over or ()
            explicit = explicit_weights(node.weights)
            if explicit.tokens and explicit.are_tokens(tuple(node.dims[dim] for dim in dims)):
                self._listener.unread("weights whose products with values are averaged, not summed")

    def _matrix_times_vector(self, op: Operation, nodes: Nodes) -> After | None:
        """`mv`: values, (Dv, m), times the weights of one query, (m,)."""
        node, features = nodes[1], (Axis(op.args[0].shape[0]),)
        if not isinstance(node, Weights | ExplicitWeights):
            return None
        node = replace(node, dims=((), (), *node.dims))
        places = self._listener.places
        of_keys = places(op.args[0], -2)
        of_query = places(op.args[1], -1, weights=True)
        found = WeightedSum(
            weights=op.args[1][None, None],
            value=op.args[0].mT[None],
            dims=node.dims,
            result=(features,),
            features=features,
            places=(
                None if of_query is None else of_query.reshape(1, 1),
                None if of_keys is None else of_keys[None],
            ),
        )
        if isinstance(node, Weights) and is_textbook(node, node.dims):
            return self._found(op, node, found.value, found.result, features)
        explicit = explicit_weights(node)
        learned = is_parameter(op.args[0])
        return self._found_explicit(op, node, explicit, found, learned=learned)

    def _weighed(
        self, op: Operation, weights: Weights | ExplicitWeights | Scores, pairing: Pairing
    ) -> After | None:
        """The sum over keys of an elementwise product of weights and values."""
        node, features = pairing.node, pairing.of_right
        if not features or node.factor != 1 or not (self._listener.traced or pairing.is_plain):
            return None
        dims, value = (pairing.batch, pairing.of_left, pairing.summed), pairing.right(node.right)
        if isinstance(weights, Weights) and is_textbook(weights, dims):
            exact = replace(weights, dims=dims)
            return self._found(op, exact, value, pairing.result, features)
        explicit = explicit_of(weights)
        if explicit is None:
            return None
        places = (
            self._listener.places(node.left, -1, lay=pairing.left, weights=True),
            self._listener.places(node.right, -1, lay=pairing.right),
        )
        laid = pairing.left(node.left)
        found = WeightedSum(laid, value, dims, pairing.result, features, places)
        return self._found_explicit(op, weights, explicit, found, learned=False)


ValuesTracker.handlers = SoftmaxTracker.handlers | by_names(
    {
        "sum": ValuesTracker._summed,  # noqa: SLF001
        "mean": ValuesTracker._averaged,  # noqa: SLF001
        "mv": ValuesTracker._matrix_times_vector,  # noqa: SLF001
    }
)
