"""`AttentionCall`: one attention call, with its weights and statistics."""

import logging
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from attnviz.attention import blocks, kernel, reference, streamed
from attnviz.attention.scores import float32_no_grad, rows, weight_gradients
from attnviz.attention.sweep import CallTensors, Progress, Sweep, SweepRequest
from attnviz.errors import MemoryLimitError, UsageError

MATRIX_LIMIT = 2 << 30
"""The default limit of `AttentionCall.matrix`, in bytes."""
SMALL = 1 << 19
"""Up to this many weights in total, computing whole rows at once is fastest."""

Way = Literal["auto", "reference", "blocks", "streamed", "kernel"]
WAYS = {
    "reference": reference.sweep,
    "blocks": blocks.sweep,
    "streamed": streamed.sweep,
    "kernel": kernel.sweep,
}


class AttentionCall(CallTensors):
    """One softmax(q·kᵀ·scale + bias)·v of a model, with methods for its weights and statistics.

    Weights and statistics are float32, whatever the model's own type. A query that may attend
    to no key has weights 0. `CallTensors` describes the tensors.

    >>> query, key, value = torch.rand(3, 1, 2, 9, 4)          # 1 picture, 2 heads, 9 tokens
    >>> call = AttentionCall(query, key, value, scale=0.5)
    >>> call
    AttentionCall(batch=1, heads=2, queries=9, keys=9, features=4, float32 on cpu)
    """

    def __repr__(self) -> str:
        batch, heads, queries, keys = self.shape
        kind = str(self.query.dtype).removeprefix("torch.")
        made = f"kind={self.kind}" if self.explicit else f"features={self.query.shape[-1]}"
        return (
            f"AttentionCall(batch={batch}, heads={heads}, queries={queries}, keys={keys}, "
            f"{made}, {kind} on {self.query.device})"
        )

    def rows(self, queries: Sequence[int]) -> Tensor:
        """The weights of chosen queries, (batch, heads, len(queries), keys): one softmax per row.

        Negative numbers count from the end.

        >>> call.rows([0]).shape            # (batch, heads, queries asked for, keys)
        torch.Size([1, 2, 1, 197])

        Raises:
            UsageError: a query does not exist.
            MemoryLimitError: the weights need more than `MATRIX_LIMIT` bytes.
        """
        return self._rows(self._numbers(queries))

    def weight_gradient(self, queries: Sequence[int]) -> Tensor:
        """∂score/∂A of the weights of chosen queries, (batch, heads, len(queries), keys).

        >>> call = replace(call, gradient=torch.ones_like(call.output))
        >>> call.weight_gradient([0, -1]).shape
        torch.Size([1, 2, 2, 197])

        These are rows of gradient·valueᵀ, for the weights after the softmax, float32. If heads are
        mixed after the softmax, ∇A_h = Σ_g mixing[g, h]·∇A'_g. Negative numbers count from the end.

        Raises:
            UsageError: the call has no gradient, or a query does not exist.
            MemoryLimitError: the weights need more than `MATRIX_LIMIT` bytes.
        """
        if self.gradient is None:
            raise UsageError(
                "the call has no gradient; take one of record(gradients=True) and "
                "Recording.gradients(score)"
            )
        with float32_no_grad(self.query):
            return weight_gradients(self, self._numbers(queries))

    def sweep(
        self,
        request: SweepRequest | None = None,
        *,
        way: Way = "auto",
        progress: Progress | None = None,
    ) -> Sweep:
        """All statistics of the rows in one pass, without the N×N matrix.

        >>> bool((call.sweep().entropy <= math.log(197) + 1e-5).all())
        True

        Args:
            request: the statistics to compute in addition to entropy and confidence.
            way: `reference` applies the formulas to the whole matrix in float64 and is the oracle;
                `blocks` computes whole rows at a time; `streamed` computes tiles that stay in a
                CPU's cache; `kernel` runs Triton kernels on CUDA. `auto` is `streamed` on a CPU,
                or `blocks` if the matrix is small; on CUDA it is `kernel` where that can compute
                the call, and `blocks` elsewhere.
            progress: called with (query rows done, query rows in total).

        Raises:
            MemoryLimitError: the matrix is too large for `reference`.
            UsageError: `kernel` cannot compute the call here; the message says why.
        """
        request = request or SweepRequest()
        if self.weights is not None:
            with float32_no_grad(self.weights):
                return blocks.explicit_sweep(self, request)
        if way == "reference":
            self._check_memory(self.shape[2], 8, MATRIX_LIMIT)
        with float32_no_grad(self.query):
            if way != "auto":
                return WAYS[way](self, request, progress)
            return self._fastest_sweep(request, progress)

    def _fastest_sweep(self, request: SweepRequest, progress: Progress | None) -> Sweep:
        """The sweep by the way that is fastest here: the one place that chooses it."""
        if self.query.device.type == "cpu":
            way: Way = "blocks" if math.prod(self.shape[1:]) <= SMALL else "streamed"
            return WAYS[way](self, request, progress)
        if kernel.missing(self) is None:
            try:
                return kernel.sweep(self, request, progress)
            except UsageError as error:  # Triton has no compiler here, say; it is tried once
                logging.getLogger(__name__).warning("%s", error)
        return blocks.sweep(self, request, progress)

    def received(self, weights: Tensor | None = None) -> Tensor:
        """Attention that each key receives, Σ_i w_i A_ij, (batch, heads, keys).

        >>> bool(torch.allclose(call.received().sum(-1), torch.ones(1, 2)))
        True

        `weights` is (queries,); the default is uniform and sums to 1.
        """
        if weights is None:
            queries = self.shape[2]
            weights = torch.full((queries,), 1 / queries, device=self.query.device)
        received = self.sweep(SweepRequest(weights=weights[None])).received
        assert received is not None
        return received[:, :, 0]

    def entropy(self) -> Tensor:
        """−Σ_j A_ij ln A_ij of each query, (batch, heads, queries), in nats.

        >>> call.entropy().shape
        torch.Size([1, 2, 197])
        """
        return self.sweep().entropy

    def matrix(self, *, limit: int = MATRIX_LIMIT) -> Tensor:
        """All weights, (batch, heads, queries, keys).

        >>> call.matrix().shape
        torch.Size([1, 2, 197, 197])

        Raises:
            MemoryLimitError: the weights need more than `limit` bytes.
        """
        self._check_memory(self.shape[2], 4, limit)
        return self._rows(torch.arange(self.shape[2], device=self.query.device))

    def check(self, probes: int = 16) -> float | None:
        """The error of A·V against the model's own output, on rows spread evenly over the queries.

        >>> call.check() < 1e-5
        True

        This is the maximum over batch, heads and probed rows i of ‖A_i·V − output_i‖₂ / ‖output_i‖₂
        (CONTRACT §5); None if the output was not recorded.
        """
        error = self.check_error(probes)
        return None if error is None else float(error)

    def check_error(self, probes: int = 16) -> Tensor | None:
        """The result of `check` as a tensor on the call's device, (): nothing waits for it."""
        if self.output is None:
            return None
        queries = self.shape[2]
        index = torch.linspace(0, queries - 1, min(probes, queries)).round().long()
        index = index.to(self.query.device)
        expected = self.output[:, :, index].float()
        batch, shared, keys, _ = self.value.shape
        with float32_no_grad(self.query):
            weights = self._mixed(rows(self, index)).reshape(batch, shared, -1, keys)
            result = (weights @ self.value.float()).reshape(expected.shape)
            difference = (result - expected).norm(dim=-1)
        floor = torch.finfo(torch.float32).tiny
        largest: Tensor = (difference / expected.norm(dim=-1).clamp_min(floor)).max()
        return largest

    def _mixed(self, weights: Tensor) -> Tensor:
        """Weights after the mixing of heads, as the model multiplies them with the values."""
        if self.mixing is None:
            return weights
        weight, bias = self.mixing
        mixed = torch.einsum("gh,bhij->bgij", weight.float(), weights)
        return mixed if bias is None else mixed + bias.float()[:, None, None]

    def _numbers(self, queries: Sequence[int]) -> Tensor:
        """Numbers of queries, counted from 0; refuses unknown queries and too much memory."""
        index = torch.as_tensor(list(queries), dtype=torch.long, device=self.query.device)
        count = self.shape[2]
        if bool(((index < -count) | (index >= count)).any()):
            raise UsageError(f"queries are numbered 0 to {count - 1}; ask for one of them")
        self._check_memory(len(index), 4, MATRIX_LIMIT)
        return index % count

    def _rows(self, index: Tensor) -> Tensor:
        with float32_no_grad(self.query):
            return rows(self, index)

    def _check_memory(self, queries: int, size: int, limit: int) -> None:
        """Refuse rows that need more than `limit` bytes, with `size` bytes per number."""
        batch, heads, _, keys = self.shape
        needed = size * batch * heads * queries * keys
        if needed > limit:
            raise MemoryLimitError(
                f"{heads} heads of {queries}x{keys} weights take {needed / 1e9:.1f} GB, over the "
                f"limit of {limit / 1e9:.1f} GB; call received() or entropy() instead"
            )
