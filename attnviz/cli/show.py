"""`attnviz show`."""

from dataclasses import asdict
from pathlib import Path

import typer

from attnviz.cli import console, run
from attnviz.cli.options import (
    DrawingOptions,
    Images,
    ModelOptions,
    NoPreview,
    Npz,
    Out,
    QuestionOptions,
    StreamOptions,
    with_groups,
)


@with_groups
def show(
    *,
    images: Images,
    model: ModelOptions,
    question: QuestionOptions,
    drawing: DrawingOptions,
    streams: StreamOptions,
    out: Out = Path("attnviz-out"),
    npz: Npz = False,
    no_preview: NoPreview = False,
) -> None:
    """Draw what each head attends to: overlays, a contact sheet and a table of statistics."""
    from attnviz import outputs  # noqa: PLC0415 — torch and matplotlib, after the options
    from attnviz.images import Picture  # noqa: PLC0415
    from attnviz.pipeline import Drawing, write_maps, write_pictures  # noqa: PLC0415

    style = Drawing(**asdict(drawing))
    style.style()  # an unknown colour map is wrong usage, before anything runs
    loaded = run.load(model, question)
    names = outputs.folder_names(images)
    teller = run.Teller(streams)

    def one(picture: Picture, number: int) -> None:
        folder = out / names[number]
        answer = run.ask(run.look(picture, loaded, model), question, streams)
        record, paths, sheet = write_pictures(answer, folder, style)
        if npz:
            paths.append(write_maps(answer, folder))
        preview = [] if no_preview or not teller.human else console.preview(sheet, below=len(record.heads) + 9)
        teller.tell(record, *preview)
        if streams.quiet:
            for path in paths:
                console.put(str(path))
        else:
            console.note(f"wrote {len(paths)} files to {folder}")

    raise typer.Exit(run.each(images, streams, one))
