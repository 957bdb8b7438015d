"""Makes the basis of `pca` before pictures are drawn, if it is to be shared."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.cli import console
from attnviz.errors import AttnvizError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from attnviz.cli.options.inputs import ModelOptions
    from attnviz.cli.options.reading import TiledReadingOptions
    from attnviz.explanation.observation import Observation
    from attnviz.explanation.request import Questions
    from attnviz.models.model import Model

NAME = "basis.npz"
_OPTIONS = ("of", "foreground", "outliers")


def basis_path(questions: Questions, shared: Path | None) -> Path | None:
    """The file of the basis; None if each picture has its own.

    Args:
        questions: the questions.
        shared: the file for `--basis shared`; None where nothing is written.

    Raises:
        UsageError: the basis is to be shared, and there is no place for it.
    """
    basis = questions.settings.get("basis")
    if basis in (None, "own"):
        return None
    if basis != "shared":
        return Path(basis)
    if shared is None:
        raise UsageError("--basis shared writes a file; give --out FOLDER, or --basis FILE")
    return shared


def with_basis(
    questions: Questions,
    path: Path | None,
    seen: Callable[[Questions], Iterable[Observation]],
    *,
    quiet: bool,
    remake: bool = False,
) -> Questions:
    """The questions with the file of the basis, which is made if it is not there.

    Args:
        questions: the questions.
        path: the file; None leaves the questions as they are.
        seen: returns the observations of all pictures, for the given questions.
        quiet: whether to say nothing.
        remake: whether to replace a file that is there.
    """
    if path is None:
        return questions
    if remake or not path.exists():
        from attnviz.explanation.fit_basis import fit_basis  # noqa: PLC0415 — torch
        from attnviz.output import encoding, whole_files  # noqa: PLC0415

        own = replace(questions, methods=("pca",), settings=_of_pca(questions))
        options = {name: questions.settings.get(name) for name in _OPTIONS}
        with console.progress("basis", quiet=quiet):
            basis = console.interruptible(
                lambda: fit_basis(lambda: seen(own), questions.layers, **options)
            )
        whole_files.make_folder(path.parent)
        whole_files.write_whole(path, encoding.as_npz(**basis.arrays()))
        if not quiet:
            console.say(f"note: the basis of pca is in {path}; --basis {path} takes it again")
    return replace(questions, settings={**questions.settings, "basis": str(path)})


def _of_pca(questions: Questions) -> dict[str, Any]:
    return {name: questions.settings[name] for name in _OPTIONS if name in questions.settings}


def observations(
    paths: Sequence[str], model: Model, options: ModelOptions, reading: TiledReadingOptions
) -> Callable[[Questions], Iterator[Observation]]:
    """Returns the observations of picture files, one after the other; bad files are left out."""
    from attnviz.explanation.request import look  # noqa: PLC0415
    from attnviz.io.picture import Picture  # noqa: PLC0415

    def seen(questions: Questions) -> Iterator[Observation]:
        for path in paths:
            with suppress(AttnvizError), reading.open_tiles(path, model) as picture:
                if isinstance(picture, Picture):  # components have no tiles
                    yield look(picture, model, questions, fit=options.fit, mask=options.mask)

    return seen
