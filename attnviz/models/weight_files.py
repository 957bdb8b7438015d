"""Opens files of weights of any kind, without running code in them; tensors stay in the file."""

import io
import json
import math
import mmap
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from attnviz.errors import ModelError
from attnviz.models.pickle_calls import CallRefused, Storage, dtype_of
from attnviz.models.pickles import read_pickle
from attnviz.models.settings import SUFFIXES

RATIO, SPARE = 20, 2**20
"""Packed arrays may take so many times the bytes of their file, and so many more."""
PART = 2**30
"""Bytes of a file that are mapped together."""
_LEGACY = 0x1950A86A20F9469CFC6C
"""The number that torch.save wrote first before it wrote zip archives."""
_SAFE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "U16": "uint16", "U32": "uint32", "U64": "uint64",
}  # fmt: skip
_SAVE = "save the state dict alone: torch.save(model.state_dict(), ...)"


def read_file(path: str) -> Any:
    """What a file of weights holds: dicts, lists and plain values, tensors, and stand-ins.

    Numbers stay in the file until they are used: the file is mapped into memory.

    Raises:
        ModelError: the file is missing, of another kind or damaged, or wants to run code.
    """
    name = Path(path)
    if name.suffix.lower() not in SUFFIXES:
        raise ModelError(f"{path}: weights must be a file of weights: {', '.join(SUFFIXES)}")
    if os.path.isdir(path):  # noqa: PTH112 — pathlib raises for a name that is too long
        raise ModelError(f"{path}: is a folder, where a file of weights is needed; give the file")
    if not os.path.isfile(path):  # noqa: PTH113
        raise ModelError(f"{path}: no such file; check the path")
    try:
        return _read(name)
    except ModelError:
        raise
    except CallRefused as refused:
        raise ModelError(
            f"{path}: its pickled code wants to call {refused}, and is not loaded; {_SAVE}, or get "
            "it as .safetensors"
        ) from refused
    except Exception as error:  # of many kinds, for damaged files
        raise ModelError(f"{path}: damaged, or not a state dict; save it again") from error


def _read(path: Path) -> Any:
    """The content of a file, by its first bytes."""
    with path.open("rb") as file:
        first = file.read(9)
        file.seek(0)
        if first.startswith(b"PK"):
            return _read_zip(path, file)
        if path.suffix.lower() == ".safetensors" or first[8:] == b"{":
            return _read_safetensors(file, Bytes(file))
        return _read_legacy(file, Bytes(file))


class Bytes:
    """The bytes of a file, mapped: they take memory only while they are used.

    The mapping is private: what is written to a tensor never gets into the file. A system promises
    memory for all that might be written, so a large file is mapped in parts.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor, self.count = file.fileno(), os.fstat(file.fileno()).st_size
        self._parts: dict[tuple[int, int], mmap.mmap] = {}

    def _part(self, offset: int, end: int) -> tuple[mmap.mmap, int]:
        """A mapped part of the file that holds some bytes, and the place of the first in it."""
        start = offset // PART * PART
        stop = min(max(start + PART, end), self.count)
        if (start, stop) not in self._parts:
            self._parts[start, stop] = mmap.mmap(
                self._descriptor, stop - start, access=mmap.ACCESS_COPY, offset=start
            )
        return self._parts[start, stop], offset - start

    def numbers(self, dtype: torch.dtype, offset: int, count: int) -> Tensor:
        """`count` numbers from a byte of the file on, as a tensor of one dimension."""
        end = offset + count * dtype.itemsize
        if min(offset, count) < 0 or end > self.count:
            raise ValueError("the file ends before its numbers do")
        if not count:
            return torch.empty(0, dtype=dtype)
        part, place = self._part(offset, end)
        if place % dtype.itemsize:
            return torch.frombuffer(
                bytearray(part[place : place + count * dtype.itemsize]), dtype=dtype
            )
        return torch.frombuffer(part, dtype=dtype, count=count, offset=place)


def _read_safetensors(file: BinaryIO, content: Bytes) -> dict[str, Tensor]:
    """safetensors: the length of a header in JSON, the header, and the numbers."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > content.count - 8:
        raise ValueError("the file ends before its header does")
    tensors = {}
    for name, about in json.loads(file.read(length)).items():
        if name == "__metadata__":
            continue
        dtype, (start, end) = getattr(torch, _SAFE[about["dtype"]]), about["data_offsets"]
        count = math.prod(about["shape"])
        if count * dtype.itemsize != end - start:
            raise ValueError("a shape and its bytes differ")
        tensors[name] = content.numbers(dtype, 8 + length + start, count).view(about["shape"])
    return tensors


