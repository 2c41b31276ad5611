"""Recordings from EDF and BDF files: what is declared held against what is there, and dates that cost no data."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_files import START, read, refuse, signal

edfio = pytest.importorskip("edfio")


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

    refuse(spoilt(236, "99999999"), "'PPG' would have 6,399,999,936 samples, .* check its header")
    refuse(spoilt(236, "40      ", whole[:512]), "holds no data records")
    refuse(spoilt(184, "768"), "its header does not fit its 1 signals")
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


def spoil(path: Path, begin: int, field: str) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:begin] + field.encode() + content[begin + len(field) :])


@pytest.mark.parametrize(
    ("declared", "cut", "seconds", "held", "note"),
    [
        ("40", 1280, 40, 30, "declares 40 data records, but holds 30: the others are missing samples"),
        ("40", 1000, 40, 32, "declares 40 data records, but holds 32 and a part of one: the others"),
        ("30", 0, 40, 40, "declares 30 data records, but holds 40: 40 are read"),
        ("-1", 0, 40, 40, "does not say how many data records it has, .* the 40 it holds are read"),
        ("forty", 0, 40, 40, "does not say how many data records it has"),
        ("39", 1, 39, 39, "declares 39 data records, but holds 39 and a part of one"),
    ],
)
def test_data_records_that_are_not_as_many_as_declared(
    tmp_path: Path, declared: str, cut: int, seconds: int, held: int, note: str
) -> None:
    path = edf(tmp_path, ("PPG", 64, 1 + signal(64), ""))
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
    spoil(path, 236, f"{declared:<8}")
    recording = read(path)
    assert recording.duration == seconds
    gaps = np.isnan(recording.channels["PPG"].samples)
    assert np.flatnonzero(gaps).tolist() == list(range(64 * held, 64 * seconds))
    assert len(recording.notes) == 1
    assert re.search(note, recording.notes[0])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40 * 128 + 511))
def test_a_file_cut_anywhere_has_what_is_left_of_it(tmp_path: Path, cut: int) -> None:
    path = edf(tmp_path, ("PPG", 64, 1 + signal(64), ""))
    path.write_bytes(path.read_bytes()[: 512 + 40 * 128 - cut])
    held = (40 * 128 - cut) // 128
    if held < 1:
        refuse(path, "holds no data records|not a complete EDF file|is not an EDF file")
        return
    recording = read(path)
    np.testing.assert_allclose(recording.channels["PPG"].samples[: 64 * held], 1 + signal(64)[: 64 * held], atol=1e-3)
    assert np.isnan(recording.channels["PPG"].samples[64 * held :]).all()
    assert bool(recording.notes) == (cut > 0)


@pytest.mark.parametrize(
    ("date", "time", "plus", "start"),
    [
        ("29.02.24", "23.50.00", "", START),
        ("2024-2-2", "23.50.00", "", None),
        ("31.02.24", "23.50.00", "", None),
        ("29.02.24", "25.61.00", "", None),
        ("garbage", "", "", None),
        ("garbage", "23.50.00", "Startdate 29-FEB-2024 X X X", START),
        ("29.02.24", "23.50.00", "Startdate 99-FEB-2024 X X X", START),
    ],
)
def test_a_date_that_is_none_costs_the_clock_times_only(
    tmp_path: Path, date: str, time: str, plus: str, start: dt.datetime | None
) -> None:
    path = edf(tmp_path, ("PPG", 64, signal(64), ""))
    spoil(path, 88, f"{plus:<80}{date:<8}{time:<8}")
    recording = read(path)
    assert recording.start_time == start
    assert recording.duration == 40
    assert len(recording.notes) == (start is None)
    assert all("which is no date and time: no clock times" in note for note in recording.notes)


def test_dates_that_are_withheld_are_no_fault(tmp_path: Path) -> None:
    path = edf(tmp_path, ("PPG", 64, signal(64), ""))
    for plus, date in (("Startdate X X X X", "01.01.85"), ("", "01.01.85")):
        spoil(path, 88, f"{plus:<80}{date:<8}23.50.00")
        assert (read(path).start_time, read(path).notes) == (None, [])


def test_signals_of_one_label_and_of_none(tmp_path: Path) -> None:
    path = edf(tmp_path, ("Pleth", 64, signal(64), ""), ("Pleth", 64, 2 * signal(64), ""), ("", 64, 3 * signal(64), ""))
    refuse(path, "PPG could be any of Pleth#1, Pleth#2")
    for name, scale in (("Pleth#1", 1), ("Pleth#2", 2), ("signal_3", 3)):
        samples = read(path, {"PPG": name}).channels["PPG"].samples
        np.testing.assert_allclose(samples, signal(64, scale), atol=1e-3)


def test_units_are_each_signals_own(tmp_path: Path) -> None:
    axes = [("acc x [mg]", 50, signal(50, 999), ""), ("acc y", 50, signal(50, 0.999), "g"),
            ("acc z", 50, signal(50, 9.797), "m/s2")]  # fmt: skip
    recording = read(edf(tmp_path, ("PPG", 64, signal(64), "uV"), *axes))
    for axis in "XYZ":
        np.testing.assert_allclose(recording.channels[f"ACC_{axis}"].samples, signal(50, 0.999), atol=1e-3)
    assert not recording.guesses


def test_headers_with_decimal_commas(tmp_path: Path) -> None:
    path = edf(tmp_path, ("PPG", 64, signal(64), ""))
    spoil(path, 244, "1,0     ")
    spoil(path, 256 + 104, "-2,5    2,5     ")
    samples = read(path).channels["PPG"].samples
    np.testing.assert_allclose(samples, 2.5 * signal(64), atol=1e-3)


def test_times_that_show_a_gap_which_the_header_denies(tmp_path: Path) -> None:
    path = edf(tmp_path, ("PPG", 64, 1 + signal(64, 1, 20), ""), annotations=[])
    content = path.read_bytes()
    later = content
    for second in range(10, 20):
        later = later.replace(f"+{second}\x14\x14".encode(), f"+{second + 30}\x14\x14".encode(), 1)
    for reserved in (b"EDF+C", b"EDF+?"):
        path.write_bytes(later.replace(b"EDF+C", reserved, 1))
        recording = read(path)
        assert np.flatnonzero(np.isnan(recording.channels["PPG"].samples)).tolist() == list(range(10 * 64, 40 * 64))
        assert "says that it has no gaps" in recording.notes[0]
    path.write_bytes(content.replace(b"+15\x14\x14", b"+10\x14\x14", 1))
    assert read(path).duration == 20
    assert "taken as they follow each other" in read(path).notes[0]
    path.write_bytes(content.replace(b"+15\x14\x14", b"\x00\x00\x00\x00\x00", 1))
    assert (read(path).duration, read(path).notes) == (20, [])


def test_annotations_alone_are_no_recording(tmp_path: Path) -> None:
    edfio.Edf([], annotations=[edfio.EdfAnnotation(1.0, None, "on")]).write(tmp_path / "a.edf")
    refuse(tmp_path / "a.edf", "has annotations only; give a file with signals")


def test_bdf_with_gaps(tmp_path: Path) -> None:
    made = [edfio.BdfSignal(5e6 + signal(64, 1e3, 20), 64, label="Pleth", physical_range=(0, 1e7))]
    path = tmp_path / "night.bdf"
    edfio.Bdf(made, data_record_duration=1, annotations=[]).write(path)
    recording = read(path)
    np.testing.assert_allclose(recording.channels["PPG"].samples, 5e6 + signal(64, 1e3, 20), atol=1)
    assert not recording.notes
    content = path.read_bytes().replace(b"BDF+C", b"BDF+D", 1)
    for second in range(10, 20):
        content = content.replace(f"+{second}\x14\x14".encode(), f"+{second + 30}\x14\x14".encode(), 1)
    path.write_bytes(content)
    samples = read(path).channels["PPG"].samples
    assert np.flatnonzero(np.isnan(samples)).tolist() == list(range(10 * 64, 40 * 64))
    path.write_bytes(content[:-100])
    assert "declares 20 data records, but holds 19 and a part of one" in read(path).notes[0]
