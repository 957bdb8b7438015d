"""The shared parts of commands: load the model, run each picture, print results and errors."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from attnviz.cli import check_notes, console
from attnviz.errors import AttnvizError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from PIL.Image import Image
    from rich.table import Table

    from attnviz.cli.options.inputs import ShownOptions
    from attnviz.cli.options.results import StreamOptions, ToldOptions
    from attnviz.explanation.explanation import Explanation, LocalizedHead
    from attnviz.explanation.observation import Observation
    from attnviz.explanation.request import Questions
    from attnviz.io.picture import Picture
    from attnviz.io.picture_files import Note
    from attnviz.models.model import Model
    from attnviz.output.write_pictures import Tabular


class WithNotes(Protocol):
    """A picture, in memory or open, with notes on how it is read."""

    @property
    def path(self) -> str:
        """Path as the user gave it."""

    @property
    def notes(self) -> Sequence[Note]:
        """The notes."""


P = TypeVar("P", bound=WithNotes)


def look(
    picture: Picture,
    model: Model,
    options: ShownOptions,
    questions: Questions,
    streams: ToldOptions,
) -> Observation:
    """Run the model on a picture, with the requested mask.

    Errors in the question are found before the run.
    """
    from attnviz.explanation.request import look  # noqa: PLC0415

    with console.progress("model", quiet=streams.quiet):
        observation = console.interruptible(
            lambda: look(picture, model, questions, fit=options.fit, mask=options.mask)
        )
    if questions.suggest:
        observation = _suggest(observation, questions, quiet=streams.quiet)
    check_notes.say_checks(observation, options.fit)
    return observation


def _suggest(observation: Observation, questions: Questions, *, quiet: bool) -> Observation:
    """Say which heads are most localized; the observation without the layers kept for this."""
    observation = marked(observation, questions)
    if observation.suggested and not quiet:
        names = ", ".join(f"{layer}.{head}" for layer, head in observation.suggested)
        console.say(
            f"note: the three most localized heads are {names} (layer.head); draw them with "
            "--heads localized"
        )
    last = observation.calls.choose("-1")
    return replace(observation, layers={n: observation.layers[n] for n in last})


def marked(observation: Observation, questions: Questions) -> Observation:
    """The observation with the most localized heads for the first query, for a sheet to mark them.

    A query or a map that an upper layer does not have, or a layer that was not kept, leaves nothing
    to mark.
    """
    from attnviz.explanation.explain_observation import suggest_heads  # noqa: PLC0415

    heads: tuple[LocalizedHead, ...] = ()
    with suppress(AttnvizError):
        heads = console.interruptible(lambda: suggest_heads(observation, questions.queries[0]))
    return replace(observation, suggested=tuple((each.layer, each.head) for each in heads))


def explain_all(
    observation: Observation, questions: Questions, streams: StreamOptions
) -> list[Explanation]:
    """The explanation by each method from one run of the model, with a progress bar for each."""
    from attnviz.explanation.request import answer  # noqa: PLC0415

    explanations = []
    for method in questions.methods:
        label = method if len(questions.methods) > 1 else "attention"
        with console.progress(label, quiet=streams.quiet) as progress:
            ask = partial(answer, observation, questions, method, progress=progress)
            explanations.append(console.interruptible(ask))
        _say_high_norm(explanations[-1], quiet=streams.quiet)
    check_notes.warn(observation)
    if "auto" in questions.queries:
        check_notes.say_objects(explanations[0], questions.threshold)
    return explanations


def _say_high_norm(explanation: Explanation, *, quiet: bool) -> None:
    """Name the tokens of high norm that take part in components."""
    if quiet or explanation.settings.get("outliers") != "keep":
        return
    for layer, norms in explanation.high_norm.items():
        cells = [token for token in norms.tokens if token.cell >= 0]
        if not cells:
            continue
        names = ", ".join(str(token.token) for token in cells[:5])
        console.say(
            f"note: {len(cells)} tokens after layer {layer} have a high norm ({names}"
            f"{' …' * (len(cells) > 5)}), which bends {explanation.method}; leave them out with "
            "--outliers leave"
        )


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one method for one picture: its record, the written files, and the sheet."""

    record: Tabular
    paths: Sequence[Path] = ()
    sheet: Image | None = None


def rows_of_methods(records: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of CSV; with several methods, all rows have the columns of `stats.parquet`."""
    if len(records) == 1:
        rows: list[dict[str, Any]] = records[0].rows()
        return rows
    from attnviz.batch.columns import rows_of  # noqa: PLC0415

    return [row for record in records for row in rows_of(record)]


class ResultPrinter:
    """Prints the results of one picture on stdout, in the requested form.

    `tables` makes the tables of a record; `lines` is about the number of their lines besides rows.
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
        """Print the results of all methods for one picture: tables, JSON, CSV or paths."""
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
    opened: Callable[[str, Model | None], AbstractContextManager[P]],
    streams: ToldOptions,
    begin: Callable[[], tuple[Model, Callable[[P, int], None]]],
) -> ExitCode:
    """Process every picture; an error with one is printed and does not stop the others.

    `opened` opens one as a model takes it. `begin` loads what is needed and returns the model, and
    a function of a picture and its number. It is not called if no picture can be read, so that a
    wrong name is reported at once.
    """
    from attnviz.io.parts import split_path  # noqa: PLC0415
    from attnviz.io.picture_files import STDIN  # noqa: PLC0415

    model, do = (
        begin()
        if any(path == STDIN or os.path.lexists(split_path(path).file) for path in images)
        else (None, None)
    )
    failures = Failures(streams)
    for number, path in enumerate(images):
        try:
            with opened(path, model) as picture:
                say_notes(picture)
                if do is not None:
                    do(picture, number)
        except AttnvizError as error:
            failures.add(error, path)
    return failures.exit_code(some_done=failures.count < len(images))


def say_notes(picture: WithNotes) -> None:
    """Print the notes about how a picture was read."""
    where = "standard input" if picture.path == "-" else picture.path
    for note in picture.notes:
        console.say(f"note: {where}: {note}")


class Failures:
    """The errors of single pictures, which do not stop the others."""

    def __init__(self, streams: ToldOptions) -> None:
        self._debug = streams.debug
        self._codes: list[ExitCode] = []

    @property
    def count(self) -> int:
        """The number of errors."""
        return len(self._codes)

    def add(self, error: AttnvizError, path: str, *, printed: bool = True) -> None:
        """Count the error of a picture, and print it unless it was printed before."""
        self._codes.append(error.exit_code)
        if not printed:
            return
        if self._debug:
            traceback.print_exception(error)
        where = "" if str(error).startswith(path) else f"{path}: "
        console.say(f"error: {where}{error}")

    def exit_code(self, *, some_done: bool) -> ExitCode:
        """The exit code of the command; `some_done` is True if a picture had no error."""
        if not self._codes:
            return ExitCode.DONE
        return ExitCode.SOME_FAILED if some_done else self._codes[0]
