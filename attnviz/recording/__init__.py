"""Record a running model: `record`, and how it finds every attention call.

record             the entry point
watcher            watches PyTorch's dispatcher: the full watcher
model_watch        decides how each run of a given model is watched
plan               what was learnt of a run
outside            what a model's code may read besides its arguments
learning           learns a plan while the full watcher records
light_watch        takes calls and blocks by a plan, without the watcher
plan_check         compares a run with the plan, function by function
plans              the plans of each model
other_batches      plans for other numbers of pictures
operation          one operation, as the dispatcher shows it
tensor_registry    facts about tensors, by the memory that the tensors use
kernels            fused attention, read by the names of its arguments
score_tracker      products q·kᵀ, followed to their softmax
attention_tracker  attention that a model computes itself, followed from there to the output
score_graph        nodes for tensors from q·kᵀ to the softmax
to_call            turns these nodes into an attention call
axes               which axes each dimension of a view contains
output_nodes       nodes for tensors that are computed from a call's output
output_tracker     follows outputs to heads, projection and LayerScale
joining            joins calls that are pieces of one attention
positions          where in the picture every token comes from
call_store         which calls are kept
model_blocks       the model's blocks, one for each call, and runs of the rest of the model
recorded           Recording, which `record` returns, and its tables for notebooks
"""

from attnviz.recording.model_blocks import Block, run_from, run_tail
from attnviz.recording.record import record
from attnviz.recording.recorded import Recording

__all__ = ["Block", "Recording", "record", "run_from", "run_tail"]
