"""What should be known of a picture's maps beside them, in a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnviz.output.records import Check

_REASONS = 3
"""So many different reasons are named; the record has all."""


def check_notes(check: Check, layers: int, last: int) -> list[str]:
    """What a check says that no number shows.

    Args:
        check: of a record.
        layers: how many attention calls the model made.
        last: the last layer that is drawn.
    """
    notes = []
    if check.places == "assumed":
        notes.append(
            f"note: places of tokens are assumed from their number ({check.places_reason}), not "
            "measured: maps may lie wrong"
        )
    if check.not_drawn:
        missing = layers - 1 in {one.layer for one in check.not_drawn}
        instead = f"; the last layer that is drawn is {last}" if missing else ""
        notes.append(f"note: not drawn: {_not_drawn(check, layers)}{instead}")
    return notes


def _not_drawn(check: Check, layers: int) -> str:
    """Layers by the reason that they are not drawn for."""
    reasons: dict[str, list[int]] = {}
    for one in check.not_drawn:
        numbers = reasons.setdefault(one.reason, [])
        if one.layer is not None:
            numbers.append(one.layer)
    parts = []
    for reason, numbers in list(reasons.items())[:_REASONS]:
        where = f"layer {', '.join(map(str, numbers))} of 0 to {layers - 1}: " if numbers else ""
        parts.append(f"{where}{reason}")
    more = len(reasons) - _REASONS
    return "; ".join(parts) + (
        f"; and for {more} more reasons, see check.not_drawn" if more > 0 else ""
    )
