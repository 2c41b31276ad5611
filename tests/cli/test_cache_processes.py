"""Two processes share one set of stored features. Runs of their own, over gloo."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import encoder_flags
from exactness import command, differences, environment, fit, outcome

from butppg_lightning.cli import main

RUN = [
    *encoder_flags({"patch_size": 125, "width": 16, "depth": 3, "heads": 2}),
    "--model.lr=1e-3",
    "--trainer.precision=32-true",
    "--stages.head_only_epochs=1",
    "--stages.unfreeze_last_n=1",
    "--stages.full_finetune_epochs=1",
    "--trainer.max_epochs=3",
]
TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three chunks of training windows, so that both processes compute some; an odd number of them."""
    folder = tmp_path_factory.mktemp("mock")
    assert main(["mock", "--output", str(folder), "--samples", "400"]) == 0
    (folder / "test.npz").unlink()
    return folder


def run(output: Path, data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    words = ["fit", "--config=finetune.yaml", f"--data.root={data}", f"--output_dir={output}", *RUN, *TWO, *flags]
    return subprocess.run(command(*words), env=environment(), capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    done = run(folder / "run", data, f"--cache.folder={folder / 'shared'}")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "frozen-prefix" in line]
    assert sum("mapped from disk, computed" in line for line in said) == 4, said
    assert len(said) == 5, "only one process speaks; the last line is about stage 3"
    assert {path.suffix for path in (folder / "shared").iterdir()} == {".features", ".json"}
    assert len(list((folder / "shared").iterdir())) == 8
    return folder


def test_two_processes_do_what_one_does_without_the_cache(two: Path, data: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "one", data, *RUN, "--data.batch_size=16", "--cache.enabled=false") == 0
    one, both = (json.loads((path / "training_history.json").read_text()) for path in (tmp_path / "one", two / "run"))
    for key in ("train_loss", "val_loss", "train_acc", "val_acc"):
        assert one[key] == pytest.approx(both[key], rel=1e-5), key


def test_one_process_takes_what_two_stored(two: Path, data: Path, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "one", data, *RUN, "--data.batch_size=16", f"--cache.folder={two / 'shared'}") == 0
    assert capsys.readouterr().err.count("taken from an earlier run") == 4
    one, both = (torch.load(path / "final_model.pt", weights_only=True) for path in (tmp_path / "one", two / "run"))
    assert one["epoch"] == both["epoch"]


def test_both_agree_that_damaged_files_are_made_anew(two: Path, data: Path, tmp_path: Path) -> None:
    files = sorted((two / "shared").glob("*.features"))
    whole = {path: path.read_bytes() for path in files}
    os.truncate(files[0], 100)
    files[1].write_bytes(bytes(len(whole[files[1]])))
    files[2].with_suffix(".json").write_text("{}")
    done = run(tmp_path / "run", data, f"--cache.folder={two / 'shared'}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be used") == 3, done.stderr
    assert done.stderr.count("taken from an earlier run") == 1
    assert differences(outcome(tmp_path / "run"), outcome(two / "run")) == []
    assert {path: path.read_bytes() for path in files} == whole


@pytest.mark.slow
def test_replacing_a_run_goes_well_for_both(two: Path, data: Path, tmp_path: Path) -> None:
    """The old run's features go while the new ones are made; neither process may miss a file."""
    old = tmp_path / "run" / "cache" / "old.features"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    (tmp_path / "run" / "training_config.json").write_text("{}")
    done = run(tmp_path / "run", data, "--overwrite=true")
    assert done.returncode == 0, done.stderr
    assert not old.parent.exists()
    assert differences(outcome(tmp_path / "run"), outcome(two / "run")) == []
