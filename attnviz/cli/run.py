"""What `show` and `stats` share: pictures one after the other, results and errors told."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from attnviz.cli import console
from attnviz.cli.check_notes import check_notes
from attnviz.errors import AttnvizError, ExitCode, ModelError
from attnviz.explanation.selection import parse_heads
from attnviz.methods import without_score

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL.Image import Image
    from rich.table import Table

    from attnviz.cli.options import (
        InputOptions,
        ModelOptions,
        QuestionOptions,
        ReadingOptions,
        ShownOptions,
        StartOptions,
        StreamOptions,
        ToldOptions,
        WhereOptions,
    )
    from attnviz.explanation.explanation import Explanation
    from attnviz.explanation.observation import Observation
    from attnviz.explanation.request import Questions
    from attnviz.io.picture import Picture, PictureLike
    from attnviz.models.model import Model
    from attnviz.models.targets import Head


def load(options: ModelOptions, question: QuestionOptions | StartOptions) -> Model:
    """The model that was asked for."""
    head = question.to_questions().head
    try:
        model = load_spec(options.model, options, question, head=head)
    except ModelError as error:
        if head not in ("class", "text"):
            raise
        line = f"{error}; or a method that takes no score: {without_score()}"
        raise ModelError(line) from error
    if model.weights == "random":
        console.note("note: random weights: maps show architecture and seed, nothing learnt")
    return model


def load_spec(
    spec: str, options: InputOptions, question: WhereOptions, *, head: Head = "none"
) -> Model:
    """A model by its spec, with what should be known of its checkpoint said.

    `random` is built with as many heads as `--heads` counts.
    """
    from attnviz.models import load_model  # noqa: PLC0415 — torch, after the options are checked

    model = load_model(**arguments(spec, options, question, head=head))
    for note in model.notes:
        console.say(f"note: {spec}: {note}")
    return model


def arguments(
    spec: str, options: InputOptions, question: WhereOptions, *, head: Head = "none"
) -> dict[str, Any]:
    """What `load_model` is given, as it can be sent to other machines."""
    heads = parse_heads(question.heads)
    return {
        "spec": spec,
        "heads": heads if isinstance(heads, int) else None,
        "features": options.features,
        "tokens": options.tokens,
        "patch": options.patch,
        "size": options.size,
        "weights": options.weights,
        "random_weights": options.random_weights,
        "seed": options.seed,
        "device": options.device,
        "dtype": options.dtype,
        "head": head,
    }


def identities(spec: str, inputs: InputOptions, queries: Sequence[str]) -> dict[str, Any]:
    """What lies on this machine and may change: weights, code, masks."""
    from attnviz.cli.identity import identity  # noqa: PLC0415
    from attnviz.models import find_path  # noqa: PLC0415
    from attnviz.output.make_record import readable  # noqa: PLC0415

    named = [find_path(spec), inputs.weights, inputs.mask, *queries]
    return {readable(path): identity(path) for path in named if path is not None}


def uncontrolled(model: Model) -> str | None:
    """Why there is no control of a model, the same with random weights; None if there is one."""
    from attnviz.models import SOURCES, find_source  # noqa: PLC0415

    if model.weights == "random":
        return "it has them"
    return SOURCES[find_source(model.spec)].no_control or None


def controlled(inputs: InputOptions, model: Model) -> InputOptions:
    """How the control of a model is made."""
    from attnviz.models import find_source  # noqa: PLC0415

    control = replace(inputs, weights=None, random_weights=True)
    if find_source(model.spec) == "random":  # as wide as the weights that were given
        control = replace(control, features=model.features)
    return control


def look(
    picture: Picture,
    model: Model,
    options: ShownOptions,
    questions: Questions,
    streams: ToldOptions,
) -> Observation:
    """Run the model on a picture, with the mask that was asked for.

    A slip in the question is found before.
    """
    from attnviz.explanation.request import look  # noqa: PLC0415
    from attnviz.output.make_record import check_info  # noqa: PLC0415

    with console.progress("model", quiet=streams.quiet):
        observation = console.interruptible(
            lambda: look(picture, model, questions, fit=options.fit, mask=options.mask)
        )
    if observation.placement.fit != options.fit:
        console.say(shown_less(observation))
    for line in check_notes(check_info(observation), observation.count, max(observation.layers)):
        console.say(line)
    return observation


def shown_less(observation: Observation) -> str:
    """What to say where a model was shown less of a picture than was asked for."""
    grid = observation.placement.grid
    return (
        f"note: {observation.model.spec} takes {grid.input_width}x{grid.input_height} pixels only: "
        "it is "
        "shown the centre of the picture; --fit pad or --fit squash show it all"
    )


def explain_all(
    observation: Observation, questions: Questions, streams: StreamOptions
) -> list[Explanation]:
    """What each method computes from one run of the model, with a progress bar for each."""
    found = [_explain(observation, questions, method, streams) for method in questions.methods]
    warn(observation)
    return found


def _explain(
    observation: Observation, questions: Questions, method: str, streams: StreamOptions
) -> Explanation:
    from attnviz.explanation.request import answer  # noqa: PLC0415

    label = method if len(questions.methods) > 1 else "attention"
    with console.progress(label, quiet=streams.quiet) as progress:
        return console.interruptible(
            lambda: answer(observation, questions, method, progress=progress)
        )


def warn(observation: Observation) -> None:
    """Say where the recorded weights are not what the model computed with."""
    if observation.unexplained:
        layers = ", ".join(map(str, observation.unexplained))
        console.say(
            f"warning: {observation.picture.path}: in layer {layers} the recorded weights do not "
            f"explain the model's output (error {max(observation.errors.values()):.1e}); do not "
            "trust these maps"
        )


class Printable(Protocol):
    """A record of one picture."""

    def data(self) -> dict[str, Any]:
        """As plain data."""

    def rows(self) -> list[dict[str, Any]]:
        """As flat rows of the same columns."""


@dataclass(frozen=True, eq=False)
class Result:
    """What one method gave of one picture: its record, the files written, and the sheet."""

    record: Printable
    paths: Sequence[Path] = ()
    sheet: Image | None = None


def rows_of_methods(records: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of CSV; those of several methods have the columns of `stats.parquet`, all alike."""
    if len(records) == 1:
        rows: list[dict[str, Any]] = records[0].rows()
        return rows
    from attnviz.batch.columns import rows_of  # noqa: PLC0415

    return [row for record in records for row in rows_of(record)]


