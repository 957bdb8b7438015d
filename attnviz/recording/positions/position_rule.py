"""The type of a position rule, and functions that all rules use."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnviz.recording.operation import Operation, first
from attnviz.recording.positions.position_math import NOWHERE
from attnviz.recording.positions.position_registry import PositionRegistry

Rule = Callable[[PositionRegistry, Operation, Any], Any]
"""A function from the registry, an operation and its result to the result's positions."""


def or_nowhere(registry: PositionRegistry, value: Any, like: Tensor) -> Tensor:
    """Positions of a value, expanded; constants lie nowhere."""
    found = registry.get(value)
    if found is None:
        found = torch.full((), NOWHERE, device=like.device)
    return found.expand(like.shape)


def lies_nowhere(_: PositionRegistry, __: Operation, result: Any) -> Any:
    """A rule for results that are constants, or that depend on the whole picture."""
    result = first(result)
    return (torch.full((), NOWHERE, device=result.device).expand(result.shape),)
