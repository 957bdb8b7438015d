"""Makes a folder of hostile files and names, and checks its gallery: used by `endurance.py`."""

import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from attnviz.batch.entries import readable

NAMES = (
    "two\nlines", "tab\tand\x1b[31mred", "🐈‍⬛ 猫 é", "-rf", "--help", "'one' and \"two\"",
    '"><img src=x onerror=alert(1)>', "<script>alert(1)<", "{{data}}", "%2e%2e%2f#?&amp;",
    os.fsdecode(b"\xff\xfe no text"), "\u202egnp.exe", " space ", "c:d", "back\\slash",
    "$(touch pwned)`id`", "*?[a]", "dots...", "\u2028line", "stats.json", "x" * 300,
)  # fmt: skip
"""What goes before the suffix; cut where a name would have more than 255 bytes."""


def name_of(number: int, suffix: str) -> str:
    """One of the names, made one of a kind by its number."""
    end = f"{number}{suffix}"
    text = NAMES[number % len(NAMES)].encode("utf-8", "surrogateescape")[: 255 - len(end)]
    return os.fsdecode(text) + end


def _empty(path: str) -> None:
    Path(path).touch()


def _cut(path: str) -> None:
    Image.effect_noise((200, 150), 80).save(path, "JPEG")
    os.truncate(path, os.path.getsize(path) // 2)  # noqa: PTH202 — text, as all paths here


def _page(path: str) -> None:
    Path(path).write_text("<!doctype html><title>404</title><h1>Not found", encoding="utf-8")


def _bomb(path: str) -> None:
    """A PNG of 60 000 × 60 000 pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 9)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _secret(path: str) -> None:
    Image.new("RGB", (64, 48)).save(path, "JPEG")
    Path(path).chmod(0)


def _link(to: str) -> Callable[[str], None]:
    """Makes links that lead to a file, or with nothing to themselves."""
    return lambda path: Path(path).symlink_to(to or path)


BAD: tuple[tuple[str, Callable[[str], None]], ...] = (
    ("empty", _empty),
    ("truncated", _cut),
    ("not a picture", _page),
    ("megapixels", _bomb),
    ("a folder", os.mkdir),
    ("Permission denied", _secret),
    ("a pipe", os.mkfifo),
    ("no such file", _link("nowhere.jpg")),
    ("cannot be read", _link("")),
    ("a device", _link("/dev/zero")),
)
"""What is made under a name, with a word of the error that it gives."""


def _photo(path: str) -> None:
    Image.effect_noise((90, 60), 80).convert("RGB").save(path, "PNG")


def _deep(path: str) -> None:
    samples = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 30
    Image.fromarray(samples).save(path, "PNG")


ODD: tuple[Callable[[str], None], ...] = (
    lambda path: Image.new("RGB", (1, 1)).save(path, "PNG"),
    lambda path: Image.new("RGB", (2000, 1), "red").save(path, "PNG"),
    lambda path: Image.new("RGB", (1, 2000), "red").save(path, "PNG"),
    lambda path: Image.new("CMYK", (50, 40), (9, 99, 199, 0)).save(path, "JPEG"),
    lambda path: Image.new("LA", (50, 40), (9, 99)).save(path, "PNG"),
    lambda path: Image.new("1", (50, 40)).save(path, "PNG"),
    _deep,
)
"""Pictures that are few's idea of one, but are."""


class Folder:
    """Adds pictures under hostile names to a folder, and files that are no pictures.

    Attributes:
        good: paths of the pictures.
        bad: paths of the others, with a word of the error that each is to give.
    """

    fine = 2 * len(NAMES)
    """How many pictures there are."""

    def __init__(self, photos: Path, bad: int) -> None:
        self.good = [f"{photos}/{name_of(number, '.png')}" for number in range(self.fine)]
        for number, path in enumerate(self.good):
            (ODD[number] if number < len(ODD) else _photo)(path)
        self.bad: dict[str, str] = {}
        below = photos / "<b>sub"
        below.mkdir()
        for number in range(bad):
            word, make = BAD[number % len(BAD)]
            path = f"{(photos, below)[number % 2]}/{name_of(number, '.jpg')}"
            make(path)
            self.bad[path] = word

    def says(self, path: str, told: str) -> bool:
        """Whether that is what is wrong with a file."""
        return path in self.bad and self.bad[path] in told


def without_powers() -> list[str]:
    """What to begin a command with, so that also root may not read every file."""
    if os.geteuid() or not shutil.which("setpriv"):
        return []
    less = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={less}", f"--inh-caps={less}"]


def missing(paths: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Names of files, as they are to be shown, that are in none of some texts."""
    names = [readable(os.path.basename(path)) for path in paths]  # noqa: PTH119
    return [name for name in names if not any(name in text for text in shown)]


def gallery_shows(out: Path, paths: Sequence[str], failed: Sequence[str]) -> list[str]:
    """What is wrong with the gallery in a browser: a name that is not shown, or anything that runs.

    Args:
        out: the folder of the batch.
        paths: some pictures that are done.
        failed: all that failed.
    """
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 — an optional part

    wrong: list[str] = []
    with sync_playwright() as playwright:
        options = [] if os.geteuid() else ["--no-sandbox"]
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto((out / "index.html").as_uri())
        shown = page.locator("#errors li").all_text_contents()
        wrong += [f"{name!r} is not among the failures" for name in missing(failed, shown)]
        for path in paths:
            page.locator("#filter").fill(readable(os.path.basename(path)))  # noqa: PTH119
            shown = page.locator("#pictures .name").all_text_contents()
            wrong += [f"{name!r} is not among the pictures" for name in missing([path], shown)]
        if page.evaluate("document.images.length") == 0:
            wrong.append("no thumbnails")
        browser.close()
    return wrong
