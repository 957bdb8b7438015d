"""Reads what a batch wrote for each picture: its name, folder and drawings, or its error."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnviz.batch.finalizers import each
from attnviz.batch.matrix import Matrix
from attnviz.output import FORMATS
from attnviz.output.whole_files import SHEET

_SHOWN = {
    **{code: 0x2400 + code for code in range(32)},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
}


@dataclass(frozen=True, eq=False)
class Entries:
    """All pictures of a batch, in the order of its manifest.

    Attributes:
        names: the finished pictures, as text, relative to the folder that holds all pictures.
        folders: the folder of each of them in the folder of the batch; None if it has no drawing.
        sheets: the sheet in that folder, or None.
        overlays: one overlay of each picture, the first of its last layer, or None.
        failed: the names of failed pictures, each with its error.
        texts: of models that answer in words, prompt and answer of each picture, else None.
        run: the model and the methods in words; empty if no picture is finished.
        matrix: the numbers of the finished pictures.
    """

    names: list[str]
    folders: list[str | None]
    sheets: list[str | None]
    overlays: list[str | None]
    failed: list[tuple[str, str]]
    texts: list[tuple[str, str] | None]
    run: list[str]
    matrix: Matrix

    def source(self, i: int) -> str | None:
        """The drawing that the thumbnail of a picture is made from: an overlay, else its sheet."""
        return self.overlays[i] or self.sheets[i]

    def target(self, i: int) -> str | None:
        """The link of a picture's tile: its sheet, else its folder."""
        folder = self.folders[i]
        return self.sheets[i] or (None if folder is None else f"{folder}/")


def read_entries(out: Path, stats: Path, manifest: Path) -> Entries:
    """Read the manifest and the records of a batch.

    Raises:
        OutputError: one of them cannot be read.
    """
    pictures, failed = _manifest(manifest)
    methods = _methods(stats)
    finished = [(name, folder, method) for name, folder in pictures for method in methods]
    folders = [_located(out, folder and f"{folder}{m and '/'}{m}") for _, folder, m in finished]
    entries = Entries(
        names=[name for name, _, _ in finished],
        folders=folders,
        sheets=[_sheet(out, folder) for folder in folders],
        overlays=[None] * len(finished),
        failed=failed,
        texts=[None] * len(finished),
        run=[],
        matrix=Matrix(len(finished)),
    )
    rows = _Rows(entries.names)

    def take(record: dict[str, Any]) -> None:
        row = rows.of(readable(record["image"]["path"]))
        if row is not None:
            entries.matrix.add(row, record["heads"])
            entries.overlays[row] = _overlay(out, folders[row], record["heads"])
            entries.texts[row] = _text(record.get("text"))
            if not entries.run:
                entries.run.extend(_run(record, methods))

    for _ in each(stats, take):
        pass
    found = _below(entries)
    shown = [f"{name}{m and ' · '}{m}" for name, (*_, m) in zip(found.names, finished, strict=True)]
    return replace(found, names=shown)


def _methods(stats: Path) -> list[str]:
    """The methods of the first record if it has several; otherwise one empty name."""
    first = list[tuple[str, str]]()
    for path, method in each(stats, lambda record: (record["image"]["path"], record["method"])):
        if first and (path != first[0][0] or (path, method) in first):  # asked twice, by a list
            break
        first.append((path, method))
    return [method for _, method in first] if len(first) > 1 else [""]


def _below(entries: Entries) -> Entries:
    """The entries with names relative to the folder that holds all pictures."""
    names = [*entries.names, *(name for name, _ in entries.failed)]
    parents = [name.split("/")[:-1] for name in names]
    low, high = min(parents, default=[]), max(parents, default=[])
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False))
    shared = len("".join(f"{part}/" for part, _ in pairs))
    return replace(
        entries,
        names=[name[shared:] for name in entries.names],
        failed=[(name[shared:], error) for name, error in entries.failed],
    )


