"""What `show` and `stats` share: pictures one after the other, results and errors told."""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
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
    from attnviz.io.picture import Picture
    from attnviz.models.model import Model
    from attnviz.models.targets import Head


def load(options: ModelOptions, question: QuestionOptions | StartOptions) -> Model:
    """The model that was asked for."""
    head = question.asked().head
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
    asked: Questions,
    streams: ToldOptions,
) -> Observation:
    """Run the model on a picture, with the mask that was asked for.

    A slip in the question is found before.
    """
    from attnviz.explanation.request import look  # noqa: PLC0415
    from attnviz.output.make_record import check_info  # noqa: PLC0415

    with console.progress("model", quiet=streams.quiet):
        seen = console.interruptible(
            lambda: look(picture, model, asked, fit=options.fit, mask=options.mask)
        )
    if seen.placement.fit != options.fit:
        console.say(shown_less(seen))
    for line in check_notes(check_info(seen), seen.count, max(seen.layers)):
        console.say(line)
    return seen


def shown_less(seen: Observation) -> str:
    """What to say where a model was shown less of a picture than was asked for."""
    grid = seen.placement.grid
    return (
        f"note: {seen.model.spec} takes {grid.input_width}x{grid.input_height} pixels only: it is "
        "shown the centre of the picture; --fit pad or --fit squash show it all"
    )


def ask(seen: Observation, asked: Questions, method: str, streams: StreamOptions) -> Explanation:
    """Ask the question that was asked, with a progress bar."""
    from attnviz.explanation.request import answer  # noqa: PLC0415

    with console.progress("attention", quiet=streams.quiet) as progress:
        found = console.interruptible(lambda: answer(seen, asked, method, progress=progress))
    warn(seen)
    return found


def warn(seen: Observation) -> None:
    """Say where the recorded weights are not what the model computed with."""
    if seen.unexplained:
        layers = ", ".join(map(str, seen.unexplained))
        console.say(
            f"warning: {seen.picture.path}: in layer {layers} the recorded weights do not explain "
            f"the model's output (error {max(seen.errors.values()):.1e}); do not trust these maps"
        )


class Printable(Protocol):
    """A record of one picture."""

    def data(self) -> dict[str, Any]:
        """As plain data."""

    def rows(self) -> list[dict[str, Any]]:
        """As flat rows of the same columns."""


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

    def tell(self, record: Printable, paths: list[Path], sheet: Image | None = None) -> None:
        """Tables and a preview, or a line of JSON, or rows of CSV, or the paths written."""
        from attnviz.output import encoding  # noqa: PLC0415

        if self._streams.json:
            console.put(encoding.as_json(record.data()))
        elif self._streams.csv:
            console.put(encoding.as_csv(record.rows(), header=self._header).removesuffix("\n"))
            self._header = False
        elif self._streams.quiet:
            console.put("\n".join(map(str, paths)))
        else:
            tables = self._tables(record)
            below = sum(table.row_count for table in tables) + self._lines
            preview = [] if sheet is None else console.preview(sheet, below=below)
            console.show(*preview, *tables)
        if paths and not self._streams.quiet:
            console.note(f"wrote {len(paths)} files to {paths[0].parent}")


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


def say_notes(picture: Picture) -> None:
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
