"""What is kept of a recording."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.recording.gradients import Lay, Trace
from attnviz.attention.recording.known import Known, own


@dataclass
class Shelf:
    """Keeps the calls that are wanted, safe from being overwritten."""

    calls: list[AttentionCall | None]
    traces: list[Trace | None]
    wanted: tuple[int, ...] | None
    where: Callable[[AttentionCall], bool] | None
    device: str | torch.device | None

    def __post_init__(self) -> None:
        self._made: list[AttentionCall | None] = []
        self._traces: list[Trace] = []
        self._counted: list[int] = []
        self._memory: Known[set[int]] = Known()

    def add(self, call: AttentionCall, trace: Trace) -> int:
        """Keep a call if it is wanted; returns its number among all that were made."""
        number = len(self._made)
        self._made.append(None)
        self._traces.append(trace)
        self.replace(number, call)
        self._let_go(number)
        return number

    def replace(self, number: int, call: AttentionCall) -> None:
        """Keep a call as it is after all; once the next one is made, only if it was kept so far."""
        if number < len(self._made) - 1 and self._made[number] is None:
            return
        if self.device is not None:
            call = _each(call, lambda tensor: tensor.to(self.device))
        self._made[number] = call
        for tensor in _tensors(call):
            self._memory.put(tensor, {number, *(self._memory.get(tensor) or ())})
        if number not in self._counted and (self.where is None or self.where(call)):
            self._counted.append(number)
        self._show()

    def correct(self, number: int, call: AttentionCall, lay: Lay) -> None:
        """A call and the layout of its output are other ones after all."""
        self._traces[number] = replace(self._traces[number], lay=lay)
        self.replace(number, call)

    def project(self, number: int, weight: Tensor) -> None:
        """What the model makes of a call's output is known: the first thing, if there are more."""
        call = self._made[number]
        if call is not None and call.projection is None:
            self._project(number, call, weight)

    def scale(self, number: int, factors: Tensor) -> None:
        """The features of a call's projection are multiplied with factors, (F,)."""
        call = self._made[number]
        if call is not None and call.projection is not None:
            weight = call.projection
            self._project(number, call, weight * factors.to(weight.device))

    def _project(self, number: int, call: AttentionCall, weight: Tensor) -> None:
        if self.device is not None:
            weight = weight.to(self.device)
        self._made[number] = replace(call, projection=weight)
        self._memory.put(weight, {number, *(self._memory.get(weight) or ())})
        self._show()

    def _show(self) -> None:
        """The recording lists the calls that count."""
        self.calls[:] = [self._made[number] for number in self._counted]
        self.traces[:] = [self._traces[number] for number in self._counted]

    def close(self) -> None:
        """The model has run: now it is known which calls the last ones are."""
        count = len(self._counted)
        if self.wanted is not None:
            wanted = {number % count for number in self.wanted if -count <= number < count}
            self.calls[:] = [call if n in wanted else None for n, call in enumerate(self.calls)]
        self._made.clear()

    def written(self, tensor: Tensor) -> None:
        """Memory is about to be overwritten: what calls keep of it is copied before."""
        numbers = {n for _, found in self._memory.of_storage(tensor) for n in found}
        for number in numbers:
            call = self._made[number]
            if call is not None:
                self.replace(number, _each(call, lambda kept: own(kept, tensor)))
        if numbers:
            self._memory.forget(tensor)

    def _let_go(self, latest: int) -> None:
        """Let calls go that do not count after all, or are no longer among the last."""
        if latest and latest - 1 not in self._counted:
            self._made[latest - 1] = None
        if self.wanted is None:
            return
        last = max((-n for n in self.wanted if n < 0), default=0)
        for number, made in enumerate(self._counted):
            if number not in self.wanted and number < len(self._counted) - last:
                self._made[made] = None
        self._show()


_FIELDS = (
    *("query", "key", "value", "bias", "output"),
    *("query_positions", "key_positions", "gradient", "projection"),
)


def _tensors(call: AttentionCall) -> list[Tensor]:
    found = (call.query, call.key, call.value, call.bias, call.output, call.projection)
    return [tensor for tensor in found if tensor is not None]


def _each(call: AttentionCall, do: Callable[[Tensor], Tensor]) -> AttentionCall:
    found = {name: getattr(call, name) for name in _FIELDS}
    mixing = call.mixing
    if mixing is not None:
        mixing = do(mixing[0]), None if mixing[1] is None else do(mixing[1])
    done: dict[str, Any] = {
        name: do(tensor) for name, tensor in found.items() if tensor is not None
    }
    return replace(call, **done, mixing=mixing)
