"""Stores the calls of a recording: keeps the wanted ones, corrects them, and joins pieces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import JoinedTrace, Lay, Trace
from attnviz.recording.joining import Axis, join_calls, join_summed
from attnviz.recording.learning import Learner
from attnviz.recording.light_watch import TakenCall
from attnviz.recording.tensor_registry import TensorRegistry, clone_if_aliased

Describe = Callable[[AttentionCall], Any]


class MayBeJoined(Protocol):
    """Whether the model may still put a call's output side by side with those of other calls."""

    def __call__(self, number: int, *, piece: bool) -> bool:
        """Answer for the call with this number; `piece`: whether it looks like one of several."""


@dataclass(eq=False)
class _Entry:
    """A call that was made.

    Attributes:
        call: the call; None after it is dropped.
        trace: how its output was computed.
        counts: whether it is one of the recording's calls; None: not decided yet.
        description: the result of `describe`, set when the call is dropped or at the end.
        piece: whether it was joined to another call.
    """

    call: AttentionCall | None
    trace: Trace | JoinedTrace
    counts: bool = False
    described: bool = False
    description: Any = None
    piece: bool = False


@dataclass
class CallStore:
    """Keeps the wanted calls, and copies their tensors before the model overwrites them.

    Attributes:
        calls, traces, descriptions: the recording's lists, which the store updates.
        wanted: numbers of the calls to keep, negative from the end; None: all.
        where: a condition; calls for which it is False do not count.
        device: where calls are kept.
        describe: called with every call that counts, in its final form.
        named: names the pictures that a call's tokens lie in, if there are several.
    """

    calls: list[AttentionCall | None]
    traces: list[Trace | JoinedTrace | None]
    descriptions: list[Any]
    wanted: tuple[int, ...] | None
    where: Callable[[AttentionCall], bool] | None
    device: str | torch.device | None
    describe: Describe | None = None
    named: Callable[[AttentionCall], AttentionCall] | None = None

    def __post_init__(self) -> None:
        self._entries: list[_Entry] = []
        self._unnoted: list[int] = []
        self.learner: Learner | None = None
        self._memory: TensorRegistry[set[int]] = TensorRegistry()

    def add(self, call: AttentionCall, trace: Trace, may_be_joined: MayBeJoined) -> int:
        """Keep a call if it is wanted; returns its number among all calls of the run."""
        number = len(self._entries)
        self._entries.append(_Entry(None, trace))
        self.replace(number, call)
        self._let_go(number, may_be_joined)
        return number

    def replace(self, number: int, call: AttentionCall) -> None:
        """Replace a call by its corrected form, unless it was dropped."""
        entry = self._entries[number]
        if number < len(self._entries) - 1 and entry.call is None:
            return
        if self.named is not None:
            call = self.named(call)
        if self.device is not None:
            call = _each(call, lambda tensor: tensor.to(self.device))
        entry.counts = entry.counts or self.where is None or self.where(call)
        self._set(number, call)

    @property
    def made(self) -> int:
        """Number of all calls, also of those that do not count."""
        return len(self._entries)

    def keeps(self, count: int) -> list[bool]:
        """Which of the next `count` calls may be wanted; all of them count."""
        if self.wanted is None:
            return [True] * count
        first, last = len(self._counted()), max((-n for n in self.wanted if n < 0), default=0)
        return [first + n in self.wanted or n >= count - last for n in range(count)]

    def take(self, calls: Sequence[TakenCall]) -> int:
        """Add calls in their final form; returns the number of the first among those that count."""
        first = len(self._counted())
        for taken in calls:
            call = taken.call
            if call is not None and self.device is not None:
                call = _each(call, lambda tensor: tensor.to(self.device))
            self._unnoted.append(len(self._entries))
            self._entries.append(
                _Entry(call, taken.trace, True, taken.described, taken.description)
            )
        self._show()
        return first

    def _changed(self, what: str) -> None:
        if self.learner is not None:
            self.learner.refuse(what)

    def drop(self, number: int) -> None:
        """Take back a call that proved not to be attention."""
        self._changed("a call that was taken back")
        self._entries[number].call, self._entries[number].counts = None, False
        self._show()

    def correct(self, number: int, call: AttentionCall, lay: Lay) -> None:
        """Replace a call and the layout of its output by the corrected ones."""
        self._changed("a call that was corrected")
        entry = self._entries[number]
        if isinstance(entry.trace, Trace):
            entry.trace = replace(entry.trace, lay=lay)
        self.replace(number, call)

    def project(self, number: int, weight: Tensor) -> None:
        """Set the projection of a call's output; if there are several, the first one counts."""
        call = self._entries[number].call
        if self.learner is not None:
            self.learner.projected(number, weight)
        if call is not None and call.projection is None:
            self._project(number, call, weight)

    def scale(self, number: int, factors: Tensor) -> None:
        """Multiply the features of a call's projection with factors, (F,)."""
        call = self._entries[number].call
        if self.learner is not None:
            self.learner.projected(number, factors, factor=True)
        if call is not None and call.projection is not None:
            weight = call.projection
            self._project(number, call, weight * factors.to(weight.device))

    def unpack(self, number: int) -> None:
        """Make heads of a call's queries: one query, and groups of heads that share keys."""
        self._changed("heads that are queries")
        entry = self._entries[number]
        if entry.call is not None and isinstance(entry.trace, Trace):
            entry.trace = replace(entry.trace, lay=partial(_unpacked_output, entry.trace.lay))
            self.replace(number, _unpacked(entry.call))

    def join(self, numbers: Sequence[int], axis: Axis) -> int | None:
        """Join several calls whose outputs are put side by side; returns the number of the result.

        None means that the calls cannot be joined; they then stay as they are.
        """
        entries = [self._entries[number] for number in numbers]
        calls = [entry.call for entry in entries if entry.call is not None]
        if len(calls) < len(numbers) or not all(entry.counts for entry in entries):
            return None
        joined = join_summed(calls) if axis == "sum" else join_calls(calls, axis)
        if joined is None:
            return None
        self._changed("calls that are pieces of one attention")
        call, dim = joined
        number = min(numbers)
        sizes = tuple(piece.output.shape[dim] for piece in calls if piece.output is not None)
        trace = JoinedTrace(tuple(entry.trace for entry in entries), dim, sizes)
        for other in numbers:
            if other != number:
                self._entries[other].piece, self._entries[other].call = True, None
        self._entries[number].trace = trace
        self._set(number, call)
        return number

    def _project(self, number: int, call: AttentionCall, weight: Tensor) -> None:
        if self.device is not None:
            weight = weight.to(self.device)
        self._set(number, replace(call, projection=weight))

    def _set(self, number: int, call: AttentionCall) -> None:
        """Set a call, and note the memory in which it keeps something."""
        self._entries[number].call = call
        self._note_memory(number, call)
        self._show()

    def _note_memory(self, number: int, call: AttentionCall) -> None:
        for name in _KEPT:
            tensor = getattr(call, name)
            if tensor is not None:
                self._memory.put(tensor, {number, *(self._memory.get(tensor) or ())})

    def _counted(self) -> list[_Entry]:
        return [entry for entry in self._entries if entry.counts and not entry.piece]

    def _show(self) -> None:
        """Update the recording's lists with the calls that count."""
        counted = self._counted()
        self.calls[:] = [entry.call for entry in counted]
        self.traces[:] = [entry.trace for entry in counted]

    def close(self) -> None:
        """Finish after the model has run: only now it is clear which calls are the last ones."""
        counted = self._counted()
        for entry in counted:
            self._describe(entry)
        self.descriptions[:] = [entry.description for entry in counted]
        if self.wanted is not None:
            count = len(counted)
            wanted = {number % count for number in self.wanted if -count <= number < count}
            self.calls[:] = [call if n in wanted else None for n, call in enumerate(self.calls)]
        self._entries.clear()

    def written(self, tensor: Tensor) -> None:
        """Copy what calls keep in memory that the model is about to overwrite."""
        for number in self._unnoted:
            taken = self._entries[number].call
            if taken is not None:
                self._note_memory(number, taken)
        self._unnoted.clear()
        numbers = {n for _, users in self._memory.of_storage(tensor) for n in users}
        if numbers:
            self._changed("a tensor of a call that the model overwrites")
        for number in numbers:
            call = self._entries[number].call
            if call is not None:
                self.replace(number, _each(call, lambda each: clone_if_aliased(each, tensor)))
        if numbers:
            self._memory.forget(tensor)

    def _let_go(self, latest: int, may_be_joined: MayBeJoined) -> None:
        """Drop calls that do not count, and calls that are no longer among the last ones.

        After a call that may still be joined, the numbers of calls are not known yet.
        """
        if latest and not self._entries[latest - 1].counts:
            self._entries[latest - 1].call = None
        if self.wanted is None:
            return
        last = max((-n for n in self.wanted if n < 0), default=0)
        count = len(self._counted())
        number = 0
        for made, entry in enumerate(self._entries):
            if not entry.counts or entry.piece:
                continue
            if entry.call is not None and made != latest:
                _, heads, queries, keys = entry.call.shape
                if may_be_joined(made, piece=heads == 1 or queries != keys):
                    break
            if entry.call is not None and number not in self.wanted and number < count - last:
                self._describe(entry)
                entry.call = None
            number += 1
        self._show()

    def _describe(self, entry: _Entry) -> None:
        if self.describe is not None and not entry.described and entry.call is not None:
            entry.description, entry.described = self.describe(entry.call), True


