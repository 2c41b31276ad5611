"""A disk that is full ends in one line that names the file, and leaves no part of one."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import make_windows

from butppg_lightning.cli import main
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, write_failure

FIT = [
    "fit",
    "--config",
    "finetune.yaml",
    "--config",
    "tiny.yaml",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of some kilobytes, where the machine allows it."""
    folder = tmp_path / "disk"

    def make(kilobytes: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no file system can be mounted here")
        return folder

    yield make
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def ends_in_one_line(words: list[object], capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    assert main([str(word) for word in words]) == 2
    printed = capfd.readouterr().err
    assert "Traceback" not in printed
    lines = [line for line in printed.splitlines() if line.startswith("butppg: ")]
    assert len(lines) == 1, printed
    assert lines[0] == printed.splitlines()[-1]
    return lines[0]


@pytest.mark.parametrize(
    ("kilobytes", "file", "further"),
    [
        (8, "", ["--loggers", "csv"]),
        (8, "", ["--loggers", "tensorboard"]),
        (16, "best_model.pt", ["--cache.memory_gb", "0"]),
        (100, "best_model.pt", []),
    ],
)
def test_fit(
    kilobytes: int, file: str, further: list[str], disk: Callable, data_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = disk(kilobytes) / "run"
    line = ends_in_one_line([*FIT, *further, "--data.root", data_folder, "--output_dir", output], capfd)
    assert line.startswith(f"butppg: cannot write {output / file}")
    assert line.endswith(": No space left on device; free space or choose another folder")
    assert not (output / "best_model.pt").exists()
    assert not [path for path in output.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    "words", [["mock", "--samples", "60", "--output"], ["prepare", "splits", "--source", "w.npz", "--output"]]
)
def test_data(words: list[str], disk: Callable, capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    folder = disk(16)
    monkeypatch.chdir(folder.parent)
    make_windows(40).save(folder.parent / "w.npz")
    line = ends_in_one_line([*words, folder / "data"], capfd)
    assert line.startswith(f"butppg: cannot write {folder / 'data'}/t")
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_a_limit_on_the_size_of_files(data_folder: Path, tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    words = [*FIT, "--data.root", str(data_folder), "--output_dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "butppg_lightning", *words]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    expected = f"butppg: cannot write {tmp_path / 'run' / 'best_model.pt'}: File too large"
    assert done.stderr.splitlines()[-1].startswith(expected)
    assert sorted(path.suffix for path in (tmp_path / "run").iterdir() if path.is_file()) == [".json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_write_that_fails_anywhere(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(number, "it failed")

    monkeypatch.setattr("butppg_lightning.sources.synthetic.generate.write_mock", fail)
    line = ends_in_one_line(["mock", f"--output={tmp_path / 'data'}"], capfd)
    assert line == f"butppg: cannot write {tmp_path / 'data'}: it failed; free space or choose another folder"


def test_torch_says_runtime_error(tmp_path: Path) -> None:
    def save() -> None:
        with atomic_write(tmp_path / "model.pt") as file:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                torch.save({}, file)
                raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904 (as torch raises it)

    with pytest.raises(UserError, match=r"cannot write .*model\.pt: No space left on device; free space"):
        save()
    assert not list(tmp_path.iterdir())


def test_other_errors_are_no_failed_writes(tmp_path: Path) -> None:
    assert write_failure(None) is None
    assert write_failure(FileNotFoundError(errno.ENOENT, "no such file")) is None
    with pytest.raises(RuntimeError, match="something else"), atomic_write(tmp_path / "file"):
        raise RuntimeError("something else")
    assert not list(tmp_path.iterdir())
