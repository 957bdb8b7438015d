"""Finds recurrences over tokens, such as state-space scans, which have no weights over tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from attnviz.recording.operation import After, Operation, first
from attnviz.recording.tensor_registry import TensorRegistry

STEPS = frozenset(("mul", "mul_", "add", "add_"))
"""The operators of a step: state = factor_i · state + input_i."""
_LONG = 8
"""After this many steps in a row it is a recurrence."""


class Recurrences:
    """Counts steps in a row, each of a state times a slice plus something.

    A model that scans its tokens one by one (Mamba without its kernel, RWKV, an LSTM) takes a slice
    of its gates at each step, and nothing but a product and a sum lies between two states.
    """

    def __init__(self, unread: Callable[[str], None]) -> None:
        self._unread = unread
        self._counts: TensorRegistry[tuple[int, bool]] = TensorRegistry()

    def before(self, op: Operation) -> After | None:
        """The function to call with the result of a product or a sum."""
        left, right = op.args[:2]
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            return None
        counts = [count for each in (left, right) if (count := self._counts.get(each))]
        product = op.name.startswith("mul")
        steps = max((n for n, of_product in counts if of_product != product), default=None)
        if steps is None:
            if not product or not (_is_slice(left) or _is_slice(right)):
                return None
            steps = 0
        steps += not product
        if steps == _LONG:
            self._unread("a recurrence over tokens, which has no weights over them (a scan)")
        return lambda result: self._counts.put(first(result), (steps, product))


def _is_slice(tensor: Tensor) -> bool:
    """Whether a tensor is a part of its memory."""
    if tensor.layout != torch.strided:
        return False
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
