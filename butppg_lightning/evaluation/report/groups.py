"""Groups of windows: by subject, by what the file says of the recording, and by how much the sensor moved."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.evaluation.bootstrap import bootstrap_intervals
from butppg_lightning.evaluation.ranking import auroc
from butppg_lightning.evaluation.reliability import wilson

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_TITLES = {"motion": "Motion", "site": "Site", "sex": "Sex", "device": "Device", "rhythm": "Rhythm", "fault": "Fault"}
_MOST_GROUPS = 12
_AGES = (30, 45, 60)
_BUT_PPG_MOTION = {"0": "0 (at rest)"}
_MOVEMENT = ("still", "some motion", "most motion")
_CHUNK = 1024
_RESAMPLES = 400
FEWEST = 5
"""With fewer good or poor windows no interval is given; with fewer subjects it is one over windows."""


def strata(windows: WindowSet) -> dict[str, Array]:
    """Return the groupings a file supports.

    Motion, site, sex, device, rhythm and fault where the file holds such arrays, age in bands, and thirds of the
    acceleration's motion where acceleration was recorded. A grouping with one group says nothing and is left out.

    Args:
        windows: The windows with their ``extras``.

    Returns:
        Title to group names ``[N]``, empty where the group is unknown.
    """
    found: dict[str, Array] = {}
    for key, title in _TITLES.items():
        values = windows.extras.get(key)
        if values is not None and values.shape == (len(windows),) and values.dtype.kind in "Uiub":
            words = values.astype(str)
            if key == "motion":
                words = np.array([_BUT_PPG_MOTION.get(str(word), str(word)) for word in words])
            found[title] = words
    ages = windows.extras.get("age")
    if ages is not None and ages.shape == (len(windows),) and ages.dtype.kind in "iuf":
        found["Age"] = _age_bands(ages.astype(np.float64))
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
    groups = np.array(_MOVEMENT)[np.searchsorted(edges, energy)]
    return np.where(known, groups, "")


@dataclass(frozen=True)
class Group:
    """How the model does on some of the windows.

    Attributes:
        name: Of the group.
        windows: How many.
        subjects: Of how many subjects, None if unknown.
        good: Share of good windows, 0..1.
        accuracy: Share called right, 0..1.
        accuracy_interval: Its 95 % interval, which takes the windows as independent (Wilson).
        auroc: None with a single class.
        auroc_interval: 95 %; over subjects where there are at least :data:`FEWEST`, else over windows. None with
            fewer than :data:`FEWEST` windows of a class, where resampling says nothing, and where all resamples agree.
    """

    name: str
    windows: int
    subjects: int | None
    good: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    auroc: float | None
    auroc_interval: tuple[float, float] | None

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
    """Return the figures of each group, in the order of motion or of the alphabet.

    Args:
        groups: ``[N]`` names; windows of the empty name are left out.
        labels: ``[N]`` in {0, 1}.
        probabilities: ``[N]``.
        subjects: ``[N]`` or None.
        threshold: At or above it a window is called good.
    """
    found = []
    for name in sorted(set(groups.tolist()) - {""}, key=_place):
        rows = groups == name
        good, scores = labels[rows], probabilities[rows]
        people = None if subjects is None else subjects[rows]
        accuracy = float(((scores >= threshold) == (good == 1)).mean())
        low, high = wilson(np.array(accuracy), np.array(len(good)))
        found.append(
            Group(
                name=str(name),
                windows=len(good),
                subjects=None if people is None else len(np.unique(people)),
                good=float(good.mean()),
                accuracy=accuracy,
                accuracy_interval=(float(low), float(high)),
                auroc=auroc(good, scores),
                auroc_interval=_interval(good, scores, people),
            )
        )
    return found


def _interval(labels: Array, probabilities: Array, subjects: Array | None) -> tuple[float, float] | None:
    if min(int(labels.sum()), int((1 - labels).sum())) < FEWEST:
        return None
    few = subjects is None or len(np.unique(subjects)) < FEWEST
    drawn = bootstrap_intervals(labels, probabilities, None if few else subjects, resamples=_RESAMPLES)
    found = drawn["auroc_ci95"]
    # where nothing is ranked wrongly, no resample can be worse: that is not certainty
    return None if found is None or found[0] == found[1] else (found[0], found[1])


def _place(name: str) -> tuple[int, str]:
    # as text, "under 30" would come last and "most motion" before "still"
    return (_MOVEMENT.index(name) if name in _MOVEMENT else int(not name.startswith("under ")), name)


def _age_bands(ages: Array) -> Array:
    names = [f"under {_AGES[0]}"]
    names += [f"{low} to {high - 1}" for low, high in pairwise(_AGES)]
    names.append(f"{_AGES[-1]} and over")
    bands = np.array(names)[np.searchsorted(_AGES, np.nan_to_num(ages), side="right")]
    return np.where(np.isfinite(ages), bands, "")
