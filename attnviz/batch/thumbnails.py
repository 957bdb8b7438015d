"""Small pictures for a gallery, made of what a batch drew."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from attnviz.errors import ImageError
from attnviz.io.picture import load_image
from attnviz.output import encoding, whole_files

FOLDER = ".attnviz/thumbnails"
SIDE = 240
"""Pixels of the longer side."""


def thumbnail_name(source: str) -> str:
    """Where the thumbnail of a drawing lies in `FOLDER`: the drawing may be named in any way.

    >>> thumbnail_name("sub/cat.jpg/sheet.png")
    'b9/e5d440dcc85487cd1e6a2c334a68ae.webp'

    Args:
        source: path of the drawing below the folder of the batch.
    """
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()
    return f"{digest[:2]}/{digest[2:32]}.webp"


def make_thumbnail(out: Path, source: str) -> Path | None:
    """Write the thumbnail of a drawing, unless one is there that is no older; its path if written.

    A drawing that cannot be read has none.

    Raises:
        OutputError: it cannot be written.
    """
    path = out / FOLDER / thumbnail_name(source)
    drawing = out / source
    try:
        if path.exists() and path.stat().st_mtime_ns >= drawing.stat().st_mtime_ns:
            return None
        image = load_image(drawing).image()
    except (ImageError, OSError):
        return None
    return write_thumbnail(out, source, image)


def write_thumbnail(out: Path, source: str, image: Image.Image) -> Path:
    """Write the thumbnail of a drawing whose pixels are at hand, after the drawing itself.

    Raises:
        OutputError: it cannot be written.
    """
    path = out / FOLDER / thumbnail_name(source)
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=1.5)
    whole_files.make_folder(path.parent)
    return whole_files.write_whole(path, encoding.as_image(small, "webp"))


def make_thumbnails(out: Path, sources: Sequence[str]) -> list[Path]:
    """Write those that are missing or outdated, and remove those of other drawings.

    A thread a core, since decoders let others run.

    Raises:
        OutputError: one cannot be written.
    """
    _remove_others(out / FOLDER, {thumbnail_name(source) for source in sources})
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        thumbnails = pool.map(lambda source: make_thumbnail(out, source), sources)
        return [path for path in thumbnails if path is not None]


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove thumbnails of drawings that are no longer there, and folders that are empty then.

    And what a process that was killed had half written.
    """
    for path in folder.glob("*/*.webp"):
        if path.relative_to(folder).as_posix() not in names:
            path.unlink(missing_ok=True)
    for sub in folder.glob("*"):
        whole_files.remove_parts(sub)
        with contextlib.suppress(OSError):  # it is not empty
            sub.rmdir()
