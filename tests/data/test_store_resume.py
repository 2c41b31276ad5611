"""Pretraining from a store is exact: as from an npz file, and as if it had never been interrupted."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import make_windows
from exactness import Stopped, command, differences, environment, outcome, stop_at
from test_store import stored

from butppg_lightning.cli import main
from butppg_lightning.window import PRETRAIN_CHANNELS

PRETRAIN = [
    "pretrain",
    "--config=pretrain.yaml",
    "--config=tiny.yaml",
    "--data.batch_size=4",
    "--trainer.max_epochs=3",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.precision=32-true",
    "--save_every_n_steps=2",
    "--model.modality_dropout=0.25",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same windows as npz files and as stores of several shards."""
    roots = {name: tmp_path_factory.mktemp(name) for name in ("npz", "float32", "float16")}
    for seed, (split, count) in enumerate({"train": 30, "val": 10}.items()):
        windows = make_windows(count, seed, subjects=split)
        windows.signals, windows.channels, windows.labels = windows.signals[:, 3:], PRETRAIN_CHANNELS, None
        windows.save(roots["npz"] / f"{split}_windows.npz")
        for dtype in ("float32", "float16"):
            stored(roots[dtype] / f"{split}_windows.store", windows, dtype=dtype)
    return roots


def pretrain(root: Path, output: Path, *flags: str) -> int:
    return main([*PRETRAIN, f"--data.root={root}", f"--output_dir={output}", *flags])


def test_a_store_trains_as_the_npz_file_does(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, root in folders.items():
        assert pretrain(root, tmp_path / name) == 0
    assert differences(outcome(tmp_path / "float32"), outcome(tmp_path / "npz")) == []
    losses = [json.loads((tmp_path / name / "training_history.json").read_text())["loss"] for name in folders]
    assert losses[2] == pytest.approx(losses[0], rel=1e-3), "float16 rounds by less than a thousandth of the pulse"


POINTS = {"middle": ("batch", 1, 5), "boundary": ("epoch", 2, 0), "validation": ("validation", 1, 1)}


@pytest.mark.parametrize(("workers", "points"), [(0, list(POINTS)), (2, ["middle"])])
def test_pretraining_from_a_store_resumes_exactly(
    workers: int, points: list[str], folders: dict[str, Path], tmp_path: Path
) -> None:
    root, flags = folders["float16"], [f"--data.num_workers={workers}"]
    assert pretrain(root, tmp_path / "whole", *flags) == 0
    for name in points:
        with pytest.raises(Stopped):
            pretrain(root, tmp_path / name, *flags, *stop_at(*POINTS[name]))
        assert pretrain(root, tmp_path / name, *flags, "--resume=auto") == 0
        assert differences(outcome(tmp_path / name), outcome(tmp_path / "whole")) == [], name


def test_two_processes_share_a_store(folders: dict[str, Path], tmp_path: Path) -> None:
    """Each reads its rows of the same global batches; what they train is what they train from npz files."""
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2"]
    for name in ("float32", "npz"):
        words = [*PRETRAIN, f"--data.root={folders[name]}", f"--output_dir={tmp_path / name}", *two]
        done = subprocess.run(command(*words), env=environment(), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    assert differences(outcome(tmp_path / "float32"), outcome(tmp_path / "npz")) == []
