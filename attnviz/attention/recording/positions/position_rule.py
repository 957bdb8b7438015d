"""What a rule of positions is, and what all of them share."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnviz.attention.recording.operation import Operation, first
from attnviz.attention.recording.positions.position_math import NOWHERE

if TYPE_CHECKING:
    from attnviz.attention.recording.positions.token_positions import TokenPositions

Rule = Callable[["TokenPositions", Operation, Any], Any]
"""From what is known, an operation and its result: where that lies."""


def by_names(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Rules by each of the names that are written in one string."""
    return {name: rule for names, rule in rules.items() for name in names.split()}


def or_nowhere(known: "TokenPositions", value: Any, like: Tensor) -> Tensor:
    """Positions of a value, expanded; constants lie nowhere."""
    found = known.get(value)
    if found is None:
        found = torch.full((), NOWHERE, device=like.device)
    return found.expand(like.shape)


def lies_nowhere(_: "TokenPositions", __: Operation, result: Any) -> Any:
    """Of what is filled with constants, or is made of all the picture."""
    result = first(result)
    return (torch.full((), NOWHERE, device=result.device).expand(result.shape),)
