"""Groups of windows: by subject, by what the file says of the recording, and by how much the sensor moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from butppg_lightning.evaluation.bootstrap import auroc, bootstrap_intervals
from butppg_lightning.evaluation.reliability import wilson

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_TITLES = {"motion": "Motion", "site": "Site", "sex": "Sex", "device": "Device", "rhythm": "Rhythm", "fault": "Fault"}
_MOST_GROUPS = 12
_AGES, _AGE_BANDS = (30, 45, 60), ("under 30", "30 to 44", "45 to 59", "60 and over")
_MOVEMENT = ("still", "some motion", "most motion")
_ORDER = (*_MOVEMENT, *_AGE_BANDS)  # as text, "under 30" would come last and "most motion" before "still"
_CHUNK = 1024
_RESAMPLES = 400
FEWEST = 5
"""With fewer good or poor windows no interval is given; with fewer subjects it is one over windows."""


def strata(windows: WindowSet) -> dict[str, Array]:
    """Return the groupings a file supports, title to group names ``[N]``, empty where the group is unknown.

    Motion, site, sex, device, rhythm and fault where the file holds such arrays, age in bands, and thirds of the
    acceleration's motion where acceleration was recorded. A grouping with one group says nothing and is left out.
    """
    arrays = {key: values for key, values in windows.extras.items() if values.shape == (len(windows),)}
    found: dict[str, Array] = {}
    for key, title in _TITLES.items():
        if key in arrays and arrays[key].dtype.kind in "Uiub":
            names = arrays[key].astype(str)
            found[title] = np.where(names == "0", "0 (at rest)", names) if key == "motion" else names
    if "age" in arrays and arrays["age"].dtype.kind in "iuf":
        ages = arrays["age"].astype(np.float64)
        bands = np.array(_AGE_BANDS)[np.searchsorted(_AGES, np.nan_to_num(ages), side="right")]
        found["Age"] = np.where(np.isfinite(ages), bands, "")
    moved = motion_thirds(windows)
    if moved is not None:
        found["Acceleration"] = moved
    return {title: groups for title, groups in found.items() if 1 < len(set(groups) - {""}) <= _MOST_GROUPS}


def motion_thirds(windows: WindowSet) -> Array | None:
    """Return the third of the motion energy each window belongs to ``[N]``, empty where acceleration is absent.

    The energy is the variance of the three axes, summed: gravity, which does not vary at rest, drops out.
    """
    axes = [column for column, name in enumerate(windows.channels) if name.startswith("ACC")]
    if not axes:
        return None
    energy = np.concatenate(
        [
            np.asarray(windows.signals[start : start + _CHUNK][:, axes], dtype=np.float64).var(axis=2).sum(axis=1)
            for start in range(0, len(windows), _CHUNK)
        ]
    )
    known = np.ones(len(windows), dtype=bool) if windows.present is None else windows.present[:, axes].all(axis=1)
    if not known.any() or np.ptp(energy[known]) == 0:
        return None
    edges = np.percentile(energy[known], [100 / 3, 200 / 3])
    return np.where(known, np.array(_MOVEMENT)[np.searchsorted(edges, energy)], "")


class Group(NamedTuple):
    """How the model does on some of the windows.

    The AUROC's interval is over subjects where there are at least :data:`FEWEST`, else over windows; None with fewer
    than :data:`FEWEST` windows of a class, where resampling says nothing, and where all resamples agree.
    """

    name: str
    windows: int
    subjects: int | None  # None if unknown
    good: float  # share, 0..1
    accuracy: float  # share called right, 0..1
    accuracy_interval: tuple[float, float]  # 95 %, takes the windows as independent (Wilson)
    auroc: float | None  # None with a single class
    auroc_interval: tuple[float, float] | None  # 95 %

    @property
    def majority(self) -> float:
        """What always giving the commoner answer would get right, 0..1."""
        return max(self.good, 1 - self.good)

    @property
    def beats_majority(self) -> bool:
        """Whether more is called right than by always giving the commoner answer."""
        return self.accuracy > self.majority


def describe_groups(
    groups: Array, labels: Array, probabilities: Array, subjects: Array | None, threshold: float
) -> list[Group]:
    """Describe each group of windows (names ``[N]``, or empty), in the order of motion, age or the alphabet."""
    found = []
    for name in sorted(set(groups.tolist()) - {""}, key=lambda name: (name in _ORDER and _ORDER.index(name), name)):
        rows = groups == name
        good, scores = labels[rows], probabilities[rows]
        people = None if subjects is None else subjects[rows]
        count = None if people is None else len(np.unique(people))
        accuracy = float(((scores >= threshold) == (good == 1)).mean())
        low, high = wilson(np.array(accuracy), np.array(len(good)))
        interval = None
        if min(int(good.sum()), int((1 - good).sum())) >= FEWEST:
            drawn_by = people if count is not None and count >= FEWEST else None
            interval = bootstrap_intervals(good, scores, drawn_by, resamples=_RESAMPLES)["auroc_ci95"]
        # where nothing is ranked wrongly, no resample can be worse: that is not certainty
        known = None if interval is None or interval[0] == interval[1] else (interval[0], interval[1])
        within = (float(low), float(high))
        found.append(
            Group(str(name), len(good), count, float(good.mean()), accuracy, within, auroc(good, scores), known)
        )
    return found