def readable(text: str) -> str:
    r"""A path as text that any reader can show as it is.

    Control characters become their symbols. Bytes that are not valid text, and characters that
    change the direction of the text, become U+FFFD.

    >>> readable("a\tb.jpg")
    'a␉b.jpg'
    """
    try:
        data = text.encode("utf-8", "surrogateescape")  # restores invalid bytes
    except UnicodeEncodeError:
        data = text.encode("utf-8", "replace")
    return data.decode("utf-8", "replace").translate(_SHOWN)


def _text(text: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Prompt and answer of a record, each in one line."""
    if text is None:
        return None
    prompt, answer = (readable(" ".join(text[name].split())) for name in ("prompt", "answer"))
    return prompt, f"{answer} …" if text.get("cut") else answer


def _manifest(manifest: Path) -> tuple[list[tuple[str, str | None]], list[tuple[str, str]]]:
    """Names and folders of finished pictures; names and errors of failed ones."""
    finished: list[tuple[str, str | None]] = []
    failed: list[tuple[str, str]] = []

    def take(line: dict[str, Any]) -> None:
        name = readable(line["path"])
        if line["status"] == "done":
            finished.append((name, line.get("folder")))
        else:
            asked = line.get("prompt")
            error = str(line.get("error") or line["status"])
            failed.append((name, readable(error if asked is None else f"{error}: {asked}")))

    for _ in each(manifest, take):
        pass
    return finished, failed


def _located(out: Path, folder: str | None) -> str | None:
    """The folder of a picture by its real name, if it exists.

    The manifest may have U+FFFD in place of bytes that are not UTF-8.
    """
    if folder is None or (out / folder).is_dir():
        return folder
    place = ""
    for part in folder.split("/"):
        try:
            names = os.listdir(out / place)  # noqa: PTH208 — unchanged names
        except OSError:
            return None
        like = [n for n in names if os.fsencode(n).decode("utf-8", "replace") == part]
        if len(like) != 1:  # no folder, or several that look the same
            return None
        place = f"{place}/{like[0]}" if place else like[0]
    return place


def _sheet(out: Path, folder: str | None) -> str | None:
    paths = [] if folder is None else [f"{folder}/{SHEET}.{kind}" for kind in FORMATS]
    return next((path for path in paths if (out / path).is_file()), None)


def _overlay(out: Path, folder: str | None, heads: list[dict[str, Any]]) -> str | None:
    """The first overlay of the last layer that has one; of localized heads that of their mean."""
    drawn = [head for head in heads if head.get("file")]
    means = [head for head in drawn if head.get("rank") == 0]
    files = [(head["layer"], head["file"]) for head in means or drawn]
    if folder is None or not files:
        return None
    last = max(layer for layer, _ in files)
    name = next(file for layer, file in files if layer == last)
    path = f"{folder}/{name}"
    return path if Path(name).name == name and (out / path).is_file() else None


class _Rows:
    """Finds the row of a record; the record's path may be longer than the manifest's name.

    Names that look the same, because invalid bytes were replaced, match in the manifest's order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._rows: dict[str, list[int]] = {}
        for row, name in reversed(list(enumerate(names))):
            self._rows.setdefault(name, []).append(row)

    def of(self, path: str) -> int | None:
        """The next row of a picture; None if the picture is not in the manifest."""
        while not self._rows.get(path) and "/" in path:
            path = path.partition("/")[2]
        rows = self._rows.get(path)
        return rows.pop() if rows else None


def _run(record: Mapping[str, Any], methods: Sequence[str]) -> list[str]:
    """The model and the methods in words."""
    named = ", ".join(filter(None, methods)) or record["method"]
    model, query = record["model"], record["query"]
    weights = [] if model["weights"] == "pretrained" else [f"weights {model['weights']}"]
    numbers = [f"{query[key]:g}" for key in ("x", "y", "x0", "y0", "x1", "y1") if key in query]
    where = query.get("path") or ",".join(numbers) or query["kind"]
    where = "objects" if query["kind"] == "object" else where
    layers = sorted({head["layer"] for head in record["heads"]})
    which = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers"
    which = "localized heads" if record.get("localized") else which
    title = (model["spec"], *weights, named, f"from {where}", which)
    return [readable(text) for text in title]
