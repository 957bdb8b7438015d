"""The gallery as files: what is in the page, what is escaped, what is made anew."""

import base64
import hashlib
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import folders
import numpy as np
import pytest
from PIL import Image

from attnviz.batch import matrix
from attnviz.batch.entries import readable
from attnviz.batch.gallery import SIDE, write_gallery
from attnviz.batch.matrix import NUMBERS
from attnviz.errors import OutputError
from attnviz.output import record_parts

EVIL = '"><img src=x onerror=alert(1)>.jpg'


class Page(HTMLParser):
    """Elements, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style") and data.strip():
            self.texts.append((self.elements[-1][0], data))


def page(out: Path) -> Page:
    return Page((out / "index.html").read_text(encoding="utf-8"))


def data(out: Path) -> dict[str, Any]:
    found = next(text for tag, text in page(out).texts if tag == "script")
    return dict(json.loads(found))


def reached(out: Path, address: str) -> Path:
    """The file that a relative address leads to, byte by byte."""
    assert address.startswith("./")
    return out / os.fsdecode(unquote_to_bytes(address))


def test_names_lead_to_their_sheets_and_thumbnails(tmp_path: Path) -> None:
    names = ["a.png", "sub/b c.png", "sub/100%#1?.png", "c:d.png", "猫 🐈.png", EVIL, "x\ny.png"]
    folders.batch(tmp_path, names)
    write_gallery(tmp_path)
    pictures = data(tmp_path)["pictures"]
    assert [name for name, _, _ in pictures] == [readable(name) for name in sorted(names)]
    for name, (_, link, thumbnail) in zip(sorted(names), pictures, strict=True):
        assert re.fullmatch(r"[\w./%~-]+", link)
        assert reached(tmp_path, link) == tmp_path / name / "sheet.png"
        with Image.open(tmp_path / ".attnviz/thumbnails" / thumbnail) as image:
            assert image.format == "WEBP"
            assert max(image.size) <= SIDE


def test_nothing_but_its_own_elements_is_in_the_page(tmp_path: Path) -> None:
    names = [EVIL, "</script><b>.jpg", "<!--<script>.jpg", "{{style}}.jpg", "&lt;.jpg"]
    folders.batch(tmp_path, names, failed={"<i>.jpg": "<u>wrong</u></script>"})
    folders.batch(tmp_path / "plain", [f"{i}.jpg" for i in range(5)], failed={"f": "wrong"})
    write_gallery(tmp_path)
    write_gallery(tmp_path / "plain")
    found = page(tmp_path)
    assert found.elements == [
        (tag, {**attributes, "content": policy} if "http-equiv" in attributes else attributes)
        for (tag, attributes), policy in zip(
            page(tmp_path / "plain").elements,
            [each.get("content") for _, each in found.elements],
            strict=True,
        )
    ]
    assert {name for name, _, _ in data(tmp_path)["pictures"]} == set(names)
    assert data(tmp_path)["failed"] == [["<i>.jpg", "<u>wrong</u></script>"]]


def test_the_policy_allows_this_style_and_script_alone(tmp_path: Path) -> None:
    folders.batch(tmp_path, ["a.png"])
    write_gallery(tmp_path)
    found = page(tmp_path)
    policy = next(str(each["content"]) for _, each in found.elements if "http-equiv" in each)
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    _, script = (text for tag, text in found.texts if tag == "script")
    (style,) = (text for tag, text in found.texts if tag == "style")
    for name, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert allowed[name] == f"'sha256-{digest}'"
    assert allowed["default-src"] == "'none'"
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", script + style)
    assert not any(key[:2] == "on" or key == "style" for _, each in found.elements for key in each)


@pytest.mark.skipif(sys.platform != "linux", reason="names here are text")
@pytest.mark.parametrize("said", ["as bytes", "as text"])
def test_bytes_that_are_no_text_are_found(said: str, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9/\xff.png")
    folders.batch(tmp_path, [name], written=None if said == "as bytes" else "caf\ufffd/\ufffd.png")
    write_gallery(tmp_path)
    ((shown, link, thumbnail),) = data(tmp_path)["pictures"]
    assert shown == "\ufffd.png"
    assert link == "./caf%E9/%FF.png/sheet.png"
    assert thumbnail is not None
    assert data(tmp_path)["columns"]


def test_numbers_are_means_over_heads(tmp_path: Path) -> None:
    made = folders.batch(tmp_path, ["a.png", "b.png", "c.png"])
    write_gallery(tmp_path)
    found = data(tmp_path)
    known = [name for name in NUMBERS if made[0].rows()[0].get(name) is not None]
    assert {name for name, _ in found["statistics"]} >= set(known)
    keys = {(layer, head) for _, layer, head, _ in found["columns"]}
    layers, heads = folders.LAYERS, folders.HEADS
    assert keys == {(None, None), *((a, b) for a in layers for b in (None, *heads))}
    for number, layer, head, values in found["columns"]:
        name = found["statistics"][number][0]
        for record, value in zip(made, values, strict=True):
            wanted = [
                row[name]
                for row in record.rows()
                if row[name] is not None
                and layer in (None, row["layer"])
                and head in (None, row["head"])
            ]
            assert (value is None) == (not wanted)
            assert value is None or value == pytest.approx(np.mean(wanted), rel=1e-3)


@pytest.mark.parametrize(
    ("most", "places"),
    [(2000, 9), (3 * 12 * 9 - 1, 3), (3 * 12 * 3 - 1, 1), (1, 1)],
)
def test_a_page_holds_no_more_numbers_than_it_can(
    most: int, places: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "MOST", most)
    folders.batch(tmp_path, ["a.png", "b.png", "c.png"])
    write_gallery(tmp_path)
    assert len({(layer, head) for _, layer, head, _ in data(tmp_path)["columns"]}) == places


def test_records_are_matched_where_their_paths_begin_earlier(tmp_path: Path) -> None:
    folders.batch(tmp_path, ["cat.png", "photos/cat.png", "sub/cat.png"], root="my/photos/")
    write_gallery(tmp_path)
    found = data(tmp_path)
    entropies = next(each for n, *_, each in found["columns"] if found["statistics"][n][0])
    assert all(value is not None for value in entropies)


def test_it_says_what_was_run(tmp_path: Path) -> None:
    box = record_parts.QueryInfo(kind="box", x0=1, y0=2, x1=3.5, y1=4)
    rng = np.random.default_rng(0)
    folders.batch(tmp_path, ["a.png"])
    found = [folders.record("a.png", [folders.head(7, 0, rng)], query=box, method="value-norm")]
    folders.stats(tmp_path, found)
    write_gallery(tmp_path)
    assert data(tmp_path)["run"] == ["tiny", "value-norm", "from 1,2,3.5,4", "layer 7"]


def test_names_begin_below_the_folder_that_holds_all(tmp_path: Path) -> None:
    folders.batch(tmp_path, ["my/photos/a.png", "my/photos/sub/b.png"], failed={"my/c.png": "x"})
    write_gallery(tmp_path)
    assert [name for name, *_ in data(tmp_path)["pictures"]] == ["photos/a.png", "photos/sub/b.png"]
    assert data(tmp_path)["failed"] == [["c.png", "x"]]


def test_without_pictures_tiles_are_text(tmp_path: Path) -> None:
    folders.batch(tmp_path, ["a.png"], drawn=False)
    assert write_gallery(tmp_path) == [tmp_path / "index.html"]
    assert data(tmp_path)["pictures"] == [["a.png", None, None]]


def test_a_sheet_alone_and_a_damaged_overlay(tmp_path: Path) -> None:
    folders.batch(tmp_path, ["a.png", "b.png"])
    for overlay in (tmp_path / "a.png").glob("layer*"):
        overlay.unlink()
    for overlay in (tmp_path / "b.png").glob("layer*"):
        overlay.write_bytes(b"\x89PNG")
    write_gallery(tmp_path)
    (_, _, first), (_, link, second) = data(tmp_path)["pictures"]
    assert first is not None
    assert (link, second) == ("./b.png/sheet.png", None)


def test_equal_folders_give_equal_bytes_and_only_what_is_new_is_made(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folders.batch(tmp_path / name, ["a.png", "s/b.png"], failed={"c.png": "bad"})
        assert len(write_gallery(tmp_path / name)) == 3
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    out = tmp_path / "one"
    assert write_gallery(out) == [out / "index.html"]
    drawing = out / "a.png" / folders.name_of(folders.LAYERS[-1], 0)
    Image.new("RGB", (9, 9)).save(drawing)
    os.utime(drawing, ns=(2**62, 2**62))
    _, thumbnail = write_gallery(out)
    with Image.open(thumbnail) as image:
        assert image.size == (9, 9)
    assert not list(out.rglob("*.part"))


def test_half_a_thumbnail_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    folders.batch(tmp_path, ["a.png"])
    _, thumbnail = write_gallery(tmp_path)
    (thumbnail.parent / f".{thumbnail.name}.4711.part").write_bytes(b"half")
    alone = tmp_path / ".attnviz" / "thumbnails" / "00" / ".0.webp.4711.part"
    alone.parent.mkdir()
    alone.write_bytes(b"half")
    write_gallery(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    assert not alone.parent.exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("manifest.jsonl", None, "cannot be read"),
        ("manifest.jsonl", "{}\n", "line 1 is no record"),
        ("stats.jsonl", "[]\n", "line 1 is no record"),
        ("stats.jsonl", '{"image": 3}\n', "line 1 is no record"),
        ("stats.jsonl", '{"image": {"path": "a.png"}, "heads": [{}]}\n', "line 1 is no record"),
    ],
)
def test_what_is_none_of_ours_is_told(
    name: str, text: str | None, message: str, tmp_path: Path
) -> None:
    folders.batch(tmp_path, ["a.png"])
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(OutputError, match=message):
        write_gallery(tmp_path)


def test_of_no_picture_there_is_a_page(tmp_path: Path) -> None:
    folders.batch(tmp_path, [])
    write_gallery(tmp_path)
    assert data(tmp_path)["pictures"] == []


def test_names_are_shown_as_text() -> None:
    assert readable("a\nb\x7f\udce9") == "a␊b␡\ufffd"
    assert readable("\ud800") == "?"
    assert readable("\u202egnp.exe") == "\ufffdgnp.exe"
    assert readable("plain é 猫") == "plain é 猫"
