"""What a report is made from: gathered from the predictions, the windows, the model and the run it is from."""

from __future__ import annotations

import json
import math
import platform
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.bootstrap import INTERVALS, bootstrap_intervals
from butppg_lightning.evaluation.metrics import METRICS, compute_metrics
from butppg_lightning.evaluation.prediction_table import ppg_reasons
from butppg_lightning.evaluation.report.groups import strata
from butppg_lightning.evaluation.report.heart_rate import window_heart_rates
from butppg_lightning.files import checksum
from butppg_lightning.models.about import ABOUT_KEY, identity, in_words
from butppg_lightning.models.calibration import OPERATING_POINTS
from butppg_lightning.models.checkpoints import read_stored
from butppg_lightning.models.training_range import INSIDE
from butppg_lightning.npz import read_npz
from butppg_lightning.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.evaluation.report.cases import Case
    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.models.prediction import Predictions
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_FEW_SUBJECTS = 10  # below so many, intervals over them are said to be too narrow
_HISTORY, _TEST_METRICS, _CONFIG = "training_history.json", "test_metrics.json", "training_config.json"
_FLATTERY = {
    "train": "This is the training split: a model knows the windows it was trained on, and the metrics flatter.",
    "val": "The best epoch, and the calibration if there is one, were chosen on val.npz: the metrics flatter.",
    "test": "The best epoch was chosen on the test split, for want of a val.npz: the metrics flatter.",
}
_UNCALIBRATED = (
    "The checkpoint is not calibrated: probabilities are the plain output of the network, and the threshold is not "
    "fitted to anything. `butppg calibrate` mends that."
)


class Evidence:
    """Everything a report says: of the predictions of a split, the checkpoint, and the files beside it.

    Args:
        predictions: Of all windows.
        windows: The split; labels and subjects may be missing.
        network: The checkpoint's.
        checkpoint: What was evaluated.
        split: The file of the windows.
        decision: From which probability on a window is called good, and in words where that is from.
        prior: Share of good windows that was assumed, or None.
    """

    def __init__(
        self,
        predictions: Predictions,
        windows: WindowSet,
        network: QualityNetwork,
        *,
        checkpoint: Path,
        split: Path,
        decision: tuple[float, str],
        prior: float | None,
    ) -> None:
        self.threshold, self.threshold_from = decision
        self.labels, self.subjects, self.channels = windows.labels, windows.subjects, predictions.channels
        self.probabilities: Array = predictions.probabilities.astype(np.float64)
        self.metrics: dict[str, Any] = dict.fromkeys((*METRICS, *INTERVALS))  # None where undefined
        if (labels := self.labels) is not None:
            found = compute_metrics(labels, self.probabilities, self.threshold)
            self.metrics |= {key: value for key, value in found.items() if value is not None and math.isfinite(value)}
            self.metrics |= bootstrap_intervals(labels, self.probabilities, self.subjects, threshold=self.threshold)
        self.reasons = ppg_reasons(self.channels, predictions.faults)  # [N], empty where the PPG is usable
        self.strata = strata(windows)  # title to the group of each window [N], in the order to show
        self.heart_rates = window_heart_rates(windows, self.probabilities)
        self.outside = predictions.outside(self.threshold)
        calibration = network.calibration
        self.points = [calibration.point(name, prior) for name in OPERATING_POINTS] if calibration.curve else []
        history = _read_json(checkpoint.parent / _HISTORY)
        self.history = history if all(isinstance(values, list) for values in history.values()) else {}
        content = read_stored(checkpoint)
        epoch = content.get("epoch")
        self.best_epoch = epoch if isinstance(epoch, int) and epoch >= 0 else None  # from 0
        self.warnings = _warnings(checkpoint, split, network, windows)
        # of what was evaluated, for the page's foot
        self.facts = _said_of(content) | _facts(checkpoint, split, network, prior)
        if self.outside is not None and self.outside.share is not None:
            self.facts["unlike training"] = (
                f"{self.outside.share:.1%} of the windows, of those trained on {1 - INSIDE:.0%}"
            )
        self.cases: list[Case] = []

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

    def cautions(self) -> list[str]:
        """Return what limits the metrics, in whole sentences: what the windows themselves show, then the warnings."""
        found, people, labels = [], self.subject_count, self.labels
        if labels is not None and people is None:
            found.append(
                "The file names no subjects. The intervals take windows as independent, which windows of one person "
                "are not: they are too narrow."
            )
        elif labels is not None and people == 1:
            found.append("All windows are of one subject: the intervals say nothing about other people.")
        elif labels is not None and people is not None and people < _FEW_SUBJECTS:
            found.append(
                f"There are only {people} subjects. Intervals draw these same {people} people again and again, so "
                "they are too narrow: other people may give quite different metrics."
            )
        if self.both_classes and (only := self.one_verdict):
            found.append(
                f"At this threshold every window is called {only}. Accuracy is then the share of {only} windows and "
                "says nothing about the model; look at the ROC curve, and calibrate the checkpoint to get a better "
                "threshold."
            )
        if self.both_classes and labels is not None and self.subjects is not None:
            classes = [len(np.unique(labels[self.subjects == name])) for name in np.unique(self.subjects)]
            if single := classes.count(1):
                found.append(
                    f"{single} {'subject' if single == 1 else 'subjects'} of {people} "
                    f"{'has' if single == 1 else 'have'} windows of one class only: nobody can say how well the model "
                    "ranks within them."
                )
        if unusable := int((self.reasons != "").sum()):
            found.append(
                f"{unusable:,} {'window has' if unusable == 1 else 'windows have'} no usable PPG (verdict no_ppg in "
                "predictions.csv); the metrics take the model's probability for them as it is."
            )
        if self.outside is not None and (caution := self.outside.caution()):
            found.append(f"{caution}.")
        return found + self.warnings


