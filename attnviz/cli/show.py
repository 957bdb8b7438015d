"""`attnviz show` and `attnviz stats`: pictures with their numbers, and numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from attnviz.cli import check_notes, loading, run, tiled
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.inputs import ModelOptions
from attnviz.cli.options.questions import QuestionOptions
from attnviz.cli.options.reading import Images, TiledReadingOptions
from attnviz.cli.options.results import (
    DrawingOptions,
    NoPreview,
    Npz,
    OptionalOut,
    Out,
    StreamOptions,
)
from attnviz.cli.shared_basis import NAME, basis_path, observations, with_basis
from attnviz.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnviz.io.picture import Picture
    from attnviz.io.picture_tiles import TiledPicture
    from attnviz.models.model import Model


@with_groups
def show(
    *,
    images: Images,
    model: ModelOptions,
    reading: TiledReadingOptions,
    question: QuestionOptions,
    drawing: DrawingOptions,
    streams: StreamOptions,
    out: Out = Path("attnviz-out"),
    npz: Npz = False,
    no_preview: NoPreview = False,
) -> None:
    """Draw what each head attends to.

    Writes an overlay per head, a contact sheet and a record; prints a table of statistics.
    """
    question = question.of_model(model.model)
    tiled.check(reading, model, question)
    from attnviz.output import whole_files  # noqa: PLC0415 — not for `--help`

    names = whole_files.folder_names(images)

    def begin() -> tuple[Model, Callable[[Picture | TiledPicture, int], None]]:
        from attnviz.io.picture_tiles import TiledPicture  # noqa: PLC0415
        from attnviz.output.write_pictures import Drawing, write_maps, write_pictures  # noqa: PLC0415

        style = Drawing(**drawing.values())
        style.check()  # an unknown colour map is wrong usage, before anything runs
        questions = question.to_questions(drawing.animate, suggest=True, blend=drawing.blend)
        questions = questions.seeded(model.seed)
        loaded = loading.load(model, question)
        check_notes.say_facts(questions, loaded, quiet=streams.quiet)
        questions = with_basis(
            questions,
            basis_path(questions, out / NAME),
            observations(images, loaded, model, reading),
            quiet=streams.quiet,
            remake=questions.settings.get("basis") == "shared",
        )
        teller = run.ResultPrinter(streams)

        def one(picture: Picture | TiledPicture, number: int) -> None:
            whole_files.check_folder(out / names[number])
            answers = tiled.explain(picture, loaded, model, questions, streams, marking=True)
            reduced = picture.reduced() if isinstance(picture, TiledPicture) else None
            results = []
            for answer in answers:
                folder = whole_files.method_folder(
                    out / names[number], answer.method, questions.methods
                )
                record, paths, sheet = write_pictures(answer, folder, style, reduced=reduced)
                paths += [write_maps(answer, folder)] if npz else []
                results.append(run.Result(record, paths, None if no_preview else sheet))
            teller.tell(*results)

        return loaded, one

    raise typer.Exit(run.each(images, reading.open_tiles, streams, begin))


@with_groups
def stats(
    *,
    images: Images,
    model: ModelOptions,
    reading: TiledReadingOptions,
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
    question = question.of_model(model.model)
    tiled.check(reading, model, question)
    from attnviz.output import whole_files  # noqa: PLC0415 — not for `--help`

    names = whole_files.folder_names(images)

    def begin() -> tuple[Model, Callable[[Picture | TiledPicture, int], None]]:
        from attnviz.output.make_record import make_record  # noqa: PLC0415
        from attnviz.output.write_pictures import write_maps, write_numbers  # noqa: PLC0415

        questions = question.to_questions().seeded(model.seed)
        path = basis_path(questions, None if out is None else out / NAME)
        loaded = loading.load(model, question)
        questions = with_basis(
            questions,
            path,
            observations(images, loaded, model, reading),
            quiet=streams.quiet,
            remake=questions.settings.get("basis") == "shared",
        )
        teller = run.ResultPrinter(streams)

        def one(picture: Picture | TiledPicture, number: int) -> None:
            results = []
            for answer in tiled.explain(picture, loaded, model, questions, streams):
                record, paths = make_record(answer), []
                if out is not None:
                    folder = whole_files.method_folder(
                        out / names[number], answer.method, questions.methods
                    )
                    paths = write_numbers(record, folder)
                    paths += [write_maps(answer, folder)] if npz else []
                results.append(run.Result(record, paths))
            teller.tell(*results)

        return loaded, one

    raise typer.Exit(run.each(images, reading.open_tiles, streams, begin))
