import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_windows

from butppg_lightning.cli import main
from butppg_lightning.window import read_windows


@pytest.fixture
def source(tmp_path: Path) -> Path:
    windows = make_windows(120)
    windows.subjects = np.array([f"{index % 12:02d}" for index in range(120)])
    windows.labels = (np.arange(120) % 5 == 0).astype(np.int64)
    windows.save(tmp_path / "w.npz")
    return tmp_path / "w.npz"


def subjects(folder: Path) -> dict[str, set[str]]:
    paths = {split: folder / f"{split}.npz" for split in ("train", "val", "test")}
    return {split: set(read_windows(path, labelled=True).subjects) for split, path in paths.items() if path.exists()}


def test_nobody_is_in_two_splits_and_the_balance_holds(source: Path, tmp_path: Path) -> None:
    assert main(["prepare", "splits", "--source", str(source), "--output", str(tmp_path / "out")]) == 0
    found = subjects(tmp_path / "out")
    assert set(found) == {"train", "val", "test"}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 12
    good = [read_windows(tmp_path / "out" / f"{split}.npz", labelled=True).labels.mean() for split in found]
    assert max(good) - min(good) < 0.1
    assert {
        key: set(names) for key, names in json.loads((tmp_path / "out" / "splits.json").read_text()).items()
    } == found


def test_named_subjects_go_where_they_are_sent(source: Path, tmp_path: Path) -> None:
    flags = ["--val-subjects", "03", "--test-subjects", "05,07"]
    assert main(["prepare", "splits", "--source", str(source), "--output", str(tmp_path / "out"), *flags]) == 0
    found = subjects(tmp_path / "out")
    assert found["val"] == {"03"}
    assert found["test"] == {"05", "07"}
    assert len(found["train"]) == 9


def test_every_subject_is_tested_in_exactly_one_fold(source: Path, tmp_path: Path) -> None:
    assert main(["prepare", "splits", "--source", str(source), "--output", str(tmp_path / "out"), "--folds", "4"]) == 0
    folds = [subjects(tmp_path / "out" / f"fold_{fold}") for fold in range(4)]
    tested = [name for fold in folds for name in fold["test"]]
    assert sorted(tested) == [f"{index:02d}" for index in range(12)]
    assert all(not fold["test"] & (fold["train"] | fold["val"]) for fold in folds)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--val-subjects", "99"], "subject 99"),
        (["--val-share", "0.9", "--test-share", "0.2"], "leave some"),
        (["--folds", "13"], "12 subjects"),
        (["--folds", "1"], "at least 2"),
        (["--val-subjects", "01", "--test-subjects", "01"], "both val and test"),
    ],
)
def test_mistakes(flags: list[str], words: str, source: Path, tmp_path: Path, capsys) -> None:
    assert main(["prepare", "splits", "--source", str(source), "--output", str(tmp_path / "out"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_existing_splits_are_kept(source: Path, tmp_path: Path, capsys) -> None:
    command = ["prepare", "splits", "--source", str(source), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    before = (tmp_path / "out" / "train.npz").read_bytes()
    assert main([*command, "--seed", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "train.npz").read_bytes() == before
    assert main([*command, "--seed", "1", "--overwrite"]) == 0


def test_copies_of_a_window_under_two_names_are_refused(tmp_path: Path, capsys) -> None:
    windows = make_windows(40)
    windows.signals[1::4] = windows.signals[0::4]  # subject s1 is s0 under another name
    windows.save(tmp_path / "w.npz")
    words = ["prepare", "splits", "--source", str(tmp_path / "w.npz"), "--output", str(tmp_path / "splits")]
    words += ["--val_subjects", "s0", "--test_subjects", "s1"]
    assert main(words) == 2
    assert "10 windows of val are in test too" in capsys.readouterr().err
    assert not (tmp_path / "splits").exists()
    assert main([*words, "--allow-overlap"]) == 0