class ResultPrinter:
    """Says on stdout what one picture gave, in the form that was asked for.

    `tables` are those of a record, and `lines` about as many as they have beside its rows.
    """

    def __init__(
        self,
        streams: StreamOptions,
        tables: Callable[[Any], list[Table]] | None = None,
        lines: int = 9,
    ) -> None:
        self._streams = streams
        self._tables = tables or _stats
        self._lines = lines
        self._header = True

    def tell(self, *results: Result) -> None:
        """Print what each method gave of one picture: tables, JSON, CSV or paths."""
        from attnviz.output import encoding  # noqa: PLC0415

        if self._streams.json:
            console.put("\n".join(encoding.as_json(each.record.data()) for each in results))
        elif self._streams.csv:
            rows = rows_of_methods([each.record for each in results])
            console.put(encoding.as_csv(rows, header=self._header).removesuffix("\n"))
            self._header = False
        elif self._streams.quiet:
            console.put("\n".join(str(path) for each in results for path in each.paths))
        else:
            for each in results:
                self._show(each)
        paths = [path for each in results for path in each.paths]
        if paths and not self._streams.quiet:
            folder = os.path.commonpath([path.parent for path in paths])
            console.note(f"wrote {len(paths)} files to {folder}")

    def _show(self, result: Result) -> None:
        tables = self._tables(result.record)
        below = sum(table.row_count for table in tables) + self._lines
        preview = [] if result.sheet is None else console.preview(result.sheet, below=below)
        console.show(*preview, *tables)


def _stats(record: Any) -> list[Table]:
    from attnviz.cli.table import stats_tables  # noqa: PLC0415

    return stats_tables(record)


def each(
    images: Sequence[str],
    reading: ReadingOptions,
    streams: ToldOptions,
    begin: Callable[[], Callable[[Picture, int], None]],
) -> ExitCode:
    """Do something with every picture; an error with one is told and the rest are done.

    `begin` loads what is needed and returns what is to be done with a picture and its number. It
    is left out when not a single picture is there: a slip in a name is answered at once.
    """
    from attnviz.io.picture import load_image  # noqa: PLC0415
    from attnviz.io.picture_files import STDIN  # noqa: PLC0415

    do = begin() if any(path == STDIN or os.path.lexists(path) for path in images) else None
    failed: list[ExitCode] = []
    for number, path in enumerate(images):
        try:
            picture = load_image(path, reading.range)
            say_notes(picture)
            if do is not None:
                do(picture, number)
        except AttnvizError as error:
            tell_error(error, path, streams)
            failed.append(error.exit_code)
    if not failed:
        return ExitCode.DONE
    return failed[0] if len(failed) == len(images) else ExitCode.SOME_FAILED


def say_notes(picture: PictureLike) -> None:
    """Say what should be known of how a picture was read."""
    where = "standard input" if picture.path == "-" else picture.path
    for note in picture.notes:
        console.say(f"note: {where}: {note}")


def tell_error(error: AttnvizError, path: str, streams: ToldOptions) -> None:
    """Say what is wrong with one picture of several."""
    if streams.debug:
        traceback.print_exception(error)
    where = "" if str(error).startswith(path) else f"{path}: "
    console.say(f"error: {where}{error}")
