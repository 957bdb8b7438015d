"""The table of position rules, by the names of PyTorch's operators.

A rule receives the registry, an operation and its result, and returns the positions of the result
or of the first results. If it returns None, the positions are lost and the operator's name is
noted. Operators that PyTorch marks as pointwise (`torch.Tag.pointwise`) need no rule. All other
operators without a rule lose positions.
"""

from typing import Any

from attnviz.recording.operation import Operation, by_names, first
from attnviz.recording.positions import mixing, moves, pointwise, sliding, writes
from attnviz.recording.positions.position_registry import PositionRegistry
from attnviz.recording.positions.position_rule import Rule


def _first_stays(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """The first result has the first argument's positions; other results are not tokens."""
    positions = registry.get(op.args[0])
    return None if positions is None else (pointwise.expanded(positions, first(result)),)


CONSTANT = frozenset(
    (
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
        *("randint_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"),
        *("empty_strided", "_local_scalar_dense", "is_nonzero", "_assert_async", "sym_size"),
        "_has_same_storage_numel",
    )
)
"""Operators that use only the shapes or single numbers of their arguments."""

RULES: dict[str, Rule] = {
    **by_names(
        {
            "detach alias lift_fresh lift clone _to_copy contiguous _conj _neg_view resolve_conj "
            "_softmax _safe_softmax softmax _masked_softmax _log_softmax native_layer_norm "
            "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
            "_batch_norm_with_update _batch_norm_no_update cudnn_batch_norm miopen_batch_norm "
            "native_group_norm _fused_rms_norm rms_norm native_dropout hardswish hardswish_ "
            "rrelu_with_noise tril triu log_sigmoid_forward renorm real": _first_stays
        }
    ),
    **pointwise.RULES,
    **moves.RULES,
    **writes.RULES,
    **mixing.RULES,
    **sliding.RULES,
}
"""Rules by operator name."""
