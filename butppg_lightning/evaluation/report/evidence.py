"""What a report is made from: gathered from the predictions, the windows, the model and the run it is from."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.bootstrap import INTERVALS, bootstrap_intervals, curve_bands
from butppg_lightning.evaluation.metrics import METRICS, compute_metrics
from butppg_lightning.evaluation.prediction_table import ppg_reasons
from butppg_lightning.evaluation.report.groups import strata
from butppg_lightning.evaluation.report.heart_rate import HeartRates, window_heart_rates
from butppg_lightning.files import checksum
from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.npz import read_npz
from butppg_lightning.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.evaluation.report.cases import Case
    from butppg_lightning.models.calibration import OperatingPoint
    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.models.prediction import Predictions
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

FEW_SUBJECTS = 10
"""Below so many subjects every interval over them is said to be too narrow."""
_HISTORY, _TEST_METRICS, _CONFIG = "training_history.json", "test_metrics.json", "training_config.json"


@dataclass(eq=False)
class Evidence:
    """Everything a report says.

    Attributes:
        probabilities: ``[N]`` of good, 0..1.
        threshold: From here on a window is called good.
        threshold_from: Where the threshold is from, in words.
        metrics: Metrics and intervals, the guide's first; None where undefined.
        channels: The model's channels.
        labels: ``[N]`` in {0 poor, 1 good}, or None.
        subjects: ``[N]`` names, or None.
        reasons: ``[N]``, why a window's PPG is not usable, or empty.
        strata: Title to the group of each window ``[N]`` (empty where unknown), in the order to show.
        heart_rates: Errors of the pulse rate, or None.
        history: training_history.json of the run, or None.
        best_epoch: The checkpoint's epoch, from 0, or None.
        cases: Windows to show.
        points: The checkpoint's operating points.
        chosen: Name of the one that decides the verdicts, or None.
        warnings: What a reader has to know first.
        facts: Key and value of what was evaluated, for the page's foot.
        bands: Of the ROC and the precision-recall curve; None where a class is missing.
    """

    probabilities: Array
    threshold: float
    threshold_from: str
    metrics: dict[str, Any]
    channels: tuple[str, ...]
    labels: Array | None = None
    subjects: Array | None = None
    reasons: Array | None = None
    strata: dict[str, Array] = field(default_factory=dict)
    heart_rates: HeartRates | None = None
    history: dict[str, list[Any]] | None = None
    best_epoch: int | None = None
    cases: list[Case] = field(default_factory=list)
    points: list[OperatingPoint] = field(default_factory=list)
    chosen: str | None = None
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    bands: tuple[Array, Array] | None = None

    @property
    def called(self) -> Array:
        """``[N]`` bool: which windows are called good."""
        return np.asarray(self.probabilities >= self.threshold)

    @property
    def both_classes(self) -> bool:
        """Whether there are good and poor windows."""
        return self.labels is not None and 0 < int(self.labels.sum()) < len(self.labels)

    @property
    def one_verdict(self) -> str:
        """The verdict that all windows get, or empty if they get two."""
        return "" if len(np.unique(self.called)) > 1 else "good" if self.called[0] else "poor"

    @property
    def subject_count(self) -> int | None:
        """Number of subjects, None if they are not named."""
        return None if self.subjects is None else len(np.unique(self.subjects))


def gather_evidence(predictions: Predictions, windows: WindowSet, threshold: float, threshold_from: str) -> Evidence:
    """Return what the predictions of a split say: metrics, intervals and bands, groups of windows, heart rates.

    Args:
        predictions: Of all windows.
        windows: The split; labels and subjects may be missing.
        threshold: From here on a window is called good.
        threshold_from: Where the threshold is from, in words.
    """
    labels, subjects, channels = windows.labels, windows.subjects, predictions.channels
    probabilities = predictions.probabilities.astype(np.float64)
    metrics: dict[str, Any] = dict.fromkeys((*METRICS, *INTERVALS))
    bands = None
    if labels is not None:
        metrics |= compute_metrics(labels, probabilities, threshold)
        metrics |= bootstrap_intervals(labels, probabilities, subjects, threshold=threshold)
        bands = curve_bands(labels, probabilities, subjects)
    undefined = {key for key, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)}
    return Evidence(
        probabilities,
        threshold,
        threshold_from,
        metrics | dict.fromkeys(undefined),
        channels,
        labels,
        subjects,
        ppg_reasons(channels, predictions.faults),
        strata(windows),
        window_heart_rates(windows, probabilities),
        bands=bands,
    )


def add_run(
    evidence: Evidence, checkpoint: Path, split: Path, network: QualityNetwork, windows: WindowSet, prior: float | None
) -> None:
    """Add what the checkpoint, the files beside it and the split say: history, warnings and facts.

    Args:
        evidence: To add to.
        checkpoint: What was evaluated.
        split: The file of the windows.
        network: The checkpoint's.
        windows: The split's.
        prior: Share of good windows that was assumed, or None.
    """
    epoch = read_checkpoint(checkpoint).get("epoch")
    evidence.best_epoch = epoch if isinstance(epoch, int) and epoch >= 0 else None
    history = _read_json(checkpoint.parent / _HISTORY)
    if history is not None and all(isinstance(values, list) for values in history.values()):
        evidence.history = history
    evidence.warnings += _flattery(checkpoint, split) + _shared_subjects(split, windows)
    if absent := [name for name in evidence.channels if name not in windows.channels]:
        evidence.warnings.append(f"The file does not have {', '.join(absent)}, which the model takes: it ran without.")
    if not network.calibration.fitted:
        evidence.warnings.append(
            "The checkpoint is not calibrated: probabilities are the plain output of the network, and the threshold is "
            "not fitted to anything. `butppg calibrate` mends that."
        )
    evidence.facts = _facts(checkpoint, split, network, prior)


def cautions(evidence: Evidence) -> list[str]:
    """Return what limits the metrics, in whole sentences: what the windows themselves show, then the warnings."""
    found, people, labels = [], evidence.subject_count, evidence.labels
    if labels is not None and people is None:
        found.append(
            "The file names no subjects. The intervals take windows as independent, which windows of one person are "
            "not: they are too narrow."
        )
    elif labels is not None and people == 1:
        found.append("All windows are of one subject: the intervals say nothing about other people.")
    elif labels is not None and people is not None and people < FEW_SUBJECTS:
        found.append(
            f"There are only {people} subjects. Intervals draw these same {people} people again and again, so they "
            "are too narrow: other people may give quite different metrics."
        )
    if evidence.both_classes and (only := evidence.one_verdict):
        found.append(
            f"At this threshold every window is called {only}. Accuracy is then the share of {only} windows and says "
            "nothing about the model; look at the ROC curve, and calibrate the checkpoint to get a better threshold."
        )
    if evidence.both_classes and labels is not None and evidence.subjects is not None:
        named = np.unique(evidence.subjects)
        single = sum(len(np.unique(labels[evidence.subjects == name])) < 2 for name in named)
        if single:
            found.append(
                f"{single} subject{'' if single == 1 else 's'} of {people} {'has' if single == 1 else 'have'} windows "
                "of one class only: nobody can say how well the model ranks within them."
            )
    unusable = 0 if evidence.reasons is None else int((evidence.reasons != "").sum())
    if unusable:
        found.append(
            f"{unusable:,} window{' has' if unusable == 1 else 's have'} no usable PPG (verdict no_ppg in "
            "predictions.csv); the metrics take the model's probability for them as it is."
        )
    return found + evidence.warnings


def _flattery(checkpoint: Path, split: Path) -> list[str]:
    if split.stem == "train":
        return ["This is the training split: a model knows the windows it was trained on, and the metrics flatter."]
    if split.stem == "val":
        return ["The best epoch, and the calibration if there is one, were chosen on val.npz: the metrics flatter."]
    metrics = _read_json(checkpoint.parent / _TEST_METRICS) or {}
    if split.stem == "test" and metrics.get("selected_on_test") is True:
        return ["The best epoch was chosen on the test split, for want of a val.npz: the metrics flatter."]
    return []


def _shared_subjects(split: Path, windows: WindowSet) -> list[str]:
    train = split.with_name("train.npz")
    if split.stem == "train" or windows.subjects is None or not train.is_file():
        return []
    try:
        subjects = read_npz(train).get("subjects")
    except UserError as error:
        return [f"Whether training and {split.stem} share subjects was not checked: {error}."]
    if subjects is None or subjects.dtype.kind != windows.subjects.dtype.kind:
        return []
    both = np.intersect1d(subjects, windows.subjects)
    if not both.size:
        return []
    return [
        f"{both.size} of the subjects are in train.npz too: the model may know these people, and the metrics flatter."
    ]


def _facts(checkpoint: Path, split: Path, network: QualityNetwork, prior: float | None) -> dict[str, str]:
    trained, calibration = (_read_json(checkpoint.parent / _CONFIG) or {}).get("versions"), network.calibration
    return {
        "checkpoint": f"{checkpoint} (CRC-32 {checksum(checkpoint, checkpoint.stat().st_size):08x})",
        "windows": f"{split} (CRC-32 {checksum(split, split.stat().st_size):08x})",
        "model's channels": ", ".join(network.preprocess.channels),
        "calibrated on": (calibration.source or "unknown") if calibration.fitted else "not calibrated",
        "prior": f"{prior:g}" if prior is not None else "as calibrated" if calibration.fitted else "not calibrated",
        "trained with": ", ".join(f"{key} {value}" for key, value in trained.items())
        if isinstance(trained, dict)
        else "unknown",
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "evaluated with": f"butppg-lightning {__version__}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}",
    }


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        say(f"note: {path} cannot be read and is left out: {error}")
        return None
    return content if isinstance(content, dict) else None
