"""Attention calls and all exact numbers of a call; this package depends on tensors alone."""

from attnviz.attention.call import AttentionCall
from attnviz.attention.multihead import MultiHeadAttention

__all__ = ["AttentionCall", "MultiHeadAttention"]
