"""From what code and which data a run was made, so that a figure can be traced."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback

from butppg_lightning.data.store import STORE_SUFFIX
from butppg_lightning.data.store.layout import MANIFEST
from butppg_lightning.errors import UserError
from butppg_lightning.files import checksum

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

DATA_FILES = "data_files"
"""Key of a run's configuration that holds the files it was trained and tested on."""

_PACKAGE = Path(__file__).resolve().parents[1]
_SECONDS = 10  # git on a slow shared disk must not keep a run from starting

DataFile = dict[str, Any]


class DataRecord(Callback):
    """Notes which data a run uses, and refuses to continue it on others.

    A split is known by its file's size and CRC-32 (the one that `butppg evaluate` tells of what it scored); a store by
    those of its manifest, which holds the checksums of all its files. The run's ``config`` gets the files under
    ``data_files``.
    """

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root, self.config = root, config
        self.files: dict[str, DataFile] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the files; the data module has read them by now."""
        if stage == "fit":
            self.files = data_files(self.root)
            self.config[DATA_FILES] = self.files

    def state_dict(self) -> dict[str, Any]:
        """Return the files."""
        return {"files": self.files}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the files with those that the checkpoint's run used; a split for testing may come or go."""
        if not self.files:  # validate, test, predict
            return
        stored = state_dict["files"]
        for name in dict.fromkeys([*stored, *self.files]):
            before, now = stored.get(name), self.files.get(name)
            if before == now or (name == "test" and (before is None or now is None)):
                continue
            raise UserError(
                f"{self.root / (now or before)['file']} {_difference(before, now)} since the run to be continued "
                "began; put the old file back, or begin a new run in another --output_dir"
            )
        # a resumed run stays the one that it was, but for a split that came after it
        self.files = {**self.files, **stored}


def data_files(root: Path) -> dict[str, DataFile]:
    """Return, by split, the name, size in bytes and CRC-32 (8 hexadecimal digits) of the data files of a folder."""
    found: dict[str, DataFile] = {}
    for split in ("train", "val", "test"):
        stems = (split, f"{split}_windows")
        names = [f"{stem}{end}" for stem in stems for end in (".npz", f"{STORE_SUFFIX}/{MANIFEST}")]
        if name := next((name for name in names if (root / name).is_file()), None):
            size = (root / name).stat().st_size
            found[split] = {"file": name, "bytes": size, "crc32": f"{checksum(root / name, size):08x}"}
    return found


def versions() -> dict[str, Any]:
    """Return the versions that a run is made with.

    Where the package is in a git repository, or else the working directory: also the ``commit``, ``commit_of`` (which
    of the two) and ``uncommitted_changes``.
    """
    found: dict[str, Any] = {
        "butppg_lightning": version("butppg_lightning"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "numpy")},
    }
    # an installed package may lie inside the repository of a project that merely uses it: then it is not tracked there
    if _git(_PACKAGE, "ls-files", "--error-unmatch", "__init__.py") is not None:
        return found | _commit(_PACKAGE, "butppg_lightning")
    return found | _commit(Path.cwd(), "working directory")


def _commit(folder: Path, of: str) -> dict[str, Any]:
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "commit_of": of, "uncommitted_changes": None if changes is None else bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints; None without git, without a repository, or where git refuses it."""
    # a run only looks: it takes no lock that somebody's own git command would stumble over
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.check_output(command, env=environment, stderr=subprocess.DEVNULL, text=True, timeout=_SECONDS)
        return done.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _difference(before: DataFile | None, now: DataFile | None) -> str:
    if before is None:
        return "has appeared"
    if now is None:
        return "has gone"
    if before["file"] != now["file"]:
        return f"has replaced {before['file']}"
    return f"has changed (CRC-32 {now['crc32']}, was {before['crc32']})"
