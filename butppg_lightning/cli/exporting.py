"""What `butppg export` compares and measures its models on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import numpy as np

from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.metrics import auroc
from butppg_lightning.export.onnx_runtime import damaged_copies, open_session, run_onnx
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

SYNTHETIC = 36
"""Windows to make where there are no real ones: batches of 1, 2 and 33."""
_COMPARED = 256
_BATCH = 64
_ROUNDS = 5  # of which the fastest counts: a busy machine only slows down


def serve_windows(path: Path, channels: tuple[str, ...], *, labelled: bool) -> WindowDataset:
    """Read a split and serve its windows with a model's channels.

    Args:
        path: The npz file.
        channels: Those of the model.
        labelled: Whether there must be labels.

    Raises:
        UserError: If the file is missing or malformed, or has none of the channels.
    """
    if not path.is_file():
        raise UserError(f"{path} not found; --data_dir is the folder with train.npz, val.npz or test.npz (--split)")
    windows = read_windows(path, labelled=labelled)
    if not set(channels) & set(windows.channels):
        raise UserError(
            f"{path} has the channels {', '.join(windows.channels)}, but the model wants {', '.join(channels)}"
        )
    return WindowDataset(windows, channels)


def windows_to_compare(served: WindowDataset, channels: tuple[str, ...]) -> tuple[Array, Array]:
    """Return ``signals [N, C, 1250]`` float32 and ``present [N, C]``: windows as served, then damaged copies."""
    batch = served.sample(_COMPARED)
    signals, present = batch["signals"].numpy().astype(np.float32), batch["present"].numpy()
    copies = damaged_copies(signals[:SYNTHETIC], present[:SYNTHETIC], channels)
    return np.concatenate([signals, copies[0]]), np.concatenate([present, copies[1]])


def judge(stored: dict[Path, bytes], served: WindowDataset, labels: Array) -> dict[Path, tuple[float, float, int]]:
    """Measure ONNX models beside each other.

    Args:
        stored: Their files and what is to be in them.
        served: Labelled windows.
        labels: ``[N]``, of both classes.

    Returns:
        Of each model the AUROC, windows per second on this machine, and the size in bytes.
    """
    sessions = {path: open_session(content) for path, content in stored.items()}
    logits: dict[Path, list[Array]] = {path: [] for path in stored}
    fastest = dict.fromkeys(stored, np.inf)
    for start in range(0, len(labels), _BATCH):
        batch = served.fetch(np.arange(start, min(start + _BATCH, len(labels))))
        signals, present = batch["signals"].numpy(), batch["present"].numpy()
        for _ in range(_ROUNDS if start == 0 else 1):  # in turn, so that what else runs slows down both
            for path, session in sessions.items():
                begin = time.perf_counter()
                run_onnx(session, signals, present)
                fastest[path] = min(fastest[path], (time.perf_counter() - begin) / len(signals))
        for path, session in sessions.items():
            logits[path].append(run_onnx(session, signals, present)[1])
    areas = {path: cast("float", auroc(labels, np.concatenate(parts))) for path, parts in logits.items()}
    return {path: (areas[path], 1 / fastest[path], len(content)) for path, content in stored.items()}
