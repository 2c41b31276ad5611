"""Real recordings, where they lie beside the checkout; skipped elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from conftest import REAL_DATA, encoder_flags

from butppg_lightning.cli import main
from butppg_lightning.models.preprocess import Mounting, Preprocess
from butppg_lightning.window import CHANNELS, read_windows

pytestmark = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real recordings beside the checkout")
TINY_FLAGS = encoder_flags()


@pytest.mark.parametrize("mounting", ["recorded", "canonical"])
@pytest.mark.parametrize("name", ["bidmc/val_windows", "spc2015_dev/windows", "spc2015_dev/unlabelled"])
def test_real_windows_keep_the_contract_and_come_to_one_scale(name: str, mounting: Mounting) -> None:
    windows = read_windows(REAL_DATA / f"{name}.npz", labelled=False)
    signals = torch.from_numpy(windows.signals[:200].copy())
    preprocess = Preprocess(windows.channels, mounting=mounting)
    preprocess.fit(signals)
    scaled = preprocess(signals)
    assert torch.isfinite(scaled).all()
    spread = dict(zip(windows.channels, scaled.std(dim=(0, 2)).tolist(), strict=True))
    if mounting == "canonical" and "ACC_X" in spread:
        # its own axes are ordered by how much they move, so only all three together have one scale
        axes = [spread.pop(name) for name in ("ACC_X", "ACC_Y", "ACC_Z")]
        assert axes == sorted(axes, reverse=True)
        spread["ACC"] = (sum(axis**2 for axis in axes) / 3) ** 0.5
    assert all(0.3 < value < 3 for value in spread.values()), spread


def test_from_one_labelled_file_to_test_metrics(tmp_path: Path) -> None:
    source = REAL_DATA / "spc2015_dev" / "windows.npz"
    pretraining = ["--data.root", str(REAL_DATA / "bidmc"), "--output_dir", str(tmp_path / "foundation")]
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1"]
    assert main(["pretrain", "--config", "pretrain.yaml", *TINY_FLAGS, *pretraining, *limits]) == 0
    shares = ["--val_share=0.17", "--test_share=0.17"]
    assert main(["prepare", "splits", "--source", str(source), "--output", str(tmp_path / "data"), *shares]) == 0
    fit = ["fit", "--config", "finetune.yaml", "--data.root", str(tmp_path / "data"), "--trainer.max_epochs=2"]
    pretrained = ["--model.pretrained", str(tmp_path / "foundation" / "best_model.pt")]
    assert main([*fit, *pretrained, "--output_dir", str(tmp_path / "run"), "--stages.head_only_epochs=1"]) == 0
    metrics = json.loads((tmp_path / "run" / "test_metrics.json").read_text())
    assert metrics["selected_on_test"] is False
    config = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert config["model"]["finetune_channels"] in (5, list(CHANNELS))
