"""Watching a running model: `record`, and how it sees every attention call.

record             the entry point, and the watcher in PyTorch's dispatcher
operation          one operation, as the dispatcher shows it
tensor_registry    what is known of tensors, by the memory that they look at
kernels            fused attention, read by the names of its arguments
attention_tracker  attention written by hand, followed from q·kᵀ to the output
score_graph        q·kᵀ, and what becomes of it up to the softmax
to_call            the same in the terms of an attention call
axes               which axes the dimensions of a view are
output_nodes       what is known of a tensor behind a call's output
output_tracker     outputs, followed to heads, projection and LayerScale
joining            calls that are pieces of one attention, put together
positions          where in the picture every token comes from
call_store         which calls are kept
model_blocks       the parts of a model's stack, one for each call, and the model's end behind one
recorded           Recording, which `record` returns
html_tables        tables for notebooks
"""

from attnviz.recording.model_blocks import Block, run_tail
from attnviz.recording.record import record
from attnviz.recording.recorded import Recording

__all__ = ["Block", "Recording", "record", "run_tail"]
