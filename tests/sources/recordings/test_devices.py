"""What known devices and programs write is recognised, and gets the verdicts of the same signals as npz."""

from __future__ import annotations

import csv
import datetime as dt
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import save_classifier
from device_files import FORMATS, SECONDS, START, embrace_plus, empatica_e4, geneactiv, made, polar, reference

from butppg_lightning.cli import main
from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Selection, read_recording
from butppg_lightning.sources.recordings.devices import DEVICES

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("run") / "best_model.pt")


def scores(checkpoint: Path, path: Path, output: Path) -> tuple[list[dict[str, str]], dict[str, object]]:
    words = ["score", "--checkpoint", str(checkpoint), "--input", str(path), "--output_dir", str(output)]
    assert main(words) == 0
    with (output / "scores.csv").open() as file:
        return list(csv.DictReader(file)), json.loads((output / "summary.json").read_text())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gets_the_same_verdicts(name: str, checkpoint: Path, tmp_path: Path) -> None:
    write, *rates = FORMATS[name]
    data = made(*rates)
    folder = tmp_path / "a folder"
    folder.mkdir()
    found, summary = scores(checkpoint, write(folder, data), tmp_path / "found")
    wanted, _ = scores(checkpoint, reference(tmp_path, data), tmp_path / "wanted")
    assert [row["verdict"] for row in found] == [row["verdict"] for row in wanted]
    assert [row["channels"] for row in found] == [row["channels"] for row in wanted] == ["ACC_X ACC_Y ACC_Z PPG"] * 6
    told = [[float(row["probability"]) for row in rows] for rows in (found, wanted)]
    np.testing.assert_allclose(*told, atol=0.02)
    assert summary["device"] == (name if name in DEVICES else None)
    assert not summary["guesses"]


@pytest.mark.parametrize("write", [empatica_e4, embrace_plus, polar, geneactiv])
def test_the_start_is_the_devices(tmp_path: Path, write: object) -> None:
    recording = read_recording(write(tmp_path, made(64, 32)))  # type: ignore[operator]
    start = recording.start_time
    assert start is not None
    assert abs(start.replace(tzinfo=None) - START.replace(tzinfo=None)) < dt.timedelta(milliseconds=2)
    assert recording.duration == pytest.approx(SECONDS, abs=0.1)


def test_files_of_an_e4_one_by_one(tmp_path: Path) -> None:
    data = made(64, 32)
    empatica_e4(tmp_path, data)
    recording = read_recording(tmp_path / "BVP.csv")
    assert (recording.channels["PPG"].rate, recording.device) == (64, "Empatica E4")
    np.testing.assert_array_equal(recording.channels["PPG"].samples, data.ppg)
    assert recording.start_time == START
    with pytest.raises(UserError, match="no signal is known by its name; it has EDA"):
        read_recording(tmp_path / "EDA.csv")


def test_names_put_on_top_of_an_e4_file_make_no_samples_of_its_first_rows(tmp_path: Path) -> None:
    data = made(64, 32)
    empatica_e4(tmp_path, data)
    path = tmp_path / "named.csv"
    path.write_text("PPG\n" + (tmp_path / "BVP.csv").read_text())
    for selection in (Selection(), Selection(rates={"": 64.0})):
        recording = read_recording(path, selection)
        np.testing.assert_array_equal(recording.channels["PPG"].samples, data.ppg)
        assert recording.start_time == START


def test_the_axes_of_another_sensor_are_no_acceleration(tmp_path: Path) -> None:
    embrace_plus(tmp_path, made(64, 64))
    with pytest.raises(UserError, match="no signal is known by its name"):
        read_recording(tmp_path / "gyroscope.csv")
    polar(tmp_path, made(55, 52))
    with pytest.raises(UserError, match="no signal is known by its name"):
        read_recording(next(tmp_path.glob("*_MAGN.txt")))


def test_a_sensor_whose_clock_was_never_set_takes_the_phones(tmp_path: Path) -> None:
    polar(tmp_path, made(55, 52))
    path = next(tmp_path.glob("*_PPG.txt"))
    lines = path.read_text().split("\n")
    for row, line in enumerate(lines[1:], 1):
        phone, sensor, *rest = line.split(";")
        lines[row] = ";".join([phone, str(int(sensor) - int(7.5e17)), *rest])
    path.write_text("\n".join(lines))
    recording = read_recording(path)
    assert recording.start_time == dt.datetime(2024, 2, 29, 23, 58, 0, 200_000)
    assert recording.channels["PPG"].rate == pytest.approx(55, rel=1e-4)


def test_the_users_choice_goes_before_the_devices(tmp_path: Path) -> None:
    data = made(55, 52)
    polar(tmp_path, data)
    recording = read_recording(tmp_path, Selection({"PPG": "channel 1"}))
    np.testing.assert_array_equal(recording.channels["PPG"].samples, data.ppg + 5)
    assert "ACC_X" in recording.channels
