"""Computes M, the head fusion of a call (one matrix for all heads), a block of rows at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.scores import FLOOR, LOG2E, scores, weight_gradients
from attnviz.attention.threads import Scratch

Fusion = Literal["mean", "max", "min", "positive", "signed", "gradient", "relevance"]

TILE = 1 << 19
"""Scores that a CPU works on at once: 2 MiB of float32."""
PANEL = 1 << 21
"""Scores of one head in a block of rows on a CPU."""
LARGE = 1 << 26
"""Scores of a block on other devices."""
SAFE = 60.0
"""For scores s up to this, 2^s is far from float32's limits, so the maximum is not subtracted."""


@dataclass(frozen=True)
class MergedHeads:
    """M, (B, Nq, Nk): the heads of a call as one matrix, which is computed on demand.

    Attributes:
        call: the call with these heads.
        fusion: `mean`, `max` or `min` of A over heads; `positive`, mean_h relu(A⊙∇A); `signed`,
            relu(mean_h A⊙∇A); `gradient`, mean_h relu(∇A); `relevance`, mean_h relu(∇A⊙R), R the
            relevance of A.
        queries: (B, Nq) boolean; the rows of other queries are 0; None: all queries count.
        least: (B,); entries below it become 0; None: no entry does.
        spared: (B,) boolean; True keeps entry [0, 0] for any `least`.
        held: M itself, (B, Nq, Nk), before entries are dropped; only if it is small.
    """

    call: AttentionCall
    fusion: Fusion
    queries: Tensor | None = None
    least: Tensor | None = None
    spared: Tensor | None = None
    held: Tensor | None = None

    @property
    def summed(self) -> bool:
        """Whether M is an entrywise sum over heads, so that products do not need M itself."""
        summed = self.fusion in ("mean", "positive", "gradient", "relevance")
        return summed and self.least is None

    @property
    def full(self) -> bool:
        """Whether it is certain that every row of A sums to 1, except rows outside `queries`."""
        return self.call.bias is None and not self.call.causal

    @property
    def on_cpu(self) -> bool:
        """Whether the call is on a CPU, where blocks should fit the cache."""
        return self.call.query.device.type == "cpu"

    @property
    def rows(self) -> int:
        """Query rows of a block."""
        batch, heads, queries, keys = self.call.shape
        if self.on_cpu:
            size = PANEL // (keys * (heads if self._together else 1))
            return min(queries, 256, max(16, size))
        return min(queries, max(1, LARGE // (batch * heads * keys)))

    @property
    def _together(self) -> bool:
        """Whether heads depend on each other and must be computed together."""
        return self.call.mixing is not None and self.fusion not in ("mean", "max", "min")

    def parts(self, rows: int) -> "Iterator[RowPart]":
        """Split the batch, for blocks of `rows` rows; on a CPU into single or a few small items."""
        batch, heads, queries, keys = self.call.shape
        step, together, scratch = batch, heads, Scratch()
        if self.on_cpu:
            step = max(1, TILE // (heads * queries * keys))
            together = heads if self._together else min(heads, max(1, TILE // (rows * keys)))
        for first in range(0, batch, step):
            items = slice(first, min(first + step, batch))
            yield RowPart(items, self._of(items), together, scratch)

    def _of(self, items: slice) -> "MergedHeads":
        """M of some items, with contiguous float32 tensors."""

        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[items]

        def lying(tensor: Tensor) -> Tensor:
            return tensor.detach().to(torch.float32).contiguous()  # models use strided views

        call = self.call.batch(items)
        with_gradient = self.fusion not in ("mean", "max", "min")
        call = replace(
            call,
            query=lying(call.query),
            key=lying(call.key),
            value=lying(call.value) if with_gradient else call.value,
            bias=None if call.bias is None else call.bias.detach(),
            gradient=None if call.gradient is None else call.gradient.detach(),
            relevance=None if call.relevance is None else call.relevance.detach(),
        )
        return replace(
            self,
            call=call,
            queries=of(self.queries),
            least=of(self.least),
            spared=of(self.spared),
            held=of(self.held),
        )


@dataclass(frozen=True)
class RowPart:
    """Some items of the batch, and the buffers for their blocks.

    Attributes:
        items: the items.
        fused: M of these items.
        together: number of heads to compute at once.
        scratch: the buffers.
    """

    items: slice
    fused: MergedHeads
    together: int
    scratch: Scratch

    def counted(self, rows: Tensor) -> Tensor:
        """1 for rows that count, 0 for others, (b, n)."""
        queries = self.fused.queries
        if queries is None:
            return torch.ones(len(self.fused.call.query), len(rows), device=rows.device)
        return queries[:, rows].float()

    def terms(self, rows: Tensor, summed: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows of M as Σ over terms and heads of factor·x: x (b, h, n, Nk), factor (b, h, n).

        If M is a sum over heads, a term has a few heads; else the only term is M itself. The next
        term overwrites the one before.
        """
        if summed:
            for group in self._groups:
                x, factor = self._heads(group, rows)
                yield x, factor / self.fused.call.heads
        else:
            matrix = self.matrix(rows)
            yield matrix[:, None], torch.ones_like(matrix[:, None, :, 0])

    def matrix(self, rows: Tensor) -> Tensor:
        """Some rows of M, (b, n, Nk), in a buffer."""
        fused = self.fused
        matrix = self._block_of_rows(rows) if fused.held is None else fused.held[:, rows]  # a copy
        return matrix if fused.least is None else self._discarded(matrix, rows)

    def _block_of_rows(self, rows: Tensor) -> Tensor:
        """Some rows of M from all heads, before small entries are dropped."""
        fused = self.fused
        shape = len(fused.call.query), len(rows), fused.call.shape[3]
        matrix = self._buffer("matrix", *shape)
        first = True
        for group in self._groups:
            x, factor = self._heads(group, rows)
            for head, share in zip(x.unbind(1), factor[..., None].unbind(1), strict=True):
                _join(matrix, head, share, fusion=fused.fusion, first=first)
                first = False
        if fused.fusion not in ("max", "min"):
            matrix.div_(fused.call.heads)
        if fused.fusion == "signed":
            matrix.relu_()
        return matrix

    def _discarded(self, matrix: Tensor, rows: Tensor) -> Tensor:
        """Set the entries that are too small to 0."""
        assert self.fused.least is not None  # the caller checks this
        small = matrix < self.fused.least[:, None, None]
        if self.fused.spared is not None and int(rows[0]) == 0:
            small[:, 0, 0] &= ~self.fused.spared
        return matrix.masked_fill_(small, 0.0)

    @cached_property
    def _groups(self) -> list[AttentionCall]:
        """The call, split into groups of a few heads."""
        call = self.fused.call
        if self.together == call.heads:
            return [call]
        shared = call.heads // call.key.shape[1]
        bias = call.bias
        if bias is not None:
            bias = bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))
        groups = []
        for first in range(0, call.heads, self.together):
            heads = slice(first, min(first + self.together, call.heads))
            of_keys = torch.arange(heads.start, heads.stop, device=call.key.device) // shared
            group = replace(
                call,
                query=call.query[:, heads],
                key=call.key[:, heads] if shared == 1 else call.key[:, of_keys],
                bias=bias if bias is None or bias.shape[1] == 1 else bias[:, heads],
            )
            if call.mixing is None and call.gradient is not None:
                value = call.value[:, heads] if shared == 1 else call.value[:, of_keys]
                group = replace(group, value=value, gradient=call.gradient[:, heads])
                if call.relevance is not None:
                    group = replace(group, relevance=call.relevance[:, heads])
            groups.append(group)
        return groups

    def _heads(self, group: AttentionCall, rows: Tensor) -> tuple[Tensor, Tensor]:
        """A, ∇A, A⊙∇A, or the positive part, of a few heads, as factor·x."""
        fusion, shape = self.fused.fusion, (*group.shape[:2], len(rows), group.shape[3])
        counted = self.counted(rows)[:, None]
        if fusion == "gradient":
            slope = weight_gradients(group, rows, self._buffer("gradient", *shape))
            return slope.relu_(), counted.expand(shape[:3])
        x, factor = self._powers(group, rows, self._buffer("scores", *shape))
        if fusion not in ("mean", "max", "min"):
            slope = weight_gradients(group, rows, self._buffer("gradient", *shape))
            if fusion == "relevance":
                share = replace(group, gradient=group.relevance)
                slope.mul_(weight_gradients(share, rows, self._buffer("relevance", *shape)))
                factor = factor / 2
            x.mul_(slope if fusion == "signed" else slope.relu_())
        return x, factor * counted

    def _powers(self, group: AttentionCall, rows: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """A as factor·2^(s−m); the factor of a row without any key is 0."""
        s = scores(group, rows, unit=LOG2E, out=out)
        if self._safe:
            power = s.exp2_()
            return power, power.sum(-1).reciprocal_()
        top = s.amax(-1, keepdim=True)
        power = s.sub_(top).exp2_()
        factor = power.sum(-1).reciprocal_()
        return power, factor.masked_fill_(top[..., 0] <= FLOOR / 2, 0.0)

    @cached_property
    def _safe(self) -> bool:
        """Whether 2^s fits float32 for all scores; ‖q‖·‖k‖ bounds the scores."""
        call = self.fused.call
        if not (self.fused.full and self.fused.on_cpu):
            return False
        longest = call.query.norm(dim=-1).amax() * call.key.norm(dim=-1).amax()
        return float(longest) * abs(call.scale) * LOG2E < SAFE

    def _buffer(self, name: str, *shape: int) -> Tensor:
        if self.fused.on_cpu:
            return self.scratch.take(name, *shape)
        return torch.empty(shape, device=self.fused.call.query.device)


def _join(matrix: Tensor, x: Tensor, factor: Tensor, *, fusion: Fusion, first: bool) -> None:
    """Merge one head, factor·x, into M; x is (b, n, Nk) and factor (b, n, 1)."""
    if first:
        torch.mul(x, factor, out=matrix)
    elif fusion == "max":
        torch.maximum(matrix, x.mul_(factor), out=matrix)
    elif fusion == "min":
        torch.minimum(matrix, x.mul_(factor), out=matrix)
    else:
        matrix.addcmul_(x, factor)


def chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Row numbers, at most `size` at a time, in nearly equal parts."""
    count = math.ceil(len(rows) / size)
    yield from torch.tensor_split(rows, count) if count else ()
