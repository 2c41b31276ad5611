"""The table of predictions: what is written, and that it is read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.prediction_table import ppg_reasons, read_predictions, write_predictions
from butppg_lightning.models.usable_channels import FAULTS

if TYPE_CHECKING:
    from pathlib import Path


def test_verdicts_and_reasons(tmp_path: Path) -> None:
    faults = np.zeros((4, 2), dtype=np.int8)
    faults[2] = [FAULTS.index("flat"), 0]
    faults[3] = [0, FAULTS.index("railed")]  # of the PPG
    write_predictions(
        tmp_path / "p.csv",
        np.array([0.5, 0.49999, 0.9, 0.9], dtype=np.float32),
        0.5,
        labels=np.array([1, 0, 1, 0]),
        subjects=np.array(["a", "b,c", "d", "d"]),
        reasons=ppg_reasons(("ECG", "PPG"), faults),
        rows=np.array([7, 8, 9, 10]),
    )
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "window,subject,label,probability,verdict,reason",
        "7,a,1,0.500000,good,",
        '8,"b,c",0,0.499990,poor,',
        "9,d,1,0.900000,good,",
        "10,d,0,0.900000,no_ppg,PPG railed",
    ]
    labels, values, kind = read_predictions(tmp_path / "p.csv")
    assert (labels.tolist(), kind) == ([1, 0, 1, 0], "probability")
    np.testing.assert_allclose(values, [0.5, 0.49999, 0.9, 0.9])
    assert set(ppg_reasons(("ECG", "ACC_X"), faults)) == {""}


def test_what_is_not_known_is_empty(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", np.array([0.2]), 0.5)
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == "0,,,0.200000,poor,"
    with pytest.raises(UserError, match="line 2: label is ''"):
        read_predictions(tmp_path / "p.csv")
