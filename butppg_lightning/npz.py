"""Reading npz files from strangers: nothing executed, sizes believed only when the file can hold them.

Uncompressed members are memory-mapped straight out of the zip archive (a stored member is a plain ``.npy`` at a
known offset), so that a split larger than memory can be opened at once; compressed members are read.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.lib import format as npy

from butppg_lightning.errors import UserError, first_line
from butppg_lightning.files import atomic_write, checksum

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = np.ndarray[Any, np.dtype[Any]]

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # PKWARE APPNOTE 4.3.7
_DAMAGE = (ValueError, EOFError, OSError, struct.error, zlib.error, LZMAError, NotImplementedError, RuntimeError)
_LARGEST_COMPRESSED = 8 * 2**30  # a compressed member has to fit into memory; a mapped one does not


def read_npz(path: Path) -> dict[str, Array]:
    """Open every array of an npz file by key, memory-mapped (read-only) where it is stored uncompressed.

    Raises:
        UserError: If the file is missing, not an npz, truncated, holds pickled objects, or declares more data
            than it contains.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [item for item in archive.infolist() if item.filename.endswith(".npy")]
            if not members:
                raise UserError(f"{path} holds no arrays; write it with numpy.savez(path, signals=..., labels=...)")
            return {item.filename.removesuffix(".npy"): _read_member(path, archive, item) for item in members}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise UserError(
            f"{path} is not a complete npz (zip) file: it is truncated or of another kind; write it again"
        ) from None
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged ({first_line(error)}); write it again") from None


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an uncompressed npz atomically, so that it can be memory-mapped."""
    with atomic_write(path) as file:
        # numpy's stub lets a keyword named allow_pickle take any array
        np.savez(file, **{key: np.asarray(value) for key, value in arrays.items()})  # type: ignore[arg-type]


def _read_member(path: Path, archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> Array:
    key = item.filename.removesuffix(".npy")
    with archive.open(item) as file:
        shape, fortran, dtype = _read_header(path, key, file)
        header_bytes = file.tell()
    if dtype.hasobject:
        raise UserError(f"{path}: '{key}' holds pickled objects, which could run code; save plain numeric arrays")
    count = math.prod(shape)  # Python integers: an absurd shape cannot overflow
    if header_bytes + count * dtype.itemsize != item.file_size:
        raise UserError(f"{path}: '{key}' declares shape {shape}, but the file does not hold that much; write it again")
    if item.compress_type == zipfile.ZIP_STORED and count and dtype.itemsize:
        begin = _data_offset(path, item)
        # zipfile checks what it reads; what is mapped it never sees
        if checksum(path, item.file_size, begin) != item.CRC:
            raise UserError(f"{path}: '{key}' does not match its checksum; copy or write the file again")
        order: Literal["F", "C"] = "F" if fortran else "C"
        return np.memmap(path, dtype=dtype, mode="r", offset=begin + header_bytes, shape=shape, order=order)
    if item.file_size > _LARGEST_COMPRESSED:
        raise UserError(
            f"{path}: '{key}' unpacks to {item.file_size / 2**30:.0f} GiB; save it uncompressed (numpy.savez)"
        )
    with archive.open(item) as file:
        return npy.read_array(file, allow_pickle=False)


def _read_header(path: Path, key: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    except Exception as error:
        # numpy parses the header as Python source: damage surfaces as whatever the tokenizer, ast and dtype raise
        raise UserError(f"{path}: the header of '{key}' is damaged ({first_line(error)}); write it again") from error


def _data_offset(path: Path, item: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(item.header_offset)
        header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        size = path.stat().st_size
    offset = item.header_offset + _LOCAL_HEADER.size + header[9] + header[10]
    if header[0] != b"PK\x03\x04" or offset + item.file_size > size:
        raise zipfile.BadZipFile("local header")
    return int(offset)
