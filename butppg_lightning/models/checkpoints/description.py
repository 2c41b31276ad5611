"""What a program has to know of an exported model: channels, rate, thresholds, calibration, where it comes from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.models.calibration import OPERATING_POINTS
from butppg_lightning.version import __version__
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.models.calibration import Calibration
    from butppg_lightning.models.network import QualityNetwork

LICENCE = "Apache-2.0"
"""The package's own licence, which exported weights get unless the user says otherwise."""
_UNITS = {"ACC": "g"}


def describe(network: QualityNetwork, licence: str = LICENCE, checkpoint: Path | None = None) -> dict[str, Any]:
    """Return a network's description in plain types.

    Args:
        network: The network.
        licence: An SPDX name, or any text.
        checkpoint: The file it comes from; None if there is none.

    Returns:
        ``channels`` and their ``units``, ``fs`` (Hz), ``window_seconds``, ``window_samples``, ``threshold`` (from this
        probability on a window is good), ``operating_points`` (empty if the model is not calibrated), ``calibration``,
        ``package_version``, ``checkpoint_sha256`` and ``licence``.
    """
    calibration = without_folders(network.calibration)
    channels = network.preprocess.channels
    points = {}
    if calibration.curve is not None:
        for name in OPERATING_POINTS:
            point = calibration.point(name)
            points[name] = {
                "threshold": point.threshold,
                "sensitivity": point.sensitivity,
                "specificity": 1 - point.false_positive_rate,
                "precision": point.precision,
            }
    return {
        "channels": list(channels),
        "units": {name: _UNITS.get(name[:3], "any") for name in channels},
        "fs": SAMPLING_RATE,
        "window_seconds": WINDOW_SAMPLES / SAMPLING_RATE,
        "window_samples": WINDOW_SAMPLES,
        "threshold": points["balanced"]["threshold"] if points else 0.5,
        "operating_points": points,
        "calibration": {key: value for key, value in calibration.state().items() if key != "curve"}
        if calibration.fitted
        else None,
        "package_version": __version__,
        "checkpoint_sha256": "" if checkpoint is None else file_sha256(checkpoint),
        "licence": licence,
    }


def without_folders(calibration: Calibration) -> Calibration:
    """Return a calibration whose source names no folder: what is given away need not tell how a disk is ordered."""
    return replace(calibration, source=last_names(calibration.source))


def last_names(text: str) -> str:
    """Shorten every path in a text to its last name.

    Examples:
        >>> last_names("val.npz of /home/ann/but_ppg, 300 windows")
        'val.npz of but_ppg, 300 windows'
    """
    return re.sub(r"[^\s,]*[/\\]", "", text)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
