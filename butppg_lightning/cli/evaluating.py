"""What `butppg evaluate` gathers for its report: from the model, the windows and the run the checkpoint is from."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from butppg_lightning.console import progress_bar, say
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.report.cases import choose_cases, occlusion
from butppg_lightning.evaluation.report.evidence import Case, OperatingFigures
from butppg_lightning.evaluation.report.heart_rate import HeartRates, match_heart_rates, pulse_rates
from butppg_lightning.files import checksum
from butppg_lightning.models.calibration import OPERATING_POINTS
from butppg_lightning.models.checkpoints.torch_file import read_checkpoint
from butppg_lightning.models.prediction import predict_windows
from butppg_lightning.npz import read_npz
from butppg_lightning.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.models.network import Prepared, QualityNetwork
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_HISTORY, _TEST_METRICS, _CONFIG = "training_history.json", "test_metrics.json", "training_config.json"
_SECONDS = 10  # pieces per channel that are blanked out, of a window of ten seconds


def score_split(network: QualityNetwork, served: WindowDataset, batch_size: int, prior: float | None) -> Array:
    """Return the probability of good of every window, ``[N]`` float64, with a progress bar on a terminal."""
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    with progress_bar("scoring windows", len(served)) as progress:
        for start in range(0, len(served), batch_size):
            rows = np.arange(start, min(start + batch_size, len(served)))
            batch = served.fetch(rows)
            scored = predict_windows(network, **batch, batch_size=batch_size, prior=prior)
            found.append(scored.probabilities.astype(np.float64))
            progress(len(rows))
    return np.concatenate(found)


def heart_rates(windows: WindowSet, probabilities: Array) -> HeartRates | None:
    """Return the errors of the pulse rate, or None without ``hr_ref`` or PPG."""
    if windows.hr_ref is None or windows.hr_ref.dtype.kind not in "iuf" or "PPG" not in windows.channels:
        return None
    # an absent PPG is 0 throughout, which has no rate
    rates = pulse_rates(windows.signals[:, windows.channels.index("PPG")])
    return match_heart_rates(rates, windows.hr_ref, probabilities)


def operating_figures(network: QualityNetwork, prior: float | None, chosen: str | None) -> list[OperatingFigures]:
    """Return the checkpoint's operating points; none if it is not calibrated.

    Args:
        network: With its calibration.
        prior: Share of good windows to assume, or None.
        chosen: The point that decides the verdicts, or None.
    """
    if network.calibration.curve is None:
        return []
    points = [network.calibration.point(name, prior) for name in OPERATING_POINTS]
    return [OperatingFigures(point.name, point.threshold, point.name == chosen) for point in points]


def find_cases(network: QualityNetwork, served: WindowDataset, probabilities: Array, threshold: float) -> list[Case]:
    """Return the windows to show, each with what every second of every channel did to its logit."""
    windows, device, found = served.windows, network.preprocess.acc_scale.device, []
    chosen = choose_cases(windows.labels, probabilities, threshold, windows.subjects)
    with torch.no_grad(), progress_bar("what drove the verdicts", len(chosen)) as progress:
        for kind, row in chosen:
            batch = served.fetch(np.array([row]))
            prepared = network.prepare(batch["signals"].to(device), batch["present"].to(device))
            usable = prepared.usable

            def logits(pieces: Array, prepared: Prepared = prepared) -> Array:
                there = prepared.usable.expand(len(pieces), -1)
                side = None if prepared.side is None else prepared.side.expand(len(pieces), -1)
                varied = prepared._replace(scaled=torch.from_numpy(pieces).to(device), usable=there)
                found: Array = network.run(varied, "prepared", "logits", side).float().cpu().numpy()
                return found

            signals = prepared.scaled[0].cpu().numpy()
            found.append(
                Case(
                    row=row,
                    kind=kind,
                    probability=float(probabilities[row]),
                    label=-1 if windows.labels is None else int(windows.labels[row]),
                    subject="" if windows.subjects is None else str(windows.subjects[row]),
                    signals=signals,
                    present=usable[0].cpu().numpy(),
                    pushes=occlusion(logits, signals, _SECONDS),
                )
            )
            progress(1)
    return found


def read_history(checkpoint: Path) -> tuple[dict[str, list[Any]] | None, int | None]:
    """Return the history that lies beside a checkpoint, or None, and the checkpoint's epoch (from 0), or None."""
    epoch = read_checkpoint(checkpoint).get("epoch")
    epoch = epoch if isinstance(epoch, int) and epoch >= 0 else None
    content = _read_json(checkpoint.parent / _HISTORY)
    if content is None or not all(isinstance(values, list) for values in content.values()):
        return None, epoch
    return content, epoch


def find_warnings(checkpoint: Path, split: Path, windows: WindowSet, network: QualityNetwork) -> list[str]:
    """Return what flatters or clouds the figures, in whole sentences."""
    found = []
    if split.stem == "train":
        found.append(
            "This is the training split: a model knows the windows it was trained on, and the figures flatter."
        )
    if split.stem == "val":
        found.append(
            "The best epoch, and the calibration if there is one, were chosen on val.npz: the figures flatter."
        )
    metrics = _read_json(checkpoint.parent / _TEST_METRICS) or {}
    if split.stem == "test" and metrics.get("selected_on_test") is True:
        found.append("The best epoch was chosen on the test split, for want of a val.npz: the figures flatter.")
    found += _shared_subjects(split, windows)
    absent = [name for name in network.preprocess.channels if name not in windows.channels]
    if absent:
        found.append(f"The file does not have {', '.join(absent)}, which the model takes: it ran without.")
    if not network.calibration.fitted:
        found.append(
            "The checkpoint is not calibrated: probabilities are the plain output of the network, and the threshold is "
            "not fitted to anything. `butppg calibrate` mends that."
        )
    return found


def describe_run(checkpoint: Path, split: Path, network: QualityNetwork, prior: float | None) -> dict[str, str]:
    """Return what was evaluated with what, so that a figure can be traced."""
    calibration = network.calibration
    trained = (_read_json(checkpoint.parent / _CONFIG) or {}).get("versions")
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
        f"{both.size} of the subjects are in train.npz too: the model may know these people, and the figures flatter."
    ]


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        say(f"note: {path} cannot be read and is left out: {error}")
        return None
    return content if isinstance(content, dict) else None
