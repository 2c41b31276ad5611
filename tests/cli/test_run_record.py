"""What a run tells of itself: summary, logs, provenance, and what to do when it fails."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from conftest import make_windows
from exactness import Stopped, stop_at

from butppg_lightning.cli import main
from butppg_lightning.cli.configs import shipped_configs
from butppg_lightning.cli.messages import ran_out
from butppg_lightning.files import checksum
from butppg_lightning.tasks.classifier import PPGQualityClassifier
from butppg_lightning.training import provenance

FLAGS = [
    *("--config=finetune.yaml", "--config=tiny.yaml", "--data.batch_size=6", "--trainer.precision=32-true"),
    *("--stages.head_only_epochs=1", "--stages.unfreeze_last_n=1", "--cache.enabled=false"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, (split, count) in enumerate({"train": 24, "val": 12}.items()):
        make_windows(count, seed, subjects=split).save(folder / f"{split}.npz")
    return folder


def fit(data: Path, folder: Path, *more: str) -> int:
    return main(["fit", *FLAGS, f"--data.root={data}", f"--output_dir={folder}", *more])


def test_resumed_run_tells_one_story(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    flags = ["--trainer.max_epochs=2", "--loggers=[csv]", "--trainer.log_every_n_steps=2", "--save_every_n_steps=1"]
    with pytest.raises(Stopped):
        fit(data, folder, *flags, *stop_at("batch", 1, 2))
    begun = json.loads((folder / "training_config.json").read_text())
    # rows that the lost end of a run had written
    with (folder / "logs" / "metrics.csv").open("a") as file:
        file.write("1" + "," * 3 + "77" + "\n")
    capsys.readouterr()
    assert fit(data, folder, *flags, "--resume=auto") == 0
    table = capsys.readouterr().out.partition("Stages of this run")[2]
    rows = [line.split("│") for line in table.splitlines() if "stage" in line and "│" in line][:2]
    assert [[cell.strip() for cell in row[1:3]] for row in rows] == [["stage1_head_only", "1"], ["stage2_partial", "1"]]
    assert all(row[7].strip().endswith(" s") for row in rows)
    assert main(["inspect", str(folder)]) == 0
    again = capsys.readouterr().out.partition("Stages of this run")[2]
    assert [line for line in again.splitlines() if "│ stage" in line] == [
        line for line in table.splitlines() if "│ stage" in line
    ]

    assert json.loads((folder / "training_config.json").read_text()) == begun
    path = data / "train.npz"
    size = path.stat().st_size
    assert begun["data_files"]["train"] == {"file": "train.npz", "bytes": size, "crc32": f"{checksum(path, size):08x}"}
    assert set(begun["data_files"]) == {"train", "val"}
    assert {"data_files", "versions"}.isdisjoint(yaml.safe_load((folder / "config.yaml").read_text()))
    stored = torch.load(folder / "best_model.pt", weights_only=True)["config"]
    assert stored["data_files"] == begun["data_files"]

    logged = list(csv.DictReader((folder / "logs" / "metrics.csv").open()))
    steps = [int(row["step"]) for row in logged if row["lr"]]
    assert steps == [1, 3, 5, 7]
    assert [row["stage"] for row in logged if row["lr"]] == ["1.0", "1.0", "2.0", "2.0"]
    assert all(float(row["lr"]) == pytest.approx(2e-5) for row in logged if row["lr"])
    history = json.loads((folder / "training_history.json").read_text())
    for key in ("val_auroc", "train_loss"):
        assert [float(row[key]) for row in logged if row[key]] == pytest.approx(history[key], rel=1e-5)

    # a finished run resumed prints its summary too; changed data are noticed, by name
    make_windows(12, 5, subjects="val").save(data / "val.npz")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert fit(data, folder, *flags, "--resume=auto") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{data / 'val.npz'} has changed" in told
    assert "--output_dir" in told
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_commit_is_that_of_the_package_or_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "commit" not in provenance.versions()
    (tmp_path / "__init__.py").write_text("")

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *who, *words], capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "a")
    found = provenance.versions()
    assert (found["commit"], found["commit_of"]) == (git("rev-parse", "HEAD"), "working directory")
    git("add", "__init__.py")
    git("commit", "-q", "-m", "b")
    assert provenance.versions()["commit_of"] == "butppg_lightning"
    assert provenance.versions()["uncommitted_changes"] is False
    (tmp_path / "__init__.py").write_text("1")
    assert provenance.versions()["uncommitted_changes"] is True
    monkeypatch.setenv("PATH", "")
    assert "commit" not in provenance.versions()
    assert {"butppg_lightning", "python", "torch"} <= set(provenance.versions())


def test_out_of_memory_says_where_and_what_to_change(data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    step = PPGQualityClassifier.training_step

    def failing(self, batch, batch_idx):
        if self.trainer.current_epoch == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PPGQualityClassifier, "training_step", failing)
    assert fit(data, tmp_path / "run", "--trainer.max_epochs=2") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory in epoch 2 of stage2_partial (train)" in told
    assert "--data.batch_size 3 (now 6) with --trainer.accumulate_grad_batches 2" in told
    assert "--trainer.precision bf16-mixed" in told


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert ran_out(error) is expected


def test_divergence_is_said_once(data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    step = PPGQualityClassifier.training_step
    monkeypatch.setattr(
        PPGQualityClassifier,
        "training_step",
        lambda self, batch, number: step(self, batch, number) * (float("nan") if self.trainer.current_epoch else 1),
    )
    assert fit(data, tmp_path / "run", "--trainer.max_epochs=3") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "diverges" in line]
    assert len(told) == 1
    assert "4 of 4 batches of epoch 2" in told[0]
    assert "--model.lr (now 2e-05)" in told[0]
    assert torch.load(tmp_path / "run" / "best_model.pt", weights_only=True)["epoch"] == 0


def test_missing_tensorboard_is_one_line(data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("butppg_lightning.training.run_logs.find_spec", lambda name: None)
    assert fit(data, tmp_path / "run", "--loggers=tensorboard") == 2
    assert "pip install 'butppg-lightning[loggers]'" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("config", sorted(path.name for path in (shipped_configs() / "loggers").glob("*.yaml")))
def test_logger_configs_parse(config: str, capsys) -> None:
    assert main(["fit", *FLAGS[:2], f"--config=loggers/{config}", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]["class_path"].endswith("Logger")
