"""Recordings from npz, EDF and WFDB files that the formats' own libraries wrote, and from damaged ones."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REAL_DATA

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Recording, Selection, read_recording

edfio = pytest.importorskip("edfio")
wfdb = pytest.importorskip("wfdb")

SECONDS = 40
START = dt.datetime(2024, 2, 29, 23, 50, 0)


def signal(rate: float, scale: float = 1.0, seconds: float = SECONDS) -> np.ndarray:
    return scale * np.sin(2 * np.pi * 1.1 * np.arange(round(rate * seconds)) / rate)


def read(path: Path, channels: dict[str, str] | None = None, **rest: Any) -> Recording:
    return read_recording(path, Selection(channels or {}, **rest))


def refuse(path: Path, message: str, channels: dict[str, str] | None = None, **rest: Any) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        read(path, channels, **rest)
    assert "\n" not in str(refusal.value)


# npz


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
        ({"fs": 64}, "no signal is known by its name; it has none"),
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
        ({"PPG": np.ones(900), "fs": 64, "start_time": "yesterday"}, "'start_time' is 'yesterday'; expected ISO"),
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
    refuse(path, "names a TIME column, but", {"TIME": "II"})


# EDF


def edf(folder: Path, *signals: tuple[str, float, np.ndarray, str], **rest: Any) -> Path:
    made = [edfio.EdfSignal(values, rate, label=name, physical_dimension=unit) for name, rate, values, unit in signals]
    edfio.Edf(made, data_record_duration=1, **rest).write(folder / "night.edf")
    return folder / "night.edf"


def test_edf_with_other_names_rates_and_units(tmp_path: Path) -> None:
    path = edf(
        tmp_path, ("Pleth", 64, signal(64, 30), "a.u."), ("EEG Fpz", 100, signal(100), "uV"),
        ("ECG II", 250, signal(250, 0.8), "mV"), ("Accel X", 50, np.append(signal(50)[1:], 9.80665), "m/s^2"),
        starttime=START.time(), recording=edfio.Recording(startdate=START.date()),
    )  # fmt: skip
    recording = read(path)
    assert {name: (channel.source, channel.rate) for name, channel in recording.channels.items()} == {
        "ACC_X": ("Accel X", 50), "PPG": ("Pleth", 64), "ECG": ("ECG II", 250),
    }  # fmt: skip
    assert recording.start_time == START
    assert recording.names == ("Pleth", "EEG Fpz", "ECG II", "Accel X")
    np.testing.assert_allclose(recording.channels["PPG"].samples, signal(64, 30), atol=0.002)
    assert recording.channels["ACC_X"].samples[-1] == pytest.approx(1, abs=1e-3)


def test_edf_with_gaps(tmp_path: Path) -> None:
    annotations = [edfio.EdfAnnotation(1.0, None, "on")]
    path = edf(tmp_path, ("PPG", 64, signal(64, 1, 20), ""), annotations=annotations)
    content = path.read_bytes().replace(b"EDF+C", b"EDF+D", 1)
    for second in range(10, 20):  # the second half comes half a minute later
        content = content.replace(f"+{second}\x14\x14".encode(), f"+{second + 30}\x14\x14".encode(), 1)
    path.write_bytes(content)
    samples = read(path).channels["PPG"].samples
    assert len(samples) == 50 * 64
    assert np.flatnonzero(np.isnan(samples)).tolist() == list(range(10 * 64, 40 * 64))
    np.testing.assert_allclose(samples[40 * 64 :], signal(64, 1, 20)[10 * 64 :], atol=1e-3)
    path.write_bytes(content.replace(b"+45\x14\x14", b"+40\x14\x14", 1))
    refuse(path, "overlap or go back in time")


def test_damaged_edf_files(tmp_path: Path) -> None:
    path = edf(tmp_path, ("PPG", 64, signal(64), ""))
    whole = path.read_bytes()

    def spoilt(begin: int, field: str, content: bytes = whole) -> Path:
        path.write_bytes(content[:begin] + field.encode() + content[begin + len(field) :])
        return path

    refuse(spoilt(236, "99999999"), "declares 99,999,999 data records but holds 40: it is truncated")
    refuse(spoilt(236, "40      ", whole[:-1000]), "declares 40 data records but holds 32")
    assert read(spoilt(236, "-1      ")).duration == 40  # written before the end was known
    refuse(spoilt(0, "PK"), "is not an EDF file")
    refuse(spoilt(252, "9999"), "not a complete EDF file")
    refuse(spoilt(244, "0       "), "not a complete EDF file|sampled at")
    refuse(spoilt(244, "-1      "), "sampled at -64 Hz|not a complete EDF")
    refuse(spoilt(256 + 216, "99999999"), "data records|complete|samples")
    refuse(spoilt(256 + 104, "abc     "), "not a complete EDF file")
    refuse(spoilt(0, "", whole[:300]), "not a complete EDF file|data records")
    refuse(spoilt(0, "", b""), "is not an EDF file")
    path.write_bytes(whole)
    refuse(path, "states its sampling rates; drop --fs", rates={"": 64.0})


# WFDB


def wfdb_record(folder: Path, name: str = "night", fs: float = 125, **signals: np.ndarray) -> Path:
    wfdb.wrsamp(
        name, fs=fs, units=["g" if key.startswith("A") else "mV" for key in signals], sig_name=list(signals),
        p_signal=np.column_stack(list(signals.values())), fmt=["16"] * len(signals), write_dir=str(folder),
        base_time=START.time(), base_date=START.date(),
    )  # fmt: skip
    return folder / name


def test_wfdb_with_or_without_suffix(tmp_path: Path) -> None:
    gap = signal(125)
    gap[300:500] = np.nan
    path = wfdb_record(tmp_path, PLETH=gap, II=signal(125, 0.7), AccX=signal(125, 0.1))
    for given in (path, path.with_suffix(".hea")):
        recording = read(given)
        assert list(recording.channels) == ["ACC_X", "PPG", "ECG"]
        assert recording.start_time == START
        assert np.flatnonzero(np.isnan(recording.channels["PPG"].samples)).tolist() == list(range(300, 500))
        np.testing.assert_allclose(recording.channels["ECG"].samples, signal(125, 0.7), atol=1e-3)
    refuse(path.with_suffix(".dat"), "holds the samples of a WFDB record; give its header")
    assert not read(path).notes + read(path).guesses  # g is stated


def test_wfdb_with_several_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wfdb.wrsamp(
        "multi", fs=50, units=["mV", "NU"], sig_name=["ECG", "PPG"], fmt=["16", "16"], samps_per_frame=[5, 2],
        e_p_signal=[signal(250), signal(100, 2)], write_dir=str(tmp_path),
    )  # fmt: skip
    whole = read(tmp_path / "multi")
    assert {name: channel.rate for name, channel in whole.channels.items()} == {"PPG": 100, "ECG": 250}
    np.testing.assert_allclose(whole.channels["ECG"].samples, signal(250), atol=1e-3)
    monkeypatch.setattr("butppg_lightning.sources.recordings.wfdb_record._CHUNK_SECONDS", 7.0)
    np.testing.assert_array_equal(read(tmp_path / "multi").channels["PPG"].samples, whole.channels["PPG"].samples)


def test_wfdb_of_several_segments(tmp_path: Path) -> None:
    wfdb_record(tmp_path, "one", II=signal(125), PLETH=signal(125, 2))
    wfdb_record(tmp_path, "two", PLETH=signal(125, 3), V=signal(125))
    (tmp_path / "both.hea").write_text("both/3 2 125 11250 23:50:00 29/02/2024\none 5000\n~ 1250\ntwo 5000\n")
    recording = read(tmp_path / "both")
    ppg, ecg = recording.channels["PPG"].samples, recording.channels["ECG"]
    assert recording.duration == 90
    assert ecg.source == "II"
    assert np.isnan(ecg.samples[5000:]).all()
    assert np.isnan(ppg[5000:6250]).all()
    np.testing.assert_allclose(ppg[6250:], signal(125, 3), atol=1e-3)
    (tmp_path / "both.hea").write_text("both/2 2 125 10000\none 5000\ntwo 4000\n")
    refuse(tmp_path / "both", "two.hea declares 5000 samples, .*both.hea 4000")
    (tmp_path / "both.hea").write_text("both/2 2 125 10000\none 5000\nboth 5000\n")
    refuse(tmp_path / "both", "segment that has segments itself")
    (tmp_path / "both.hea").write_text("both/1 2 125 5000\n../one 5000\n")
    refuse(tmp_path / "both", "cannot be read|not beside it")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real recordings beside the checkout")
def test_records_in_the_form_of_the_release() -> None:
    folder = REAL_DATA / "but_ppg_release_sample" / "201006"
    assert read(folder / "201006_ECG").channels["ECG"].rate == 1000
    assert read(folder / "201006_ACC").channels["ACC_Z"].samples.mean() == pytest.approx(0, abs=2)
    refuse(folder / "201006_PPG", "PPG could be any of PPG_R, PPG_G, PPG_B; say which: --channels PPG=PPG_R")
    assert read(folder / "201006_PPG", {"PPG": "PPG_G"}).channels["PPG"].rate == 30


def test_damaged_wfdb_records(tmp_path: Path) -> None:
    path = wfdb_record(tmp_path, PPG=signal(125), II=signal(125))
    header = path.with_suffix(".hea").read_text()

    def spoilt(old: str, new: str) -> Path:
        path.with_suffix(".hea").write_text(header.replace(old, new, 1))
        return path

    refuse(spoilt("5000", "99999999999999"), "declares 99,999,999,999,999 samples, but .* holds 5,000")
    assert read(spoilt(" 5000 23:50:00 29/02/2024", "")).duration == 40  # a header need not say
    refuse(spoilt("night.dat", "gone.dat"), "gone.dat, which does not exist")
    refuse(spoilt("night.dat", "/etc/passwd"), "not beside it|cannot be read")
    refuse(spoilt("night.dat", "../night.dat"), "not beside it|cannot be read")
    refuse(spoilt("night.dat", "s3://bucket/night.dat"), "not beside it|cannot be read")
    refuse(spoilt("night.dat 16", "night.dat 999"), "format 999|cannot be read")
    refuse(spoilt(" 125 ", " 0 "), "at 0 Hz|cannot be read")
    refuse(spoilt(" 125 ", " -125 "), "its first line says '-125' where a rate")
    refuse(spoilt("night 2", "night 0"), "no signals|cannot be read")
    refuse(spoilt(header, "\x00\x01 nonsense"), "cannot be read")
    refuse(spoilt(header, ""), "cannot be read")
    path.with_suffix(".hea").write_text(header)
    path.with_suffix(".dat").write_bytes(path.with_suffix(".dat").read_bytes()[:-400])
    refuse(path, "declares 5,000 samples, but .* holds 4,900: it is truncated")
    refuse(path, "states its sampling rates; drop --fs", rates={"": 64.0})


@pytest.mark.parametrize(
    ("name", "message"), [("gone.csv", "does not exist"), ("", "is a folder"), ("a.xyz", "is of an unknown kind")]
)
def test_what_is_no_recording(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.xyz").write_text("time,PPG")
    refuse(tmp_path / name, message)