def _read_zip(path: Path, file: BinaryIO) -> Any:
    """What `torch.save` writes, or the arrays of `numpy.savez`."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if members and all(name.endswith(".npy") for name in members):
            return _read_arrays(path, file, archive)
        roots = [name for name in members if name.endswith("data.pkl") and name.count("/") <= 1]
        if not roots:
            raise ValueError("no pickle")
        root = roots[0].removesuffix("data.pkl")
        packed = [name for name, info in members.items() if info.compress_type]
        if packed and any(name == roots[0] or name.startswith(f"{root}data/") for name in packed):
            raise ModelError(f"{path}: its archive is compressed ({packed[0]}); save it again")
        if len(members) != len(archive.infolist()):
            raise ValueError("a name stands twice")
        content = Bytes(file)
        order = f"{root}byteorder"
        if order in members and archive.read(order) == b"big":
            raise ModelError(f"{path}: was written on a big-endian machine; save it on this one")

        def storage(identity: Any) -> Storage:
            _, kind, key, _, count = identity[:5]
            info = members[f"{root}data/{key}"]
            return Storage(content.numbers(dtype_of(kind), _start(file, info), int(count)))

        return read_pickle(io.BytesIO(archive.read(roots[0])), storage)


def _start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """The first byte of the content of a member that is not compressed."""
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\3\4":
        raise ValueError("no member is there")
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + int(name) + int(extra)


def _read_arrays(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Arrays of numbers; those that are not compressed stay in the file."""
    infos = archive.infolist()
    size = os.fstat(file.fileno()).st_size
    if sum(info.file_size for info in infos if info.compress_type) > RATIO * size + SPARE:
        raise ModelError(f"{path}: its arrays take far more memory than the file; it is not read")
    content, arrays = Bytes(file), {}
    for info in infos:
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            read = {(1, 0): np.lib.format.read_array_header_1_0}
            header = read.get(version, np.lib.format.read_array_header_2_0)(member)
            shape, fortran, dtype = header
            if dtype.kind not in "fiub":
                continue
            if info.compress_type:
                flat = torch.from_numpy(np.frombuffer(bytearray(member.read()), dtype))
            else:
                kind = torch.from_numpy(np.empty(0, dtype)).dtype
                offset = _start(file, info) + member.tell()
                flat = content.numbers(kind, offset, math.prod(shape))
        shaped = flat.view(shape[::-1]).permute(*range(len(shape))[::-1]) if fortran else None
        arrays[info.filename.removesuffix(".npy")] = flat.view(shape) if shaped is None else shaped
    return arrays


def _read_legacy(file: BinaryIO, content: Bytes) -> Any:
    """What torch.save wrote before it wrote archives: five pickles, then the storages in turn.

    The place of a storage is known behind the pickles, so that of the tensors is read twice.
    """
    kinds: dict[str, tuple[torch.dtype, int]] = {}
    places: dict[str, int] = {}

    def storage(identity: Any) -> Any:
        if identity[0] == "module":  # a class with the source of its code
            return identity[1]
        _, kind, key, _, count = identity[:5]
        dtype, _ = kinds.setdefault(key, (dtype_of(kind), int(count)))
        if key in places:
            return Storage(content.numbers(dtype, places[key], int(count)))
        return Storage(torch.empty(int(count), dtype=dtype, device="meta"))

    if read_pickle(file) != _LEGACY:
        raise ValueError("torch.save did not write it")
    _ = read_pickle(file), read_pickle(file)  # version and machine
    start = file.tell()
    read_pickle(file, storage)
    for key in read_pickle(file):
        (count,) = struct.unpack("<q", file.read(8))
        if count != kinds[key][1]:
            raise ValueError("a storage has another size than its tensors say")
        places[key] = file.tell()
        file.seek(count * kinds[key][0].itemsize, os.SEEK_CUR)
    file.seek(start)
    return read_pickle(file, storage)
