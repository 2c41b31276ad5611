"""What every rival can do, and what several of them need."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_BATCH = 512


class Rival(Protocol):
    """A method that ranks windows by quality.

    Attributes:
        name: Key in the table of results.
        description: One line for its reader.
    """

    name: str
    description: str

    def fit(self, train: WindowSet) -> Self:
        """Fit on labelled windows and return the rival.

        Raises:
            UserError: If the windows lack labels, one of the classes, or a channel that is needed.
        """
        ...

    def score(self, windows: WindowSet) -> Array:
        """Return ``[N]`` float64, finite, higher for better quality; windows without usable PPG are lowest.

        Raises:
            UserError: If PPG is not among the channels.
        """
        ...


def require(module: str) -> Any:
    """Import a module of the extra ``evaluation``.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = {"sklearn": "scikit-learn"}.get(module.split(".")[0], module.split(".")[0])
        raise UserError(f"this rival needs {package}; pip install 'butppg-lightning[evaluation]'") from None


def ppg_of(windows: WindowSet) -> Array:
    """Return the raw PPG ``[N, 1250]``.

    Raises:
        UserError: If PPG is not among the channels.
    """
    return np.asarray(windows.signals[:, _ppg_row(windows)], dtype=np.float64)


def labels_of(train: WindowSet) -> Array:
    """Return the labels ``[N]`` of training windows.

    Raises:
        UserError: If there are none, or all are of one class.
    """
    if train.labels is None:
        raise UserError("a rival is fitted on labelled windows, but these have no labels; add labels to the npz file")
    if len(np.unique(train.labels)) < 2:
        raise UserError("the training windows are all of one class; a rival needs good and poor ones")
    return train.labels


def usable_ppg(windows: WindowSet) -> Array:
    """Return ``[N]`` bool: windows whose PPG is there and neither flat nor railed.

    Raises:
        UserError: If PPG is not among the channels.
    """
    return usable_channels(windows)[:, _ppg_row(windows)]


def usable_channels(windows: WindowSet) -> Array:
    """Return ``[N, C]`` bool: channels that are there and neither flat nor railed."""
    import torch

    from butppg_lightning.models.usable_channels import channel_faults

    parts = [
        channel_faults(torch.from_numpy(chunk), windows.channels).numpy() == 0 for _, chunk in _chunks(windows.signals)
    ]
    sound = np.concatenate(parts) if parts else np.empty(windows.signals.shape[:2], dtype=bool)
    return sound if windows.present is None else sound & windows.present


def index_columns(windows: WindowSet, names: Sequence[str]) -> Array:
    """Return the signal indices ``[N, len(names)]`` float64 of windows, 0 where a channel is not usable.

    Raises:
        UserError: If PPG is not among the channels.
    """
    import torch

    from butppg_lightning.models.indices.signal_indices import GROUPS, SignalIndices

    _ppg_row(windows)
    groups = [group for group, members in GROUPS.items() if set(members) & set(names)]
    indices = SignalIndices(windows.channels, groups)
    columns = [indices.names.index(name) for name in names]
    present = usable_channels(windows)
    found = [np.empty((0, len(names)))]
    for rows, chunk in _chunks(windows.signals):
        values = indices(torch.from_numpy(chunk), torch.from_numpy(present[rows]))
        found.append(values[:, columns].double().numpy())
    return np.concatenate(found)


def _ppg_row(windows: WindowSet) -> int:
    if "PPG" not in windows.channels:
        raise UserError(f"these windows have no PPG, only {', '.join(windows.channels)}; a rival judges the PPG")
    return windows.channels.index("PPG")


def _chunks(signals: Array) -> list[tuple[slice, Array]]:
    starts = range(0, len(signals), _BATCH)
    slices = [slice(start, start + _BATCH) for start in starts]
    # a copy: torch cannot look at read-only memory, which is what a memory-mapped file is
    return [(rows, np.array(signals[rows], dtype=np.float32)) for rows in slices]
