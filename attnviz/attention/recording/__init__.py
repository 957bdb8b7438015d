"""Watching a running model: `record`, and how it sees every attention call.

operation   one operation, as PyTorch's dispatcher shows it
known       what is known of tensors, by the memory that they look at
kernels     fused attention, read by the names of its arguments
follow      attention written by hand, followed from q·kᵀ to the output
outputs     what becomes of an output: heads, projection, LayerScale
products    q·kᵀ, and what becomes of it up to the softmax
terms       the same in the terms of an attention call
axes        which axes the dimensions of a view are
positions     where in the picture every token comes from
shelf       what is kept
gradients   where calls stand in autograd's graph
blocks      the parts of a model's stack, one for each call
tail        what a model says when it ends with one of them
lrp         relevance of tokens, propagated back through autograd's graph
rules       how it goes through one operation
patterns    what several operations make together: norms, and gates made of their input
recorded    what is given back
record      the door
"""

from attnviz.attention.recording.blocks import Block
from attnviz.attention.recording.lrp import propagate
from attnviz.attention.recording.record import record
from attnviz.attention.recording.recorded import Recording
from attnviz.attention.recording.tail import run_tail

__all__ = ["Block", "Recording", "propagate", "record", "run_tail"]
