"""A sweep's folder: what it holds, whose it is, and how it is emptied."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any

from butppg_lightning.cli.sweep.liveness import MARK, Watch
from butppg_lightning.data.feature_files import remove_features
from butppg_lightning.errors import UserError
from butppg_lightning.files import require_writable, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.cli.sweep.plan import Plan

JOURNAL, RECORD, TRIALS, CACHE = "study.journal", "sweep.json", "trials", "cache"
OUTPUTS = ("trials.csv", "best.yaml", "history.png", "importance.png")


def trial_folder(folder: Path, number: int) -> Path:
    """Return the folder of a trial."""
    return folder / TRIALS / f"{number:04d}"


def claim_folder(plan: Plan, shared: dict[str, Any], folder: Path) -> None:
    """Write down what the sweep is, or prove that it is the one the folder holds.

    Args:
        plan: The sweep.
        shared: What all trials share; see :func:`~butppg_lightning.cli.sweep.checking.binding`.
        folder: Its folder.

    Raises:
        UserError: If the folder holds another sweep.
    """
    record = {"id": uuid.uuid4().hex, **plan.identity(), "config": shared}
    path = require_writable(folder) / RECORD
    if not path.exists():
        own = folder / f".{RECORD}.{uuid.uuid4().hex}"
        write_json(own, record)
        try:
            os.link(own, path)  # of several workers that begin at once, one
        except FileExistsError:
            pass
        except OSError:  # a disk without links
            own.replace(path)
        finally:
            own.unlink(missing_ok=True)
    stored = json.loads(path.read_text(encoding="utf-8"))
    # through JSON, as the stored one
    for key, before, now in _differences(stored, json.loads(json.dumps(record))):
        raise UserError(
            f"{folder} holds a sweep whose {key} is {before}, {plan.source} or the command line now says {now}; take "
            "that back, choose another --output_dir, or replace the sweep with --overwrite (more trials are welcome)"
        )


def remove_sweep(folder: Path) -> None:
    """Remove the sweep that a folder holds, and nothing else there.

    Raises:
        UserError: If a worker is still at it.
    """
    busy = [mark.parent for mark in (folder / TRIALS).glob(f"*/{MARK}") if not Watch().is_lost(mark.parent)]
    if busy:
        raise UserError(f"--overwrite: {busy[0]} is still being worked on; stop that worker first")
    for name in (JOURNAL, f"{JOURNAL}.lock", RECORD, *OUTPUTS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TRIALS, ignore_errors=True)
    remove_features(folder / CACHE)


def sweep_id(folder: Path) -> str:
    """Return what tells the sweep of a folder from every other."""
    content: dict[str, str] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return content["id"]


def _differences(stored: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    found = []
    for group in ("parameters", "config"):
        before, after = stored.get(group, {}), now[group]
        for key in {**before, **after}:
            if before.get(key) != after.get(key):
                found.append((key, before.get(key, "not set"), after.get(key, "not set")))
    found += [(key, stored.get(key), now[key]) for key in now if key not in ("id", "parameters", "config")
              and stored.get(key) != now[key]]  # fmt: skip
    return found
