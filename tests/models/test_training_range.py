"""Whether windows are like those of training: what is taken, who is outside, and what is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_windows

from butppg_lightning.errors import UserError
from butppg_lightning.models.training_range import Outside, TrainingRange, fit_range, range_indices, stored_range
from butppg_lightning.window import CHANNELS, WindowSet


def ranged(windows: WindowSet, present: np.ndarray | None = None) -> TrainingRange | None:
    there = np.ones(windows.signals.shape[:2], dtype=bool) if present is None else present
    return fit_range(windows.channels, *map(torch.from_numpy, (windows.signals, there, windows.labels)))


@pytest.fixture(scope="module")
def known() -> TrainingRange:
    found = ranged(make_windows(120))
    assert found is not None
    return found


def outside(known: TrainingRange, windows: WindowSet, usable: np.ndarray | None = None) -> Outside:
    """Compare windows with the training windows of their own label."""
    there = np.ones(windows.signals.shape[:2], dtype=bool) if usable is None else usable
    indices = range_indices(windows.channels)
    values = indices.known(torch.from_numpy(windows.signals), torch.from_numpy(there))
    rows = np.arange(len(windows))
    deviations = known.deviations(values, indices.names)[rows, windows.labels]
    return Outside(known.names, deviations, there[:, CHANNELS.index("PPG")])


def test_one_training_window_in_a_hundred_is_outside_and_few_of_their_kind(known: TrainingRange) -> None:
    assert outside(known, make_windows(120)).share <= 0.01
    others = outside(known, make_windows(120, seed=1))
    assert others.share < 0.1
    assert others.caution() == ""


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda signals: signals[:, :3].__imul__(30), "motion_energy high"),
        (lambda signals: signals[:, 3].clip(99.8, 100.2, out=signals[:, 3]), "clipped_share high"),
    ],
    ids=["motion", "clipped"],
)
def test_what_is_foreign_is_named(known: TrainingRange, spoil: Any, reason: str) -> None:
    windows = make_windows(30, seed=1)
    spoil(windows.signals)
    found = outside(known, windows)
    assert found.share > 0.5
    assert any(reason in text for text in found.reasons())
    assert [bool(text) for text in found.reasons()] == (found.distances > 1).tolist()
    assert "unlike those the model was trained on" in found.caution()
    assert reason in found.caution()
    assert "\n" not in found.caution()


def test_an_absent_channel_is_not_foreign(known: TrainingRange) -> None:
    windows = make_windows(30, seed=1)
    usable = np.ones((30, 5), dtype=bool)
    usable[:, :3] = False
    assert outside(known, windows, usable).share < 0.1
    usable[:] = False
    nothing = outside(known, windows, usable)
    assert nothing.share is None
    assert nothing.caution() == ""
    assert np.isnan(nothing.distances).all()


def test_channels_that_training_never_had_are_not_in_it() -> None:
    windows = make_windows(30)
    present = np.ones((30, 5), dtype=bool)
    present[:, :3] = False
    found = ranged(windows, present)
    assert found is not None
    assert found.channels == ["PPG", "ECG"]
    assert "motion_energy" not in found.names
    present[:, 3] = False
    assert ranged(windows, present) is None


def test_it_comes_back_and_a_damaged_one_is_one_line(known: TrainingRange) -> None:
    assert stored_range({"training_range": known.state()}, "a.pt") == known
    assert stored_range({}, "a.pt") is None, "an older checkpoint has none"
    for damaged in (
        [],
        {},
        {**known.state(), "more": 1},
        replace(known, names=known.names[1:]).state(),
        replace(known, names=["gain", *known.names[1:]]).state(),
        replace(known, edge=[0.0, 1.0]).state(),
        replace(known, edge=[10**400, 1.0]).state(),
        replace(known, names=[], mean=[[], []], spread=[[], []]).state(),
        replace(known, mean=[[float("nan")] * len(known.names)] * 2).state(),
        {**known.state(), "spread": "wide"},
        {**known.state(), "channels": [["PPG"]]},
    ):
        with pytest.raises(UserError, match="the stored training range is damaged"):
            stored_range({"training_range": damaged}, "a.pt")
