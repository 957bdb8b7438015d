"""Makes thumbnails of a batch's drawings for the gallery."""

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
"""Length of the longer side, in pixels."""


def thumbnail_name(source: str) -> str:
    """The path of a drawing's thumbnail in `FOLDER`: a digest, so the drawing may have any name.

    >>> thumbnail_name("sub/cat.jpg/sheet.png")
    'b9/e5d440dcc85487cd1e6a2c334a68ae.webp'

    Args:
        source: path of the drawing, relative to the folder of the batch.
    """
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()
    return f"{digest[:2]}/{digest[2:32]}.webp"


def make_thumbnail(out: Path, source: str) -> Path | None:
    """Write the thumbnail of a drawing, unless it exists and is up to date.

    A drawing that cannot be read gets no thumbnail.

    Returns:
        The path of the thumbnail; None if nothing was written.

    Raises:
        OutputError: the thumbnail cannot be written.
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
    """Write the thumbnail of a drawing from its pixels; call it after the drawing was written.

    Raises:
        OutputError: the thumbnail cannot be written.
    """
    path = out / FOLDER / thumbnail_name(source)
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=1.5)
    whole_files.make_folder(path.parent)
    return whole_files.write_whole(path, encoding.as_image(small, "webp"))


def make_thumbnails(out: Path, sources: Sequence[str]) -> list[Path]:
    """Write missing or outdated thumbnails, and remove those of other drawings.

    It uses one thread per core, since decoders release the GIL.

    Raises:
        OutputError: a thumbnail cannot be written.
    """
    _remove_others(out / FOLDER, {thumbnail_name(source) for source in sources})
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        thumbnails = pool.map(lambda source: make_thumbnail(out, source), sources)
        return [path for path in thumbnails if path is not None]


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove thumbnails of drawings that no longer exist, and folders that become empty.

    It also removes the temporary files of a killed process.
    """
    for path in folder.glob("*/*.webp"):
        if path.relative_to(folder).as_posix() not in names:
            path.unlink(missing_ok=True)
    for sub in folder.glob("*"):
        whole_files.remove_parts(sub)
        with contextlib.suppress(OSError):  # the folder is not empty
            sub.rmdir()
