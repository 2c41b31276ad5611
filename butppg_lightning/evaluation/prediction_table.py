"""The table of predictions: written by `butppg evaluate` and `butppg predict`, read by `butppg calibrate`."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.scores import write_csv
from butppg_lightning.models.prediction import GOOD, NO_PPG, POOR
from butppg_lightning.models.usable_channels import FAULTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from butppg_lightning.npz import Array


def write_predictions(
    path: Path,
    probabilities: Array,
    threshold: float,
    *,
    labels: Array | None = None,
    subjects: Array | None = None,
    reasons: Array | None = None,
    rows: Array | None = None,
) -> None:
    """Write predictions as CSV: window, subject, label, probability, verdict, reason; what is not known is empty.

    Args:
        path: The CSV.
        probabilities: ``[N]`` of good, 0..1.
        threshold: At or above it the verdict is ``good``, else ``poor``.
        labels: ``[N]`` in {0 poor, 1 good}, or None.
        subjects: ``[N]`` names, or None.
        reasons: ``[N]``, why a window's PPG is not usable (the verdict is then ``no_ppg``), or empty.
        rows: ``[N]`` rows of the windows in their file; None for 0, 1, ...
    """
    unknown = [""] * len(probabilities)
    values = np.asarray(probabilities, dtype=np.float64)
    reasons = np.array(unknown) if reasons is None else reasons
    columns = {
        "window": np.arange(len(values)) if rows is None else rows,
        "subject": unknown if subjects is None else subjects,
        "label": unknown if labels is None else labels,
        "probability": [f"{value:.6f}" for value in values],
        "verdict": np.where(reasons != "", NO_PPG, np.where(values >= threshold, GOOD, POOR)),
        "reason": [f"PPG {reason}" if reason else "" for reason in reasons],
    }
    write_csv(path, columns)


def ppg_reasons(channels: Sequence[str], faults: Array) -> Array:
    """Return why the PPG of each window is not usable ``[N]``, by the ``faults [N, C]`` of a model's channels.

    Empty where it is usable, or the model takes none.
    """
    if "PPG" not in channels:
        return np.full(len(faults), "")
    return np.array(FAULTS)[faults[:, list(channels).index("PPG")]]


def read_predictions(path: Path) -> tuple[Array, Array, str]:
    """Read a CSV with the columns ``label`` and ``probability`` or ``logit``, as `butppg predict` writes it.

    Returns labels ``[N]`` int64 in {0, 1}, values ``[N]`` float64, and which column they are from: ``logit`` goes
    before ``probability``, further ones are ignored.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            names = [str(name).strip().lower() for name in table.fieldnames or []]
            table.fieldnames = names
            kind = next((name for name in ("logit", "probability") if name in names), None)
            if "label" not in names or kind is None:
                raise UserError(
                    f"{path} has the columns {', '.join(names) or 'none'}; expected label, and probability or logit"
                )
            rows = [_row(path, table.line_num, kind, row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"predictions {path} cannot be read as CSV: {reason}") from None
    if not rows:
        raise UserError(f"{path} holds no predictions")
    labels, values = zip(*rows, strict=True)
    return np.array(labels, dtype=np.int64), np.array(values, dtype=np.float64), kind


def _row(path: Path, line: int, kind: str, row: dict[str, str | None]) -> tuple[int, float]:
    if str(row["label"]).strip() not in ("0", "1", "0.0", "1.0"):
        raise UserError(f"{path}, line {line}: label is {row['label']!r}; expected 0 (poor) or 1 (good)")
    try:
        value = float(str(row[kind]))
    except ValueError:
        value = float("nan")
    if not np.isfinite(value) or (kind == "probability" and not 0 <= value <= 1):
        wanted = "a number from 0 to 1" if kind == "probability" else "a finite number"
        raise UserError(f"{path}, line {line}: {kind} is {row[kind]!r}; expected {wanted}")
    return int(float(str(row["label"]))), value
