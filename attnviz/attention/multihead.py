"""`MultiHeadAttention`: a multi-head self-attention layer."""

import math
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.errors import UsageError


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention with separate projections (Vaswani et al., 1706.03762, §3.2.2).

        head_h = softmax(q_h·k_hᵀ / √d_k)·v_h,   output = out([head_0 … head_H])

    The parameters are `q_linear`, `k_linear`, `v_linear` and `out`, each an
    `nn.Linear(n_features, n_features)`.

    >>> layer = MultiHeadAttention(8, 64)
    >>> output, attentions = layer(torch.randn(1, 196, 64))
    >>> attentions.shape
    torch.Size([1, 8, 196, 196])

    Raises:
        UsageError: `n_features` is not a multiple of `n_heads`.
    """

    def __init__(self, n_heads: int, n_features: int) -> None:
        super().__init__()
        if n_heads < 1 or n_features < 1 or n_features % n_heads:
            raise UsageError(
                f"{n_features} features cannot be divided among {n_heads} heads; "
                f"take a multiple of {max(1, n_heads)}, such as "
                f"{max(1, n_heads) * max(1, round(n_features / max(1, n_heads)))}"
            )
        self.n_heads = n_heads
        self.n_features = n_features
        self.q_linear = nn.Linear(n_features, n_features)
        self.k_linear = nn.Linear(n_features, n_features)
        self.v_linear = nn.Linear(n_features, n_features)
        self.out = nn.Linear(n_features, n_features)

    @overload
    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, need_weights: Literal[True] = True
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, need_weights: Literal[False]
    ) -> tuple[Tensor, None]: ...

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, need_weights: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the layer.

        Args:
            x: (batch, tokens, features).
            mask: 1 takes part, 0 does not; (batch, tokens) over keys or (batch, tokens, tokens)
                over queries × keys. A query whose keys are all masked attends to nothing: its
                weights are 0, and so is the input of `out`.
            need_weights: False uses the fused kernel, which never computes the weights, and
                returns None for them.

        Returns:
            The output (batch, tokens, features) and the weights (batch, heads, tokens, tokens).
        """
        q, k, v = (
            self._split(linear(x)) for linear in (self.q_linear, self.k_linear, self.v_linear)
        )
        allowed = None if mask is None else _over_scores(mask)  # (B, 1, 1 or N, N)
        if need_weights:
            attentions = _weights(q, k, allowed)  # (B, H, N, N)
            heads = attentions @ v  # (B, H, N, D)
        else:
            attentions = None
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out(heads.transpose(1, 2).flatten(2)), attentions

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, F) → (B, H, N, D)."""
        return x.view(*x.shape[:-1], self.n_heads, -1).transpose(1, 2)


def _over_scores(mask: Tensor) -> Tensor:
    """A mask over keys or over queries × keys, as a boolean that broadcasts to the scores."""
    taking_part = mask != 0
    return taking_part[:, None, None, :] if mask.ndim == 2 else taking_part[:, None]


def _weights(q: Tensor, k: Tensor, allowed: Tensor | None) -> Tensor:
    """softmax(q·kᵀ / √D), (B, H, N, N); rows without any allowed key are 0."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if allowed is None:
        return scores.softmax(-1)
    # Use the lowest finite score, not −∞: then a row without any key has no NaN, not even in the
    # gradient.
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return scores.softmax(-1).masked_fill(~allowed, 0.0)
