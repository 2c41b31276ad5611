"""Writing synthetic windows as the files that training reads: split by subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.files import require_writable
from butppg_lightning.sources.splits import SplitSummary
from butppg_lightning.sources.synthetic.generate import check_request, synthesize

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.subjects import Layout
    from butppg_lightning.window import WindowSet

SPLIT_FILES: dict[Layout, dict[str, str]] = {
    "but_ppg": {"train": "train.npz", "val": "val.npz", "test": "test.npz"},
    "vitaldb": {"train": "train_windows.npz", "val": "val_windows.npz"},
}
"""File of every split, by layout."""

_HELD_OUT_SHARE = 0.15  # of the subjects, for val and for test
_SHUFFLES = 64  # splits tried; the one whose shares of good windows differ least is taken


def write_mock(
    output: Path,
    samples: int,
    *,
    seed: int,
    layout: Layout = "but_ppg",
    good_share: float = 0.21,
    progress: bool = False,
) -> dict[str, SplitSummary]:
    """Write synthetic splits: about 70/15/15 % of the windows, no subject in two of them.

    Args:
        output: Folder; existing split files in it are replaced.
        samples: Number of windows of all splits together.
        seed: Seed of at least 0; the same arguments write the same files, bit for bit.
        layout: ``but_ppg``: train.npz, val.npz, test.npz, each with both labels. ``vitaldb``: train_windows.npz and
            val_windows.npz (85/15 %), unlabelled.
        good_share: Share of good windows (but_ppg only), 0.05 to 0.95.
        progress: Whether to show a progress bar on stderr (only if that is a terminal).

    Returns:
        What was written, by split.

    Raises:
        UserError: If there are too few samples for the splits, an argument is out of range, or the folder cannot
            be written.
    """
    check_request(samples, seed, good_share)
    least = minimum_samples(layout, good_share)
    if samples < least:
        reason = "two disjoint splits" if layout == "vitaldb" else f"both labels in every split at {good_share:g} good"
        raise UserError(f"{samples} samples are too few for {reason}; the minimum is {least}")
    require_writable(output)
    windows = synthesize(samples, seed=seed, layout=layout, good_share=good_share, progress=progress)
    split_of_window = _split_by_subject(windows, tuple(SPLIT_FILES[layout]), seed)
    written = {}
    for split, name in SPLIT_FILES[layout].items():
        part = windows.take(np.flatnonzero(split_of_window == split))
        part.save(output / name)
        written[split] = SplitSummary.of(part)
    return written


def minimum_samples(layout: Layout, good_share: float) -> int:
    """Fewest windows :func:`write_mock` can split.

    Examples:
        >>> minimum_samples("but_ppg", 0.21), minimum_samples("vitaldb", 0.21)
        (12, 2)
    """
    splits = len(SPLIT_FILES[layout])
    if layout == "vitaldb":
        return splits
    # one good and one poor window for each split; every split has subjects of its own, every subject both labels
    return next(n for n in range(2 * splits, 10**6) if splits <= round(n * good_share) <= n - splits)


def _split_by_subject(windows: WindowSet, splits: tuple[str, ...], seed: int) -> Array:
    """Name the split of every window ``[N]``."""
    _, owner = np.unique(np.asarray(windows.subjects), return_inverse=True)
    count = int(owner.max()) + 1
    held_out = max(1, round(_HELD_OUT_SHARE * count))
    slots = np.array([split for split in splits[1:] for _ in range(held_out)])
    slots = np.concatenate([np.full(count - slots.size, splits[0]), slots])
    rng = np.random.default_rng(seed)
    candidates = [rng.permutation(slots)[owner] for _ in range(_SHUFFLES)]
    if windows.labels is None:
        return np.asarray(candidates[0])
    labels = windows.labels
    uneven = [np.ptp([labels[candidate == split].mean() for split in splits]) for candidate in candidates]
    return np.asarray(candidates[int(np.argmin(uneven))])
