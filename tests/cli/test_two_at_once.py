"""Two commands that begin at the same moment in one folder: exactly one of them works there."""

import json
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from exactness import command, environment, fit

from butppg_lightning.cli import main
from butppg_lightning.cli.training import TrainingCLI
from butppg_lightning.files import claim

SHORT = ["--config=tiny.yaml", "--trainer.max_epochs=2", "--stages.head_only_epochs=1", "--trainer.accelerator=cpu"]


def both(*words: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Run commands at the same time."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    running = [subprocess.Popen(command(*each), **pipes) for each in words]
    ended = [(process.communicate(timeout=120), process) for process in running]
    return [subprocess.CompletedProcess(process.args, process.returncode, *said) for said, process in ended]


def one_of(done: list[subprocess.CompletedProcess[str]]) -> tuple[int, str]:
    """Check that one of two was refused in a line; returns which one was not, and that line."""
    assert sorted(process.returncode for process in done) == [0, 2], [process.stderr for process in done]
    refused = next(process for process in done if process.returncode)
    assert "Traceback" not in refused.stderr
    return next(index for index, process in enumerate(done) if not process.returncode), refused.stderr.splitlines()[-1]


def test_two_fits(data_folder: Path, tmp_path: Path) -> None:
    words = ["fit", "--config=finetune.yaml", f"--data.root={data_folder}", f"--output_dir={tmp_path / 'run'}", *SHORT]
    winner, line = one_of(both(*([*words, f"--seed_everything={seed}"] for seed in (0, 1))))
    assert "in use by process" in line or "has just been at work" in line or "already holds a run" in line
    for name in ("best_model.pt", "last.ckpt", "final_model.pt"):
        config = torch.load(tmp_path / "run" / name, weights_only=True)["config"]
        assert config["seed_everything"] == winner
    assert json.loads((tmp_path / "run" / "training_config.json").read_text())["seed_everything"] == winner
    assert not list((tmp_path / "run").glob(".claim*"))


def test_two_mocks(tmp_path: Path) -> None:
    words = ["mock", f"--output={tmp_path / 'data'}", "--samples=200"]
    one_of(both(*([*words, f"--seed={seed}"] for seed in (0, 1))))


@pytest.mark.parametrize(
    "words",
    [
        ["mock", "--samples=60", "--output"],
        ["prepare", "splits", "--source=none.npz", "--output"],
        ["evaluate", "--checkpoint=none.pt", "--data-dir=none", "--output-dir"],
    ],
)
def test_commands_leave_a_folder_alone_that_another_one_holds(words: list[str], tmp_path: Path, capsys) -> None:
    with claim(tmp_path):
        assert main([*words, str(tmp_path)]) == 2
    assert f"{tmp_path} is in use by process" in capsys.readouterr().err


def test_a_run_that_ended_since_this_one_looked_is_not_written_over(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Its process has let go of the folder, but this one has decided on what it had seen before."""
    claimed = TrainingCLI.claimed

    def after_another_run(self: TrainingCLI) -> object:
        monkeypatch.setattr(TrainingCLI, "claimed", claimed)
        assert fit(tmp_path / "run", data_folder, *SHORT) == 0
        return claimed(self)

    monkeypatch.setattr(TrainingCLI, "claimed", after_another_run)
    assert fit(tmp_path / "run", data_folder, *SHORT, "--seed_everything=1") == 2
    assert "another run has just been at work" in capsys.readouterr().err


@pytest.mark.slow
def test_ranks_of_one_run_do_not_refuse_each_other(data_folder: Path, tmp_path: Path) -> None:
    """As torchrun and srun start them: all at once, each a `butppg fit` of its own."""
    words = ["fit", "--config=finetune.yaml", f"--data.root={data_folder}", f"--output_dir={tmp_path / 'run'}", *SHORT]
    words += ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4", "--test=false"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    place |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(command(*words), env={**environment(), **place, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    assert [process.wait(120) for process in ranks] == [0, 0]
    assert (tmp_path / "run" / "final_model.pt").is_file()
