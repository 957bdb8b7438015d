"""The core: attention calls and what follows from them.

Knows tensors; no files, no models, no pictures.
"""

from attnviz.attention.call import AttentionCall
from attnviz.attention.multihead import MultiHeadAttention
from attnviz.attention.recording import Block, Recording, propagate, record, run_tail

__all__ = [
    "AttentionCall", "Block", "MultiHeadAttention", "Recording", "propagate", "record", "run_tail",
]  # fmt: skip
