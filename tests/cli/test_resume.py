"""A run interrupted anywhere and resumed ends as the uninterrupted one, bit for bit."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import EVERY_ENCODER, make_windows
from exactness import RUN, Stopped, command, differences, environment, fit, outcome, stop_at

from butppg_lightning.cli import main

# 9 batches and, with accumulation 2, 5 optimizer steps an epoch; stages of 2 epochs each; last.ckpt every 2 steps
POINTS = {
    "first epoch, before any checkpoint's epoch": ("batch", 0, 6),
    "end of an epoch in stage 1": ("epoch", 1, 0),
    "boundary of stages 1 and 2": ("epoch", 2, 0),
    "middle of an epoch in stage 2": ("batch", 3, 5),
    "during validation in stage 2": ("validation", 3, 1),
    "boundary of stages 2 and 3": ("epoch", 4, 0),
    "middle of the last epoch": ("batch", 5, 8),
    "after the last epoch, before the final files": ("fit_end", 0, 0),
}
COMBINATIONS = [(precision, workers) for precision in ("32-true", "bf16-mixed") for workers in (0, 2)]


@pytest.fixture(scope="module")
def uninterrupted(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    outcomes = {}
    for precision, workers in COMBINATIONS:
        folder = tmp_path_factory.mktemp("whole") / "run"
        flags = [f"--trainer.precision={precision}", f"--data.num_workers={workers}"]
        assert fit(folder, data_folder, *RUN, *flags) == 0
        outcomes[precision, workers] = outcome(folder)
    return outcomes


def test_workers_change_nothing(uninterrupted: dict) -> None:
    for precision in ("32-true", "bf16-mixed"):
        assert not differences(uninterrupted[precision, 0], uninterrupted[precision, 2])


@pytest.mark.parametrize(("precision", "workers"), COMBINATIONS)
@pytest.mark.parametrize("point", POINTS)
def test_resumed_is_uninterrupted(
    point: str, precision: str, workers: int, uninterrupted: dict, data_folder: Path, tmp_path: Path
) -> None:
    flags = [*RUN, f"--trainer.precision={precision}", f"--data.num_workers={workers}"]
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *flags, *stop_at(*POINTS[point]))
    assert fit(tmp_path / "run", data_folder, *flags, "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), uninterrupted[precision, workers]) == []


@pytest.mark.parametrize("encoder", EVERY_ENCODER[1:])
def test_so_it_is_with_every_encoder(encoder: dict, data_folder: Path, tmp_path: Path) -> None:
    flags = [*RUN, "--trainer.precision=32-true", f"--model.encoder={json.dumps(encoder)}"]
    assert fit(tmp_path / "whole", data_folder, *flags) == 0
    for name in ("middle of an epoch in stage 2", "boundary of stages 2 and 3"):
        with pytest.raises(Stopped):
            fit(tmp_path / name, data_folder, *flags, *stop_at(*POINTS[name]))
        assert fit(tmp_path / name, data_folder, *flags, "--resume=auto") == 0
        assert differences(outcome(tmp_path / name), outcome(tmp_path / "whole")) == [], name


def test_resuming_by_path_is_the_same(uninterrupted: dict, data_folder: Path, tmp_path: Path) -> None:
    flags = [*RUN, "--trainer.precision=32-true"]
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *flags, *stop_at("batch", 2, 7))
    assert fit(tmp_path / "run", data_folder, *flags, "--ckpt_path", str(tmp_path / "run" / "last.ckpt")) == 0
    assert differences(outcome(tmp_path / "run"), uninterrupted["32-true", 0]) == []


@pytest.mark.parametrize("limit", [4, 0.5])
def test_limited_epochs_resume_too(limit: float, data_folder: Path, tmp_path: Path) -> None:
    flags = [*RUN, "--trainer.precision=32-true", f"--trainer.limit_train_batches={limit}"]
    assert fit(tmp_path / "whole", data_folder, *flags) == 0
    for name, point in {"boundary": ("epoch", 2, 0), "middle": ("batch", 3, 3)}.items():
        with pytest.raises(Stopped):
            fit(tmp_path / name, data_folder, *flags, *stop_at(*point))
        assert fit(tmp_path / name, data_folder, *flags, "--resume=auto") == 0
        assert differences(outcome(tmp_path / name), outcome(tmp_path / "whole")) == []


def test_another_plan_is_refused(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *RUN, *stop_at("epoch", 2, 0))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert fit(tmp_path / "run", data_folder, *RUN, "--stages.head_only_epochs=3", "--resume=auto") == 2
    assert "same plan" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


PRETRAIN = [
    "pretrain",
    "--config=pretrain.yaml",
    "--config=tiny.yaml",
    "--data.batch_size=4",
    "--trainer.max_epochs=4",
    "--trainer.accumulate_grad_batches=2",
    "--save_every_n_steps=2",
    "--model.modality_dropout=0.25",
    "--model.amplitude=0.2",
    "--model.time_shift=0.1",
]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_pretraining_resumes_too(precision: str, tmp_path: Path) -> None:
    for seed, (split, count) in enumerate({"train": 30, "val": 10}.items()):
        windows = make_windows(count, seed, subjects=split)
        windows.signals, windows.channels, windows.labels = windows.signals[:, 3:], ("PPG", "ECG"), None
        windows.save(tmp_path / f"{split}_windows.npz")
    flags = [*PRETRAIN, f"--data.root={tmp_path}", f"--trainer.precision={precision}"]
    assert main([*flags, f"--output_dir={tmp_path / 'whole'}"]) == 0
    for name, point in {
        "middle": ("batch", 2, 6),
        "boundary": ("epoch", 1, 0),
        "validation": ("validation", 1, 1),
    }.items():
        with pytest.raises(Stopped):
            main([*flags, f"--output_dir={tmp_path / name}", *stop_at(*point)])
        assert main([*flags, f"--output_dir={tmp_path / name}", "--resume=auto"]) == 0
        assert differences(outcome(tmp_path / name), outcome(tmp_path / "whole")) == [], name
    history = json.loads((tmp_path / "whole" / "training_history.json").read_text())
    assert {"loss", "msm", "stft", "val_msm_ppg", "val_msm_ecg"} <= set(history)


@pytest.mark.slow
def test_fresh_processes_repeat_a_run(data_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        words = ["fit", "--config=finetune.yaml", f"--data.root={data_folder}", f"--output_dir={tmp_path / name}"]
        subprocess.run(command(*words, *RUN), env=environment(), check=True, capture_output=True)
    assert differences(outcome(tmp_path / "one"), outcome(tmp_path / "two")) == []


def test_what_makes_a_resumed_run_another_one_is_said(data_folder: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *RUN, *stop_at("epoch", 2, 0))
    capsys.readouterr()
    assert fit(tmp_path / "run", data_folder, *RUN, "--resume=auto", "--data.batch_size=6", "--seed_everything=1") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "not exactly" in line]
    assert len(said) == 1
    assert "data.batch_size was 4, is 6" in said[0]
    assert "seed_everything was 0, is 1" in said[0]


def test_a_run_of_an_earlier_version_is_refused_in_one_line(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights still serve as pretrained ones."""
    size = ["--config", "tiny.yaml", "--trainer.max_epochs", "1"]
    assert fit(tmp_path / "run", data_folder, *size) == 0
    last = tmp_path / "run" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    for rank in content["callbacks"]["ExactResume"]["ranks"]:
        rank["totals"] = rank.pop("means")
    torch.save(content, last)
    assert fit(tmp_path / "run", data_folder, *size, "--resume", "auto") == 2
    assert "earlier version" in capsys.readouterr().err
    assert fit(tmp_path / "again", data_folder, *size, "--model.pretrained", str(last)) == 0
