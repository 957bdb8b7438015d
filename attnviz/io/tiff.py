"""Reads TIFF of any type with tifffile: signed, float, more than 8 bits, any number of bands.

Pillow reads plain TIFFs of 8 bits in all their colour spaces. Of others it keeps only the high
bytes, reads signed samples as unsigned, mixes up 16-bit planes, or refuses. Some compressions
(LZW, Zstandard …) need imagecodecs (`attnviz[codecs]`) in tifffile; without it Pillow reads the
file if its result is exact.
"""

import contextlib
import io
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.picture_files import Note
from attnviz.io.sixteen_bits import both_bytes, in_raw_mode
from attnviz.io.size_limit import check_size, open_image
from attnviz.io.tiff_pages import further_pages, open_file, orientation, page_of, tag
from attnviz.io.values import Opened, Samples, of_bands, upright

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _COUNT, _EXTRA, _FORMAT = 258, 262, 277, 338, 339
_PROFILE, _NODATA = 34675, 42113
_WHITE_IS_ZERO, _RGB, _PALETTE = 0, 2, 3
_DRAWN = (_WHITE_IS_ZERO, 1, _RGB, _PALETTE)
"""Photometric interpretations whose samples are brightness, or red, green and blue."""
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of extra samples: colours multiplied by alpha, or not
_KINDS: dict[int, Any] = {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned"}
_LOW = {"little": ";16B", "big": ";16L"}[sys.byteorder]
"""Pillow's raw mode that reads the low byte of a native sample as the high one."""


def is_tiff(data: bytes) -> bool:
    """Whether these bytes begin like a TIFF or a BigTIFF."""
    return data[:4] in _MAGIC


def read(image: Image.Image | None, data: bytes, path: str) -> Opened | None:
    """Read a TIFF with all its bits; None if no library can read it.

    Args:
        image: the image as Pillow opens it; None if Pillow cannot.
        data: bytes of the file.
        path: the file's name for messages.

    Raises:
        ImageError: the file is of a kind that cannot be drawn.
        MissingExtraError: its compression needs imagecodecs.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_plain(image):
        pages = _pages(data) if image.tag_v2.next else ()
        return Opened(upright(open_image(data, path)), notes=(*_left_aside(image), *pages))
    file = open_file(io.BytesIO(data))
    if file is None:
        return None
    with file:
        found = _first(file, image, data, path)
        return Opened(found.image, found.samples, (*found.notes, *further_pages(file)))


def read_page(data: bytes, path: str, number: int | None) -> Opened | None:
    """Read a page, the first if None, with all its bands; None if only Pillow reads its colours.

    Raises:
        ImageError: there is no such page, or it is of a kind that cannot be drawn.
        MissingExtraError: its compression needs imagecodecs.
    """
    file = open_file(io.BytesIO(data))
    if file is None:
        return None
    with file:
        page = page_of(file, number or 0, path)
        _check(page, path)
        if page.photometric in _DRAWN:
            opened = _first_by_tifffile(page, path)
            further = further_pages(file) if number is None else ()
            return replace(opened, notes=(*opened.notes, *further))
        if number:
            colours = getattr(page.photometric, "name", page.photometric)
            raise ImageError(f"{path}: page {number} is in {colours}; save it as RGB")
    return None


def _first_by_tifffile(page: "TiffPage", path: str) -> Opened:
    try:
        return as_opened(page, _bands(page))
    except (ValueError, KeyError, ImportError) as error:
        if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
            raise
        compression = getattr(page.compression, "name", page.compression)
        raise MissingExtraError(f"{path}: a TIFF compressed by {compression}", "codecs") from error


def _bands(page: "TiffPage") -> NDArray[Any]:
    """All samples of a page, (height, width, bands)."""
    # (planes, depth, height, width, samples)
    values = page.asarray(squeeze=False)
    return np.moveaxis(values[:, 0], 0, -2).reshape(*values.shape[2:4], -1)


def as_opened(page: "TiffPage", bands: NDArray[Any]) -> Opened:
    """Interpret the bands of a page, (height, width, bands), as brightness or colours."""
    return _opened(page, bands, bands.shape[2], orientation(page))


def _is_plain(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether Pillow reads all: unsigned samples of 8 bits at most, and no further bands."""
    tags = image.tag_v2
    if image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or 0):  # it refuses large ones
        return False
    bits, kinds = tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
    if max(bits) > 8 or any(_KINDS.get(kind) != "unsigned" for kind in kinds):
        return False
    # Of further bands that are no transparency, Pillow keeps nothing. A fourth band of which the
    # file says nothing is taken for transparency.
    count, extra = int(tags.get(_COUNT, 1)), tags.get(_EXTRA, ())
    further = tags.get(_PHOTOMETRIC) in (0, 1, _RGB) and (count > 4 or len(extra) > 0)
    return not further or any(one in (_ASSOCIATED, _UNASSOCIATED) for one in extra)


def _left_aside(image: TiffImagePlugin.TiffImageFile) -> tuple[Note, ...]:
    """Notes on the further bands of a plain picture."""
    tags = image.tag_v2
    count, colours = int(tags.get(_COUNT, 1)), len(image.getbands())
    if image.mode == "RGBA" and count == 4 and _EXTRA not in tags:
        text = "the file does not say what its fourth band is: it is taken for transparency"
        return (Note("bands", text),)
    if count <= colours or tags.get(_PHOTOMETRIC) == _PALETTE:
        return ()
    drawn = 1 if colours < 3 else colours if image.mode == "CMYK" else 3
    return of_bands(count - image.mode.endswith(("A", "a")), drawn)


