"""Stored features that are damaged, foreign or stale, and a disk or a memory without room: the run stays the same."""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import encoder_flags
from exactness import differences, fit, outcome

from butppg_lightning.cli import main
from butppg_lightning.data.features import FeatureFile
from butppg_lightning.models import encoder as encoder_module

SMALL = [
    *encoder_flags({"patch_size": 125, "width": 16, "depth": 3, "heads": 2}),
    "--model.lr=3e-3",
    "--trainer.precision=32-true",
    "--stages.head_only_epochs=1",
    "--stages.unfreeze_last_n=1",
    "--trainer.max_epochs=2",
]
AGAIN = "cannot be used"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mock")
    assert main(["mock", "--output", str(folder), "--samples", "200"]) == 0
    (folder / "test.npz").unlink()
    return folder


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """The outcome of a run whose features are kept, and where they lie."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert fit(folder, data, *SMALL, "--cache.keep=true") == 0
    assert len(list((folder / "cache").glob("*.features"))) == 4, "two depths of two splits"
    return outcome(folder), folder / "cache"


def describe(path: Path, **changes: object) -> None:
    description = path.with_suffix(".json")
    description.write_text(json.dumps({**json.loads(description.read_text()), **changes}))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def foreign(path: Path) -> None:
    """Put other numbers in, soundly described."""
    content = torch.randn(path.stat().st_size // 4).numpy().tobytes()
    path.write_bytes(content)
    describe(path, crc32=zlib.crc32(content))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "no JSON": lambda path: path.with_suffix(".json").write_text("{"),
    "another shape": lambda path: describe(path, shape=[1, path.stat().st_size // 4]),
    "no data": lambda path: path.unlink(),
    "foreign": foreign,
}


@pytest.mark.parametrize("memory", ["0.5", "0"], ids=["memory", "mapped"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_made_anew(damage: str, memory: str, reference: tuple, data: Path, tmp_path, capsys) -> None:
    expected, kept = reference
    folder = tmp_path / "shared"
    shutil.copytree(kept, folder)
    for path in folder.glob("*.features"):
        DAMAGE[damage](path)
    flags = [*SMALL, f"--cache.folder={folder}", f"--cache.memory_gb={memory}"]
    assert fit(tmp_path / "run", data, *flags) == 0
    said = capsys.readouterr().err
    assert said.count(AGAIN) == 4, said
    assert "taken from" not in said
    assert differences(outcome(tmp_path / "run"), expected) == []
    for path in folder.glob("*.features"):
        assert path.read_bytes() == (kept / path.name).read_bytes(), "whole again"


@pytest.mark.parametrize("memory", ["0.5", "0"], ids=["memory", "mapped"])
def test_sound_files_are_taken(memory: str, reference: tuple, data: Path, tmp_path: Path, capsys) -> None:
    expected, kept = reference
    flags = [*SMALL, f"--cache.folder={kept}", f"--cache.memory_gb={memory}"]
    assert fit(tmp_path / "run", data, *flags) == 0
    said = capsys.readouterr().err
    assert said.count("taken from an earlier run") == 4
    assert said.count("mapped from disk") == (4 if memory == "0" else 0)
    assert differences(outcome(tmp_path / "run"), expected) == []


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_features_of_another_version_of_the_encoder_are_not_used(
    precision: str, data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key cannot see that the source has changed."""
    flags = [*SMALL, f"--trainer.precision={precision}"]
    shared = [f"--cache.folder={tmp_path / 'shared'}", "--stages.plan=[{trainable: 1}]"]
    assert fit(tmp_path / "old", data, *flags, *shared) == 0
    changed = {"linear": F.linear, "gelu": lambda tokens: 1.05 * F.gelu(tokens)}
    monkeypatch.setattr(encoder_module, "F", SimpleNamespace(**changed))
    assert fit(tmp_path / "new", data, *flags, *shared, "--cache.enabled=false") == 0
    capsys.readouterr()
    assert fit(tmp_path / "cached", data, *flags, *shared) == 0
    said = capsys.readouterr().err
    found, expected = (
        json.loads((tmp_path / name / "training_history.json").read_text()) for name in ("cached", "new")
    )
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5 if precision == "32-true" else 1e-3)
    assert said.count("not what this network computes") == 2


