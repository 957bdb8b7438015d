"""Notes on whether maps show what the model saw: parts that were left out, and failed checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnviz.cli import console
from attnviz.methods.facts import facts_about

if TYPE_CHECKING:
    from attnviz.explanation.explanation import Explanation
    from attnviz.explanation.observation import Observation
    from attnviz.explanation.request import Questions
    from attnviz.models.model import Model
    from attnviz.models.transcript import Transcript
    from attnviz.output.record_parts import Check

_REASONS = 3
"""At most this many different reasons are named; the record has all."""


def say_checks(observation: Observation, fit: str, of: str = "the picture") -> None:
    """Print what the model was not shown of the picture or each tile, and what is not drawn."""
    from attnviz.output.record_info import check_info  # noqa: PLC0415

    if shows_less(observation, fit):
        console.say(shown_less(observation, of))
    for line in of_check(check_info(observation), observation.count, max(observation.layers)):
        console.say(line)
    if observation.text is not None:
        for line in of_text(observation.text, observation.learned_queries):
            console.say(line)


def say_facts(questions: Questions, model: Model, *, quiet: bool) -> None:
    """Say, once for all pictures, what is known to tell little of what is asked."""
    from attnviz.geometry import queries  # noqa: PLC0415

    if quiet or not model.class_token or model.head == "words":
        return
    kinds = [queries.parse(text).kind for text in questions.queries]
    kinds = ["cls" if kind == "auto" else kind for kind in kinds]
    layers = questions.layers.strip()
    if layers == "auto" or (model.layers is not None and layers == str(model.layers - 1)):
        layers = "-1"
    of_class = model.head == "class" and all(t.kind in ("auto", "class") for t in questions.targets)
    for fact in facts_about(questions.methods, kinds, layers, of_class=of_class):
        console.say(f"note: {fact}")


def of_text(text: Transcript, learned: int = 0) -> list[str]:
    """Notes about an answer; `learned` queries read the picture for its words."""
    notes = []
    if learned:
        notes.append(
            f"note: the words see the picture through {learned} learned queries: maps are their "
            "rows times those of these queries; --method attnlrp goes through all of the model"
        )
    if text.cut:
        notes.append(
            f"note: the answer is cut after {len(text.words)} words; give --max-words for more"
        )
    if text.agrees is False:
        notes.append(
            "warning: one run over prompt and answer predicts other words than were generated; "
            "maps are of the run"
        )
    return notes


def shows_less(observation: Observation, fit: str) -> bool:
    """Whether a picture was laid in otherwise than requested; sounds are never fitted."""
    own = observation.model.sound is not None or observation.model.words is not None
    return observation.placement.fit != fit and not own


def shown_less(observation: Observation, of: str = "the picture") -> str:
    """The note for a model that saw a smaller part of the picture, or of each tile."""
    grid = observation.placement.grid
    return (
        f"note: {observation.model.spec} takes {grid.input_width}x{grid.input_height} pixels only: "
        f"it is shown the centre of {of}; --fit pad or --fit squash show it all"
    )


def warn(observation: Observation) -> None:
    """Warn if the recorded weights do not give the model's output."""
    if observation.unexplained:
        layers = ", ".join(map(str, observation.unexplained))
        console.say(
            f"warning: {observation.picture.path}: in layer {layers} the recorded weights do not "
            f"explain the model's output (error {max(observation.errors.values()):.1e}); do not "
            "trust these maps"
        )


def say_objects(explanation: Explanation, threshold: float) -> None:
    """Say that maps look from one object alone: none is over the threshold, or layers differ."""
    found = [q.query.found for q in explanation.questions if q.query.found is not None]
    if found and all(each.score <= threshold for each in found):
        console.say(
            f"note: {explanation.observation.picture.path}: no object has a score over "
            f"{threshold:g}: maps look from the best, object:{found[0].index}, {found[0]}"
        )
    elif found and any(answer.region is None for answer in explanation.answers):
        console.say(
            f"note: {explanation.observation.picture.path}: layers with object queries look from "
            f"the best object alone, {found[0]}; --query objects takes all, in these layers"
        )


def of_check(check: Check, layers: int, last: int) -> list[str]:
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
    if check.uneven:
        where = ", ".join(map(str, check.uneven))
        notes.append(
            f"note: layer {where}: tokens lie unevenly over the picture; each is drawn in the cell "
            "that holds its place"
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
