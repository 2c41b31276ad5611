"""Windows with fewer channels than the model has: trained on, tested, and told apart from silence."""

from pathlib import Path

import numpy as np
import pytest
from conftest import encoder_flags, make_windows

from butppg_lightning.cli import main
from butppg_lightning.tasks.classifier import PPGQualityClassifier

ENCODER = encoder_flags()
SHORT = ["--stages.unfreeze_last_n=1", "--trainer.max_epochs=2", "--stages.head_only_epochs=1", "--model.lr=1e-3"]


def fit(output: Path, root: Path, *more: str) -> int:
    words = ["fit", "--config", "finetune.yaml", "--data.root", str(root), "--output_dir", str(output)]
    return main([*words, *ENCODER, *SHORT, "--trainer.precision=32-true", *more])


@pytest.mark.parametrize("channels", [["PPG"], ["PPG", "ECG"], ["PPG", "ACC_X", "ACC_Y", "ACC_Z"]])
def test_files_with_fewer_channels_train_a_model_of_five(tmp_path: Path, channels: list[str]) -> None:
    for seed, (split, count) in enumerate({"train": 24, "val": 12, "test": 12}.items()):
        windows = make_windows(count, seed, subjects=split)
        windows.signals = windows.signals[:, [windows.channels.index(name) for name in channels]]
        windows.channels = tuple(channels)
        windows.save(tmp_path / "data" / f"{split}.npz")
    assert fit(tmp_path / "run", tmp_path / "data") == 0
    model = PPGQualityClassifier.load_from_checkpoint(tmp_path / "run" / "best_model.pt")
    assert len(model.channels) == 5


def test_channels_left_out_are_absent_and_not_zero(tmp_path: Path, data_folder: Path) -> None:
    """Leaving channels out of full files is the same as not having them."""
    for split in ("train", "val", "test"):
        with np.load(data_folder / f"{split}.npz") as stored:
            arrays = dict(stored)
        arrays["signals"], arrays["channels"] = arrays["signals"][:, 3:4], np.array(["PPG"])
        (tmp_path / "data").mkdir(exist_ok=True)
        np.savez(tmp_path / "data" / f"{split}.npz", **arrays)
    assert fit(tmp_path / "one", tmp_path / "data") == 0
    assert fit(tmp_path / "two", data_folder, "--data.use_channels=[PPG]") == 0
    one, two = ((tmp_path / name / "training_history.json").read_text() for name in ("one", "two"))
    assert one == two
    assert fit(tmp_path / "three", data_folder) == 0
    assert (tmp_path / "three" / "training_history.json").read_text() != one


def test_a_model_is_tested_on_each_set_of_channels(tmp_path: Path, data_folder: Path, capsys) -> None:
    dropout = ["--model.channel_dropout.ECG=0.5", "--model.channel_dropout.ACC=0.3"]
    assert fit(tmp_path / "run", data_folder, *dropout) == 0
    capsys.readouterr()
    words = ["test", "--config", "finetune.yaml", "--data.root", str(data_folder)]
    words += ["--ckpt_path", str(tmp_path / "run" / "best_model.pt")]
    assert main([*words, "--subsets", "[all, PPG, ppg+acc, PPG+ECG]"]) == 0
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if "PPG" in line]
    assert len(rows) == 4
    assert len({row.split("│")[2] for row in rows}) > 1
    assert main([*words, "--subsets", "[PPG, EMG]"]) == 2
    assert "unknown channel names ['EMG']" in capsys.readouterr().err
    assert main([*words, "--data.use_channels", "[ECG, ECG]"]) == 2