def full_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Let the disk take ``room`` more bytes, the last piece in part."""
    left, write = [room], os.pwrite

    def pwrite(file: int, content: memoryview, offset: int) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, content[: left[0]], offset)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("room", [0, 100, 40_000])
def test_a_full_disk_leaves_the_features_in_memory(
    room: int, reference: tuple, data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, room)
    assert fit(tmp_path / "run", data, *SMALL) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot be stored" in line]
    assert said
    assert all("(No space left on device); kept in memory only" in line for line in said)
    assert differences(outcome(tmp_path / "run"), reference[0]) == []
    assert not (tmp_path / "run" / "cache").exists()


def test_a_full_disk_without_memory_switches_the_cache_off(
    reference: tuple, data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, 100)
    assert fit(tmp_path / "run", data, *SMALL, "--cache.memory_gb=0") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "frozen-prefix" in line]
    assert said
    assert all(line.endswith("(No space left on device); off") for line in said)
    assert_like(tmp_path / "run", reference)
    assert not (tmp_path / "run" / "cache").exists()


def assert_like(run: Path, reference: tuple) -> None:
    """Equal but for the rounding of another batch shape."""
    found = json.loads((run / "training_history.json").read_text())
    for key in ("train_loss", "val_loss"):
        assert found[key] == pytest.approx(reference[0]["training_history"][key], rel=1e-5), key


def test_a_folder_that_takes_no_files_leaves_the_features_in_memory(
    reference: tuple, data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert fit(tmp_path / "run", data, *SMALL) == 0
    said = capsys.readouterr().err
    assert said.count("computed") == 4
    assert said.count("Permission denied") > 0, "that nothing is stored is said"
    assert differences(outcome(tmp_path / "run"), reference[0]) == []


def test_a_folder_that_cannot_be_made_is_a_line(data: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert fit(tmp_path / "run", data, *SMALL, f"--cache.folder={tmp_path / 'file' / 'cache'}") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("butppg: ")]
    assert len(said) == 1
    assert "cache" in said[0]


def test_no_budget_means_memory_only(reference: tuple, data: Path, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "run", data, *SMALL, "--cache.budget_gb=0", "--cache.keep=true") == 0
    said = capsys.readouterr().err
    assert said.count("in memory, computed") == 4
    assert " off" not in said
    assert not (tmp_path / "run" / "cache").exists()
    assert differences(outcome(tmp_path / "run"), reference[0]) == []


@pytest.mark.parametrize("budget", ["0", "1e-6"])
def test_neither_memory_nor_budget_is_said(budget: str, reference: tuple, data: Path, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "run", data, *SMALL, f"--cache.budget_gb={budget}", "--cache.memory_gb=1e-6") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "frozen-prefix" in line]
    assert all("--cache.memory_gb" in line and "--cache.budget_gb" in line and " off " in line for line in said)
    assert sum("val windows" in line for line in said) >= 1
    assert sum("train windows" in line for line in said) >= 1
    assert_like(tmp_path / "run", reference)


def test_what_fits_is_stored_even_if_the_next_stages_tokens_do_not(data: Path, tmp_path: Path, capsys) -> None:
    """160 windows: 10 tokens of 16 numbers are 102 kB, pooled they are 10 kB."""
    assert fit(tmp_path / "run", data, *SMALL, "--cache.budget_gb=0", "--cache.memory_gb=2e-5") == 0
    said = capsys.readouterr().err
    for split in ("train", "val"):
        assert any(f"{split} windows through all 3 blocks" in line and "computed" in line for line in said.splitlines())


def test_mapped_features_train_alike(reference: tuple, data: Path, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "run", data, *SMALL, "--cache.memory_gb=0") == 0
    assert capsys.readouterr().err.count("mapped from disk") == 4
    assert differences(outcome(tmp_path / "run"), reference[0]) == []
    assert not (tmp_path / "run" / "cache").exists()


def test_what_other_runs_left_makes_room(reference: tuple, data: Path, tmp_path: Path, capsys) -> None:
    """Runs with other weights share a folder that holds the features of one: the last one's are there, and right."""
    size = sum(path.stat().st_size for path in reference[1].glob("*.features"))
    shared, room = tmp_path / "shared", f"--cache.budget_gb={1.01 * size / 1e9}"
    for seed in (1, 2, 0):
        flags = [*SMALL, f"--seed_everything={seed}", "--cache.memory_gb=0", f"--cache.folder={shared}", room]
        assert fit(tmp_path / f"run{seed}", data, *flags) == 0
        assert " off" not in capsys.readouterr().err
    assert {path.name for path in shared.iterdir()} == {path.name for path in reference[1].iterdir()}
    assert differences(outcome(tmp_path / "run0"), reference[0]) == []


def test_features_that_another_run_removes_meanwhile_are_computed_again(
    reference: tuple, data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, note_use = tmp_path / "shared", FeatureFile.note_use
    shutil.copytree(reference[1], folder)
    monkeypatch.setattr(FeatureFile, "note_use", lambda file: (note_use(file), file.discard()))
    assert fit(tmp_path / "run", data, *SMALL, f"--cache.folder={folder}") == 0
    said = capsys.readouterr().err
    assert "taken from" not in said
    assert said.count("computed") == 4
    assert differences(outcome(tmp_path / "run"), reference[0]) == []
