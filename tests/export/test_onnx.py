"""Comparing an ONNX model with torch: what is told apart, and what counts as the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_windows

from butppg_lightning.errors import UserError
from butppg_lightning.export.onnx import TOLERANCE, compare, damaged_copies
from butppg_lightning.models.calibration import Calibration
from butppg_lightning.models.network import Prepared
from butppg_lightning.models.usable_channels import FAULTS, channel_faults
from butppg_lightning.window import CHANNELS


class Counting(torch.nn.Module):
    """A network that counts how many first samples lie above 1, in hundredths."""

    calibration = Calibration()
    channels = CHANNELS

    def prepare(self, signals: torch.Tensor, present: torch.Tensor, side: bool = True) -> Prepared:
        return Prepared(signals, (~present).to(torch.int8), present)

    def run(self, prepared: Prepared, *steps: Any) -> torch.Tensor:
        return (prepared.scaled[:, 0, 0] > 1).float() / 100


class Runtime:
    """An ONNX model that counts those that lie at 1 too, and is wrong by something."""

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def run(self, names: Any, inputs: dict[str, Any]) -> list[Any]:
        logits = (inputs["signals"][:, 0, 0] >= 1).astype(np.float32) / 100 + np.float32(self.error)
        return [1 / (1 + np.exp(-logits)), logits]


def windows(at_the_edge: int, count: int = 100) -> tuple[Any, Any]:
    signals = np.zeros((count, 5, 1250), dtype=np.float32)
    signals[:, 0, 0] = np.where(np.arange(count) < at_the_edge, 1.0, np.linspace(0, 2, count) + 0.003)
    return signals, np.ones((count, 5), dtype=bool)


def test_windows_on_the_edge_of_a_limit_are_told_apart_from_errors() -> None:
    found = compare(Counting(), Runtime(TOLERANCE / 2), *windows(2))
    assert found.on_edge == 2
    assert found.largest_on_edge == pytest.approx(0.01, abs=TOLERANCE)
    assert found.largest == pytest.approx(TOLERANCE / 2, rel=1e-3)
    with pytest.raises(UserError, match="on 30 of 100 windows"):
        compare(Counting(), Runtime(), *windows(30))


@pytest.mark.parametrize("error", [2 * TOLERANCE, -0.005, 1.0, np.nan, np.inf])
def test_a_wrong_model_is_refused(error: float) -> None:
    with pytest.raises(UserError, match="differs from torch by"):
        compare(Counting(), Runtime(error), *windows(2))


def test_damaged_copies_have_every_fault() -> None:
    signals = make_windows(50).signals
    copies, present = damaged_copies(signals, np.ones((50, 5), dtype=bool), CHANNELS)
    faults = {FAULTS[fault] for fault in channel_faults(torch.from_numpy(copies), CHANNELS)[present].unique()}
    assert faults == {"", "flat", "railed"}
    assert {int(row.sum()) for row in present} >= {0, 1, 4, 5}
    assert (copies[~present] == 0).all()
    assert np.array_equal(signals, make_windows(50).signals), "the windows themselves stay"
