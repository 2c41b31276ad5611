"""Recordings from MATLAB files of every version: arrays by name, in structs, and what cannot be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_files import SECONDS, read, refuse, signal
from scipy.io import savemat

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import mat_file

VERSIONS = ["4", "5", "7", "7.3"]


def mat(folder: Path, version: str, **variables: Any) -> Path:
    path = folder / "night.mat"
    if version == "7.3":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w", userblock_size=512) as file:
            _fill(file, variables)
        text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64 HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM"
        path.write_bytes(text.ljust(512, b"\0") + path.read_bytes()[512:])
    else:
        savemat(path, variables, format=version[0] if version == "4" else "5", do_compression=version == "7")
    return path


def _fill(group: Any, variables: dict[str, Any]) -> None:
    """As MATLAB writes them: every array has two dimensions, the last one first, and says its class."""
    for name, value in variables.items():
        if isinstance(value, dict):
            _fill(group.create_group(name), value)
            group[name].attrs["MATLAB_class"] = np.bytes_(b"struct")
            continue
        text = isinstance(value, str)
        numbers = np.array([ord(letter) for letter in value], dtype=np.uint16) if text else np.asarray(value)
        group[name] = np.atleast_2d(numbers).T
        group[name].attrs["MATLAB_class"] = np.bytes_(b"char" if text else b"double")


@pytest.mark.parametrize("version", VERSIONS)
def test_arrays_by_name(tmp_path: Path, version: str) -> None:
    path = mat(
        tmp_path, version, PPG=signal(64, 10), ecg=signal(250)[:, None], fs=64.0, fs_ECG=250,
        acc=np.tile([0.0, 0.6, 0.8], (50 * SECONDS, 1)), fs_acc=50, start_ECG=3.5, start_time="2024-02-29T23:50:00",
    )  # fmt: skip
    recording = read(path)
    assert {name: channel.rate for name, channel in recording.channels.items()} == {
        "ACC_X": 50, "ACC_Y": 50, "ACC_Z": 50, "PPG": 64, "ECG": 250,
    }  # fmt: skip
    assert recording.channels["ECG"].start == 3.5
    assert str(recording.start_time) == "2024-02-29 23:50:00"
    np.testing.assert_allclose(recording.channels["PPG"].samples, signal(64, 10), rtol=1e-6)
    np.testing.assert_allclose(recording.channels["ACC_Z"].samples, 0.8, rtol=1e-6)
    refuse(path, "--fs says 50 Hz for PPG, but .* states 64", rates={"": 50.0})


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_arrays_in_structs(tmp_path: Path, version: str) -> None:
    data = {"ppg": signal(64), "fs": 64.0, "ecg": {"v": signal(250), "fs": 250.0, "units": "mV", "label": "II"}}
    path = mat(tmp_path, version, data=data, acc={"x": signal(50), "t": np.arange(50 * SECONDS) / 50, "unit": "mg"})
    recording = read(path)
    assert {name: (channel.source, round(channel.rate)) for name, channel in recording.channels.items()} == {
        "ACC_X": ("acc.x", 50), "PPG": ("data.ppg", 64), "ECG": ("data.ecg", 250),
    }  # fmt: skip
    assert recording.channels["ECG"].unit == "mV"
    np.testing.assert_allclose(recording.channels["ACC_X"].samples, signal(50) / 1000, atol=1e-6)


@pytest.mark.parametrize("version", ["7", "7.3"])
def test_the_same_name_in_two_structs(tmp_path: Path, version: str) -> None:
    sides = {side: {"ppg": signal(64, scale)} for side, scale in (("left", 1), ("right", 2))}
    path = mat(tmp_path, version, **sides, fs={"ppg": 64})
    refuse(path, "PPG could be any of ppg#1, ppg#2")
    for name in ("right.ppg", "ppg#2"):
        recording = read(path, {"PPG": name})
        assert recording.channels["PPG"].source == "right.ppg"
        np.testing.assert_allclose(recording.channels["PPG"].samples, signal(64, 2), atol=1e-6)


def test_what_is_no_array_is_said(tmp_path: Path) -> None:
    cells = np.empty(2, dtype=object)
    cells[:] = [signal(64), "text"]
    people = np.zeros(3, dtype=[("ppg", "O")])
    refuse(mat(tmp_path, "5", c=cells, data=people), "has no arrays .*c .a cell array., data .a struct array of 3")
    recording = read(mat(tmp_path, "5", PPG=cells, pleth=signal(64), fs=64))
    assert recording.notes == ["'PPG' is a cell array, which is not read; save a vector of numbers"]
    refuse(mat(tmp_path, "5", sig=np.ones((6, 900)), fs=64), "no signal is known by its name; it has sig")
    refuse(mat(tmp_path, "5", sig=np.ones((6, 900)), fs=64), r"'sig' is float64 of shape \[6, 900\]", {"PPG": "sig"})
    refuse(mat(tmp_path, "5", PPG=signal(64)), "states no sampling rate of 'PPG'; save fs or fs_PPG")


def test_samples_of_a_wfdb_record(tmp_path: Path) -> None:
    path = mat(tmp_path, "4", val=np.ones((2, 900)))
    refuse(path, "no signal is known by its name; it has val")
    path.with_suffix(".hea").write_text("night 2 125 900\n")
    refuse(path, "holds the samples of a WFDB record; give its header: .*night.hea")


def test_what_hdf5_can_hold_beside_arrays(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(np.ones(99).tobytes())
    path = mat(tmp_path, "7.3", PPG=signal(64), fs=64)
    with h5py.File(path, "r+") as file:
        file["ecg"] = h5py.ExternalLink("/etc/passwd", "/ecg")
        file["II"] = h5py.SoftLink("/PPG")
        file.create_dataset("V", (99,), "f8", external=[(str(tmp_path / "secret"), 0, 99 * 8)])
        layout = h5py.VirtualLayout((9,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (9,))
        file.create_virtual_dataset("avf", layout)
        file["acc_x"] = np.ones(9)
        file["acc_x"].attrs["MATLAB_object_decode"] = 3
    recording = read(path)
    assert list(recording.channels) == ["PPG"]
    assert len(recording.notes) == 5
    assert sum("a link to another" in note for note in recording.notes) == 4
    with h5py.File(path, "r+") as file:
        file["loop"] = file["/"]
    refuse(path, "PPG could be any of PPG#1, PPG#2, PPG#3, PPG#4")


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mat(tmp_path, "7.3", PPG=signal(64), fs=64)
    monkeypatch.setitem(sys.modules, "h5py", None)
    mat_file.take_out(str(path), str(tmp_path))
    error = json.loads((tmp_path / mat_file.INDEX).read_text())["error"]
    assert "version 7.3 needs h5py; pip install 'butppg-lightning[recordings]'" in error


def test_a_file_that_crashes_its_reader_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        mat_file, "_TAKE_OUT", "import os, sys, signal; os.kill(os.getpid(), signal.SIGSEGV); take_out = print"
    )
    refuse(mat(tmp_path, "5", PPG=signal(64), fs=64), "cannot be read: the process that read it ended with code")


@pytest.mark.parametrize("version", VERSIONS)
def test_damaged_files_end_in_a_recording_or_one_line(tmp_path: Path, version: str) -> None:
    path = mat(tmp_path, version, PPG=signal(64, 1, 20), fs=64)
    content, generator = path.read_bytes(), np.random.default_rng(0)
    refuse(path_of(path, content[: len(content) // 2]), "cannot be read")
    for _ in range(2):
        spoilt = np.frombuffer(content, dtype=np.uint8).copy()
        spoilt[generator.integers(0, 600, 4)] = generator.integers(0, 256, 4)
        try:
            read(path_of(path, spoilt.tobytes()))
        except UserError as error:
            said = str(error)
            assert said.count("\n") == 0


def path_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
