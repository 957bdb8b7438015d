"""Watching a running model: `record`, and how it sees every attention call.

record             the entry point, and the watcher in PyTorch's dispatcher
operation          one operation, as the dispatcher shows it
tensor_registry    what is known of tensors, by the memory that they look at
kernels            fused attention, read by the names of its arguments
attention_tracker  attention written by hand, followed from q·kᵀ to the output
score_graph        q·kᵀ, and what becomes of it up to the softmax
to_call            the same in the terms of an attention call
axes               which axes the dimensions of a view are
output_tracker     what becomes of an output: heads, projection, LayerScale
joining            calls that are pieces of one attention, put together
token_positions    where in the picture every token comes from
position_rules     what every operator does to positions; position_windows, position_math
call_store         which calls are kept
call_gradients     where calls stand in autograd's graph
model_blocks       the parts of a model's stack, one for each call
tail               what a model says when it ends with one of them
propagation        relevance of tokens, propagated back through autograd's graph
rules              how it goes through one operation
patterns           what several operations make together: norms, and gates made of their input
recorded           what is given back
"""

from attnviz.recording.model_blocks import Block
from attnviz.recording.record import record
from attnviz.recording.recorded import Recording
from attnviz.recording.tail import run_tail

__all__ = ["Block", "Recording", "record", "run_tail"]
