"""Malformed data ends in one line that names the file and the mend, and leaves earlier results alone."""

# ruff: noqa: F401, F811 - the imported fixtures are used by the name of an argument

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import make_windows
from test_bad_input import Bomb, Refused, refused, refused_fit, run_folder

from butppg_lightning.cli import main

Arrays = dict[str, np.ndarray]
COUNT = 12


def split_arrays(split: str) -> Arrays:
    windows = make_windows(COUNT, {"train": 3, "val": 4, "test": 5}[split], subjects=split)
    return {"signals": windows.signals, "labels": windows.labels, "subjects": windows.subjects}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data folder of its own, to be spoilt."""
    path = tmp_path / "data"
    path.mkdir()
    for split in ("train", "val", "test"):
        np.savez(path / f"{split}.npz", **split_arrays(split))
    return path


def spoilt(key: str, row: object, value: float) -> Callable[[Arrays], Arrays]:
    def spoil(arrays: Arrays) -> Arrays:
        array = arrays[key].astype(float)
        array[row] = value
        return {key: array}

    return spoil


def signals(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {"signals": change(arrays["signals"])}


def added(**more: object) -> Callable[[Arrays], Arrays]:
    return lambda _: {key: np.asarray(value) for key, value in more.items()}


BAD_ARRAYS: dict[str, tuple[Callable[[Arrays], Arrays], list[str]]] = {
    "time before channels": (signals(lambda x: x.transpose(0, 2, 1)), ["[12, 1250, 5]", "transpose(0, 2, 1)"]),
    "wrong length": (signals(lambda x: x[:, :, :1000]), ["1000 samples", "expected 1250", "resample"]),
    "no samples": (signals(lambda x: x[:, :, :0]), ["0 samples", "expected 1250"]),
    "two axes": (signals(lambda x: x[:, 3]), ["[12, 1250]", "[windows, channels, 1250]"]),
    "four axes": (signals(lambda x: x[:, None]), ["[12, 1, 5, 1250]", "[windows, channels, 1250]"]),
    "complex": (signals(lambda x: x.astype(complex)), ["complex128", "real numbers"]),
    "six channels": (signals(lambda x: x[:, [0, 1, 2, 3, 4, 4]]), ["6 channels", "expected 5", "or 2", "'channels'"]),
    "no channel": (signals(lambda x: x[:, :0]), ["0 channels", "expected 5"]),
    "unknown channel": (added(channels=["ACC_X", "ACC_Y", "ACC_Z", "PPG", "EKG"]), ["['EKG']", "known are", "ECG"]),
    "a channel twice": (added(channels=["ACC_X", "ACC_Y", "ACC_Z", "PPG", "PPG"]), ["named twice"]),
    "too few names": (added(channels=["PPG", "ECG"]), ["one name for each of the 5 channels"]),
    "names of bytes": (added(channels=[b"\xff"] * 5), ["'channels' holds bytes that are no text", "strings"]),
    "another rate": (added(fs=100), ["'fs' says 100", "125 Hz", "resample"]),
    "a rate in words": (added(fs="125 Hz"), ["'fs' says 125 Hz", "125 Hz"]),
    "no windows": (lambda arrays: {key: array[:0] for key, array in arrays.items()}, ["holds no windows"]),
    "NaN": (spoilt("signals", (7, 1, 5), np.nan), ["1 of 12 windows hold NaN or Inf", "index 7", "drop or interp"]),
    "Inf": (spoilt("signals", slice(4, 6), -np.inf), ["2 of 12 windows hold NaN or Inf", "index 4"]),
    "beyond float32": (spoilt("signals", 2, 1e300), ["1 of 12 windows hold NaN or Inf", "index 2"]),
    "label 2": (spoilt("labels", [3, 5], 2), ["2 labels", "0 (poor)", "1 (good)", "2.0 at index 3"]),
    "label -1": (spoilt("labels", 0, -1), ["1 labels", "-1.0 at index 0"]),
    "label NaN": (spoilt("labels", 1, np.nan), ["1 labels", "nan at index 1"]),
    "labels in words": (added(labels=["good"] * COUNT), ["labels are <U4", "0 (poor) and 1 (good)"]),
    "labels in a column": (lambda arrays: {"labels": arrays["labels"][:, None]}, ["[12, 1]", "expected [12]"]),
    "too few labels": (
        lambda arrays: {"labels": arrays["labels"][:9]},
        ["labels", "[9]", "12 windows", "expected [12]"],
    ),
    "too few subjects": (added(subjects=["a"] * 3), ["subjects", "[3]", "12 windows"]),
    "subjects of bytes": (added(subjects=[b"\xff"] * COUNT), ["'subjects' holds bytes that are no text"]),
    "one class": (added(labels=np.zeros(COUNT, int)), ["only class 0 in 12 windows", "0 (poor) and 1 (good)"]),
    "soft labels": (added(soft_labels=np.full(COUNT, 2.0)), ["'soft_labels'", "from 0 to 1"]),
    "weights": (added(weights=np.full(COUNT, np.inf)), ["'weights'", "finite"]),
    "present of numbers": (added(present=np.ones((COUNT, 5))), ["'present'", "bool of shape [12, 5]"]),
    "absent but recorded": (added(present=np.zeros((COUNT, 5), bool)), ["window 0 is absent but not 0", "set"]),
    "pickled labels": (added(labels=np.array([0, 1] * 6, object)), ["'labels' holds pickled objects", "plain"]),
    "subjects of train": (added(subjects=["val0"] * COUNT), ["subjects in both train.npz and val.npz", "first val0"]),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_malformed_arrays(case: str, folder: Path, refused_fit: Refused) -> None:
    change, expected = BAD_ARRAYS[case]
    arrays = split_arrays("train")
    np.savez(folder / "train.npz", **{**arrays, **change(arrays)})
    line = refused_fit("--data.root", folder)
    place = folder if case == "subjects of train" else folder / "train.npz"
    assert line.startswith(str(place)), line
    assert all(words in line for words in expected), line


@pytest.mark.parametrize(("split", "rows"), [("val", [0, 11]), ("test", [5])])
def test_every_split_is_checked_before_training(
    split: str,
    rows: list[int],
    folder: Path,
    refused_fit: Refused,
) -> None:
    arrays = split_arrays(split)
    np.savez(folder / f"{split}.npz", **{**arrays, **spoilt("signals", rows, np.nan)(arrays)})
    line = refused_fit("--data.root", folder)
    assert line.startswith(
        f"{folder / split}.npz: {len(rows)} of 12 windows hold NaN or Inf, the first at index {rows[0]}"
    )


@pytest.mark.parametrize("missing", ["signals", "labels"])
def test_missing_keys(missing: str, folder: Path, refused_fit: Refused) -> None:
    arrays = {key: array for key, array in split_arrays("train").items() if key != missing}
    np.savez(folder / "train.npz", **arrays)
    line = refused_fit("--data.root", folder)
    assert line == f"{folder / 'train.npz'} has no '{missing}'; it holds {', '.join(sorted(arrays))}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda whole: b"", "not a complete npz (zip) file"),
        (lambda whole: b"signals,labels\n1,2\n", "not a complete npz (zip) file"),
        (lambda whole: whole[: len(whole) // 2], "truncated"),
        (lambda whole: whole[:-1], "truncated"),
        (lambda whole: whole[1000:], "damaged"),
        (lambda whole: b"PK\x05\x06" + bytes(18), "holds no arrays; write it with numpy.savez"),
    ],
    ids=["empty", "text", "half", "a byte short", "beginning lost", "empty zip"],
)
@pytest.mark.parametrize("command", ["fit", "inspect"])
def test_damaged_files(
    command: str,
    content: Callable[[bytes], bytes],
    expected: str,
    folder: Path,
    refused: Refused,
    refused_fit: Refused,
) -> None:
    path = folder / "train.npz"
    path.write_bytes(content(path.read_bytes()))
    line = refused("inspect", path) if command == "inspect" else refused_fit("--data.root", folder)
    assert line.startswith(str(path))
    assert expected in line


@pytest.mark.parametrize("key", ["signals", "labels", "subjects", "notes"])
def test_a_pickled_array_does_not_go_off(key: str, folder: Path, refused_fit: Refused, tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    np.savez(folder / "train.npz", **{**split_arrays("train"), key: np.array([Bomb(marker)], object)})
    line = refused_fit("--data.root", folder)
    assert line.startswith(f"{folder / 'train.npz'}: '{key}' holds pickled objects, which could run code")
    assert not marker.exists()
    np.load(folder / "train.npz", allow_pickle=True)[key]
    assert marker.exists(), "a careless reader would have set it off"


def test_a_pickle_named_npz(folder: Path, refused_fit: Refused, tmp_path: Path) -> None:
    (folder / "train.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "pwned")))
    assert "not a complete npz (zip) file" in refused_fit("--data.root", folder)
    assert not (tmp_path / "pwned").exists()


def test_missing_files_say_how_to_make_mock_data(folder: Path, refused_fit: Refused, tmp_path: Path) -> None:
    (folder / "train.npz").unlink()
    line = refused_fit("--data.root", folder)
    assert f"{folder / 'train.npz'} not found (the folder holds test.npz, val.npz)" in line
    assert f"butppg mock --output {folder}" in line
    line = refused_fit("--data.root", tmp_path / "nowhere")
    assert f"data folder {tmp_path / 'nowhere'} does not exist" in line
    assert f"butppg mock --output {tmp_path / 'nowhere'}" in line


def test_no_split_to_choose_the_best_model_on(folder: Path, refused_fit: Refused) -> None:
    (folder / "val.npz").unlink()
    (folder / "test.npz").unlink()
    line = refused_fit("--data.root", folder)
    assert "neither val.npz nor test.npz" in line
    assert "butppg prepare splits" in line


def test_channels_that_the_model_does_not_want(folder: Path, refused_fit: Refused) -> None:
    arrays = split_arrays("train")
    np.savez(
        folder / "train.npz", **{**arrays, "signals": arrays["signals"][:, :3], "channels": ["ACC_X", "ACC_Y", "ACC_Z"]}
    )
    line = refused_fit("--data.root", folder, "--model.finetune_channels=2")
    assert "ACC_X, ACC_Y, ACC_Z" in line
    assert "the model wants PPG, ECG" in line


@pytest.mark.parametrize("command", ["test", "predict", "validate"])
def test_scoring_checks_its_split_too(
    command: str,
    folder: Path,
    refused: Refused,
    run_folder: Path,
    tmp_path: Path,
) -> None:
    split = "val" if command == "validate" else "test"
    words = [
        command,
        "--data.root",
        folder,
        "--ckpt_path",
        run_folder / "best_model.pt",
        "--output_dir",
        tmp_path / "o",
    ]
    arrays = split_arrays(split)
    np.savez(folder / f"{split}.npz", **{**arrays, **spoilt("signals", 3, np.nan)(arrays)})
    assert f"{split}.npz: 1 of 12 windows hold NaN or Inf, the first at index 3" in refused(*words)
    if command != "validate":
        (folder / f"{split}.npz").unlink()
        assert f"{split}.npz not found (the folder holds train.npz, val.npz)" in refused(*words)


def test_preparing_splits_checks_its_source(folder: Path, refused: Refused, tmp_path: Path) -> None:
    words = ["prepare", "splits", "--output", tmp_path / "splits", "--source"]
    assert "nowhere.npz does not exist" in refused(*words, tmp_path / "nowhere.npz")
    arrays = split_arrays("train")
    np.savez(folder / "train.npz", **{**arrays, **spoilt("labels", 3, 7)(arrays)})
    assert "7.0 at index 3" in refused(*words, folder / "train.npz")
    assert "nobody is not in the file" in refused(*words, folder / "val.npz", "--val_subjects", "nobody")
    assert not (tmp_path / "splits").exists()


def test_pretraining_checks_its_windows(refused: Refused, tmp_path: Path) -> None:
    def line(root: Path) -> str:
        return refused("pretrain", "--data.root", root, "--output_dir", tmp_path / "run")

    root = tmp_path / "windows"
    mend = f"butppg mock --output {root} --layout vitaldb"
    assert all(words in line(root) for words in (f"data folder {root} does not exist", mend))
    root.mkdir()
    assert all(words in line(root) for words in (f"{root / 'train_windows.npz'} not found", mend))
    two = make_windows(COUNT).signals[:, 3:]
    np.savez(root / "train_windows.npz", signals=two.transpose(0, 2, 1))
    assert "transpose(0, 2, 1)" in line(root)
    two[[2, 9], 0, 0] = np.nan
    np.savez(root / "train_windows.npz", signals=two)
    assert "2 of 12 windows hold NaN or Inf, the first at index 2" in line(root)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        signals(np.asfortranarray),
        *(signals(lambda x, kind=kind: x.astype(kind)) for kind in (">f4", "f2", "f8", "i2")),
        lambda arrays: {"labels": arrays["labels"].astype(float)},
        lambda arrays: {"labels": arrays["labels"].astype(bool)},
        added(subjects=np.arange(COUNT), notes=["ü"], fs=125.0),
    ],
    ids=["Fortran", "big-endian", "float16", "float64", "int16", "float labels", "bool labels", "extras"],
)
def test_unusual_but_sound_data_trains(change: Callable[[Arrays], Arrays], folder: Path, tmp_path: Path) -> None:
    arrays = split_arrays("train")
    np.savez(folder / "train.npz", **{**arrays, **change(arrays)})
    words = ["fit", "--config", "tiny.yaml", "--data.root", str(folder), "--output_dir", str(tmp_path / "rün")]
    assert main([*words, "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]) == 0
