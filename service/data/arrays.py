"""NPZ: `x` [N, …] is the input, every other array of N rows a possible target. Headers are judged before any value is read."""

import math
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple
from zlib import error as zlib_error

import numpy as np
import numpy.lib.format as npy

from service.data.columns import Values
from service.data.limits import Limits
from service.errors import TooLarge, invalid

CHUNK = 1 << 22


class Header(NamedTuple):
    """What an .npy header says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool


class Archive:
    """The arrays of an NPZ; raises Invalid for what is corrupt, of Python objects or of another type, TooLarge for bombs."""

    def __init__(self, path: Path, limits: Limits) -> None:
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise invalid("/file", "corrupt-file", "the file cannot be read as an archive") from error
        self.members = {member.filename.removesuffix(".npy"): member for member in self.zip.infolist()}
        self._check_directory(limits)
        self.headers = {name: self._header(name) for name in self.members}

    def blocks(self, name: str) -> Iterator[Values]:
        """The array's rows in order, some megabytes at a time."""
        header = self.headers[name]
        if header.fortran and len(header.shape) > 1:
            yield self._whole(name)
            return
        row = math.prod(header.shape[1:]) * header.dtype.itemsize
        step = max(1, CHUNK // max(1, row))
        with self._open(name) as file:
            _read_header(file)
            for start in range(0, header.shape[0], step):
                rows = min(step, header.shape[0] - start)
                raw = self._exactly(file, rows * row, name)
                yield np.frombuffer(raw, dtype=header.dtype).reshape(rows, *header.shape[1:])
            self._exactly(file, 0, name)

    def _whole(self, name: str) -> Values:
        """An array in column-major order has no rows to stream."""
        header = self.headers[name]
        with self._open(name) as file:
            _read_header(file)
            raw = self._exactly(file, math.prod(header.shape) * header.dtype.itemsize, name)
        return np.frombuffer(raw, dtype=header.dtype).reshape(header.shape, order="F")

    def _open(self, name: str) -> IO[bytes]:
        return self.zip.open(self.members[name])

    def _exactly(self, file: IO[bytes], size: int, name: str) -> bytes:
        try:
            raw = file.read(size)
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError, zlib_error) as error:
            raise invalid("/file", "corrupt-file", f"the array {name[:80]!r} cannot be read") from error
        if len(raw) < size:
            raise invalid("/file", "corrupt-array", f"the array {name[:80]!r} ends early")
        return raw

    def _check_directory(self, limits: Limits) -> None:
        """Raises on the directory alone, which costs nothing to read."""
        members = self.zip.infolist()
        if not members or len(members) > limits.members:
            raise invalid("/file", "invalid-data", f"the archive holds {len(members)} arrays; it takes 1 to {limits.members}")
        if sum(member.file_size for member in members) > limits.decoded_bytes:
            raise TooLarge(f"The arrays are larger than {limits.decoded_bytes} bytes.", slug="decompressed-too-large")
        for member in members:
            if member.file_size > limits.ratio_from_bytes and member.file_size > limits.ratio * member.compress_size:
                raise TooLarge("An array is compressed more than a hundredfold.", slug="decompressed-too-large")
            name = member.filename.removesuffix(".npy")
            strange = not member.filename.endswith(".npy") or "/" in name or "\\" in name or ".." in name or not name.isprintable()
            linked = stat.S_ISLNK(member.external_attr >> 16)
            if strange or linked or member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise invalid("/file", "corrupt-file", "the archive holds a member that is no plain array")
        if len(self.members) < len(members):
            raise invalid("/file", "corrupt-file", "the archive holds two arrays of one name")

    def _header(self, name: str) -> Header:
        try:
            with self._open(name) as file:
                header, read = _read_header(file)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib_error) as error:
            raise invalid("/file", "corrupt-file", f"the array {name[:80]!r} cannot be read") from error
        except ValueError as error:
            raise invalid("/file", "corrupt-array", f"the array {name[:80]!r} has no readable header") from error
        if header.dtype.hasobject:
            raise invalid("/file", "forbidden-pickle", f"the array {name[:80]!r} holds Python objects")
        if header.dtype.kind not in "biufU" or not header.dtype.itemsize:
            message = f"the array {name[:80]!r} has the type {header.dtype}; bool, int, float and unicode text are read"
            raise invalid("/file", "invalid-data", message)
        if min(header.shape, default=0) < 0 or math.prod(header.shape) * header.dtype.itemsize != self.members[name].file_size - read:
            raise invalid("/file", "corrupt-array", f"the array {name[:80]!r} does not have the size that its header says")
        return header


def _read_header(file: IO[bytes]) -> tuple[Header, int]:
    """The header and its length in bytes; ValueError where it is none."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    if version not in ((1, 0), (2, 0)):
        raise ValueError("unknown version")
    shape, fortran, dtype = read(file)
    return Header(tuple(shape), dtype, fortran), file.tell()
