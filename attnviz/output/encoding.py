"""Pictures, records, tables, arrays and HTML pages as the bytes and text of files."""

import base64
import csv
import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

try:
    from isal import isal_zlib
except ImportError:  # isal has no build for some processors
    isal_zlib = None  # type: ignore[assignment]

from attnviz.errors import OutputError, PluginError, UsageError
from attnviz.output import FORMATS

_AT_ONCE, _BAND = 1 << 27, 1 << 24
"""Up to so many bytes of pixels, a PNG is packed at once; beyond, in bands of so many."""


def as_image(image: Image.Image, kind: str) -> bytes:
    """A picture as the bytes of a file.

    >>> as_image(Image.new("RGB", (2, 2)), "png")[1:4]
    b'PNG'

    Args:
        image: the picture.
        kind: a name of the table `FORMATS`.

    Raises:
        UsageError: there is no such format.
        OutputError: the format cannot hold a picture of that size.
    """
    if kind not in FORMATS:
        raise UsageError(f"unknown format {kind!r}; choose from {', '.join(FORMATS)}")
    entry = FORMATS[kind]
    data = entry(image)
    if not isinstance(data, bytes):
        raise PluginError(
            f"{entry.package}: {entry.code} returns {type(data).__name__}, not bytes; take "
            "--format png"
        )
    return data


def as_png(image: Image.Image) -> bytes:
    """A picture as PNG."""
    # Level 1 is four times as fast as Pillow's default level 6, and a tenth larger.
    if image.mode == "RGB":
        return b"".join(_png_parts(image))
    return _saved(image, "png", "PNG", compress_level=1)


def as_jpg(image: Image.Image) -> bytes:
    """A picture as JPEG, with its colours in full resolution."""
    return _saved(image, "jpg", "JPEG", quality=92, subsampling=0)


def as_webp(image: Image.Image) -> bytes:
    """A picture as lossy WebP."""
    return _saved(image, "webp", "WEBP", quality=90, method=2)


def as_thumbnail(image: Image.Image) -> bytes:
    """A small picture as lossy WebP, in half the time of `as_webp`."""
    return _saved(image, "webp", "WEBP", quality=80, method=0)


def _saved(image: Image.Image, kind: str, name: str, **options: Any) -> bytes:
    """A picture as Pillow writes it in the format `name`.

    Raises:
        OutputError: the format cannot hold a picture of that size.
    """
    buffer = io.BytesIO()
    try:
        image.save(buffer, name, **options)
    except (OSError, ValueError) as error:
        size = f"{image.width}x{image.height}"
        raise OutputError(f"{kind} cannot hold {size} pixels; take --format png") from error
    return buffer.getvalue()


def as_parts(image: Image.Image, kind: str) -> Iterator[bytes]:
    """A picture as the bytes of a file, in parts; a huge PNG is never in memory as a whole.

    >>> b"".join(as_parts(Image.new("RGB", (2, 2)), "png"))[1:4]
    b'PNG'

    Raises:
        UsageError, OutputError: as of `as_image`.
    """
    if kind == "png" and image.mode == "RGB":
        return _png_parts(image)
    return iter([as_image(image, kind)])


def _png_parts(image: Image.Image) -> Iterator[bytes]:
    """A picture as PNG: about as large as Pillow's at level 1, in an eighth of the time.

    Every row is stored as its difference from the row above (filter 2); the other four filters are
    not tried. The pixels are equal on all machines; the bytes depend on the kind of processor.
    """
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 0)
    yield b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
    raw = image.height * (1 + 3 * image.width)
    rows = image.height if raw <= _AT_ONCE else max(1, _BAND // (3 * image.width))
    bands = (_filtered(image, start, rows) for start in range(0, image.height, rows))
    if rows == image.height:
        yield _chunk(b"IDAT", _packed(next(bands).data))
    else:
        packer = _packer()
        for band in bands:
            yield _chunk(b"IDAT", packer.compress(band.data))
        yield _chunk(b"IDAT", packer.flush())
    yield _chunk(b"IEND", b"")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _filtered(image: Image.Image, start: int, number: int) -> NDArray[np.uint8]:
    """Rows of a picture as PNG stores them: a 2, and the differences from the row above."""
    width, above = image.width, max(0, start - 1)
    end = min(start + number, image.height)
    pixels = np.asarray(image.crop((0, above, width, end))).reshape(end - above, 3 * width)
    rows = np.empty((end - start, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0], rows[0, 1:] = 2, pixels[0]  # above the first row is black
    np.subtract(pixels[1:], pixels[:-1], out=rows[1 if start == 0 else 0 :, 1:])
    return rows


def _packed(data: memoryview) -> bytes:
    """The data in zlib's format, compressed by ISA-L where it is installed: three times as fast."""
    if isal_zlib is not None:
        return isal_zlib.compress(data, 1)
    packer = _packer()
    return packer.compress(data) + packer.flush()


def _packer() -> Any:
    if isal_zlib is not None:
        return isal_zlib.compressobj(1)
    # Z_RLE looks for runs of equal bytes only; filtered photographs have little else to find.
    return zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)


def as_json(data: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Data as JSON; letters beyond ASCII are not escaped."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)


def as_csv(rows: Sequence[Mapping[str, Any]], *, header: bool = True) -> str:
    """Rows as CSV; all rows have the same keys."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def as_npz(**arrays: NDArray[Any]) -> bytes:
    """Arrays as a compressed `.npz`; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def as_page(folder: Path, *, scripts: Sequence[str], images: str, **places: str) -> str:
    """A page from `page.html`, `style.css` and the scripts of a folder, and the parts all share.

    Each `{{name}}` of the template is replaced once, with `policy`, `style`, `script` or one of the
    `places`. Inserted text is not searched again, so a picture's name may look like a place.

    Args:
        folder: where the parts lie.
        scripts: names of files; they become one script, in this order.
        images: the policy's source of pictures, such as `'self'`.
        places: other text to insert: HTML, JSON of `as_script_data`, or escaped text.
    """
    style = page_part(Path(__file__).parent, "pages.css") + page_part(folder, "style.css")
    script = "\n".join(page_part(folder, name) for name in scripts)
    policy = (
        f"default-src 'none'; img-src {images}; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    filled = {"policy": policy, "style": style, "script": script, **places}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], page_part(folder, "page.html"))


def as_script_data(value: Any) -> str:
    """JSON for a script element; it cannot end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def page_part(folder: Path, name: str) -> str:
    """The text of one file of a page."""
    return (folder / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
