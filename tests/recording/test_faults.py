"""Models that were recorded wrongly once: each a kind with its test."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
B, GROUPS, SHARED, N, D = 2, 2, 3, 7, 4


def test_packed_grouped_queries_are_heads(watch: Watch) -> None:
    """transformers packs the heads of a group as queries, where there is one query."""
    q, k, v = (torch.randn(B, h, n, D) for h, n in ((6, 1), (GROUPS, N), (GROUPS, N)))
    mask = torch.zeros(B, 1, 1, N).masked_fill(torch.arange(N) > 4, -torch.inf)
    project = torch.randn(24, 5)

    def run() -> Tensor:
        packed = q.reshape(B, GROUPS, SHARED, D)
        output = F.scaled_dot_product_attention(packed, k, v, attn_mask=mask)
        output = output.reshape(B, GROUPS * SHARED, 1, D)
        return output.transpose(1, 2).contiguous().reshape(B, 1, -1) @ project

    recording, _ = watch(run)
    (call,) = recording
    shared = k.repeat_interleave(SHARED, 1)
    expected = (q @ shared.mT / D**0.5 + mask).softmax(-1)
    assert call.shape == (B, GROUPS * SHARED, 1, N)
    torch.testing.assert_close(call.matrix(), expected, atol=1e-6, rtol=0)
    assert (call.check() or 0) < 1e-5
    assert call.projection is not None
    assert call.projection.shape == (6, D, 5)
