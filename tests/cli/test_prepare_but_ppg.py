"""`butppg prepare but-ppg`: from a release in PhysioNet's form to splits, through the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from but_ppg_release import pulse, write_checksums, write_release, write_signals, write_tables
from conftest import REAL_DATA

from butppg_lightning.cli import main
from butppg_lightning.sources.but_ppg import reader
from butppg_lightning.sources.but_ppg.reader import PARTS_FOLDER, Record
from butppg_lightning.sources.resampling import resample
from butppg_lightning.window import CHANNELS, WindowSet, read_windows

SAMPLE = REAL_DATA / "but_ppg_release_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no real recordings beside the checkout")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("downloads") / "butppg-2.0.0"
    write_release(root, checksums=True)
    return root


@pytest.fixture
def release(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(pristine, tmp_path / "source" / "butppg-2.0.0")
    return tmp_path / "source" / "butppg-2.0.0"


def prepare(source: Path, output: Path, *flags: str) -> int:
    return main(["prepare", "but-ppg", "--source", str(source), "--output", str(output), "--workers", "1", *flags])


def manifest(output: Path) -> dict:
    return json.loads((output / "manifest.json").read_text())


def everything(output: Path) -> dict[str, WindowSet]:
    paths = {split: output / f"{split}.npz" for split in ("train", "val", "test")}
    return {split: read_windows(path, labelled=True) for split, path in paths.items() if path.exists()}


def by_record(output: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Signals and presence of every record."""
    return {
        str(record): (np.array(windows.signals[row]), np.array(windows.present[row]))
        for windows in everything(output).values()
        for row, record in enumerate(windows.extras["record"])
    }


