"""A run that a limit ends says so, does not pretend to be whole, and goes on as the uninterrupted one would have."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_windows
from exactness import RUN, Stopped, differences, fit, outcome, stop_at
from lightning.pytorch import Callback
from shell import run_suggested, suggested

from butppg_lightning.cli import main

# 9 batches and 5 optimizer steps an epoch; a rate that does not depend on the run's length
FLAGS = [*RUN, "--trainer.precision=32-true", "--model.lr_schedule=constant", "--model.warmup=0"]
EPOCHS = "--trainer.max_epochs=3"
PLAN = ["--stages.head_only_epochs=1", "--stages.full_finetune_epochs=1", EPOCHS, "--save_every_n_steps=null"]


class Stop(Callback):
    """Asks for the end, as a timer does, after a batch; with ``signals`` by the requeue signal, which asks for none."""

    def __init__(self, epoch: int, batch: int, signals: bool = False) -> None:
        self.point, self.signals = (epoch, batch), signals

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.point and self.signals:
            os.kill(os.getpid(), signal.SIGUSR1)
        elif (trainer.current_epoch, batch_idx) == self.point:
            trainer.should_stop = True


def stop(epoch: int, batch: int, signals: bool = False) -> list[str]:
    flags = {"epoch": epoch, "batch": batch, "signals": signals}
    return [
        "--trainer.callbacks+=test_cut_off.Stop",
        *(f"--trainer.callbacks.{key}={value}" for key, value in flags.items()),
    ]


@pytest.fixture(scope="module")
def whole(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert fit(folder, data_folder, *FLAGS, *PLAN) == 0
    return outcome(folder)


@pytest.mark.parametrize(("steps", "where"), [(2, "in epoch 1"), (5, "after epoch 1"), (8, "in epoch 2")])
def test_max_steps(steps: int, where: str, whole: dict, data_folder: Path, tmp_path: Path, capsys: Any) -> None:
    run, line = tmp_path / "my run; a$b", f"cut off {where} of 3 by trainer.max_steps {steps}"
    words = [*FLAGS, *PLAN, f"--trainer.max_steps={steps}"]
    assert fit(run, data_folder, *words) == 0
    first = capsys.readouterr().err
    assert line in first.splitlines()[-1]
    assert not (run / "final_model.pt").exists()
    assert line.removeprefix("cut off ") == json.loads((run / "training_history.json").read_text())["cut_off"]
    assert line.removeprefix("cut off ") == json.loads((run / "test_metrics.json").read_text())["cut_off"]
    assert main(["inspect", str(run)]) == 0
    assert "cut off" in capsys.readouterr().out
    assert fit(run, data_folder, *words, "--resume=auto") == 0, "the limit is reached: nothing to do"
    said = capsys.readouterr()
    assert line in said.err
    assert "Epoch" not in said.out
    assert run_suggested(first) == 0
    assert "cut off" not in capsys.readouterr().err
    assert differences(outcome(run), whole) == []


@pytest.mark.parametrize("batch", [2, 3, 8], ids=["within a step", "at a step", "at the epoch's end"])
def test_a_callback_that_stops_the_run(batch: int, whole: dict, data_folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = [*FLAGS, *PLAN]
    assert fit(tmp_path / "run", data_folder, *words, *stop(1, batch)) == 0
    said = capsys.readouterr().err
    assert f"cut off {'after' if batch == 8 else 'in'} epoch 2 of 3 by a callback" in said
    assert fit(tmp_path / "run", data_folder, *words, "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), whole) == []


def test_max_time(data_folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = [*FLAGS, *PLAN, "--trainer.max_epochs=9000", "--trainer.max_time=00:00:00:01"]
    assert fit(tmp_path / "run", data_folder, *words) == 0
    said = capsys.readouterr().err
    assert "of 9000 by trainer.max_time" in said
    assert suggested(said)[-3:] == ["--resume", "auto", "--trainer.max_time=null"]
    done = len(json.loads((tmp_path / "run" / "training_history.json").read_text())["train_loss"])
    assert fit(tmp_path / "run", data_folder, *words, "--resume=auto") == 0
    assert "of 9000 by trainer.max_time" in capsys.readouterr().err
    again = len(json.loads((tmp_path / "run" / "training_history.json").read_text())["train_loss"])
    assert again == done


def test_a_pretraining_says_so_too(tmp_path: Path, capsys: Any) -> None:
    for seed, (split, count) in enumerate({"train": 30, "val": 10}.items()):
        windows = make_windows(count, seed, subjects=split)
        windows.signals, windows.channels, windows.labels = windows.signals[:, 3:], ("PPG", "ECG"), None
        windows.save(tmp_path / f"{split}_windows.npz")
    words = ["pretrain", "--config=pretrain.yaml", "--config=tiny.yaml", f"--data.root={tmp_path}"]
    words += [f"--output_dir={tmp_path / 'run'}", "--data.batch_size=4", "--trainer.max_epochs=2"]
    assert main([*words, "--trainer.max_steps=10"]) == 0
    said = capsys.readouterr().err
    assert "cut off in epoch 2 of 2 by trainer.max_steps 10" in said
    assert not (tmp_path / "run" / "final_model.pt").exists()
    assert run_suggested(said) == 0
    assert (tmp_path / "run" / "final_model.pt").exists()
    assert "from here on that of a run of the new length" in capsys.readouterr().err
    assert main([*words, "--resume=auto", "--trainer.max_epochs=3"]) == 0
    assert len(json.loads((tmp_path / "run" / "training_history.json").read_text())["loss"]) == 3
    assert main([*words, "--resume=auto", "--trainer.max_epochs=2"]) == 2
    assert "is of a run of 3 epochs, --trainer.max_epochs is 2; give 3 or more" in capsys.readouterr().err


SLURM = {"NTASKS": 1, "JOB_NAME": "train", "JOB_ID": 7, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NTASKS_PER_NODE": 1}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of SLURM; returns the file that `scontrol` writes its words to."""
    program, said = tmp_path / "bin" / "scontrol", tmp_path / "requeued"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{said}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    return said


