"""Pictures at once or tile by tile, for `show` and `stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnviz.cli import check_notes, console, run
from attnviz.errors import UsageError
from attnviz.explanation.tile_request import check_tiled

if TYPE_CHECKING:
    from attnviz.cli.options.inputs import ModelOptions
    from attnviz.cli.options.questions import QuestionOptions
    from attnviz.cli.options.reading import TiledReadingOptions
    from attnviz.cli.options.results import StreamOptions
    from attnviz.explanation.explanation import Explanation
    from attnviz.explanation.request import Questions
    from attnviz.io.picture import Picture
    from attnviz.io.picture_tiles import TiledPicture
    from attnviz.models.model import Model


def check(reading: TiledReadingOptions, model: ModelOptions, question: QuestionOptions) -> None:
    """Refuse questions that have no answer tile by tile.

    Raises:
        UsageError: there is such a question.
    """
    if reading.tile is not None:
        if question.asks_words:
            raise UsageError(
                f"--tile {reading.tile}: a prompt is about the whole picture; leave --tile out"
            )
        check_tiled(
            question.methods,
            question.queries,
            question.targets,
            heads=question.heads,
            statistics=question.stats,
            mask=model.mask,
        )


def explain(
    picture: Picture | TiledPicture,
    model: Model,
    options: ModelOptions,
    questions: Questions,
    streams: StreamOptions,
    *,
    marking: bool = False,
) -> list[Explanation]:
    """The explanation by each method; `marking` marks the most localized heads for a sheet."""
    from attnviz.io.picture import Picture  # noqa: PLC0415 — not for `--help`

    if isinstance(picture, Picture):
        observation = run.look(picture, model, options, questions, streams)
        if marking and not questions.suggest and len(questions.queries) == 1:
            observation = run.marked(observation, questions)
        return run.explain_all(observation, questions, streams)
    from attnviz.explanation.explain_tiles import explain_tiles  # noqa: PLC0415 — torch

    with console.progress("tiles", quiet=streams.quiet) as progress:
        explanations = console.interruptible(
            lambda: explain_tiles(picture, model, questions, fit=options.fit, progress=progress)
        )
    check_notes.say_checks(explanations[0].observation, options.fit, "each tile")
    check_notes.warn(explanations[0].observation)
    drawn = all(answer.drawn.all() for each in explanations for answer in each.answers)
    if options.fit == "crop" and not drawn:
        console.say(
            "note: part of the picture has no map, since the model is shown the centre of each "
            "tile; --fit pad or --fit squash show it all"
        )
    return explanations
