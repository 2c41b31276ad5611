"""What the scores of a long recording say: verdicts, usable time, the longest usable stretch; as table and summary."""

from __future__ import annotations

import csv
import importlib
import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from butppg_lightning.models.training_range import Outside
    from butppg_lightning.npz import Array

VERDICTS = ("good", "poor", "no_ppg")
"""What can be said of a window; ``no_ppg``: its PPG is absent, so that there is no quality to speak of."""
NOT_COMPARED: dict[str, Any] = {"share_outside": None, "outside_by_index": {}}
"""What stands for the figures of a training range where a model has none."""


@dataclass(eq=False)
class Scores:
    """The scored windows of a recording."""

    starts: Array  # [N] seconds from the recording's start, ascending
    seconds: float  # that a window lasts
    probabilities: Array  # [N] of good quality, 0..1; NaN where there is no PPG
    threshold: float  # from this probability on a window is good
    channels: tuple[str, ...]
    states: Array  # [N, C] positions in reasons; 0 where the channel is present
    reasons: tuple[str, ...]  # why a channel is absent
    start_time: datetime | None = None  # when the recording began
    outside: Outside | None = None  # of the training range; None for a model without one

    @property
    def verdicts(self) -> Array:
        """``[N]`` positions in :data:`VERDICTS`."""
        poor = np.where(self.probabilities >= self.threshold, 0, 1)
        return np.where(np.isnan(self.probabilities), 2, poor)

    @property
    def usable_seconds(self) -> float:
        """Time that at least one good window covers."""
        starts = self.starts[self.verdicts == 0]
        return float(np.minimum(np.diff(starts), self.seconds).sum() + self.seconds) if len(starts) else 0.0

    @property
    def longest_stretch(self) -> tuple[float, float]:
        """Start and end (s) of the longest run of good windows that touch or overlap; (0, 0) if none is good."""
        good = np.flatnonzero(self.verdicts == 0)
        if not len(good):
            return 0.0, 0.0
        apart = (np.diff(good) > 1) | (np.diff(self.starts[good]) > self.seconds + 1e-6)
        firsts, lasts = good[np.append(True, apart)], good[np.append(apart, True)]
        longest = np.argmax(self.starts[lasts] - self.starts[firsts])
        return float(self.starts[firsts[longest]]), float(self.starts[lasts[longest]] + self.seconds)

    def summary(self) -> dict[str, Any]:
        """Return the figures of the recording in plain types; shares are in 0..1."""
        verdicts = self.verdicts
        begin, end = self.longest_stretch
        known = self.probabilities[~np.isnan(self.probabilities)]
        return {
            "windows": len(verdicts),
            **{name: int((verdicts == number).sum()) for number, name in enumerate(VERDICTS)},
            "share_usable": float((verdicts == 0).mean()),
            "hours_usable": self.usable_seconds / 3600,
            "longest_usable_seconds": end - begin,
            "longest_usable_start": begin if end > begin else None,
            "median_probability": float(np.median(known)) if len(known) else None,
            "presence": {
                name: {
                    reason or "present": float((states == number).mean()) for number, reason in enumerate(self.reasons)
                }
                for name, states in zip(self.channels, self.states.T, strict=True)
            },
            **(NOT_COMPARED if self.outside is None else self.outside.figures()),
        }

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns of a table with a row for every window; what is not known is None."""
        starts, outside = self.starts.tolist(), self.outside
        found: dict[str, list[Any]] = {
            "start": [round(start, 6) for start in starts],
            "end": [round(start + self.seconds, 6) for start in starts],
        }
        if self.start_time is not None:
            found["start_time"] = [self.start_time + timedelta(seconds=start) for start in starts]
            found["end_time"] = [moment + timedelta(seconds=self.seconds) for moment in found["start_time"]]
        states = [list(zip(self.channels, row, strict=True)) for row in self.states.tolist()]
        return {
            **found,
            "probability": _rounded(self.probabilities, 6),
            "verdict": [VERDICTS[verdict] for verdict in self.verdicts],
            "channels": [" ".join(name for name, state in row if not state) for row in states],
            "reason": ["; ".join(f"{name} {self.reasons[state]}" for name, state in row if state) for row in states],
            **({} if outside is None else {"distance": _rounded(outside.distances, 3), "outside": outside.reasons()}),
        }


def _rounded(values: Array, digits: int) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), digits) for value in values]


def write_scores(path: Path, scores: Scores) -> None:
    """Write the table of :meth:`Scores.columns`, as CSV or, where the name ends so, as Parquet.

    CSV has times in seconds and, where known, as ISO text; nothing where there is no probability. Parquet has float64
    seconds, time stamps, float32 probability (null where there is none) and text.
    """
    columns = scores.columns()
    if path.suffix != ".parquet":
        write_csv(path, columns)
        return
    pyarrow, parquet = require_pyarrow()
    columns["probability"] = pyarrow.array(columns["probability"], pyarrow.float32())
    with atomic_write(path) as file:
        parquet.write_table(pyarrow.table(columns), file)


def write_csv(path: Path, columns: Mapping[str, Iterable[Any]]) -> None:
    """Write columns of equal length as CSV; None is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        table.writerow(
            [cell.isoformat(timespec="milliseconds") if isinstance(cell, datetime) else cell for cell in row]
        )
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def require_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module, or raise a UserError."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError("--format parquet needs pyarrow; pip install pyarrow, or take --format csv") from None
