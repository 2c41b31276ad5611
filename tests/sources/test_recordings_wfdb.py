"""Recordings from WFDB records: signals by place, units by segment, what is declared held against what is there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_files import START, plain_record, read, refuse, signal

wfdb = pytest.importorskip("wfdb")


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
    for form in (path, path.with_suffix(".hea")):
        recording = read(form)
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


def test_segments_and_gaps(tmp_path: Path) -> None:
    wfdb_record(tmp_path, "one", II=signal(125), PLETH=signal(125, 2))
    wfdb_record(tmp_path, "two", PLETH=signal(125, 3), V=signal(125))
    master = tmp_path / "both.hea"
    master.write_text("both/3 2 125 11250 23:50:00 29/02/2024\none 5000\n~ 1250\ntwo 5000\n")
    recording = read(tmp_path / "both")
    ppg, ecg = recording.channels["PPG"].samples, recording.channels["ECG"]
    assert recording.duration == 90
    assert recording.start_time == START
    assert ecg.source == "II"
    assert np.isnan(ecg.samples[5000:]).all()
    assert np.isnan(ppg[5000:6250]).all()
    np.testing.assert_allclose(ppg[6250:], signal(125, 3), atol=1e-3)
    assert not recording.notes + recording.guesses
    master.write_text("both/2 2 125 10000\none 5000\nboth 5000\n")
    refuse(tmp_path / "both", "segment that has segments itself")
    master.write_text("both/1 2 125 5000\n../one 5000\n")
    refuse(tmp_path / "both", "not beside it")
    master.write_text("both/2 2 100 10000\none 5000\ntwo 5000\n")
    refuse(tmp_path / "both", "one.hea is sampled at 125 Hz, .*both.hea at 100")


@pytest.mark.parametrize(
    ("master", "seconds", "missing", "note"),
    [
        ("both/2 2 125 10000\none 5000\n", 80, [(40, 80)], "declares 2 segments and 10,000 samples, but lists 1"),
        ("both/1 2 125 5000\none 5000\ntwo 5000\n", 80, [], "declares 1 segments and 5,000 .* lists 2"),
        ("both/2 2 125 11000\none 5000\ntwo 5000\n", 88, [(80, 88)], "of 10,000 samples; the last 8 s"),
        ("both/2 2 125 9000\none 5000\ntwo 4000\n", 72, [], "two.hea declares 5,000 samples, .* 4,000"),
        ("both/2 2 125 11000\none 6000\ntwo 5000\n", 88, [(40, 48)], "one.hea declares 5,000 .* 6,000"),
        ("both/3 2 125 12500\none 5000\ngone 2500\ntwo 5000\n", 100, [(40, 60)], "gone.hea, a segment of 20 s"),
        ("both/3 2 125\ngone 2500\none 5000\ntwo 5000\n", 100, [(0, 20)], "gone.hea, a segment of 20 s"),
        ("both/2 2 125 10000\none 5000\nlost 5000\n", 80, [(40, 80)], "the signal file .*lost.dat"),
    ],
)  # fmt: skip
def test_what_a_master_header_declares_is_held_against_what_is_there(
    tmp_path: Path, master: str, seconds: float, missing: list[tuple[int, int]], note: str
) -> None:
    wfdb_record(tmp_path, "one", PLETH=1 + signal(125))
    wfdb_record(tmp_path, "two", PLETH=1 + signal(125))
    (tmp_path / "lost.hea").write_text((tmp_path / "one.hea").read_text().replace("one", "lost"))
    (tmp_path / "both.hea").write_text(master)
    recording = read(tmp_path / "both")
    assert recording.duration == seconds
    gaps = np.isnan(recording.channels["PPG"].samples)
    wanted = np.zeros(len(gaps), dtype=bool)
    for begin, end in missing:
        wanted[125 * begin : 125 * end] = True
    np.testing.assert_array_equal(gaps, wanted)
    assert len(recording.notes) == 1
    assert re.search(note, recording.notes[0]), recording.notes[0]


def test_a_record_of_which_nothing_is_there(tmp_path: Path) -> None:
    (tmp_path / "both.hea").write_text("both/2 2 125 10000\none 5000\ntwo 5000\n")
    refuse(tmp_path / "both", "two.hea, a segment of 40 s, does not exist")
    (tmp_path / "both.hea").write_text("both/2 2 125 10000\n")
    refuse(tmp_path / "both", "declares 2 segments and 10,000 samples, but lists 0")
    (tmp_path / "both.hea").write_text(f"both/900 2 125 {900 * 5000}\n" + "".join(f"s{k} 5000\n" for k in range(900)))
    wfdb_record(tmp_path, "s7", PLETH=signal(125))
    notes = read(tmp_path / "both").notes
    assert len(notes) < 10
    assert notes[-1].startswith("and 89")


def test_a_data_file_that_is_cut_short_or_gone(tmp_path: Path) -> None:
    path = wfdb_record(tmp_path, PLETH=1 + signal(125))
    data = path.with_suffix(".dat")
    whole = data.read_bytes()
    data.write_bytes(whole[:-401])
    recording = read(path)
    assert recording.duration == 40
    assert np.flatnonzero(np.isnan(recording.channels["PPG"].samples)).tolist() == list(range(4799, 5000))
    assert "declares 5,000 samples, but" in recording.notes[0]
    assert "holds 4,799: the rest are missing samples" in recording.notes[0]
    data.write_bytes(whole + whole)
    recording = read(path)
    assert recording.duration == 40
    assert "holds 10,000: the rest are not read" in recording.notes[0]
    data.write_bytes(b"")
    refuse(path, "holds 0: the rest are missing")
    data.unlink()
    refuse(path, "night.dat, which does not exist; copy it there")


def test_signals_in_files_that_take_turns(tmp_path: Path) -> None:
    """Each file has a length of its own, and wfdb takes the third signal of a.dat for its second."""
    steps = np.arange(1000)
    np.column_stack([steps, steps + 1, steps + 2]).astype("<i2").tofile(tmp_path / "a.dat")
    (steps[:600] + 3).astype("<i2").tofile(tmp_path / "b.v1.dat")
    lines = ["a.dat 16 1/NU 0 0 0 0 0 x1", "b.v1.dat 16 1/NU 0 0 0 0 0 PLETH"]
    lines += ["a.dat 16 1/mV 0 0 0 0 0 II", "a.dat 16 1/mV 0 0 0 0 0 V"]
    (tmp_path / "r.hea").write_text("\n".join(["r 4 125 1000", *lines]))
    recording = read(tmp_path / "r")
    np.testing.assert_array_equal(recording.channels["ECG"].samples, steps + 1)
    np.testing.assert_array_equal(recording.channels["PPG"].samples[:600], steps[:600] + 3)
    assert np.isnan(recording.channels["PPG"].samples[600:]).all()
    assert len(recording.notes) == 1
    (tmp_path / "b.v1.dat").unlink()
    recording = read(tmp_path / "r")
    assert list(recording.channels) == ["ECG"]
    assert any("b.v1.dat, which does not exist" in note for note in recording.notes)


def test_signals_of_one_name_and_of_none(tmp_path: Path) -> None:
    first, second = 100 * signal(125), 200 * signal(125)
    path = plain_record(tmp_path, "dup", ["1/NU 0 0 0 0 0 PLETH"] * 2, first, second)
    refuse(path, "PPG could be any of PLETH#1, PLETH#2")
    for number, values in ((1, first), (2, second)):
        np.testing.assert_array_equal(read(path, {"PPG": f"PLETH#{number}"}).channels["PPG"].samples, np.round(values))
    refuse(path, "gives 'PLETH' of .* to PPG and ECG", {"PPG": "PLETH#1", "ECG": "PLETH#1"})
    path = plain_record(tmp_path, "unn", ["1/NU 0 0 0 0 0", "1(0)"], first, second)
    refuse(path, "it has signal_1, signal_2; say which is which: --channels PPG=signal_1")
    np.testing.assert_array_equal(read(path, {"PPG": "signal_2"}).channels["PPG"].samples, np.round(second))


def test_signals_of_one_name_keep_their_order_over_segments(tmp_path: Path) -> None:
    first, second = 100 * signal(125), 200 * signal(125)
    plain_record(tmp_path, "one", ["1/NU 0 0 0 0 0 PLETH"] * 2, first, second)
    plain_record(
        tmp_path, "two", ["1/NU 0 0 0 0 0 PLETH", "1/mV 0 0 0 0 0 II", "1/NU 0 0 0 0 0 PLETH"], second, first, first
    )
    plain_record(tmp_path, "three", ["1/NU 0 0 0 0 0 PLETH"], first)
    (tmp_path / "all.hea").write_text("all/2 2 125 10000\none 5000\ntwo 5000\n")
    recording = read(tmp_path / "all", {"PPG": "PLETH#2"})
    np.testing.assert_array_equal(recording.channels["PPG"].samples, np.round(np.append(second, first)))
    assert not recording.notes
    (tmp_path / "all.hea").write_text("all/2 2 125 10000\none 5000\nthree 5000\n")
    assert "1 to 2 signals named 'PLETH'" in read(tmp_path / "all", {"PPG": "PLETH#1"}).notes[0]


UNITS = {"g": 1.0, "mg": 1e-3, "m/s^2": 1 / 9.80665, "m/s²": 1 / 9.80665, "mV": 1e-3, "uV": 1e-6, "µV": 1e-6, "V": 1.0}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["g", "mg", "m/s^2"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["mV", "uV", "µV", "V"]), min_size=4, max_size=4),
    st.sampled_from([None, "mg", "m/s2"]),
)
def test_units_gains_and_baselines_are_each_segments_own(
    tmp_path: Path, acc: list[str], volts: list[str], asked: str | None
) -> None:
    wanted = {"acc_x": 0.5 + 0.4 * signal(125), "II": 1e-3 * signal(125)}  # g, V
    for number, units in enumerate(zip(acc, volts, strict=False)):
        lines, rows = [], []
        for (name, values), unit in zip(wanted.items(), units, strict=True):
            gain, baseline = 9000 / np.abs(values / UNITS[unit]).max(), 100 * number - 150
            lines.append(f"{gain:.9g}({baseline})/{unit} 0 0 0 0 0 {name}")
            rows.append(values / UNITS[unit] * gain + baseline)
        plain_record(tmp_path, f"s{number}", lines, *rows)
    listed = "".join(f"s{number} 5000\n" for number in range(len(acc)))
    (tmp_path / "all.hea").write_text(f"all/{len(acc)} 2 125 {5000 * len(acc)}\n{listed}")
    recording = read(tmp_path / "all", acc_unit=asked if len(set(acc)) > 1 else None)  # else it is the user's word
    assert not recording.notes + recording.guesses
    found = recording.channels["ACC_X"].samples, recording.channels["ECG"].samples * UNITS[volts[0]]
    for values, true in zip(found, wanted.values(), strict=True):
        np.testing.assert_allclose(values, np.tile(true, len(acc)), atol=1e-3 * np.abs(true).max())


def test_units_that_cannot_be_brought_together(tmp_path: Path) -> None:
    for name, units in (("one", ("g", "NU")), ("two", ("counts", "mV"))):
        lines = [f"1000/{unit} 0 0 0 0 0 {label}" for unit, label in zip(units, ("acc_x", "PLETH"), strict=True)]
        plain_record(tmp_path, name, lines, 1000 * signal(125), 100 * signal(125))
    (tmp_path / "all.hea").write_text("all/2 2 125 10000\none 5000\ntwo 5000\n")
    refuse(tmp_path / "all", "the segments state 'acc_x' in g, counts; give the others' unit by --acc-unit")
    recording = read(tmp_path / "all", acc_unit="mg")
    np.testing.assert_allclose(recording.channels["ACC_X"].samples[:5000], signal(125), atol=1e-3)
    np.testing.assert_allclose(recording.channels["ACC_X"].samples[5000:], signal(125) / 1000, atol=1e-6)
    assert "the segments state 'PLETH' in units that differ (NU, mV), taken as they are" in recording.notes


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

    refuse(spoilt("5000", "99999999999999"), "declares 99,999,999,999,999 samples at 125 Hz; expected up to 31 days")
    assert read(spoilt(" 5000 23:50:00 29/02/2024", "")).duration == 40  # a header need not say
    assert list(read(spoilt("night.dat", "gone.dat")).channels) == ["ECG"]
    refuse(spoilt("night.dat", "/etc/passwd"), "not beside it|cannot be read")
    refuse(spoilt("night.dat", "../night.dat"), "not beside it|cannot be read")
    refuse(spoilt("night.dat", "s3://bucket/night.dat"), "not beside it|cannot be read")
    refuse(spoilt("night.dat 16", "night.dat 999"), "format 999|cannot be read")
    refuse(spoilt(" 125 ", " 0 "), "at 0 Hz|cannot be read")
    refuse(spoilt(" 125 ", " -125 "), "its first line says '-125' where a rate")
    refuse(spoilt("night 2", "night 0"), "declares 0 signals but describes 2")
    refuse(spoilt("night 2", "night 1"), "declares 1 signals but describes 2")
    refuse(spoilt(header, "\x00\x01 nonsense"), "cannot be read")
    refuse(spoilt(header, ""), "cannot be read")
    path.with_suffix(".hea").write_text(header)
    refuse(path, "states its sampling rates; drop --fs", rates={"": 64.0})
