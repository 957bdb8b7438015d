"""Reads DICOM with pydicom (extra: dicom), and slices of NIfTI with nibabel (extra: nifti)."""

import gzip
import io
import math
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.arrays import of_array
from attnviz.io.parts import Part, check_slice
from attnviz.io.picture_files import Note
from attnviz.io.size_limit import check_size
from attnviz.io.values import Opened, Samples

_NIFTI = {b"n+1\0": 344, b"n+2\0": 4}
"""Marks of NIfTI files of one part, and where they stand."""
_GREY = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(data: bytes) -> bool:
    """Whether these bytes begin like a DICOM file."""
    return data[128:132] == b"DICM"


def read_dicom(data: bytes, path: str, part: Part) -> Opened:
    """Read a DICOM picture, or one frame of several, with its rescaling and its first window.

    Raises:
        ImageError: damaged, without pixels, too large, or of a compression that is not there.
        MissingExtraError: pydicom is not installed.
    """
    try:
        import pydicom  # noqa: PLC0415 — the optional part attnviz[dicom]
    except ImportError as error:
        raise MissingExtraError(f"{path}: DICOM", "dicom") from error
    file = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in file and "FloatPixelData" not in file:
        raise ImageError(f"{path}: a DICOM file without pixels; give one with a picture")
    check_size(int(file.get("Rows", 0)) * int(file.get("Columns", 0)), path)
    count = int(file.get("NumberOfFrames", 1) or 1)
    number = check_slice(part.slice, count, path)
    try:
        values = pydicom.pixels.pixel_array(file, index=number)
    except (RuntimeError, NotImplementedError) as error:
        kind = file.file_meta.TransferSyntaxUID.name
        raise ImageError(
            f"{path}: pixels compressed by {kind} cannot be read here; pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg"
        ) from error
    notes = _which(count, number, part)
    if file.PhotometricInterpretation == "PALETTE COLOR":
        values = pydicom.pixels.apply_color_lut(values, file)
    if values.ndim == 3:
        return of_array(values, path, notes)
    return Opened(samples=_grey(file, values), notes=notes)


def _grey(file: Any, values: NDArray[Any]) -> Samples:
    """The samples of a grey DICOM picture: rescaled, with its window."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut  # noqa: PLC0415

    kind: Any = "signed" if file.get("PixelRepresentation", 0) else "unsigned"
    bits = int(file.get("BitsStored", values.dtype.itemsize * 8))
    stored = values
    values = apply_modality_lut(values, file)
    unchanged = values is stored or np.array_equal(values, stored)
    if not unchanged or stored.dtype.kind == "f":
        kind, bits = "float", values.dtype.itemsize * 8
    window = _window(file)
    if "VOILUTSequence" in file or (window is None and file.get("VOILUTFunction") == "SIGMOID"):
        values = apply_voi_lut(values, file)
        kind, bits = "float", 64
    elif unchanged and stored.dtype.kind != "f":
        values = stored
    samples = Samples(values[..., None], kind, bits, window=window)
    return replace(samples, white_is_zero=file.PhotometricInterpretation == "MONOCHROME1")


def _window(file: Any) -> tuple[float, float] | None:
    """The values of a linear window that are black and white (PS3.3 C.11.2.1.2)."""
    if "WindowCenter" not in file or "WindowWidth" not in file or "VOILUTSequence" in file:
        return None
    center, width = (_number(file[name].value) for name in ("WindowCenter", "WindowWidth"))
    function = str(file.get("VOILUTFunction", "LINEAR") or "LINEAR")
    if not math.isfinite(center + width) or function not in ("LINEAR", "LINEAR_EXACT"):
        return None
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return (center - width / 2, center + width / 2) if width > 0 else None


def _number(value: Any) -> float:
    """A number, or the first of several."""
    try:
        return float(value if isinstance(value, (str, int, float)) else value[0])
    except (TypeError, ValueError, IndexError):
        return math.nan


def is_nifti(data: bytes, path: str) -> bool:
    """Whether these bytes begin like a NIfTI file, or, by the name, like a compressed one."""
    if data[:2] == b"\x1f\x8b" and path.lower().endswith(".nii.gz"):
        return True
    return any(data[place : place + 4] == mark for mark, place in _NIFTI.items())


def read_nifti(data: bytes, path: str, part: Part) -> Opened:
    """Read one axial slice of a NIfTI volume, as a radiologist sees it.

    The patient's front is at the top, and their right is at the left. Only this slice is decoded.

    Raises:
        ImageError: damaged, too large, or of another kind than numbers.
        MissingExtraError: nibabel is not installed.
    """
    try:
        import nibabel  # noqa: PLC0415 — the optional part attnviz[nifti]
        from nibabel.filebasedimages import ImageFileError  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(f"{path}: NIfTI", "nifti") from error
    packed = data[:2] == b"\x1f\x8b"
    try:
        file: Any = gzip.GzipFile(fileobj=io.BytesIO(data)) if packed else io.BytesIO(data)
        second = int.from_bytes(file.read(4), "little") in (540, 0x1C020000)
        file.seek(0)
        kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
        volume = kind.from_stream(file)
        return _slice(nibabel, volume, path, part)
    except (ImageFileError, EOFError, zlib.error, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ImageError(f"{path}: truncated or damaged ({reason}); save it again") from error


def _slice(nibabel: Any, volume: Any, path: str, part: Part) -> Opened:
    shape = (*volume.shape, 1, 1, 1)[: max(3, len(volume.shape))]
    kind = volume.get_data_dtype()
    if kind.kind not in "iuf":
        raise ImageError(f"{path}: a NIfTI volume of {kind}; save numbers, such as float32")
    if not all(side > 0 for side in shape):
        raise ImageError(f"{path}: an empty volume; give one with voxels")
    axes = nibabel.io_orientation(volume.affine)
    if np.isnan(axes).any():
        axes = np.array([[0, 1], [1, 1], [2, 1]])  # the file says no orientation
    # For each direction, right, front and up: the axis of the file and its sign.
    places = {int(goal): (axis, int(sign)) for axis, (goal, sign) in enumerate(axes)}
    up, upward = places[2]
    count = shape[up]
    check_size(shape[places[1][0]] * shape[places[0][0]], path)
    number = check_slice(part.slice, count, path)
    chosen: list[Any] = [slice(None)] * 3 + [0] * (len(shape) - 3)
    chosen[up] = number if upward > 0 else count - 1 - number
    values = np.asarray(volume.dataobj[tuple(chosen[: len(volume.shape)])])
    if places[0][0] < places[1][0]:
        values = values.T  # rows from back to front, columns from left to right
    # Right is at the left, and front at the top.
    values = values[:: -places[1][1], :: -places[0][1]]
    notes = _which(count, number, part)
    if math.prod(shape[3:]) > 1:
        text = f"{math.prod(shape[3:])} volumes: the first is drawn"
        notes = (*notes, Note("frames", text))
    return of_array(values[..., None], path, notes)


def _which(count: int, number: int, part: Part) -> tuple[Note, ...]:
    if count == 1 or part.slice is not None:
        return ()
    text = f"{count} slices: slice {number} is drawn; add --slice N for another"
    return (Note("frames", text),)
