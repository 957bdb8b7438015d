"""`attnviz explore`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from attnviz.cli import check_notes, console, loading, run
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.inputs import ModelOptions
from attnviz.cli.options.questions import StartOptions
from attnviz.cli.options.reading import OneImage, ReadingOptions
from attnviz.cli.options.results import PageOptions, PageOut, ToldOptions
from attnviz.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnviz.explanation.observation import Observation
    from attnviz.io.picture import Picture
    from attnviz.models.model import Model
    from attnviz.page.explore import Page

_ENDINGS = (".html", ".htm")


@with_groups
def explore(
    *,
    images: OneImage,
    model: ModelOptions,
    reading: ReadingOptions,
    start: StartOptions,
    drawing: PageOptions,
    streams: ToldOptions,
    out: PageOut = None,
) -> None:
    """Write an interactive page of one picture.

    It shows where every head looks from any token, or any word of an answer, in one file.
    """
    start = start.of_model(model.model)
    if len(images) > 1:
        raise UsageError(f"explore takes one picture, not {len(images)}; run it once for each")

    from attnviz.output import whole_files  # noqa: PLC0415 — not for `--help`

    (name,) = whole_files.folder_names(images)
    path = _path(out or Path("attnviz-out"), name)
    whole_files.check_page(path)

    def begin() -> tuple[Model, Callable[[Picture, int], None]]:
        from attnviz.output.write_pictures import Drawing  # noqa: PLC0415

        style = Drawing(**asdict(drawing))
        style.style()  # an unknown colour map is wrong usage, before anything runs
        loaded = loading.load(model, start)

        def one(picture: Picture, _: int) -> None:
            observation = run.look(picture, loaded, model, start.to_questions(), streams)
            page = _explored(observation, start, style, streams)
            whole_files.make_folder(path.parent)
            _tell(page, page.save(path), streams)

        return loaded, one

    raise typer.Exit(run.each(images, reading.open, streams, begin))


def _path(out: Path, name: str) -> Path:
    """The path of the page; `out` is a folder unless it has the ending of a page."""
    named = out.suffix.lower() in _ENDINGS and not out.is_dir()
    return out if named else out / f"{name}.html"


def _explored(
    observation: Observation, start: StartOptions, style: Any, streams: ToldOptions
) -> Page:
    from attnviz.page.explore import explore as make  # noqa: PLC0415

    with console.progress("attention", quiet=streams.quiet) as progress:
        page = console.interruptible(
            lambda: make(
                observation,
                layers=start.layers,
                heads=start.heads,
                query=start.queries[0],
                threshold=start.threshold,
                drawing=style,
                progress=progress,
            )
        )
    check_notes.warn(observation)
    return page


def _tell(page: Page, path: Path, streams: ToldOptions) -> None:
    """Print only the path, or the size and the contents of the page."""
    from attnviz.output import encoding  # noqa: PLC0415

    if streams.json:
        console.put(encoding.as_json(page.summary(str(path))))
    elif streams.quiet:
        console.put(str(path))
    else:
        console.put(f"{console.printable(str(path))}: {page.in_words()}")
