"""Plans for another number of pictures than was learnt.

A batch of 5 pictures runs the program of a batch of 8, if functions get the same arguments but for
shapes with 5 in place of 8, and every attention call has 5 parts in place of 8. Positions must be
the same for each picture. A function that does something to the first six pictures alone, such as
`x[:6]`, then treats all of 5 alike; a larger batch has no such plan if any function gets a number
between the two. The first run by a new plan is compared with its program, as always.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attnviz.recording.plan import KINDS, PlannedCall, RunPlan, Several

_SHAPING = frozenset(
    (
        *("view", "reshape", "expand", "broadcast_to", "repeat", "tile", "unflatten"),
        *("zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full"),
    )
)
"""Functions that get the number of pictures as a part of a shape."""
_POSITIONS = ("query_positions", "key_positions")


def for_any_number(signature: Any) -> tuple[int, Any]:
    """The number of pictures in a signature, and the rest of it.

    The number is 0 if tensors have several numbers, or if it is 1: a dimension of 1 is another
    thing to many functions.
    """
    numbers: set[int] = set()
    rest = _without_number(signature[0], numbers), *signature[1:]
    number = numbers.pop() if len(numbers) == 1 else 0
    return (number if number > 1 else 0), rest


def _without_number(structure: Any, numbers: set[int]) -> Any:
    if not isinstance(structure, tuple):
        return structure
    if len(structure) > 2 and structure[1] in KINDS:
        number, kind, shape, *others = structure
        numbers.add(shape[0] if shape else 0)
        return (number, kind, shape[1:], *others)
    return tuple(_without_number(each, numbers) for each in structure)


def plan_for(plan: RunPlan, before: int, now: int) -> RunPlan | None:
    """The plan for `now` pictures, from one for `before`; None if pictures are not alike in it."""
    if any(before <= abs(each) < now for each in _numbers(plan)):
        return None
    calls = [_call_for(call, before, now) for call in plan.calls]
    positions = [each if each is None else _repeated(each, before, now) for each in plan.positions]
    pairs = zip(plan.positions, positions, strict=True)
    lost = any(new is None and old is not None for old, new in pairs)
    found = [each for each in calls if each is not None]
    if len(found) < len(calls) or lost:
        return None
    return replace(plan, calls=found, positions=positions, pictures=(before, now), runs=0)


def _numbers(plan: RunPlan) -> Iterator[int]:
    """All numbers that functions get which may tell some pictures from others."""
    waiting: list[Any] = [
        (step.args, tuple(step.kwargs.values()))
        for step in plan.steps
        if getattr(step.func, "__name__", "") not in _SHAPING
    ]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Several):
            waiting += each.parts
        elif isinstance(each, tuple | list):
            waiting += each
        elif isinstance(each, slice):
            waiting += (each.start, each.stop, each.step)
        elif type(each) is int:
            yield each


def _call_for(call: PlannedCall, before: int, now: int) -> PlannedCall | None:
    """A call of another number of pictures; None if its pictures are not alike."""
    shapes, graph, masked, others = call.options
    query, dtype, key, value = shapes
    if any(graph) or any(shape[0] % before for shape in (query, key, value)):
        return None
    sizes = (torch.Size((shape[0] // before * now, *shape[1:])) for shape in (query, key, value))
    query, key, value = sizes
    if masked is not None:
        shape, *rest = masked
        if shape and len(shape) == len(query) and shape[0] > 1:  # a mask of each picture
            shape = torch.Size((shape[0] * now // before, *shape[1:]))
        masked = (shape, *rest)
    fields: dict[str, Any] = dict(call.fields)
    for name, each in fields.items():
        if isinstance(each, Tensor):
            fields[name] = _repeated(each, before, now) if name in _POSITIONS else None
            if fields[name] is None:
                return None
    return replace(call, options=((query, dtype, key, value), graph, masked, others), fields=fields)


def _repeated(positions: Tensor, before: int, now: int) -> Tensor | None:
    """Positions of another number of pictures; None if they differ among pictures."""
    if not positions.ndim or positions.shape[0] % before:
        return positions if positions.shape[:1] == (1,) else None  # one for all pictures
    each = positions.reshape(before, -1, *positions.shape[1:])
    one = each[:1]
    alike = ((each == one) | (each.isnan() & one.isnan())).all()
    return one.expand(now, *each.shape[1:]).flatten(0, 1) if alike else None


def is_scaled(value: Any, as_before: Any, func: Any, pictures: tuple[int, int]) -> bool:
    """Whether an argument of a function is another one by the number of pictures alone."""
    if getattr(func, "__name__", "") not in _SHAPING:
        return False
    if isinstance(value, tuple | list) and isinstance(as_before, tuple | list):
        pairs = zip(value, as_before, strict=False)
        return len(value) == len(as_before) and all(
            one == two or is_scaled(one, two, func, pictures) for one, two in pairs
        )
    before, now = pictures
    return type(value) is type(as_before) is int and value * before == as_before * now