@pytest.mark.parametrize("batch", [2, 8])
def test_a_job_put_in_line_again_goes_on_exactly(
    batch: int, slurm: Path, whole: dict, data_folder: Path, tmp_path: Path
) -> None:
    """SLURM's signal comes in the middle of a step: the run goes on for a while, and is then killed."""
    run, words = tmp_path / "run", [*FLAGS, *PLAN]
    with pytest.raises(Stopped):
        fit(run, data_folder, *words, *stop(0, batch, signals=True), *stop_at("batch", 1, 3))
    assert slurm.read_text() == "requeue 7\n"
    assert not list(run.glob("hpc_ckpt_*"))
    assert fit(run, data_folder, *words, "--resume=auto") == 0
    assert differences(outcome(run), whole) == []


def test_a_requeue_file_of_an_earlier_version_is_never_taken_up_unasked(
    slurm: Path, data_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    run, words = tmp_path / "run", [*FLAGS, *PLAN]
    assert fit(tmp_path / "other", data_folder, *words, "--trainer.max_steps=8") == 0
    run.mkdir()
    (tmp_path / "other" / "last.ckpt").rename(run / "hpc_ckpt_1.ckpt")
    assert fit(run, data_folder, *words) == 2
    assert "already holds a run; continue it with --resume auto" in capsys.readouterr().err
    with pytest.raises(Stopped):
        fit(run, data_folder, *words, "--overwrite", *stop_at("batch", 0, 3))
    assert not list(run.glob("hpc_ckpt_*")), "a new run begins at its beginning"
    assert fit(run, data_folder, *words, "--resume=auto") == 0, "no checkpoint is there yet"
    assert "Epoch 1/3" in capsys.readouterr().out
    torch.save({**torch.load(run / "last.ckpt", weights_only=True), "global_step": 0}, run / "hpc_ckpt_2.ckpt")
    assert fit(run, data_folder, *words, "--resume=auto") == 0, "last.ckpt is further"
    assert "Epoch" not in capsys.readouterr().out