def test_a_release_becomes_splits_that_training_reads(pristine: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    assert prepare(pristine.parent, output) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"butppg fit --config finetune.yaml --data.root {output}" in printed.out
    assert sorted(path.name for path in output.iterdir()) == [
        "manifest.json",
        "splits.json",
        "test.npz",
        "train.npz",
        "val.npz",
    ]
    splits = everything(output)
    subjects = {split: set(windows.subjects) for split, windows in splits.items()}
    assert sum(map(len, subjects.values())) == len(set.union(*subjects.values())) == 6
    labels = {"100001": 1, "100002": 0} | {f"{s}{n:03d}": int(n != 6) for s in range(112, 117) for n in range(1, 7)}
    for windows in splits.values():
        assert windows.channels == CHANNELS
        assert windows.signals.dtype == np.float32
        for row, record in enumerate(windows.extras["record"]):
            assert windows.labels[row] == labels[record]
            assert windows.subjects[row] == record[:3]
            number = int(record[3:])
            assert windows.hr_ref[row] == (72 if record < "112" else 60 + 3 * number)
            assert windows.extras["motion"][row] == {"100001": "0", "100002": "2;3"}.get(record, str(number - 1))
            assert windows.extras["site"][row] == ("finger" if record < "112" or number > 3 else "ear")
            assert windows.extras["sex"][row] == ("F" if record < "112" else "M")
            assert windows.extras["age"][row] == (51 if record < "112" else 20 + int(record[:3]) % 100)
            assert windows.present[row].tolist() == [record > "112"] * 3 + [True, True]
    told = manifest(output)
    assert told["counts"] | {"windows": 32, "good": 26, "poor": 6, "subjects": 6} == told["counts"]
    assert told["counts"]["without_acceleration"] == 2
    assert told["counts"]["acceleration_magnitude_g"] == pytest.approx(1, abs=0.02)
    assert told["source"]["checked_against"]["files_checked"] == 30 * 6 + 2 * 4 + 2
    assert told["left_out"] == {}
    assert told["notes"]["ACC absent: has no file"] == ["100001", "100002"]
    for split, part in told["splits"]["."].items():
        assert part["windows"] == len(splits[split])
        assert part["good"] == splits[split].labels.sum()
        assert set(part["subjects"]) == subjects[split]


def test_channels_are_in_place_unfiltered_and_unscaled(pristine: Path, tmp_path: Path) -> None:
    assert prepare(pristine, tmp_path / "out") == 0
    signals, _ = by_record(tmp_path / "out")["113005"]  # a finger: as it was recorded
    assert np.median(signals[:3], axis=1) == pytest.approx([0, 0, 1], abs=0.01)
    assert signals[CHANNELS.index("PPG")].mean() == pytest.approx(180 + pulse(30, 75).mean(), abs=0.1)
    ecg = signals[CHANNELS.index("ECG")]
    assert ecg.max() == pytest.approx(0.9, abs=0.1), "millivolts"
    beats = np.flatnonzero((ecg[1:-1] > 0.4) & (ecg[1:-1] >= ecg[:-2]) & (ecg[1:-1] > ecg[2:]))
    assert 60 * 125 / np.median(np.diff(beats)) == pytest.approx(75, abs=1)


def test_polarity_is_decided_for_each_camera(pristine: Path, tmp_path: Path, capsys) -> None:
    flags = ("--ppg-channel", "green")
    assert prepare(pristine, tmp_path / "auto", *flags) == 0
    devices = manifest(tmp_path / "auto")["devices"]
    assert {name: found["polarity"]["invert"] for name, found in devices.items()} == {
        "v1_finger": False,
        "v2_ear": True,
        "v2_finger": False,
    }
    assert "inverted: slopes of the good records" in capsys.readouterr().out
    assert prepare(pristine, tmp_path / "keep", *flags, "--polarity", "keep") == 0
    assert prepare(pristine, tmp_path / "invert", *flags, "--polarity=invert") == 0
    auto, keep, invert = (by_record(tmp_path / name) for name in ("auto", "keep", "invert"))
    ppg = CHANNELS.index("PPG")
    for record, (signals, _) in keep.items():
        ear = record > "112" and int(record[3:]) <= 3
        assert np.array_equal(auto[record][0][ppg], (-1 if ear else 1) * signals[ppg]), record
        assert np.array_equal(invert[record][0][ppg], -signals[ppg])
        assert np.array_equal(auto[record][0][:3], signals[:3])
    first = -254 + 0.2 * resample(pulse(30, 72), 30)
    assert np.allclose(auto["100001"][0][ppg], first, atol=0.01)


def test_the_best_colour_is_the_one_with_most_pulse(pristine: Path, tmp_path: Path) -> None:
    assert prepare(pristine, tmp_path / "best", "--ppg_channel", "best") == 0
    assert prepare(pristine, tmp_path / "green", "--ppg_channel", "green") == 0
    devices = manifest(tmp_path / "best")["devices"]
    assert {name: found["ppg_channel"] for name, found in devices.items()} == {
        "v1_finger": "red",
        "v2_ear": "green",
        "v2_finger": "green",
    }
    shares = devices["v2_ear"]["mean_pulse_share_of_good"]
    assert shares["green"] > shares["red"] > shares["blue"]
    best, green = by_record(tmp_path / "best"), by_record(tmp_path / "green")
    assert all(np.array_equal(best[record][0], green[record][0]) for record in best)


def test_records_without_acceleration_can_be_dropped(pristine: Path, tmp_path: Path) -> None:
    assert prepare(pristine, tmp_path / "out", "--missing-acc", "drop") == 0
    records = by_record(tmp_path / "out")
    assert len(records) == 30
    assert all(present.all() for _, present in records.values())
    assert set(manifest(tmp_path / "out")["left_out"]) == {"100001", "100002"}


def test_every_record_left_out_is_told_with_its_reason(release: Path, tmp_path: Path, capsys) -> None:
    (release / "SHA256SUMS.txt").unlink()
    shutil.rmtree(release / "112002")
    (release / "112003" / "112003_PPG.hea").unlink()
    write_signals(release / "112004", "112004_PPG", 30, {"PPG": pulse(30, 72)[:250]}, "a.u.")
    write_signals(release / "112005", "112005_PPG", 30, dict.fromkeys(("PPG_R", "PPG_G"), pulse(30, 72)), "a.u.")
    shutil.copytree(release / "112006", release / "199001")
    for path in (release / "199001").iterdir():
        path.rename(path.with_name(path.name.replace("112006", "199001")))
    table = release / "quality-hr-ann.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("113001,1,", "113001,,"), encoding="utf-8")
    assert prepare(release, tmp_path / "out") == 0
    assert manifest(tmp_path / "out")["left_out"] == {
        "112002": "no files in the source folder",
        "112003": "PPG has no file",
        "112004": "PPG lasts 8.33 s (250 samples at 30 Hz), not 10 s",
        "112005": "PPG has 2 signals; expected 3",
        "113001": "quality is neither 0 nor 1",
        "199001": "not in quality-hr-ann.csv",
    }
    assert not set(manifest(tmp_path / "out")["left_out"]) & set(by_record(tmp_path / "out"))
    printed = capsys.readouterr().out
    assert "left out: 1 of 32 records: PPG has no file" in printed
    assert "came without SHA256SUMS.txt" in printed


def test_a_damaged_download_is_an_error_unless_left_out(release: Path, tmp_path: Path, capsys) -> None:
    (release / "114002" / "114002_ECG.dat").write_bytes(b"\0" * 20_000)
    (release / "115001" / "115001_PPG.hea").unlink()
    assert prepare(release, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2 of 32 records are damaged, the first is 114002: 114002_ECG.dat does not match SHA256SUMS.txt" in error
    assert "--damaged leave_out" in error
    assert not (tmp_path / "out" / "train.npz").exists()
    assert prepare(release, tmp_path / "out", "--damaged", "leave_out") == 0
    assert manifest(tmp_path / "out")["left_out"] == {
        "114002": "damaged: 114002_ECG.dat does not match SHA256SUMS.txt",
        "115001": "damaged: 115001_PPG.hea is missing, though SHA256SUMS.txt lists it",
    }


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The records that are read, in this order; the user interrupts the run at the eighteenth."""
    read, record_names = reader.read_record, []

    def counted(record: str, folder: Path, checksums: dict[str, str]) -> Record:
        record_names.append(record)
        if len(record_names) == 18:
            raise KeyboardInterrupt
        return read(record, folder, checksums)

    monkeypatch.setattr(reader, "read_record", counted)
    return record_names


def test_a_stopped_run_goes_on_where_it_stopped(release: Path, tmp_path: Path, calls: list[str], capsys) -> None:
    output = tmp_path / "out"
    assert prepare(release, output) == 130
    assert "goes on where it stopped" in capsys.readouterr().err
    assert prepare(release, output, "--val_subjects", "999") == 2  # noticed when all has been read
    again = [record for record in set(calls) if calls.count(record) > 1]
    assert set(calls) == {path.name for path in release.iterdir() if path.is_dir()}
    assert len(again) <= 2, "only what was being read when it stopped"
    calls[:] = ["x"] * 20
    os.utime(release / "116006" / "116006_PPG.dat", ns=(1, 1))  # as if it had been downloaded again
    assert prepare(release, output, "--test_subjects", "112") == 0  # replaces what an unfinished run left
    assert "116006" in calls[20:]
    assert len(calls[20:]) <= 4
    assert not (output / PARTS_FOLDER).exists()
    assert prepare(release, tmp_path / "whole", "--test_subjects", "112") == 0
    for split in ("train", "val", "test"):
        assert (output / f"{split}.npz").read_bytes() == (tmp_path / "whole" / f"{split}.npz").read_bytes()


def test_a_killed_run_leaves_nothing_running_and_is_continued(pristine: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["prepare", "but-ppg", "--source", str(pristine), "--output", str(output), "--workers", "2"]
    child = subprocess.Popen(
        [sys.executable, "-m", "butppg_lightning", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    while not list(output.glob(f"{PARTS_FOLDER}/*.npz")) and child.poll() is None:
        time.sleep(0.005)
    child.kill()
    child.communicate(timeout=30)  # ends when no process holds the other end of its output: the readers are gone too
    assert child.returncode == -signal.SIGKILL, "it was to be killed while it was reading"
    parts = {path: path.stat().st_mtime_ns for path in (output / PARTS_FOLDER).glob("*.npz")}
    assert parts
    assert prepare(pristine, output, "--val_subjects", "999") == 2
    assert all(path.stat().st_mtime_ns == written for path, written in parts.items())
    assert prepare(pristine, output) == 0
    assert len(by_record(output)) == 32


def test_every_subject_is_tested_in_one_fold(pristine: Path, tmp_path: Path, capsys) -> None:
    assert prepare(pristine, tmp_path / "out", "--folds", "3") == 0
    folds = [everything(tmp_path / "out" / f"fold_{fold}") for fold in range(3)]
    tested = [name for fold in folds for name in set(fold["test"].subjects)]
    assert sorted(tested) == ["100", *map(str, range(112, 117))]
    assert set(manifest(tmp_path / "out")["splits"]) == {"fold_0", "fold_1", "fold_2"}
    assert "fold_0 --output_dir" in capsys.readouterr().out


def test_splits_are_kept_unless_they_may_be_replaced(pristine: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    assert prepare(pristine, output, "--folds", "2") == 0
    assert prepare(pristine, output) == 2
    assert "manifest.json exists; choose another --output" in capsys.readouterr().err
    assert prepare(pristine, output, "--overwrite", "--test_subjects", "112,113") == 0
    assert set(everything(output)["test"].subjects) == {"112", "113"}
    assert not list(output.glob("fold_*/*.npz")), "splits of the earlier run would be taken for this one's"
    before = (output / "test.npz").read_bytes()
    assert prepare(pristine, output, "--seed", "4") == 2
    assert "train.npz exists" in capsys.readouterr().err
    assert (output / "test.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--source", "nowhere"], "nowhere does not exist"),
        (["--ppg-channel", "infrared"], "ppg_channel"),
        (["--polarity", "up"], "polarity"),
        (["--val-share", "0.9", "--test-share", "0.2"], "leave some"),
        (["--folds", "1"], "at least 2"),
        (["--folds", "-3"], "at least 2"),
        (["--folds", "2", "--test-subjects", "112"], "deals all subjects out"),
        (["--seed", "-1"], "0 or more"),
        (["--workers", "-1"], "workers"),
        (["--chanel", "red"], "unknown option --chanel"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_read(
    flags: list[str], words: str, pristine: Path, tmp_path: Path, capsys
) -> None:
    assert prepare(pristine, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_tables_without_any_record_that_is_there(release: Path, tmp_path: Path, capsys) -> None:
    write_tables(release, {"150001": (1, 70)})
    write_checksums(release)
    assert prepare(release, tmp_path / "out") == 2
    assert "no record of" in capsys.readouterr().err


def test_wfdb_is_named_when_it_is_missing(pristine: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert prepare(pristine, tmp_path / "out") == 2
    assert "pip install 'butppg-lightning[recordings]'" in capsys.readouterr().err


def heart_rate(ecg: np.ndarray) -> float:
    """Heart rate in bpm by the median RR interval, with R peaks where the slope's energy is largest."""
    from scipy.signal import butter, find_peaks, sosfiltfilt

    slope = np.diff(sosfiltfilt(butter(2, (5, 30), "bandpass", fs=125, output="sos"), ecg))
    energy = np.convolve(slope**2, np.ones(13) / 13, "same")
    peaks, _ = find_peaks(energy, height=0.25 * np.quantile(energy, 0.98), distance=38)
    return float(60 * 125 / np.median(np.diff(peaks)))


def check_heart_rates(source: Path, output: Path, count: int, *flags: str) -> None:
    """The ECG is the right channel, at the right rate and in the right order, if its heart rate is the table's."""
    assert main(["prepare", "but-ppg", "--source", str(source), "--output", str(output), *flags]) == 0
    worst = {}
    for windows in everything(output).values():
        for row, record in enumerate(windows.extras["record"]):
            rate = heart_rate(np.asarray(windows.signals[row, CHANNELS.index("ECG")], dtype=float))
            worst[str(record)] = abs(rate - float(windows.hr_ref[row]))
    assert len(worst) == count
    assert max(worst.values()) < 3, worst


@needs_sample
def test_the_ecgs_heart_rate_is_the_tables_in_some_genuine_records(tmp_path: Path) -> None:
    records = ("101004", "104002", "201001", "201009")
    for record in records:
        shutil.copytree(SAMPLE / record, tmp_path / "source" / record)
    for name in ("quality-hr-ann.csv", "subject-info.csv"):
        shutil.copy(SAMPLE / name, tmp_path / "source" / name)
    check_heart_rates(tmp_path / "source", tmp_path / "out", len(records), "--workers=1")


@needs_sample
@pytest.mark.slow
def test_the_ecgs_heart_rate_is_the_tables_in_all_genuine_records(tmp_path: Path) -> None:
    check_heart_rates(SAMPLE, tmp_path / "out", 33)
