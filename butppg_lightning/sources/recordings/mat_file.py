"""Long recordings from MATLAB files: arrays by name, also in structs, as ``named_arrays`` says.

scipy and HDF5 read with compiled code, which some damaged files end in a crash of the process: so it is not ours, but
one that takes the arrays out into a folder. Versions 4 to 7 are read by scipy, 7.3 (which is HDF5) by h5py. Nothing in
a file is executed, and none leads to others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError, first_line
from butppg_lightning.npz import read_npz
from butppg_lightning.sources.recordings.array_names import Parts
from butppg_lightning.sources.recordings.named_arrays import to_recording
from butppg_lightning.sources.recordings.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.recordings.names import Selection
    from butppg_lightning.sources.recordings.recording import Recording

INDEX, ARRAYS = "index.json", "arrays.npz"  # what take_out() writes
# with the program's path in place of the working directory: a numpy.py may lie beside a stranger's file
_TAKE_OUT = """import sys
sys.path[:] = sys.argv[3:]
from butppg_lightning.sources.recordings.mat_file import take_out
take_out(*sys.argv[1:3])"""
_HDF5 = b"\x89HDF\r\n\x1a\n"
_DEEPEST = 3  # structs within each other
_MOST_ARRAYS = 4096
_MOST_NUMBERS = 2**30  # of all arrays; what one channel may have is decided later

Found = tuple[Parts, "Array | str"]  # an array, or what else stands under a name


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from a MATLAB file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-I", "-c", _TAKE_OUT, str(path), name]
        ended = subprocess.run([*command, *filter(None, sys.path)], capture_output=True, check=False)
        if ended.returncode or not (folder / INDEX).is_file():
            raise UserError(f"{path} cannot be read: the process that read it ended with code {ended.returncode}")
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if "error" in index:
            raise UserError(index["error"])
        names = [tuple(parts) for parts in index["names"]]
        header = path.with_suffix(".hea")
        if names == [("val",)] and header.is_file():
            raise UserError(f"{path} holds the samples of a WFDB record; give its header: {header}")
        arrays = read_npz(folder / ARRAYS) if names else {}
        recording = to_recording(
            path, [(parts, arrays[str(row)]) for row, parts in enumerate(names)], selection, index["skipped"]
        )
    recording.notes[:0] = index["notes"]
    return recording


def take_out(source: str, folder: str) -> None:
    """Write the arrays of a MATLAB file into a folder, and an index of them: ``names``, ``skipped``, ``notes``.

    Where the file cannot be read the index is an ``error``, one line.
    """
    path = Path(source)
    try:
        index = _take_out(path, Path(folder) / ARRAYS)
    except UserError as error:
        index = {"error": str(error)}
    except Exception as error:
        reason = f"{type(error).__name__}: {printable(first_line(error))[:100]}"
        index = {"error": f"{path} cannot be read, it is not a complete MATLAB file ({reason})"}
    (Path(folder) / INDEX).write_text(json.dumps(index), encoding="utf-8")


def _take_out(path: Path, target: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(520)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    names: list[Parts] = []
    arrays: dict[str, Array] = {}
    skipped: dict[str, str] = {}
    notes: list[str] = []
    for parts, what in _in_hdf5(path) if _HDF5 in (head[:8], head[512:]) else _in_mat(path, notes):
        if isinstance(what, str):
            skipped[printable(".".join(parts))[:60]] = what
        else:
            arrays[str(len(names))] = what
            names.append(parts)
        if len(names) + len(skipped) > _MOST_ARRAYS:
            raise UserError(f"{path} has more than {_MOST_ARRAYS} arrays; save one recording's alone")
    if arrays:
        np.savez(target, **arrays)  # type: ignore[arg-type]
    return {"names": names, "skipped": skipped, "notes": notes}


def _in_mat(path: Path, notes: list[str]) -> Iterator[Found]:
    from scipy.io import loadmat, whosmat

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if sum(float(np.prod(shape, dtype=float)) for _, shape, _ in whosmat(path)) > _MOST_NUMBERS:
            raise UserError(f"{path} declares more than {_MOST_NUMBERS:,} numbers; split the recording")
        content = loadmat(path)
    # of two variables of one name scipy keeps the last, and one that is damaged it leaves out
    notes += list(dict.fromkeys(f"{path}: {printable(str(warning.message))[:200]}" for warning in caught))
    for name, value in content.items():
        if not name.startswith("__"):
            yield from _unfolded((name,), value)


def _unfolded(parts: Parts, value: Any) -> Iterator[Found]:
    from scipy.io.matlab import MatlabFunction, MatlabObject, MatlabOpaque

    if isinstance(value, MatlabFunction | MatlabObject | MatlabOpaque) or not isinstance(value, np.ndarray):
        yield parts, "a sparse matrix" if hasattr(value, "nnz") else "a table or an object"
    elif value.dtype.names and value.size != 1:
        yield parts, f"a struct array of {value.size} (of several recordings: save one alone)"
    elif value.dtype.names:
        if len(parts) > _DEEPEST:
            yield parts, "a struct in structs"
            return
        for field in value.dtype.names:
            yield from _unfolded((*parts, field), value.flat[0][field])
    elif value.dtype.hasobject:
        yield parts, "a cell array"
    else:
        yield parts, _plain_shape(value)


def _plain_shape(value: Array) -> Array:
    """Return a matrix of one row, column or number as a vector or a number."""
    if value.size == 1:
        return value.reshape(())
    return value.reshape(-1) if value.ndim == 2 and 1 in value.shape else value


def _in_hdf5(path: Path) -> Iterator[Found]:
    try:
        import h5py
    except ImportError:
        raise UserError(
            "reading a MATLAB file of version 7.3 needs h5py; pip install 'butppg-lightning[recordings]', or save it "
            "with -v7"
        ) from None
    with h5py.File(path, "r") as file:
        yield from _members((), file)


def _members(parts: Parts, group: Any) -> Iterator[Found]:
    import h5py

    for name in group:
        own = (*parts, name)
        if name.startswith("#"):  # what references lead to
            continue
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            yield own, "a link to another place"
            continue
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield own, _dataset(item)
        elif "MATLAB_sparse" in item.attrs:
            yield own, "a sparse matrix"
        elif len(own) > _DEEPEST:
            yield own, "a struct in structs"
        else:
            yield from _members(own, item)


def _dataset(item: Any) -> Array | str:
    kind = item.attrs.get("MATLAB_class", b"")
    kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
    if item.external or item.is_virtual:
        return "a link to another file"
    if "MATLAB_object_decode" in item.attrs:
        return "a table or an object"
    if item.dtype.hasobject or item.dtype.names:
        return {"cell": "a cell array", "": "a field of a struct array (of several recordings: save one alone)"}.get(
            kind, f"of class {kind or item.dtype.kind}"
        )
    if item.attrs.get("MATLAB_empty", 0):
        return "empty"
    if item.size > _MOST_NUMBERS:
        return f"of {item.size:,} numbers"
    if kind == "char":
        return np.array("".join(map(chr, np.asarray(item[()], dtype=np.uint32).T.ravel().tolist())))
    return _plain_shape(np.asarray(item[()]).T)  # HDF5 has rows first, MATLAB columns
