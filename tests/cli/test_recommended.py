"""The recommended recipe through the command: probe and indices on stored features, `--select last`, resuming."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, logits_of, make_windows
from exactness import Stopped, command, differences, environment, outcome, stop_at
from jsonargparse import Namespace
from lightning.pytorch import Callback

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.cli import main
from butppg_lightning.cli.training_parser import what_differs
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.window import CHANNELS, WindowSet

FLAGS = [
    "--config=finetune_recommended.yaml",
    "--config=tiny.yaml",
    "--stages.plan=[{trainable: head, epochs: 2}, {trainable: 1, epochs: 1}]",
    "--trainer.max_epochs=3",
    "--trainer.precision=32-true",
    "--data.batch_size=8",
    "--model.indices=[rhythm, acc, ecg]",
    "--model.encoder_channels=[PPG, ECG]",
    "--save_every_n_steps=1",
]
SIZES = {"train": 36, "val": 15, "test": 18}
WATCH = "--trainer.callbacks+=test_recommended.Watch"


class Watch(Callback):
    """Refuses to train where there are windows for validation or testing."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert set(trainer.datamodule.splits) == {"train"}
        assert not trainer.datamodule.selected_on_test


class Digests(Callback):
    """Writes, per rank, a digest of all weights and statistics at every epoch's end."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.found: list[str] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        content = b"".join(value.numpy().tobytes() for value in pl_module.state_dict().values())
        self.found.append(hashlib.sha256(content).hexdigest())
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(self.found))


def fit(output: Path, data: Path, *flags: str) -> int:
    return main(["fit", *FLAGS, f"--data.root={data}", f"--output_dir={output}", *flags])


def windows_of(split: str) -> WindowSet:
    """Windows of which some lack ECG or acceleration."""
    windows = make_windows(SIZES[split], list(SIZES).index(split), subjects=split)
    windows.present = np.ones(windows.signals.shape[:2], dtype=bool)
    windows.present[1::4, 4] = windows.present[2::5, :3] = False
    windows.signals *= windows.present[..., None]
    return windows


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that hold train, val and test; train and test; train alone."""
    found = {}
    for name, splits in {"whole": ("train", "val", "test"), "no val": ("train", "test"), "alone": ("train",)}.items():
        found[name] = tmp_path_factory.mktemp("data")
        for split in splits:
            windows_of(split).save(found[name] / f"{split}.npz")
    return found


