"""Held-out windows as other devices would have recorded them, to score them by a method that was trained without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.window import WindowSet

if TYPE_CHECKING:
    from butppg_lightning.npz import Array


def conditions_of(windows: WindowSet) -> list[str]:
    """Return the names of the conditions that make a difference to windows with these channels."""
    return [name for name in CONDITIONS if name == TURNED or (name != ALONE and len(_axes(windows)))]


def changed(windows: WindowSet, condition: str, people: list[str]) -> WindowSet:
    """Return windows under a condition; ``people`` are all of the data set, so that folds agree on who is whom."""
    known = {name: number for number, name in enumerate(people)}
    numbers = np.array([known.get(str(name), -1) for name in np.asarray(windows.subjects)])
    # the indices known are of the windows as recorded
    kept = {key: value for key, value in windows.extras.items() if key != INDICES}
    return CONDITIONS[condition](replace(windows, extras=kept), numbers)


def _turned(windows: WindowSet, numbers: Array) -> WindowSet:
    """Turn every other person's PPG over, about each window's median."""
    signals, column = np.array(windows.signals, dtype=np.float32), windows.channels.index("PPG")
    rows = numbers % 2 == 0
    middle = np.median(signals[rows, column], axis=1, keepdims=True)
    signals[rows, column] = 2 * middle - signals[rows, column]
    return replace(windows, signals=signals)


def _rotated(windows: WindowSet, numbers: Array) -> WindowSet:
    """Mount every person's accelerometer in another way: axes rotated, and mirrored in about every second one."""
    signals, axes = np.array(windows.signals, dtype=np.float32), _axes(windows)
    for number in np.unique(numbers):
        generator, rows = np.random.default_rng([7, number]), np.flatnonzero(numbers == number)
        mounting = np.linalg.qr(generator.normal(size=(len(axes), len(axes))))[0].astype(np.float32)
        mounting *= generator.choice([-1, 1], len(axes))  # the signs of qr alone are not random
        signals[rows[:, None], axes] = mounting @ signals[rows[:, None], axes]
    return replace(windows, signals=signals)


def _without_acc(windows: WindowSet, numbers: Array) -> WindowSet:
    """Say that no acceleration was recorded."""
    signals, axes = np.array(windows.signals, dtype=np.float32), _axes(windows)
    present = np.ones(signals.shape[:2], dtype=bool) if windows.present is None else windows.present.copy()
    signals[:, axes], present[:, axes] = 0, False
    return replace(windows, signals=signals, present=present)


def _ppg_alone(windows: WindowSet, numbers: Array) -> WindowSet:
    """Keep the PPG and nothing else."""
    columns = [windows.channels.index("PPG")]
    present = None if windows.present is None else windows.present[:, columns]
    return replace(windows, signals=windows.signals[:, columns], channels=("PPG",), present=present)


def _axes(windows: WindowSet) -> Array:
    return np.flatnonzero([name.startswith("ACC") for name in windows.channels])


INDICES = "signal_indices"
"""Array of a window set: all of its signal indices ``[N, K]``, computed beforehand."""
ALONE = "PPG alone"
"""How windows of other people are scored; never one of the conditions of those who are held out."""
TURNED = "every other person's PPG turned over"
CONDITIONS: dict[str, Callable[[WindowSet, Array], WindowSet]] = {
    TURNED: _turned,
    "accelerometer mounted otherwise": _rotated,
    "no acceleration": _without_acc,
    ALONE: _ppg_alone,
}
"""Name to what changes windows ``[N]`` of people with the numbers ``[N]``."""
