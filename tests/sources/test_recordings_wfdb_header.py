"""Headers of WFDB records: base times in every form, lines that the package wfdb misreads, what need not be said."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording_files import SECONDS, plain_record, read, signal

from butppg_lightning.sources.recordings.wfdb_header import parse_start, read_header

pytest.importorskip("wfdb")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("22:15:00 31/01/2024", dt.datetime(2024, 1, 31, 22, 15)),
        ("22:15:00.25 2024-01-31", dt.datetime(2024, 1, 31, 22, 15, 0, 250000)),
        ("2024-01-31 22:15:00", dt.datetime(2024, 1, 31, 22, 15)),
        ("2024-01-31T22:15:00", dt.datetime(2024, 1, 31, 22, 15)),
        ("2024-01-31T22:15:00Z", dt.datetime(2024, 1, 31, 22, 15, tzinfo=dt.timezone.utc)),
        ("15:30 31/01/2024", dt.datetime(2024, 1, 31, 0, 15, 30)),
        ("2024-01-31", dt.datetime(2024, 1, 31)),
        ("22:15:00", None),
    ],
)
def test_base_times(tmp_path: Path, text: str, start: dt.datetime | None) -> None:
    path = plain_record(tmp_path, "r", ["1/NU 0 0 0 0 0 PLETH"], signal(125, 99), first=f"r 1 125 5000 {text}")
    recording = read(path)
    assert recording.start_time == start
    assert not recording.notes


@pytest.mark.parametrize(
    "text", ["22:15:00 2024", "25:61:00 31/01/2024", "25:61:00", "22:15:00 31/13/2024", "22:15:00 01/31/24", "garbage",
             "22:15:00 31 01 2024", "2024-01-31T22:15:00 22:15:00", "::", "-", "22:15:00 2024-02-30"],
)  # fmt: skip
def test_a_base_time_that_is_none_costs_the_clock_times_only(tmp_path: Path, text: str) -> None:
    path = plain_record(tmp_path, "r", ["1/NU 0 0 0 0 0 PLETH"], signal(125, 99), first=f"r 1 125 5000 {text}")
    recording = read(path)
    assert recording.start_time is None
    np.testing.assert_array_equal(recording.channels["PPG"].samples, np.round(signal(125, 99)))
    assert len(recording.notes) == 1
    assert "no clock times" in recording.notes[0]
    assert "\n" not in recording.notes[0]


@given(st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)), st.sampled_from(["%d/%m/%Y", "%Y-%m-%d"]))
def test_every_base_time_is_read_back(moment: dt.datetime, form: str) -> None:
    assert parse_start([f"{moment:%H:%M:%S.%f}", moment.strftime(form)]) == moment


@pytest.mark.parametrize(
    ("line", "name", "unit"),
    [
        ("16 12.5(-3)/a.u. 12 0 0 0 0 PLETH", "PLETH", "a.u."),
        ("16x2:3+8 12.5/m/(s^2) 12 0 0 0 0 acc x, left", "acc x, left", "m/(s^2)"),
        ("16 1e3 12 0 0 0 0 5 colours", "5 colours", "mV"),
        ("16 200/mV PLETH", "PLETH", "mV"),
        ("16 PLETH", "PLETH", ""),
        ("16 0/g 0 0 0 0 0 acc_x", "acc_x", ""),
        ("16", "signal_1", ""),
    ],
)
def test_lines_that_wfdb_misreads(tmp_path: Path, line: str, name: str, unit: str) -> None:
    (tmp_path / "r.hea").write_text(f"r 1 125 5000\r\nr.dat {line}\r\n", encoding="utf-8-sig")
    (signal_of,) = read_header(tmp_path / "r.hea").signals
    assert (signal_of.name, signal_of.unit, signal_of.form) == (name, unit, "16")


def test_what_a_header_need_not_say(tmp_path: Path) -> None:
    path = plain_record(tmp_path, "r", ["1/NU 0 0 0 0 0 PLETH"], signal(125, 99), first="# of a script\n\nr 1 125 0")
    assert read(path).duration == SECONDS  # 0 is an unknown length
    path = plain_record(tmp_path, "r", ["1/NU 0 0 0 0 0 PLETH"], signal(125, 99), first="r 1")
    recording = read(path)
    assert recording.channels["PPG"].rate == 250
    assert "states no sampling rate; taken as 250 Hz" in recording.guesses[0]


def test_segments_and_their_record_need_state_the_rate_once(tmp_path: Path) -> None:
    plain_record(tmp_path, "one", ["1/NU 0 0 0 0 0 PLETH"], signal(125, 99), first="one 1")
    plain_record(tmp_path, "two", ["1/NU 0 0 0 0 0 PLETH"], signal(125, 99), first="two 1 125 5000")
    for master in ("all/2 1 125 10000\none 5000\ntwo 5000\n", "all/2 1\ntwo 5000\none 5000\n"):
        (tmp_path / "all.hea").write_text(master)
        recording = read(tmp_path / "all")
        assert recording.duration == 80
        assert not recording.notes + recording.guesses


def test_samples_behind_another_header(tmp_path: Path) -> None:
    """As in files of MATLAB, version 4."""
    path = plain_record(tmp_path, "r", ["1/NU 0 0 0 0 0 PLETH"], signal(125, 99))
    (tmp_path / "r.mat").write_bytes(b"x" * 24 + (tmp_path / "r.dat").read_bytes())
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r.dat 16", "r.mat 16+24"))
    recording = read(path)
    np.testing.assert_array_equal(recording.channels["PPG"].samples, np.round(signal(125, 99)))
    assert not recording.notes