def _unpacked_output(lay: Lay, output: Tensor) -> Tensor:
    return lay(output).flatten(1, 2).unsqueeze(2)


def _unpacked(call: AttentionCall) -> AttentionCall:
    """(B, H, N, D) → (B, H·N, 1, D)."""
    bias, output = call.bias, call.output
    places, pictures = call.query_positions, call.query_pictures
    if bias is not None and bias.ndim == 4 and bias.shape[1:3] != (1, 1):
        bias = bias.expand(-1, call.heads, call.shape[2], -1).flatten(1, 2).unsqueeze(2)
    return replace(
        call,
        query=call.query.flatten(1, 2).unsqueeze(2),
        bias=bias,
        output=None if output is None else output.flatten(1, 2).unsqueeze(2),
        query_positions=None if places is None else places[:, :1],
        query_pictures=None if pictures is None else pictures[:, :1],
    )


_KEPT = ("query", "key", "value", "bias", "output", "projection", "weights")
_PLACES = ("query_positions", "key_positions", "query_pictures", "key_pictures", "points")
_FIELDS = (*_KEPT, *_PLACES, "gradient")


def _each(call: AttentionCall, do: Callable[[Tensor], Tensor]) -> AttentionCall:
    tensors = {name: getattr(call, name) for name in _FIELDS}
    mixing = call.mixing
    if mixing is not None:
        mixing = do(mixing[0]), None if mixing[1] is None else do(mixing[1])
    done: dict[str, Any] = {
        name: do(tensor) for name, tensor in tensors.items() if tensor is not None
    }
    return replace(call, **done, mixing=mixing)
