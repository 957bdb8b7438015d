"""Writes the gallery of a batch: an HTML page without network requests, and thumbnails."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attnviz.batch.entries import Entries, read_entries
from attnviz.batch.matrix import MEANINGS, NUMBERS
from attnviz.batch.read_records import MANIFEST, STATS
from attnviz.batch.thumbnails import FOLDER, make_thumbnails, thumbnail_name
from attnviz.output import pages, whole_files

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
            [name, _address(entries.target(i)), _thumbnail(out, entries.source(i))]
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
    return pages.fill(_PARTS, scripts=["script.js"], images="'self'", data=pages.as_data(data))


def _address(path: str | None) -> str | None:
    """A path as a relative URL, byte by byte; `./` keeps `a:` in `a:b.jpg` from being a scheme."""
    return None if path is None else f"./{quote(os.fsencode(path))}"


def _thumbnail(out: Path, source: str | None) -> str | None:
    name = None if source is None else thumbnail_name(source)
    return name if name and (out / FOLDER / name).is_file() else None


def _short(values: Iterable[float]) -> list[float | None]:
    """Numbers with the four significant digits that a page shows."""
    return [None if math.isnan(value) else float(f"{value:.4g}") for value in values]
