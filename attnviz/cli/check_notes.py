"""Makes notes about the self-check of a picture's maps, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnviz.output.records import Check

_REASONS = 3
"""At most this many different reasons are named; the record has all."""


def check_notes(check: Check, layers: int, last: int) -> list[str]:
    """Notes about a check that the table of numbers does not show.

    Args:
        check: the check of a record.
        layers: the number of attention calls of the model.
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
    """The layers that are not drawn, grouped by the reason."""
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
