"""The picture of a scored recording shows what the scores say, however long it is."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
import pytest

from butppg_lightning.evaluation.scores import Scores
from butppg_lightning.evaluation.timeline import COLOURS, Example, draw_timeline, time_ticks

if TYPE_CHECKING:
    from pathlib import Path

image = pytest.importorskip("matplotlib.image")


def shares(path: Path) -> dict[str, float]:
    """Share of the verdict strip's pixels in each colour."""
    pixels = np.round(255 * image.imread(path)[..., :3]).astype(int)
    strip = pixels[round(0.145 * len(pixels)), 120:-30]
    wanted = {name: [int(code[place : place + 2], 16) for place in (1, 3, 5)] for name, code in COLOURS.items()}
    return {name: float((np.abs(strip - colour).max(axis=1) <= 2).mean()) for name, colour in wanted.items()}


@pytest.mark.parametrize("start_time", [None, dt.datetime(2024, 3, 30, 22, 10, 7)])
@pytest.mark.parametrize("count", [1, 30, 8640])
def test_verdicts_are_seen(tmp_path: Path, count: int, start_time: dt.datetime | None) -> None:
    third = -(-count // 3)
    probabilities = np.repeat([0.9, 0.2, np.nan], third)[:count].astype(np.float32)
    states = np.zeros((count, 1), dtype=np.uint8)
    scores = Scores(np.arange(count) * 10.0, 10.0, probabilities, 0.5, ("PPG",), states, ("", "missing"), start_time)
    edges = np.linspace(0, 10 * count, 101)
    examples = [Example("best window", 0, {"PPG": np.sin(np.arange(1250) / 20), "ECG": np.zeros(1250)})]
    outline = (edges, np.full(100, -1.0), np.where(np.arange(100) % 9, 1.0, np.nan))
    draw_timeline(tmp_path / "a.png", "night $x_{.edf", scores, outline, examples)
    found = shares(tmp_path / "a.png")
    wanted = {"good": 1.0, "poor": 0.0, "no_ppg": 0.0} if count == 1 else dict.fromkeys(COLOURS, 1 / 3)
    assert found == pytest.approx(wanted, abs=0.02)


def test_a_recording_without_a_verdict_can_be_drawn(tmp_path: Path) -> None:
    nothing = np.full(5, np.nan, dtype=np.float32)
    scores = Scores(np.arange(5) * 10.0, 10.0, nothing, 0.5, ("PPG",), np.ones((5, 1), np.uint8), ("", "flat"))
    draw_timeline(tmp_path / "a.png", "off", scores, (np.linspace(0, 50, 6), nothing, nothing), [])
    assert shares(tmp_path / "a.png")["no_ppg"] > 0.98


@pytest.mark.parametrize("seconds", [10, 95, 300, 1800, 7200, 86_400, 3 * 86_400, 31 * 86_400])
def test_a_time_axis_has_a_dozen_labels_on_round_times(seconds: float) -> None:
    start = dt.datetime(2024, 3, 30, 22, 10, 7, tzinfo=dt.timezone.utc)
    for moment in (None, start):
        ticks, labels, name = time_ticks(seconds, moment)
        assert 4 <= len(ticks) <= 14
        assert len(set(labels)) == len(labels) or (moment is not None and seconds > 86_400)
        assert all(0 <= tick <= seconds for tick in ticks)
        assert ("began" in name) == (moment is None)
        if moment is not None and seconds > 3600:
            assert all((start + dt.timedelta(seconds=tick)).second == 0 for tick in ticks)
