"""Compares a run of a model with the program of its plan, function by function.

Every function of PyTorch that the model calls is compared: which it is, and which tensors and
values it gets. Whatever changes the model's way, whether a hook, another module, or a variable that
nobody knows of, is seen where it happens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnviz.recording.other_batches import is_scaled
from attnviz.recording.plan import KINDS, Ref, RunPlan, Several

_MISSING = object()
_END: tuple[Any, ...] = (_MISSING, (), {}, None)


class PlanCheck(TorchFunctionMode):
    """Runs every function unchanged, and compares it with the plan.

    Attributes:
        deviated: whether the model has left the plan.
    """

    def __init__(self, plan: RunPlan, leaves: Sequence[Tensor]) -> None:
        super().__init__()
        self.deviated = False
        self._pictures, self._func = plan.pictures, object()
        self._steps = iter(plan.steps)
        self._known = dict(plan.outside)
        self._known.update(zip(map(id, leaves), plan.inputs, strict=True))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.deviated:
            return func(*args, **kwargs)
        expected, compared, named, made = next(self._steps, _END)
        alike = len(args) == len(compared) and kwargs.keys() == named.keys()
        if not alike or func != expected:
            self.deviated = True
            return func(*args, **kwargs)
        known, self._func = self._known, func
        for value, as_before in zip(args, compared, strict=True):
            if value is not as_before and known.get(id(value), _MISSING) is not as_before:
                self._compare(value, as_before)
        for name, value in kwargs.items():
            self._compare(value, named[name])
        result = func(*args, **kwargs)
        if made.__class__ is Ref:
            known[id(result)] = made
        elif made is not None:
            result = self._note_several(result, made)
        return result

    def _compare(self, value: Any, as_before: Any) -> None:
        """Leave the plan if an argument differs from what it was."""
        kind = as_before.__class__
        if kind is Ref:
            self.deviated |= self._known.get(id(value)) is not as_before
        elif kind is Several:
            if value.__class__ not in {tuple, list} or len(value) != len(as_before.parts):
                self.deviated = True
                return
            for each, before in zip(value, as_before.parts, strict=True):
                self._compare(each, before)
        elif value is not as_before:
            same = value.__class__ is kind and kind not in KINDS and value == as_before
            if not same and self._pictures is not None:
                same = is_scaled(value, as_before, self._func, self._pictures)
            self.deviated |= not same

    def _note_several(self, result: Any, made: Sequence[Ref | None]) -> Any:
        """Note several results; an iterator over tensors becomes another one."""
        several = result if isinstance(result, tuple | list) else tuple(result)
        self.deviated |= len(several) != len(made)
        for each, ref in zip(several, made, strict=False):
            if ref is not None:
                self._known[id(each)] = ref
        return result if several is result else iter(several)

    def at_end(self) -> bool:
        """Whether the run was as planned, to the last function."""
        return not self.deviated and next(self._steps, None) is None
