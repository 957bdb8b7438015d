"""Where in the picture every token of a running model comes from.

Each tensor that depends on the picture has a second tensor of the same shape: the positions x + iy
that its elements come from, in pixels of the model's input. An operator that moves elements (views,
windows, shifts, padding) moves their positions. An operator that mixes elements gives the mean of
their positions. So the layout of tokens is measured for any model, never guessed from name or size.

An element can also be
- `NOWHERE`, NaN: a constant (a class token, padding), or a mean over the whole picture;
- lost, x infinite: an operator without a rule made it, and y is that operator's index.

A tensor without positions does not depend on the picture, as far as PyTorch's operators show.
"""

from typing import Any

import torch
from torch import Tensor

from attnviz.recording.operation import Operation, by_names, first
from attnviz.recording.positions import mixing, moves, pointwise, sliding
from attnviz.recording.positions.position_math import NOWHERE, compact, mean_over, same_memory
from attnviz.recording.positions.position_registry import (
    PositionRegistry,
    Rule,
    fill,
    or_nowhere,
    placed,
)
from attnviz.recording.tensor_registry import covers_storage, shares_memory


class TokenPositions(PositionRegistry):
    """Follows a running model, and applies the table's rule to the positions at every operation."""

    def follow(self, op: Operation, result: Any) -> None:
        """Put the positions of an operation's result."""
        if isinstance(result, Tensor) and result.is_nested:
            self.follow_items(op, result)
            return
        current = {id(each): self.get(each) for each in op.flat if isinstance(each, Tensor)}
        if all(positions is None for positions in current.values()):
            for tensor in op.written:  # constants overwrite any known positions
                self._write(tensor, None)
            return
        if op.name in CONSTANT:
            return
        self._current = current  # rules look these up, so find them once
        try:
            found = self._found(op, result)
        finally:
            self._current = {}
        results = result if isinstance(result, tuple | list) else (result,)
        several = found if isinstance(found, tuple | list) else (found,)
        for each, positions in zip(results, several, strict=False):
            if not isinstance(each, Tensor) or each.is_nested:
                continue
            if op.written and any(each is written for written in op.written):
                self._write(each, positions)
            elif positions is not None:
                self._known.put(each, positions)

    def follow_items(self, op: Operation, result: Any) -> None:
        """The same for nested tensors, item by item; views of memory are found by their memory."""
        items = result.unbind() if isinstance(result, Tensor) and result.is_nested else ()
        sources = [each for each in op.flat if isinstance(each, Tensor) and each.is_nested]
        if not items or any(shares_memory(items[0], each.unbind()[0]) for each in sources):
            return
        of_list = op.name == "_nested_tensor_from_tensor_list"
        if not of_list and not op.is_pointwise and RULES.get(op.name) is not _first_stays:
            return
        given = [op.args[0] if of_list else _items(each) for each in op.args]
        for number, item in enumerate(items):
            parts = [each[number] if isinstance(each, list | tuple) else each for each in given]
            func = torch.ops.aten.clone.default if of_list else op.func
            self.follow(Operation(func, tuple(parts[:1] if of_list else parts), {}), item)
        self.put_parts(items, [self.get(item) for item in items])

    def pack(self, nested: Tensor, packed: Tensor) -> None:
        """Put the positions of packed items, (T, H, D), of which a nested tensor has (H, N, D)."""
        items = nested.unbind()
        if any(self.get(item) is not None for item in items):
            found = [or_nowhere(self, item, item) for item in items]
            self.put(packed, torch.cat([each.movedim(-2, 0) for each in found]).view(packed.shape))

    def put_queries(self, output: Tensor, query: Tensor) -> None:
        """Put the positions of a nested output: those of its queries."""
        found = [self.get(item) for item in query.unbind()]
        self.put_parts(
            output.unbind(), [None if each is None else mean_over(each, -1) for each in found]
        )

    def _found(self, op: Operation, result: Any) -> Any:
        """Positions of an operation's result, or of its first results."""
        rule = RULES.get(op.name) or (pointwise.pointwise if op.is_pointwise else None)
        found = None if rule is None else rule(self, op, result)
        if found is not None:
            return found
        results = result if isinstance(result, tuple | list) else (result,)
        if op.func.is_view:
            return [self._viewed(op.args[0], each) for each in results]
        known = (self.get(each) for each in op.flat)
        if all(at is None or bool(compact(at).real.isnan().all()) for at in known):
            nowhere = torch.full((), NOWHERE)  # such as a mask made of the picture: nothing is lost
            return [
                nowhere.to(each.device).expand(each.shape)
                if isinstance(each, Tensor) and not each.is_nested
                else None
                for each in results
            ]
        return [  # there is no rule, or it does not handle these arguments
            self.lost(op.name, each) if isinstance(each, Tensor) and not each.is_nested else None
            for each in results
        ]

    def _viewed(self, source: Tensor, view: Any) -> Tensor | None:
        """Positions of any view, by the memory that it uses."""
        positions = self.get(source)
        if positions is None or source.dtype != view.dtype:
            return None if positions is None else self.lost("a view as another type", view)
        flat = self._flat(source)
        fill(placed(flat, source), positions)
        return placed(flat, view)

    def _write(self, tensor: Tensor, positions: Tensor | None) -> None:
        """Set positions after a write to memory; other tensors that share it change as well."""
        before = self._known.get(tensor)
        if before is not None and positions is not None and same_memory(before, positions):
            return
        entries = list(self._known.of_storage(tensor))
        if positions is None:
            if not entries:
                return
            positions = torch.full((), NOWHERE, device=tensor.device).expand(tensor.shape)
        if not covers_storage(tensor):
            flat = self._flat(tensor)
            for (offset, shape, stride, dtype), positions_there in entries:
                if dtype == tensor.dtype:
                    fill(flat.as_strided(shape, stride, offset), positions_there)
            fill(placed(flat, tensor), positions)
            self._known.forget(tensor)
            self._known.put(tensor, positions)
            self._known.change(tensor, (0, tuple(flat.shape), (1,), tensor.dtype), flat)
        else:
            self._known.forget(tensor)
            self._known.put(tensor, positions)


def _items(value: Any) -> Any:
    """The items of a nested tensor; anything else as it is."""
    return value.unbind() if isinstance(value, Tensor) and value.is_nested else value


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
    **mixing.RULES,
    **sliding.RULES,
}
"""Rules by operator name."""
