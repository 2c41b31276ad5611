"""What could be asked for and would do nothing, or another thing, is refused in one line that says what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import make_windows
from exactness import fit
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder

from butppg_lightning.cli import main

SHORT = ["--config=tiny.yaml", "--trainer.max_epochs=2", "--stages.head_only_epochs=1", "--trainer.accelerator=cpu"]
LIGHTNING = "--trainer.callbacks=lightning.pytorch.callbacks."


class Stopper(EarlyStopping):
    """Derived, as users' own are."""


class Finder(LearningRateFinder):
    pass


REFUSED = {
    LIGHTNING + "LearningRateFinder": "what it finds would not be used.*--model.lr",
    "--trainer.callbacks=test_without_effect.Finder": "what it finds would not be used",
    LIGHTNING + "BatchSizeFinder": "--data.batch_size",
    LIGHTNING + "GradientAccumulationScheduler --trainer.callbacks.scheduling={0: 2}": "accumulate_grad_batches",
    LIGHTNING + "StochasticWeightAveraging --trainer.callbacks.swa_lrs=0.1": "must have one owner",
    LIGHTNING + "EMAWeightAveraging": "--average.decay",
    LIGHTNING + "OnExceptionCheckpoint --trainer.callbacks.dirpath=.": "--save_every_n_steps",
    LIGHTNING + "LearningRateMonitor": "has no logger",
    "--trainer.limit_val_batches=0": "--select last",
    "--trainer.val_check_interval=5": "divides the 9 batches",
    "--trainer.val_check_interval=00:00:00:01": "before the epoch's end",
    "--trainer.val_check_interval=1000": "val_check_interval",
    "--trainer.check_val_every_n_epoch=null --trainer.val_check_interval=12": "before the epoch's end",
    "--trainer.default_root_dir=x": "--output_dir",
    "--trainer.enable_checkpointing=false": "keeps its best and last model",
    "--trainer.use_distributed_sampler=true": "no effect",
    "--trainer.gradient_clip_val=null --trainer.gradient_clip_algorithm=norm": "without gradient_clip_val",
    "--trainer.min_epochs=9": "no effect beyond max_epochs",
    "--trainer.max_steps=0": "no epoch was completed",
    "--trainer.limit_train_batches=0": "no epoch was completed",
}
STAGED = {
    LIGHTNING + "EarlyStopping --trainer.callbacks.monitor=val_loss": "--stages.patience",
    "--trainer.callbacks=test_without_effect.Stopper --trainer.callbacks.monitor=val_loss": "--stages.patience",
    LIGHTNING + "BackboneFinetuning": "freezes and unfreezes as well",
    "--model.inflation.new_channels=zero": "without --model.pretrained",
    "--model.pretrain_channels=2": "without --model.pretrained",
    "--data.predict_split=val": "no effect on `butppg fit`",
    "--config=gradual.yaml --stages.head_only_epochs=3": "beside the stages.plan of a config; drop it, or add",
}


def refused(words: list[str], said: str, capsys: Any) -> None:
    assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("butppg: ")
    assert re.search(said, line), line


@pytest.mark.parametrize("flags", [*REFUSED, *STAGED])
def test_refused_by_fit(flags: str, data_folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["fit", "--config=finetune.yaml", f"--data.root={data_folder}", f"--output_dir={tmp_path / 'run'}", *SHORT]
    words += ["--data.batch_size=4", *re.split(" (?=--)", flags)]
    refused(words, {**REFUSED, **STAGED}[flags], capsys)
    assert not (tmp_path / "run" / "best_model.pt").exists()


@pytest.fixture(scope="module")
def vitaldb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vitaldb")
    for seed, (split, count) in enumerate({"train": 36, "val": 10}.items()):
        windows = make_windows(count, seed, subjects=split)
        windows.signals, windows.channels, windows.labels = windows.signals[:, 3:], ("PPG", "ECG"), None
        windows.save(folder / f"{split}_windows.npz")
    return folder


@pytest.mark.parametrize("flags", REFUSED)
def test_refused_by_pretrain(flags: str, vitaldb: Path, tmp_path: Path, capsys: Any) -> None:
    size = ["--config=pretrain.yaml", "--config=tiny.yaml", "--trainer.max_epochs=2", "--data.batch_size=4"]
    words = [
        "pretrain",
        *size,
        f"--data.root={vitaldb}",
        f"--output_dir={tmp_path / 'run'}",
        *re.split(" (?=--)", flags),
    ]
    refused(words, REFUSED[flags], capsys)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize(
    "flag", ["--stages.head_only_epochs=3", "--cache.enabled=false", "--average.decay=0.9", "--trainer.max_epochs=3"]
)
def test_options_of_training_are_refused_where_nothing_trains(command: str, flag: str, capsys: Any) -> None:
    refused([command, "--ckpt_path=none.pt", flag], f"no effect on `butppg {command}`", capsys)


def test_what_does_something_is_taken(data_folder: Path, tmp_path: Path) -> None:
    kept = ["--trainer.val_check_interval=3", "--trainer.log_every_n_steps=0", "--loggers=csv"]
    kept += [LIGHTNING + "LearningRateMonitor", "--data.batch_size=4", "--trainer.min_epochs=2"]
    assert fit(tmp_path / "run", data_folder, *SHORT, *kept) == 0
    last = ["--trainer.val_check_interval=5", "--select=last", "--data.batch_size=4", "--test=false"]
    assert fit(tmp_path / "last", data_folder, *SHORT, *last) == 0
