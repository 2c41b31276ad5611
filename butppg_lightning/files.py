"""Writing files so that a reader never sees half of one, and folders so that two processes never write into one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import tempfile
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_PIECE = 2**24  # bytes read at a time while a checksum is computed
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # of network and cluster file systems
_CLAIM, _MARKER = ".claim", ".marker"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a sibling temporary file; on success it replaces ``path`` in one step, on failure it vanishes.

    The temporary file is a sibling because a rename is atomic only within one file system. Missing parent folders are
    made.

    Raises:
        UserError: If the folder cannot be made or written (no permission, no space).
    """
    path = Path(path)
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another output folder") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        current = os.umask(0)
        os.umask(current)
        temporary.chmod(0o666 & ~current)
        temporary.replace(path)
    except Exception as error:  # torch, for one, says RuntimeError when the disk is full
        failed = write_failure(error) or error
        if not isinstance(failed, OSError):
            raise
        raise UserError(
            f"cannot write {path}: {failed.strerror or failed}; free space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_failure(error: BaseException | None) -> OSError | None:
    """Return the failed write that an exception comes from: a disk that is full, read-only or broken; None if none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically. NaN is refused: it is not JSON."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with atomic_write(path) as file:
        file.write(f"{text}\n".encode())


def checksum(path: Path, size: int, begin: int = 0) -> int:
    """Return the CRC-32 of ``size`` bytes of a file from ``begin`` on (of fewer, where it ends before)."""
    found, left = 0, size
    with Path(path).open("rb") as file:
        file.seek(begin)
        while left and (piece := file.read(min(left, _PIECE))):
            found, left = zlib.crc32(piece, found), left - len(piece)
    return found


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def make_folder(path: Path) -> Path:
    """Make ``path`` and its parents, or say in one line (UserError) why that is impossible."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}; choose another") from error
    return Path(path)


def require_writable(path: Path) -> Path:
    """Make the folder ``path`` and prove, by writing a file there, that results can be stored; a UserError if not."""
    make_folder(path)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"cannot write into {path}: {error.strerror}; choose another output folder") from error
    return Path(path)


def check_writable(path: Path) -> None:
    """Prove, as :func:`require_writable`, that results can be stored, and leave no folder that was not there."""
    missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    try:
        require_writable(path)
    finally:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse (UserError) to replace files unless the user asked for it."""
    existing = next((path for path in paths if path.exists()), None)
    if existing and not overwrite:
        raise UserError(f"{existing} exists; choose another --output, or add --overwrite to replace it")


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, against every other process; a UserError names who has it.

    A process that is killed holds nothing any more. Where the file system has no locks, that is found out by its
    number and host, and so only on the same host.
    """
    # a lock of the kernel's, by the library that torch needs anyway: it knows unlinked files, forks and file systems
    # without locks, where it takes over the marker of a dead process and never that of one with the same number
    from filelock import FileLock, SoftFileLock, Timeout

    missing = [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]
    require_writable(folder)
    lock: Any = FileLock(Path(folder) / f"{_CLAIM}.lock", fallback_to_soft=False)
    record = Path(folder) / f"{_CLAIM}.json"
    try:
        try:
            lock.acquire(timeout=0)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, Timeout) or getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
                raise
            Path(lock.lock_file).unlink(missing_ok=True)
            lock = SoftFileLock(Path(folder) / f"{_CLAIM}{_MARKER}")
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(_held(folder, record, Path(lock.lock_file))) from None
    try:
        write_json(record, {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        yield
    finally:
        record.unlink(missing_ok=True)
        if isinstance(lock, FileLock):
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who has it open sees that it is gone
        lock.release()
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _held(folder: Path, record: Path, file: Path) -> str:
    who: dict[str, Any] = {}
    for _ in range(5):  # a holder that has begun this moment has yet to write who it is
        try:
            who = json.loads(record.read_bytes())
            break
        except (OSError, ValueError):
            time.sleep(0.1)
    holder = f"process {who['pid']} on {who['host']}, since {who['since']}" if who else "another process"
    foreign = file.suffix == _MARKER and who.get("host") != platform.node()
    dead = f" (if it is dead, remove {file})" if foreign else ""
    return f"{folder} is in use by {holder}; wait for its end or stop it{dead}, or choose another output folder"
