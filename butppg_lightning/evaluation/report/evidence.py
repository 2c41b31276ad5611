"""What a report is made from, gathered by whoever ran the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.bootstrap import Bands, curve_bands

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.heart_rate import HeartRates
    from butppg_lightning.npz import Array

FEW_SUBJECTS = 10
"""Below so many subjects every interval over them is said to be too narrow."""


@dataclass(frozen=True, eq=False)
class Case:
    """A window that is shown.

    Attributes:
        row: Its row in the file.
        kind: Why it is shown: a key of :data:`~butppg_lightning.evaluation.report.cases.KINDS`.
        probability: Of good, 0..1.
        label: 1 good, 0 poor.
        subject: Whose it is, or empty.
        signals: ``[C, T]`` as the model sees them: filtered and scaled.
        present: ``[C]`` bool.
        pushes: ``[C, seconds]`` by how much each second of each channel raises the logit.
    """

    row: int
    kind: str
    probability: float
    label: int
    subject: str
    signals: Array
    present: Array
    pushes: Array


@dataclass(frozen=True)
class OperatingFigures:
    """What an operating point of the checkpoint does on these windows.

    Attributes:
        name: The point's name.
        threshold: Where it cuts.
        chosen: Whether it is the one that decides the verdicts here.
    """

    name: str
    threshold: float
    chosen: bool


@dataclass(eq=False)
class Evidence:
    """Everything a report tells.

    Attributes:
        probabilities: ``[N]`` of good, 0..1.
        threshold: From here on a window is called good.
        threshold_from: Where the threshold is from, in words.
        metrics: The figures of metrics.json; None where undefined.
        channels: The model's channels.
        labels: ``[N]`` in {0 poor, 1 good}, or None.
        subjects: ``[N]`` names, or None.
        strata: Title to the group of each window ``[N]`` (empty where unknown), in the order to show.
        heart_rates: Errors of the pulse rate, or None.
        history: training_history.json of the run, or None.
        best_epoch: The checkpoint's epoch, from 0, or None.
        cases: Windows to show.
        points: The checkpoint's operating points.
        warnings: What a reader has to know first.
        facts: Key and value of what was evaluated, for the page's foot.
    """

    probabilities: Array
    threshold: float
    threshold_from: str
    metrics: dict[str, Any]
    channels: tuple[str, ...]
    labels: Array | None = None
    subjects: Array | None = None
    strata: dict[str, Array] = field(default_factory=dict)
    heart_rates: HeartRates | None = None
    history: dict[str, list[Any]] | None = None
    best_epoch: int | None = None
    cases: list[Case] = field(default_factory=list)
    points: list[OperatingFigures] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    bands: Bands | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:
            self.bands = curve_bands(self.labels, self.probabilities, self.subjects)

    @property
    def called(self) -> Array:
        """``[N]`` bool: which windows are called good."""
        return np.asarray(self.probabilities >= self.threshold)

    @property
    def both_classes(self) -> bool:
        """Whether there are good and poor windows."""
        return self.labels is not None and 0 < int(self.labels.sum()) < len(self.labels)

    @property
    def subject_count(self) -> int | None:
        """Number of subjects, None if they are not named."""
        return None if self.subjects is None else len(np.unique(self.subjects))
