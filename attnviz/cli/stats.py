"""`attnviz stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from attnviz.cli import run
from attnviz.cli.options import (
    Images,
    ModelOptions,
    Npz,
    OptionalOut,
    QuestionOptions,
    ReadingOptions,
    StreamOptions,
    with_groups,
)
from attnviz.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnviz.io.picture import Picture


@with_groups
def stats(
    *,
    images: Images,
    model: ModelOptions,
    reading: ReadingOptions,
    question: QuestionOptions,
    streams: StreamOptions,
    out: OptionalOut = None,
    npz: Npz = False,
) -> None:
    """The same numbers as `show`, without pictures; files only with --out."""
    if out is None and npz:
        raise UsageError("--npz writes a file; say where with --out FOLDER")
    if out is None and streams.quiet:
        raise UsageError("--quiet prints the paths of files; have some written with --out FOLDER")
    from attnviz.output import whole_files  # noqa: PLC0415 — not for `--help`

    names = whole_files.folder_names(images)

    def begin() -> Callable[[Picture, int], None]:
        from attnviz.output.make_record import make_record  # noqa: PLC0415
        from attnviz.output.write_pictures import write_maps, write_numbers  # noqa: PLC0415

        asked = question.asked()
        loaded = run.load(model, question)
        teller = run.ResultPrinter(streams)

        def one(picture: Picture, number: int) -> None:
            seen = run.look(picture, loaded, model, asked, streams)
            answer = run.ask(seen, asked, question.method, streams)
            record = make_record(answer)
            paths = [] if out is None else write_numbers(record, out / names[number])
            if out is not None and npz:
                paths.append(write_maps(answer, out / names[number]))
            teller.tell(record, paths)

        return one

    raise typer.Exit(run.each(images, reading, streams, begin))