def _warnings(checkpoint: Path, split: Path, network: QualityNetwork, windows: WindowSet) -> list[str]:
    selected = split.stem != "test" or _read_json(checkpoint.parent / _TEST_METRICS).get("selected_on_test") is True
    found = [_FLATTERY[split.stem]] if selected else []
    found += _shared_subjects(split, windows)
    if absent := [name for name in network.channels if name not in windows.channels]:
        found.append(f"The file does not have {', '.join(absent)}, which the model takes: it ran without.")
    if not network.calibration.fitted:
        found.append(_UNCALIBRATED)
    return found


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
    both = len(np.intersect1d(subjects, windows.subjects))
    message = f"{both} of the subjects are in train.npz too: the model may know these people, and the metrics flatter."
    return [message] if both else []


def _said_of(content: dict[str, Any]) -> dict[str, str]:
    """Return what an exported model's makers say of it."""
    if not (known := identity(content)):
        return {}
    lists = {"never shown in training": "never_shown", "known failures": "failures"}
    listed = {title: " ".join(content[ABOUT_KEY].get(key, [])) for title, key in lists.items()}
    return {"model": in_words(known), **{title: text for title, text in listed.items() if text}}


def _facts(checkpoint: Path, split: Path, network: QualityNetwork, prior: float | None) -> dict[str, str]:
    versions, calibration = _read_json(checkpoint.parent / _CONFIG).get("versions"), network.calibration
    versions = versions if isinstance(versions, dict) else {}
    return {
        "checkpoint": f"{checkpoint} (CRC-32 {checksum(checkpoint, checkpoint.stat().st_size):08x})",
        "windows": f"{split} (CRC-32 {checksum(split, split.stat().st_size):08x})",
        "model's channels": ", ".join(network.preprocess.channels),
        "calibrated on": (calibration.source or "unknown") if calibration.fitted else "not calibrated",
        "prior": f"{prior:g}" if prior is not None else "as calibrated" if calibration.fitted else "not calibrated",
        "trained with": ", ".join(f"{key} {value}" for key, value in versions.items()) or "unknown",
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "evaluated with": f"butppg-lightning {__version__}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}",
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError) as error:
        say(f"note: {path} cannot be read and is left out: {error}")
        return {}
    return content if isinstance(content, dict) else {}