def _pages(data: bytes) -> tuple[Note, ...]:
    """Notes on further pages of a picture that Pillow reads, even if tifffile cannot."""
    with contextlib.suppress(Exception):
        file = open_file(io.BytesIO(data))
        if file is not None:
            with file:
                return further_pages(file)
    return ()


def _first(file: "TiffFile", image: Image.Image | None, data: bytes, path: str) -> Opened:
    """Read the first page with tifffile or, if that lacks the codec, with Pillow."""
    page = file.pages.first
    _check(page, path)
    if page.photometric in _DRAWN:
        try:
            bands = _bands(page)
        except (ValueError, KeyError, ImportError) as error:
            if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
                raise
        else:
            return as_opened(page, bands)
    return _by_pillow(page, image, data, path)


def _check(page: "TiffPage", path: str) -> None:
    """Check that a page can be drawn.

    Raises:
        ImageError: the page is too large, or of complex numbers.
    """
    advice = "scale it down first, or add --region x,y,w,h"
    check_size(page.imagewidth * page.imagelength, path, advice)
    check_numbers(page, path)


def check_numbers(page: "TiffPage", path: str) -> None:
    """Check that a page has numbers that can be drawn.

    Raises:
        ImageError: they are complex.
    """
    if page.sampleformat not in _KINDS:
        raise ImageError(f"{path}: a TIFF of complex numbers; save their magnitude as float32")


def _opened(page: "TiffPage", bands: NDArray[Any], count: int, turn: int) -> Opened:
    """Interpret bands, (height, width, bands), as brightness or colours; the file has `count`."""
    kind, bits = _KINDS[page.sampleformat], int(page.bitspersample)
    if page.photometric == _PALETTE and page.colormap is not None:
        bands, bits, kind = page.colormap[:, bands[..., 0]].transpose(1, 2, 0), 16, "unsigned"
    alpha, rest, extra = None, bands, page.extrasamples
    for number, what in enumerate(extra, start=count - len(extra)):
        if what in (_ASSOCIATED, _UNASSOCIATED) and number < bands.shape[2]:
            share = _share(bands[..., number], kind, bits)
            rest, alpha = np.delete(bands, number, axis=2), np.rint(share * 255).astype(np.uint8)
            count -= 1
            if what == _ASSOCIATED:
                rest = rest / np.maximum(share, 1e-6)[..., None]
            break
    colours = 3 if rest.shape[2] >= 3 else 1
    rest = _present(rest, tag(page, _NODATA))
    samples = Samples(
        rest[..., :colours],
        kind,
        bits,
        alpha=alpha,
        white_is_zero=page.photometric == _WHITE_IS_ZERO,
        profile=tag(page, _PROFILE),
        orientation=int(turn),
        bands=rest if rest.shape[2] > colours else None,
    )
    return Opened(samples=samples, notes=of_bands(count, colours))


def _share(alpha: NDArray[Any], kind: str, bits: int) -> NDArray[np.float64]:
    """Scale alpha of any type to 0…1."""
    largest = {"float": 1.0, "signed": 2.0 ** (bits - 1) - 1}.get(kind, 2.0**bits - 1)
    return np.clip(np.nan_to_num(alpha.astype(np.float64)) / largest, 0, 1)


def _present(values: NDArray[Any], nothing: str | None) -> NDArray[Any]:
    """Values, with NaN in place of GDAL's no-data value."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    try:
        missing = values == float(str(nothing).strip("\0 "))
    except ValueError:  # not a number
        return values
    return np.where(missing, np.nan, values.astype(np.float64)) if missing.any() else values


def _by_pillow(page: "TiffPage", image: Image.Image | None, data: bytes, path: str) -> Opened:
    """Read the first page with Pillow, with all its bits if possible.

    Raises:
        ImageError: no library reads its colours.
        MissingExtraError: Pillow cannot read it exactly; imagecodecs is needed.
    """
    if image is None and page.photometric not in _DRAWN:
        colours = getattr(page.photometric, "name", page.photometric)
        raise ImageError(f"{path}: a TIFF of {page.bitspersample}-bit {colours}; save it as RGB")
    plain = page.sampleformat == 1 and page.bitspersample <= 8
    interleaved = page.samplesperpixel == 1 or page.planarconfig == 1
    if image is None or not (interleaved or plain):  # Pillow mixes up planes of 16 bits
        compression = getattr(page.compression, "name", page.compression)
        raise MissingExtraError(f"{path}: a TIFF compressed by {compression}", "codecs")
    count = page.samplesperpixel
    if page.photometric == _RGB and page.sampleformat == 1 and page.bitspersample == 16:
        name = "RGBA" if image.mode == "RGBA" else "RGB" if count == 3 else "RGBX"
        high, low = (in_raw_mode(data, name + byte) for byte in (";16N", _LOW))
        return _opened(page, both_bytes(high, low), count, 1)  # Pillow has turned it already
    image.load()
    if page.photometric in _DRAWN:
        values = np.asarray(image)
        if page.sampleformat == 1 and page.bitspersample == 32:
            values = values.view(np.uint32)
        values = values if values.ndim == 3 else values[..., None]
        return _opened(page, values, count, 1)
    text = f"8 of {page.bitspersample} bits are read; save it as RGB to have all"
    return Opened(upright(image), notes=(Note("bits", text),))
