"""Writes the gallery of a batch: an HTML page without network requests, and thumbnails."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from attnviz.batch.entries import Entries, read_entries
from attnviz.batch.finalizers import MANIFEST, STATS
from attnviz.batch.matrix import MEANINGS, NUMBERS
from attnviz.errors import ImageError
from attnviz.io.picture import load_image
from attnviz.output import encoding, whole_files

NAME = "index.html"
_PARTS = Path(__file__).parent / "static"


def write_gallery(out: Path, stats: Path | None = None, manifest: Path | None = None) -> list[Path]:
    """Write `index.html` of a batch, and thumbnails that are missing or outdated.

    The page needs no server: a script in it sorts and searches the pictures. Equal folders give
    equal bytes.

    Args:
        out: the folder of the batch.
        stats: the records; by default `stats.jsonl` in the folder.
        manifest: the manifest; by default `manifest.jsonl` in the folder.

    Returns:
        The written files, the page first.

    Raises:
        OutputError: a file of the batch cannot be read, or a file cannot be written.
    """
    entries = read_entries(out, stats or out / STATS, manifest or out / MANIFEST)
    sources = [entries.source(i) for i in range(len(entries.names))]
    made = make_thumbnails(out, [source for source in sources if source is not None])
    page = page_of(data_of(out, entries))
    return [whole_files.write_whole(out / NAME, page.encode()), *made]


def data_of(out: Path, entries: Entries) -> dict[str, Any]:
    """The data of the page's script; paths are URLs relative to the page."""
    columns = list(entries.matrix.columns())
    layers_found = sorted({key[0] for key, _ in columns})
    return {
        "run": entries.run,
        "thumbnails": f"./{FOLDER}/",
        "statistics": [[NUMBERS[i], MEANINGS[NUMBERS[i]]] for i in layers_found],
        "pictures": [
            [
                *(name, _address(entries.target(i)), _thumbnail(out, entries.source(i))),
                *(entries.texts[i] or ()),
            ]
            for i, name in enumerate(entries.names)
        ],
        "columns": [
            [layers_found.index(i), layer, head, _short(values)]
            for (i, layer, head), values in columns
        ],
        "failed": [list(pair) for pair in entries.failed],
    }


def page_of(data: dict[str, Any]) -> str:
    """The page with its data; it may show pictures from its own folder."""
    return encoding.as_page(
        _PARTS, scripts=["script.js"], images="'self'", data=encoding.as_script_data(data)
    )


def _address(path: str | None) -> str | None:
    """A path as a relative URL, byte by byte; `./` keeps `a:` in `a:b.jpg` from being a scheme."""
    return None if path is None else f"./{quote(os.fsencode(path))}"


def _thumbnail(out: Path, source: str | None) -> str | None:
    name = None if source is None else thumbnail_name(source)
    return name if name and (out / FOLDER / name).is_file() else None


def _short(values: Iterable[float]) -> list[float | None]:
    """Numbers with the four significant digits that a page shows."""
    return [None if math.isnan(value) else float(f"{value:.4g}") for value in values]


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
    # Blocks of pixels, and then this filter, take a seventh of the time of the best filter alone.
    small.thumbnail((SIDE, SIDE), Image.Resampling.HAMMING, reducing_gap=1.0)
    whole_files.make_folder(path.parent)
    return whole_files.write_whole(path, encoding.as_thumbnail(small))


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