@pytest.fixture(scope="module")
def runs(folders: dict[str, Path], pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run on each folder."""
    found = {}
    for name, data in folders.items():
        found[name] = tmp_path_factory.mktemp("runs") / "run"
        watch = [] if name == "whole" else [WATCH]
        assert fit(found[name], data, f"--model.pretrained={pretrained}", *watch) == 0
    return found


def history(folder: Path) -> dict[str, list[Any]]:
    return json.loads((folder / "training_history.json").read_text())


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_features_that_are_stored_train_the_same(runs: dict[str, Path], folders, pretrained, tmp_path, capsys) -> None:
    plain = ["--cache.enabled=false", f"--model.pretrained={pretrained}"]
    assert fit(tmp_path / "run", folders["whole"], *plain) == 0
    assert "frozen-prefix cache: " not in capsys.readouterr().err
    one, other = history(tmp_path / "run"), history(runs["whole"])
    assert one["stage"] == other["stage"] == ["stage1_head_only"] * 2 + ["stage2_last_1"]
    for key in ("train_loss", "val_loss"):
        assert len(one[key]) == 3
        assert one[key] == pytest.approx(other[key], abs=1e-5), key
    assert len(set(one["train_loss"])) == 3, "something was learned"
    trained, stored = (weights(path / "best_model.pt") for path in (tmp_path / "run", runs["whole"]))
    for key in ("head.side.score.weight", "head.side.standardise.mean", "head.standardise.variance"):
        assert torch.allclose(trained[f"network.{key}"], stored[f"network.{key}"], rtol=1e-4, atol=1e-5), key
    assert trained["network.head.side.score.weight"].abs().min() > 0


def test_standardisation_is_that_of_the_training_windows(runs: dict[str, Path], folders: dict[str, Path]) -> None:
    """Once an epoch, each window counts; five batches, of 8, 8, 8, 8 and 4, count alike."""
    network, _ = restore_network(runs["whole"] / "best_model.pt")
    windows = windows_of("train")
    signals, present = torch.from_numpy(windows.signals), torch.from_numpy(windows.present)
    side = network.prepare(signals, present).side
    mean, spread = side.nanmean(0), (side - side.nanmean(0)).square().nanmean(0).sqrt()
    followed = network.head.side.standardise
    assert bool(((followed.mean - mean).abs() < 0.4 * spread + 1e-4).all())
    assert bool((followed.batches == 15).all()), "never during validation"


@pytest.mark.parametrize(
    ("name", "point"),
    [("whole", ("batch", 1, 3)), ("no val", ("batch", 2, 3))],
    ids=str,
)
def test_resumed_is_uninterrupted(name: str, point: tuple, runs, folders, pretrained: Path, tmp_path: Path) -> None:
    flags = [f"--model.pretrained={pretrained}"]
    with pytest.raises(Stopped):
        fit(tmp_path / "run", folders[name], *flags, *stop_at(*point))
    assert fit(tmp_path / "run", folders[name], *flags, "--resume=auto") == 0, "the same command goes on"
    assert differences(outcome(tmp_path / "run"), outcome(runs[name])) == []


@pytest.mark.parametrize("name", ["whole", "no val", "alone"])
def test_the_best_model_is_the_last_one(name: str, runs: dict[str, Path]) -> None:
    best = torch.load(runs[name] / "best_model.pt", weights_only=True)
    assert best["epoch"] == 2
    for other in ("final_model.pt", "last.ckpt"):
        assert differences(weights(runs[name] / other), best["state_dict"]) == []
    found = history(runs[name])
    assert all(value is None for value in found["val_loss"]) == (name != "whole")
    if name == "whole":
        assert int(np.argmax(found["val_auroc"])) < 2, "another epoch would have been chosen"


def test_test_windows_stay_unseen(runs: dict[str, Path], folders, pretrained: Path, tmp_path: Path, capsys) -> None:
    metrics = {name: runs[name] / "test_metrics.json" for name in runs}
    assert json.loads(metrics["no val"].read_text())["selected_on_test"] is False
    assert json.loads(metrics["whole"].read_text())["selected_on_test"] is False
    assert not metrics["alone"].exists()
    other = tmp_path / "data"
    other.mkdir()
    windows_of("train").save(other / "train.npz")
    windows = windows_of("test")
    windows.labels = 1 - windows.labels
    windows.save(other / "test.npz")
    assert fit(tmp_path / "run", other, f"--model.pretrained={pretrained}") == 0
    said = capsys.readouterr()
    assert "flatter" not in said.err
    assert "best so far" not in said.out
    assert "there is no val.npz" in said.out, "why there is no calibration"
    for name in ("no val", "alone"):
        assert differences(weights(runs[name] / "best_model.pt"), weights(tmp_path / "run" / "best_model.pt")) == []
    before, after = (json.loads(path.read_text()) for path in (metrics["no val"], tmp_path / "run/test_metrics.json"))
    assert after["auroc"] == pytest.approx(1 - before["auroc"])


def test_choosing_the_best_still_wants_something_to_choose_by(folders, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "run", folders["alone"], "--select=best") == 2
    assert "no best model can be chosen" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--select=first", "select"),
        ("--stages.restore_best=true", "--select last looks for none"),
        ("--model.indices=[rythm]", "no group of signal indices 'rythm'"),
        ("--model.encoder_channels=[PGP]", "unknown channel names ['PGP']"),
        ("--model.indices_lr_multiplier=0", "indices_lr_multiplier is 0"),
    ],
)
def test_what_cannot_be_is_one_line(flag: str, said: str, folders: dict[str, Path], tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "run", folders["alone"], flag) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("butppg: ")
    assert said in line


def test_resuming_with_another_choice_or_average_is_said(folders: dict[str, Path], tmp_path: Path, capsys) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path / "run", folders["whole"], "--test=false", *stop_at("epoch", 1, 0))
    capsys.readouterr()
    other = ["--select=best", "--average.decay=0.9"]
    assert fit(tmp_path / "run", folders["whole"], "--test=false", "--resume=auto", *other) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "not exactly" in line]
    assert len(said) == 1
    assert "select was last, is best" in said[0]
    assert "average.decay was None, is 0.9" in said[0]


def test_a_run_from_before_there_was_a_choice_differs_in_nothing() -> None:
    stored = {"seed_everything": 3}
    assert not what_differs(Path("last.ckpt"), stored, Namespace(seed_everything=3, select="best"))
    said = what_differs(Path("last.ckpt"), stored, Namespace(seed_everything=3, select="last"))
    assert "select was best, is last" in said


def test_a_config_with_indices_does_not_give_some_to_an_older_model(folders, tmp_path: Path, capsys) -> None:
    model = PPGQualityClassifier(encoder={"init_args": TINY})
    options = {key: value for key, value in model.hparams.items() if key not in ("indices", "encoder_channels")}
    content = {"state_dict": model.state_dict(), "hyper_parameters": options, "pytorch-lightning_version": "2.6.6"}
    torch.save({**content, "epoch": 0, "global_step": 0}, tmp_path / "older.pt")
    words = ["test", "--config=finetune_recommended.yaml", f"--data.root={folders['no val']}"]
    assert main([*words, f"--ckpt_path={tmp_path / 'older.pt'}"]) == 0, capsys.readouterr().err
    assert main([*words, f"--ckpt_path={tmp_path / 'older.pt'}", "--model.indices=[rhythm]"]) == 2
    assert "--model.indices is ['rhythm'], but" in capsys.readouterr().err


def test_the_model_comes_back_in_both_ways(runs: dict[str, Path], folders: dict[str, Path]) -> None:
    path = runs["whole"] / "best_model.pt"
    plain, options = restore_network(path)
    lightning = PPGQualityClassifier.load_from_checkpoint(path, map_location="cpu").eval()
    assert options["encoder_channels"] == ["PPG", "ECG"]
    assert options["indices"] == ["rhythm", "acc", "ecg"]
    windows = windows_of("test")
    logits = logits_of(plain, windows.signals, windows.present)
    assert torch.equal(logits_of(lightning.network, windows.signals, windows.present), logits)
    turned = windows.signals.copy()
    turned[:, :3] = 0
    lacking = windows.present.copy()
    lacking[:, :3] = False
    assert not torch.equal(logits_of(plain, turned, lacking), logits), "acceleration counts, through its indices"


def test_as_shipped_it_sees_the_ppg_alone(folders: dict[str, Path], pretrained: Path, tmp_path: Path) -> None:
    words = ["--config=finetune_recommended.yaml", f"--model.pretrained={pretrained}", "--trainer.max_epochs=30"]
    place = [f"--data.root={folders['no val']}", f"--output_dir={tmp_path / 'run'}"]
    assert main(["fit", *words, *place]) == 0
    network, options = restore_network(tmp_path / "run" / "best_model.pt")
    assert options["indices"] == ["rhythm"]
    signals = torch.from_numpy(windows_of("test").signals)
    changed = signals.clone()
    changed[:, [CHANNELS.index(name) for name in CHANNELS if name != "PPG"]] = 0
    assert torch.equal(network(changed), network(signals))
    assert json.loads((tmp_path / "run" / "test_metrics.json").read_text())["auroc"] > 0.95


TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.slow
def test_two_processes_are_equal_bit_for_bit_and_do_what_one_does(
    runs: dict[str, Path], folders: dict[str, Path], pretrained: Path, tmp_path: Path
) -> None:
    watch = ["--trainer.callbacks+=test_recommended.Digests", f"--trainer.callbacks.folder={tmp_path}"]
    words = ["fit", *FLAGS, f"--data.root={folders['whole']}", f"--output_dir={tmp_path / 'run'}", *TWO, *watch]
    words += [f"--model.pretrained={pretrained}", "--data.batch_size=4"]
    here = environment()
    here["PYTHONPATH"] += f"{os.pathsep}{Path(__file__).parent}"
    done = subprocess.run(command(*words), env=here, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(set(first)) == 3, "something was learned in every epoch"
    for key in ("train_loss", "val_loss"):
        assert history(tmp_path / "run")[key] == pytest.approx(history(runs["whole"])[key], rel=1e-4), key
