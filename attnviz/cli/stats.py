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
    """Print the numbers of `show`, without pictures.

    Writes files only with --out.
    """
    if out is None and npz:
        raise UsageError("--npz writes a file; say where with --out FOLDER")
    if out is None and streams.quiet:
        raise UsageError("--quiet prints the paths of files, and none is written; add --out FOLDER")
    from attnviz.output import whole_files  # noqa: PLC0415 — not for `--help`

    names = whole_files.folder_names(images)

    def begin() -> Callable[[Picture, int], None]:
        from attnviz.output.make_record import make_record  # noqa: PLC0415
        from attnviz.output.write_pictures import write_maps, write_numbers  # noqa: PLC0415

        questions = question.to_questions()
        loaded = run.load(model, question)
        teller = run.ResultPrinter(streams)

        def one(picture: Picture, number: int) -> None:
            observation = run.look(picture, loaded, model, questions, streams)
            results = []
            for answer in run.explain_all(observation, questions, streams):
                record, paths = make_record(answer), []
                if out is not None:
                    folder = whole_files.method_folder(
                        out / names[number], answer.method, questions.methods
                    )
                    paths = write_numbers(record, folder)
                    paths += [write_maps(answer, folder)] if npz else []
                results.append(run.Result(record, paths))
            teller.tell(*results)

        return one

    raise typer.Exit(run.each(images, reading, streams, begin))
