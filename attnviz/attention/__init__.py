"""Attention calls, and every exact number of one. Knows tensors alone."""

from attnviz.attention.call import AttentionCall
from attnviz.attention.multihead import MultiHeadAttention

__all__ = ["AttentionCall", "MultiHeadAttention"]
