"""`butppg fit` calibrates its best model, once, and the run stays resumable bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encoder_flags, make_windows
from exactness import Stopped, fit, stop_at

from butppg_lightning.evaluation.calibration import too_few, write_calibration
from butppg_lightning.models.calibration import Calibration
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.models.prediction import predict_windows


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


TRAINING = [
    *encoder_flags(),
    "--model.lr=1e-2",
    "--stages.head_only_epochs=1",
    "--trainer.max_epochs=2",
    "--model.head=probe",
    "--trainer.precision=32-true",
    "--data.batch_size=12",
]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("splits")
    for seed, (split, count) in enumerate({"train": 48, "val": 60, "test": 30}.items()):
        make_windows(count, seed, subjects=split).save(path / f"{split}.npz")
    return path


@pytest.fixture(scope="module")
def whole(splits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("fitted") / "run"
    assert fit(output, splits, *TRAINING) == 0
    return output


def test_fit_calibrates_the_best_model_only(whole: Path, splits: Path) -> None:
    best = load(whole / "best_model.pt")
    stored = Calibration.from_state(best["calibration"])
    assert stored.source.endswith("60 windows (20 good), which selected the model")
    for name in ("last.ckpt", "final_model.pt"):
        assert "calibration" not in load(whole / name)
    network, _ = restore_network(whole / "best_model.pt")
    windows = np.load(splits / "val.npz")
    found = predict_windows(network, windows["signals"]).probabilities.astype(np.float64)
    assert found.mean() == pytest.approx(windows["labels"].mean(), abs=0.02), "calibrated in the large"
    metrics = json.loads((whole / "test_metrics.json").read_text())
    assert metrics["threshold"] == stored.point().threshold
    assert (metrics["operating_point"], metrics["calibrated_on"]) == ("balanced", stored.source)


@pytest.mark.parametrize("point", [("batch", 1, 2), ("fit_end", 0, 0)])
def test_a_resumed_run_is_calibrated_the_same(
    point: tuple[str, int, int], whole: Path, splits: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path / "run", splits, *TRAINING, *stop_at(*point))
    assert fit(tmp_path / "run", splits, *TRAINING, "--resume=auto") == 0
    assert load(tmp_path / "run" / "best_model.pt")["calibration"] == load(whole / "best_model.pt")["calibration"]
    assert (tmp_path / "run" / "test_metrics.json").read_bytes() == (whole / "test_metrics.json").read_bytes()


def test_finishing_twice_changes_nothing(whole: Path, splits: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    inode = (whole / "best_model.pt").stat().st_ino
    assert fit(whole, splits, *TRAINING, "--resume=auto") == 0
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    assert (whole / "best_model.pt").stat().st_ino == inode


def test_weights_that_move_on_have_no_calibration(whole: Path, splits: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path / "run", splits, *TRAINING, *stop_at("epoch", 1))
    stored = Calibration.from_state(load(whole / "best_model.pt")["calibration"])
    write_calibration(tmp_path / "run" / "last.ckpt", tmp_path / "start.pt", stored)
    words = [*TRAINING, "--calibrate=false", "--ckpt_path", str(tmp_path / "start.pt")]
    assert fit(tmp_path / "again", splits, *words) == 0
    last = load(tmp_path / "again" / "last.ckpt")
    assert last["epoch"] == 1
    assert "calibration" not in last
    assert "calibration" not in load(tmp_path / "again" / "best_model.pt"), "switched off"
    history = json.loads((tmp_path / "again" / "training_history.json").read_text())
    assert history == json.loads((whole / "training_history.json").read_text()), "figures of a plain sigmoid"


def test_few_windows_leave_it_uncalibrated(splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path / "run", splits, *TRAINING, "--trainer.limit_val_batches=2") == 0
    assert "left uncalibrated: 24 windows (8 good, 16 poor)" in capsys.readouterr().out
    assert "calibration" not in load(tmp_path / "run" / "best_model.pt")
    metrics = json.loads((tmp_path / "run" / "test_metrics.json").read_text())
    assert metrics["threshold"] == 0.5
    assert "calibrated_on" not in metrics
    assert too_few(np.array([0, 1] * 25)) == ""
    assert too_few(np.array([0] * 91 + [1] * 9))
    assert too_few(np.array([0, 1] * 24))
