"""Folders of pictures, good and hostile, and runs of `attnviz batch` on them."""

import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pictures

SMALL = ("-m", "random", "--size", "32", "--patch", "8", "--heads", "2")
SHAPES = ((64, 48), (48, 64), (80, 80), (120, 40), (300, 200))


def photos(folder: Path, number: int = 48) -> list[Path]:
    """Pictures of some shapes in a tree, with equal names in it."""
    found = []
    for i in range(number):
        path = folder / ("", "sub", "sub/deep")[i % 3] / f"p{i // 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.noise(*SHAPES[i % len(SHAPES)], seed=i).save(path)
        found.append(path)
    return found


def bomb(path: Path) -> None:
    """A PNG of a million times a million pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", 1_000_000, 1_000_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 9)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def hostile(folder: Path) -> dict[str, str]:
    """Files that are no pictures, by name, with a word of the error that they give."""
    whole = (folder / "p0.png").read_bytes()
    (folder / "empty.jpg").touch()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_text("<!doctype html><title>404</title>")
    (folder / "zeros.webp").write_bytes(bytes(5000))
    (folder / "two\nlines.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    bomb(folder / "bomb.png")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "lost.png").symlink_to("nowhere.png")
    (folder / "ring.png").symlink_to("ring.png")
    (folder / "device.png").symlink_to("/dev/zero")
    said = {
        "empty.jpg": "empty", "cut.png": "truncated", "page.jpg": "not a picture",
        "zeros.webp": "not a picture", "two\nlines.jpg": "damaged", "bomb.png": "megapixels",
        "pipe.jpg": "a pipe", "lost.png": "no such file", "ring.png": "cannot be read",
        "device.png": "a device",
    }  # fmt: skip
    if len(os.fsencode(folder / "socket.png")) < 100:  # what an address may have
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "socket.png"))
        said["socket.png"] = "a socket"
    if os.geteuid():
        (folder / "secret.png").write_bytes(whole)
        (folder / "secret.png").chmod(0)
        said["secret.png"] = "Permission denied"
    return said


def command(*arguments: str) -> list[str]:
    """A real run."""
    return [sys.executable, "-m", "attnviz", "batch", *SMALL, *arguments]


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    """All files, by their paths in the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def stamps(folder: Path, names: Sequence[str]) -> list[int]:
    """When the sheets of some pictures were written."""
    return [(folder / name / "sheet.png").stat().st_mtime_ns for name in names]
