"""Reads NumPy's `.npy` and `.npz` files; pickled objects are refused, never loaded."""

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from attnviz.errors import ImageError
from attnviz.io.parts import ArrayPath, Part, check_slice, split_path
from attnviz.io.picture_files import Note
from attnviz.io.size_limit import check_size
from attnviz.io.values import Opened, Samples, of_bands

_MAGIC = b"\x93NUMPY"
_MOST_BANDS = 32
"""An axis of at most so many, half as long as the others or shorter, holds bands."""
_MOST_BYTES = 4 << 30
"""An array in an `.npz` file may have so many bytes."""
_KINDS: dict[str, Any] = {"u": "unsigned", "b": "unsigned", "i": "signed", "f": "float"}


def is_array(data: bytes, path: str) -> bool:
    """Whether the bytes are an `.npy` file or, by the name, an `.npz` file."""
    suffix = Path(split_path(path).file).suffix.lower()
    return data[:6] == _MAGIC or (suffix == ".npz" and data[:2] == b"PK")


def read(data: bytes, path: str, part: Part) -> Opened:
    """Read an array as a picture, or one slice of a volume.

    Raises:
        ImageError: damaged, pickled, too large, or of a shape that is no picture.
    """
    named = split_path(path)
    if data[:6] == _MAGIC:
        if named.name:
            raise ImageError(f"{path}: an .npy file has one array; type {named.file}")
        return _drawn(_values(io.BytesIO(data), len(data), path), named, path, part)
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise ImageError(f"{path}: truncated or damaged ({error}); save it again") from error
    with archive:
        member = _member(archive, named, path)
        if member.file_size > _MOST_BYTES:
            raise ImageError(f"{path}: an array of more than 4 GB; save a part of it as .npy")
        with archive.open(member) as file:
            return _drawn(_values(file, member.file_size, path), named, path, part)


def _member(archive: zipfile.ZipFile, named: ArrayPath, path: str) -> zipfile.ZipInfo:
    """The array to read: the named one, else the only one."""
    found = {
        one.filename.removesuffix(".npy"): one
        for one in archive.infolist()
        if one.filename.endswith(".npy")
    }
    if named.name in found:
        return found[named.name]
    names = ", ".join(list(found)[:8]) + (" …" if len(found) > 8 else "")
    if not found:
        raise ImageError(f"{path}: no array in it; save it with numpy.savez")
    typed = f"{named.file}:{next(iter(found))}"
    if named.name is not None:
        raise ImageError(f"{path}: no such array; it has {names}: type {typed}")
    if len(found) > 1:
        raise ImageError(f"{path}: several arrays ({names}); name one: {typed}")
    return next(iter(found.values()))


def _values(file: IO[bytes], size: int, path: str) -> NDArray[Any]:
    """The array behind a header, which is checked before memory is taken for its values."""
    try:
        version = npy.read_magic(file)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, kind = reader(file)
    except (ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ImageError(f"{path}: truncated or damaged ({reason}); save it again") from error
    if kind.hasobject:
        raise ImageError(
            f"{path}: pickled objects, which are not loaded; save it as numbers: "
            "numpy.save(path, array.astype('float32'))"
        )
    if kind.kind not in _KINDS:
        raise ImageError(f"{path}: an array of {kind}; save numbers, such as float32")
    wanted, there = math.prod(shape) * kind.itemsize, size - file.tell()
    if not wanted:
        raise ImageError(f"{path}: an empty array of shape {shape}; give one with pixels")
    if wanted > there:
        raise ImageError(
            f"{path}: truncated: its header says {wanted} bytes, there are {max(0, there)}; save "
            "it again"
        )
    data = file.read(wanted)
    if len(data) < wanted:
        raise ImageError(f"{path}: truncated or damaged; save it again")
    values: NDArray[Any] = np.frombuffer(data, dtype=kind)
    return values.reshape(shape[::-1]).T if by_columns else values.reshape(shape)


def _drawn(values: NDArray[Any], named: ArrayPath, path: str, part: Part) -> Opened:
    axes = named.axes or _axes(values.shape, named, path, part)
    if len(axes) != values.ndim:
        raise ImageError(
            f"{path}: the array has {values.ndim} axes, {axes} names {len(axes)}; its shape is "
            f"{_shape(values.shape)}"
        )
    if named.axes is None and values.ndim == 4:
        values, axes = values[0], axes[1:]
    notes: tuple[Note, ...] = ()
    if "D" in axes:
        place = axes.index("D")
        count = values.shape[place]
        number = check_slice(part.slice, count, path)
        if part.slice is None and count > 1:
            notes = (_middle(count, number),)
        values, axes = np.take(values, number, axis=place), axes.replace("D", "")
    elif part.slice is not None:
        raise ImageError(f"{path}: --slice {part.slice}: one picture, no volume; leave out --slice")
    bands = values.transpose([axes.index(letter) for letter in "HWC" if letter in axes])
    return of_array(bands if bands.ndim == 3 else bands[..., None], path, notes)


def _middle(count: int, number: int) -> Note:
    return Note("frames", f"{count} slices: slice {number} is drawn; add --slice N for another")


def of_array(bands: NDArray[Any], path: str, notes: tuple[Note, ...] = ()) -> Opened:
    """Take an array, (height, width, bands), of integers, floats or booleans, as samples.

    Raises:
        ImageError: too many pixels.
    """
    check_size(bands.shape[0] * bands.shape[1], path)
    if bands.dtype.kind == "b":
        bands = bands.astype(np.uint8) * np.uint8(255)
    bands = bands.astype(bands.dtype.newbyteorder("="), copy=False)
    colours = 3 if bands.shape[2] >= 3 else 1
    kind = _KINDS[bands.dtype.kind]
    samples = Samples(bands[..., :colours], kind, bands.dtype.itemsize * 8, bands=bands)
    return Opened(samples=samples, notes=(*of_bands(bands.shape[2], colours), *notes))


def _axes(shape: tuple[int, ...], named: ArrayPath, path: str, part: Part) -> str:
    """The order of the axes, by their lengths.

    Raises:
        ImageError: the lengths leave it open.
    """
    if len(shape) == 2:
        return "HW"
    if len(shape) == 4 and shape[0] == 1:
        return "D" + _axes(shape[1:], named, path, Part())
    if len(shape) == 3:
        if _holds_bands(shape[2], shape[:2]):
            return "HWC"
        if part.slice is not None:
            return "DHW"
        if _holds_bands(shape[0], shape[1:]):
            return "CHW"
    where = named.file if named.name is None else f"{named.file}:{named.name}"
    text = f"{path}: an array of shape {_shape(shape)}"
    if len(shape) == 3:
        raise ImageError(
            f"{text}: bands first, bands last or slices? type {where}:CHW, {where}:HWC, or add "
            "--slice N"
        )
    if len(shape) == 4:
        raise ImageError(f"{text}: name its axes, such as {where}:DHWC with --slice N")
    raise ImageError(f"{text} is no picture; save an array of height x width x bands")


def _holds_bands(length: int, others: tuple[int, ...]) -> bool:
    return length <= _MOST_BANDS and 2 * length <= min(others)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
