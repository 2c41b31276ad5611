"""`butppg mock`: what it writes, what it says and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from butppg_lightning.cli import main
from butppg_lightning.cli.mock import mock
from butppg_lightning.cli.parser import run_function
from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import read_recording
from butppg_lightning.sources.synthetic import synthesize
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from pathlib import Path


def test_writes_splits_and_names_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_function("mock", mock, ["--output", str(tmp_path / "mock"), "--samples", "30", "--seed", "1"])
    printed = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "mock").iterdir()) == ["test.npz", "train.npz", "val.npz"]
    assert "butppg fit --config" in printed.out
    assert all(split in printed.out for split in ("train", "val", "test"))
    assert printed.err == ""  # no progress bar where there is no terminal
    assert "\x1b" not in printed.out


def test_writes_windows_for_pretraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_function("mock", mock, ["--output", str(tmp_path), "--samples", "20", "--layout", "vitaldb"])
    assert read_windows(tmp_path / "train_windows.npz", labelled=False).channels == ("PPG", "ECG")
    assert (tmp_path / "val_windows.npz").exists()
    assert "butppg pretrain --config" in capsys.readouterr().out


def test_refuses_to_replace_splits_unless_told(tmp_path: Path) -> None:
    (tmp_path / "val.npz").write_bytes(b"precious")
    words = ["--output", str(tmp_path), "--samples", "30"]
    with pytest.raises(UserError, match=r"val\.npz exists.*--overwrite"):
        run_function("mock", mock, words)
    assert (tmp_path / "val.npz").read_bytes() == b"precious"
    run_function("mock", mock, [*words, "--overwrite"])
    assert len(read_windows(tmp_path / "val.npz", labelled=True)) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--samples", "5"], "too few.*the minimum is 12"),
        (["--samples", "1", "--layout", "vitaldb"], "too few.*the minimum is 2"),
        (["--samples", "30", "--good-share", "1.2"], "good_share is 1.2; choose"),
        (["--samples", "many"], "samples"),
        (["--layout", "bidmc"], "layout"),
        (["--numbers", "30"], "unknown option --numbers"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        run_function("mock", mock, ["--output", str(tmp_path / "mock"), *words])
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "mock").exists()


def test_the_folder_has_to_be_named() -> None:
    with pytest.raises(UserError, match="output"):
        run_function("mock", mock, ["--samples", "30"])


def test_loads_neither_torch_nor_lightning(tmp_path: Path) -> None:
    script = (
        "import sys; from butppg_lightning.cli import main; "
        f"main(['mock', '--output', {str(tmp_path)!r}, '--samples', '12']); "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_recording_is_what_a_device_would_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One person's windows in a row, read back without a word of help."""
    assert main(["mock", "--output", str(tmp_path), "--layout", "recording", "--samples", "4", "--seed", "5"]) == 0
    assert "butppg score" in capsys.readouterr().out
    recording = read_recording(tmp_path / "recording.csv")
    assert recording.notes == recording.guesses == []
    windows = synthesize(4, seed=5, subjects=1)
    for row, name in enumerate(windows.channels):
        channel = recording.channels[name]
        assert channel.rate == pytest.approx(125)
        found = np.asarray(channel.samples)
        assert np.allclose(found, windows.signals[:, row].reshape(-1), rtol=1e-4, atol=1e-4)
    assert main(["mock", "--output", str(tmp_path), "--layout", "recording", "--samples", "4"]) == 2
    assert "--overwrite" in capsys.readouterr().err
