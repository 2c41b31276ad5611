"""Recordings from npz files, and what is no recording."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_files import SECONDS, read, refuse, signal

edfio = pytest.importorskip("edfio")


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "night.npz", **arrays)
    return folder / "night.npz"


def test_npz_with_a_rate_per_channel(tmp_path: Path) -> None:
    ppg = (100 + signal(64, 10)).astype(np.int16)
    acc = np.tile([0.0, 0.6, 0.8], (50 * SECONDS, 1))
    path = npz(
        tmp_path, ppg_red=ppg, ACC=acc, ECG=signal(250), fs=64, fs_ECG=250.0, fs_ACC=50, start_ECG=3.5,
        start_time="2024-02-29T23:50:00+01:00",
    )  # fmt: skip
    recording = read(path)
    assert list(recording.channels) == ["ACC_X", "ACC_Y", "ACC_Z", "PPG", "ECG"]
    assert [channel.rate for channel in recording.channels.values()] == [50, 50, 50, 64, 250]
    assert recording.channels["ECG"].start == 3.5
    assert recording.duration == pytest.approx(43.5)
    assert recording.start_time == dt.datetime.fromisoformat("2024-02-29T23:50:00+01:00")
    np.testing.assert_array_equal(recording.channels["PPG"].samples, ppg)
    np.testing.assert_allclose(recording.channels["ACC_Z"].samples, 0.8, rtol=1e-6)
    assert any("unit of acceleration" in guess for guess in recording.guesses)


def test_npz_in_three_rows_compressed_and_with_infinity(tmp_path: Path) -> None:
    values = signal(64)
    values[5] = np.inf
    values[9] = 1e300
    np.savez_compressed(tmp_path / "a.npz", accel=np.zeros((3, 500)), x=values, fs=64, start_time=1.7e9)
    recording = read(tmp_path / "a.npz", {"PPG": "x", "ACC_Z": "none"})
    assert list(recording.channels) == ["ACC_X", "ACC_Y", "PPG"]
    assert np.flatnonzero(np.isnan(recording.channels["PPG"].samples)).tolist() == [5, 9]
    assert recording.start_time == dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.timezone.utc)


def test_a_rate_may_be_given_where_the_file_has_none(tmp_path: Path) -> None:
    path = npz(tmp_path, PPG=signal(64), ECG=signal(250))
    recording = read(path, rates={"PPG": 64.0, "": 250.0})
    assert [channel.rate for channel in recording.channels.values()] == [64, 250]
    refuse(path, "states no sampling rate of 'ECG'; save fs", rates={"PPG": 64.0})


@pytest.mark.parametrize("unit", ["m/s2", "mg"])
def test_acceleration_that_cannot_be_g_needs_its_unit(tmp_path: Path, unit: str) -> None:
    scale = {"m/s2": 9.80665, "mg": 1000.0}[unit]
    path = npz(tmp_path, PPG=signal(64), acc=np.tile([0.0, 0.6 * scale, 0.8 * scale], (2000, 1)), fs=64)
    refuse(path, "no unit of acceleration, and its median of .* is not g; give --acc-unit")
    assert read(path, acc_unit=unit).channels["ACC_Z"].samples[0] == pytest.approx(0.8)
    assert read(path, acc_unit="g").channels["ACC_Z"].samples[0] == pytest.approx(0.8 * scale)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"fs": 64}, "has no arrays of samples; it has none"),
        ({"PPG": np.ones(900)}, "states no sampling rate"),
        ({"PPG": np.ones(900), "fs": 0}, "sampled at 0 Hz; expected 5 to 100000"),
        ({"PPG": np.ones(900), "fs": -64}, "sampled at -64 Hz"),
        ({"PPG": np.ones(900), "fs": np.nan}, "sampled at nan Hz"),
        ({"PPG": np.ones(900), "fs": "fast"}, "'fs' is <U4 of shape"),
        ({"PPG": np.ones((9, 100)), "fs": 64}, r"'PPG' is float64 of shape \[9, 100\]"),
        ({"PPG": np.array(["a"]), "fs": 64}, "'PPG' is <U1"),
        ({"PPG": np.full(900, np.nan), "fs": 64}, "hold no numbers at all"),
        ({"PPG": np.array([]), "fs": 64}, "hold no numbers at all"),
        ({"acc": np.ones((7, 5)), "PPG": np.ones(900), "fs": 64}, r"'acc' has shape \[7, 5\]"),
        ({"ppg_red": np.ones(900), "ppg_ir": np.ones(900), "fs": 64}, "PPG could be any of ppg_red, ppg_ir"),
        ({"PPG": np.ones(900), "fs": 64, "sampling_rate": 50}, "states what 'sampling_rate' does in another array too"),
        ({"acc": np.ones((900, 3)), "acc_X": np.ones(900), "fs": 64}, "ACC_X could be any of acc_X#1, acc_X#2"),
        ({"acc": np.ones((900, 3)), "acc_x": np.ones(900), "fs": 64}, "ACC_X could be any of acc_X, acc_x"),
        ({"PPG": np.ones(900, dtype=complex), "fs": 64}, "'PPG' is complex128"),
        ({"PPG": np.ones(900), "fs": 64, "start_PPG": np.inf}, "starts at inf s"),
        ({"signals": np.ones((3, 5, 1250))}, "holds windows, not a recording; `butppg predict`"),
        ({"a\nb": np.ones(900), "fs": 64}, "it has a b;"),
        ({"PPG": np.array([{}], dtype=object), "fs": 64}, "pickled objects"),
    ],
)
def test_wrong_npz_files(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    refuse(npz(tmp_path, **arrays), message)


def test_what_the_user_says_must_fit(tmp_path: Path) -> None:
    path = npz(tmp_path, PPG=signal(64), pleth=signal(64), II=signal(64), V=signal(64), fs=64)
    assert read(path).channels["ECG"].source == "II"
    assert read(path, {"ECG": "V", "PPG": "PLETH"}).channels["PPG"].source == "pleth"
    refuse(path, "has no signal 'plet'; the nearest is 'pleth'; it has PPG, pleth, II, V", {"PPG": "plet"})
    refuse(path, "--fs says 50 Hz for PPG, but .* states 64; drop the flag", rates={"": 50.0})
    refuse(path, "'II' goes backwards", {"TIME": "II"})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", ">i4", "int64"])
def test_every_type_of_number(tmp_path: Path, dtype: str) -> None:
    values = np.round(50 + signal(64, 40)).astype(dtype)
    for shape, fs in (((-1,), 64), ((-1, 1), np.array([64])), ((1, -1), np.array([[64.0]]))):
        recording = read(npz(tmp_path, pleth=values.reshape(shape), Fs=fs))
        np.testing.assert_array_equal(recording.channels["PPG"].samples, values)
        assert recording.channels["PPG"].rate == 64


@pytest.mark.parametrize("start", ["yesterday", "2024", "31/01/2024", np.nan, 738917.5, 1.7e12, np.arange(3)])
def test_a_start_time_that_is_none_costs_the_clock_times_only(tmp_path: Path, start: object) -> None:
    recording = read(npz(tmp_path, PPG=signal(64), fs=64, start_time=start))
    assert recording.start_time is None
    assert len(recording.notes) == 1
    assert "no clock times" in recording.notes[0]


def test_rates_and_units_by_their_names(tmp_path: Path) -> None:
    path = npz(
        tmp_path, ppg=signal(64), ecg=signal(250), acc_mg=np.tile([0.0, 600, 800], (50 * SECONDS, 1)),
        sampling_rate=64, ecg_fs=250, **{"Sampling Frequency acc": 50},
    )  # fmt: skip
    recording = read(path)
    assert {name[:3]: channel.rate for name, channel in recording.channels.items()} == {
        "ACC": 50,
        "PPG": 64,
        "ECG": 250,
    }
    assert recording.channels["ACC_Z"].samples[0] == pytest.approx(0.8)
    assert not recording.guesses
    path = npz(tmp_path, ppg=signal(64), acc=np.tile([0.0, 5.9, 7.8], (64 * SECONDS, 1)), fs=64, unit_acc="m/s2")
    assert read(path).channels["ACC_Z"].samples[0] == pytest.approx(7.8 / 9.80665)


def test_an_array_of_times(tmp_path: Path) -> None:
    times = np.arange(64 * SECONDS) / 64
    times[1280:] += 10
    recording = read(npz(tmp_path, ppg=1 + signal(64), time_s=times, acc=np.zeros((50 * SECONDS, 3)), fs_acc=50))
    assert recording.channels["PPG"].rate == pytest.approx(64)
    assert recording.duration == pytest.approx(50)
    assert np.isnan(recording.channels["PPG"].samples[1280 : 1280 + 640]).all()
    moments = np.datetime64("2024-02-29T23:50:00") + (times * 1e9).astype("timedelta64[ns]")
    recording = read(npz(tmp_path, ppg=1 + signal(64), timestamp=moments))
    assert str(recording.start_time) == "2024-02-29 23:50:00"
    assert recording.duration == pytest.approx(50)
    assert read(npz(tmp_path, ppg=signal(64), clock=times), {"TIME": "clock"}).duration == pytest.approx(50)


def test_times_against_a_stated_rate(tmp_path: Path) -> None:
    path = npz(tmp_path, ppg=signal(64), t=np.arange(64 * SECONDS) / 50, fs=64)
    refuse(path, "'ppg' is sampled at 64 Hz, but by 't' at 50 Hz; to go by the rate: --channels TIME=none")
    assert read(path, {"TIME": "none"}).duration == SECONDS
    recording = read(npz(tmp_path, ppg=signal(64), t=36.6 + 0.1 * signal(64), fs=64))  # a temperature
    assert recording.duration == SECONDS
    assert "'t' is not taken for the time" in recording.notes[0]
    refuse(npz(tmp_path, ppg=signal(64), t=np.arange(2560), time=np.arange(2560)), "time could be any of t, time")
    refuse(npz(tmp_path, ppg=signal(64), x=np.arange(99)), "'x' is not as long as 'ppg'", {"TIME": "x"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.csv", "does not exist"),
        ("", "holds no recording; known are"),
        ("a.xyz", "is of an unknown kind"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.xyz").write_text("time,PPG")
    refuse(tmp_path / name, message)
