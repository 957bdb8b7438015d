"""What a rule of positions is, and what all of them share."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attnviz.recording.operation import Operation, first
from attnviz.recording.positions.position_math import NOWHERE
from attnviz.recording.positions.position_registry import PositionRegistry

Rule = Callable[[PositionRegistry, Operation, Any], Any]
"""From what is known, an operation and its result: where that lies."""


def by_names(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Rules by each of the names that are written in one string."""
    return {name: rule for names, rule in rules.items() for name in names.split()}


def or_nowhere(registry: PositionRegistry, value: Any, like: Tensor) -> Tensor:
    """Positions of a value, expanded; constants lie nowhere."""
    found = registry.get(value)
    if found is None:
        found = torch.full((), NOWHERE, device=like.device)
    return found.expand(like.shape)


def lies_nowhere(_: PositionRegistry, __: Operation, result: Any) -> Any:
    """Of what is filled with constants, or is made of all the picture."""
    result = first(result)
    return (torch.full((), NOWHERE, device=result.device).expand(result.shape),)
