"""Finds pictures and their masks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnviz.errors import ImageError, UsageError
from attnviz.io.picture_files import SUFFIXES, pictures_in
from attnviz.output import whole_files


@dataclass(frozen=True)
class Pair:
    """The paths of a picture and of its mask; the mask is None if no masks are needed."""

    image: str
    mask: str | None


def find_pictures(named: Sequence[str]) -> tuple[list[str], list[ImageError]]:
    """The named pictures and those in the named folders, and errors for names that fail.

    Raises:
        UsageError: a picture is named twice, or a name is standard input.
    """
    found: list[str] = []
    failed = []
    for path in named:
        if path == "-":
            raise UsageError(
                "evaluate compares files with masks of their names; name a file, not -"
            )
        try:
            found += pictures_in(path) if os.path.isdir(path) else [_there(path)]  # noqa: PTH112
        except ImageError as error:
            failed.append(error)
    whole_files.folder_names(found)
    return found, failed


def _there(path: str) -> str:
    if not os.path.exists(path):  # noqa: PTH110 — any bytes
        raise ImageError(f"{path}: no such file; check the path")
    return path


def find_masks(pictures: Sequence[str], masks: str) -> tuple[list[Pair], list[ImageError]]:
    """Each picture with its mask, and errors for the pictures without one.

    `masks` is a folder, or the mask of the only picture. In a folder the mask of `cat.jpg` is
    `cat.png`, or `cat` with the ending of any other picture format. If several folders have
    pictures of the same name, their masks lie in folders with the same names.

    Raises:
        UsageError: there is one mask for several pictures.
    """
    if not os.path.isdir(masks):  # noqa: PTH112 — any bytes
        if len(pictures) > 1:
            raise UsageError(
                f"--masks {masks}: one file for {len(pictures)} pictures; give a folder "
                "with a mask of each"
            )
        return [Pair(path, masks) for path in pictures], []
    pairs: list[Pair] = []
    missing = []
    for path, name in zip(pictures, whole_files.folder_names(pictures), strict=True):
        if (mask := _mask(path, Path(masks) / name)) is not None:
            pairs.append(Pair(path, str(mask)))
        else:
            expected = (Path(masks) / name).with_suffix(".png")
            message = f"{path}: no mask {expected}, nor one with another ending; add it"
            missing.append(ImageError(message))
    return pairs, missing


def _mask(picture: str, name: Path) -> Path | None:
    """The file `name` with the ending of any picture format, .png first; not the picture itself."""
    stems = dict.fromkeys([name.with_suffix(""), name])  # `cat.v2` has no ending: `cat.v2.png`
    for stem in stems:
        for suffix in SUFFIXES:
            for ending in (suffix, suffix.upper()):
                path = stem.with_name(stem.name + ending)
                if path.is_file() and not os.path.samefile(path, picture):  # noqa: PTH121
                    return path
    return None
