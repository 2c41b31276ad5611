"""BUT PPG: what a record's files hold, at 125 Hz, and what damage looks like."""

from pathlib import Path

import numpy as np
import pytest
import wfdb
from but_ppg_release import pulse, write_first_form, write_second_form, write_signals
from conftest import REAL_DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from butppg_lightning.files import file_sha256
from butppg_lightning.sources import UnusableError
from butppg_lightning.sources.but_ppg.reader import (
    DamagedError,
    Signals,
    read_record,
    read_signals,
    to_window,
)
from butppg_lightning.sources.resampling import resample

SAMPLE = REAL_DATA / "but_ppg_release_sample"
TIME = np.arange(1250) / 125


def power_above(signal: np.ndarray, frequency: float) -> float:
    """Share of the AC power above a frequency."""
    power = np.abs(np.fft.rfft(signal - signal.mean())) ** 2
    return float(power[np.fft.rfftfreq(signal.size, 1 / 125) > frequency].sum() / power[1:].sum())


@pytest.mark.parametrize("frequency", [0.7, 1.2, 2.0, 3.3])
@pytest.mark.parametrize("phase", [0.0, 1.0, 2.5])
def test_an_offset_does_not_leak_through_the_resampling(frequency: float, phase: float) -> None:
    wave = 0.2 * np.sin(2 * np.pi * frequency * np.arange(300) / 30 + phase)
    resampled = resample(-254 + wave, 30)
    assert power_above(resampled, 15) < 5e-4, "ten times less than 0.5 %"
    assert np.allclose(resampled, -254 + resample(wave, 30), atol=1e-9)
    ideal = -254 + 0.2 * np.sin(2 * np.pi * frequency * TIME + phase)
    assert np.allclose(resampled[12:-12], ideal[12:-12], atol=0.002)


@pytest.mark.parametrize("rate", [30, 100, 1000, 128, 29.97, 125])
def test_any_rate_becomes_1250_samples_in_step(rate: float) -> None:
    samples = np.sin(2 * np.pi * 1.5 * np.arange(round(10 * rate)) / rate)
    window, bridged = to_window(samples, rate)
    assert window.shape == (1250,)
    assert bridged == 0
    assert np.abs(window - np.sin(2 * np.pi * 1.5 * TIME))[:-15].max() < 0.02


def test_length_within_a_tenth_of_a_second_is_mended() -> None:
    whole = pulse(30, 72)
    short, _ = to_window(whole[:297], 30)
    long, _ = to_window(np.concatenate([whole, [9.0, 9.0, 9.0]]), 30)
    assert np.allclose(long, resample(whole, 30))
    assert np.allclose(short[:1200], resample(whole, 30)[:1200], atol=0.02)
    for count in (296, 304, 0):
        with pytest.raises(UnusableError, match="lasts"):
            to_window(np.resize(whole, count), 30)


def test_short_gaps_are_bridged_and_long_ones_are_not() -> None:
    line = np.linspace(0, 1, 300)
    holed = line.copy()
    holed[[0, 50, 51, 52, 299]] = np.nan
    window, bridged = to_window(holed, 30)
    assert bridged == 5
    assert np.isfinite(window).all()
    assert np.allclose(window, resample(line, 30), atol=0.01)
    for bad in (slice(100, 107), slice(0, 300, 10), slice(None)):
        holed = line.copy()
        holed[bad] = np.inf
        with pytest.raises(UnusableError, match="valid"):
            to_window(holed, 30)


def test_the_first_form_is_one_signal(tmp_path: Path) -> None:
    write_first_form(tmp_path, "100001")
    signals = read_signals(tmp_path / "100001" / "100001_PPG")
    assert signals.values.shape == (1, 300)
    assert np.allclose(signals.values[0], -254 + 0.2 * pulse(30, 72), atol=0.001)
    row = wfdb.rdrecord(str(tmp_path / "100001" / "100001_PPG")).p_signal
    assert np.array_equal(signals.values, row)
    record = read_record("100001", tmp_path / "100001", {})
    assert set(record.channels) == {"red", "ECG"}
    assert record.colours == 1
    assert record.notes == ["ACC absent: has no file"]
    assert record.channels["ECG"].mean() == pytest.approx(-1.6, abs=0.1), "in millivolts"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no real recordings beside the checkout")
def test_a_genuine_record_is_what_wfdb_reads() -> None:
    path = SAMPLE / "101002" / "101002_PPG"
    assert np.array_equal(read_signals(path).values, wfdb.rdrecord(str(path)).p_signal)
    record = read_record("201003", SAMPLE / "201003", {})
    assert set(record.channels) == {"red", "green", "blue", "ACC_X", "ACC_Y", "ACC_Z", "ECG"}


def test_signals_are_known_by_name(tmp_path: Path) -> None:
    colours = {f"PPG_{letter}": np.full(300, 1.0 * place) + pulse(30, 72) for place, letter in enumerate("BRG")}
    write_signals(tmp_path, "112001_PPG", 30, colours, "a.u.")
    axes = {axis: np.full(1000, 9810.0 * place) + np.arange(1000) for place, axis in enumerate("zyx")}
    write_signals(tmp_path, "112001_ACC", 100, axes, "mg")
    channels = read_record("112001", tmp_path, {}).channels
    medians = {name: round(float(np.median(row))) for name, row in channels.items()}
    shift = float(np.median(pulse(30, 72)))
    assert channels["blue"].mean() == pytest.approx(shift + (pulse(30, 72).mean() - shift), abs=0.01)
    assert medians["red"] == medians["blue"] + 1
    assert medians["green"] == medians["blue"] + 2
    assert [medians[f"ACC_{axis}"] for axis in "ZYX"] == [0, 10, 20], "in g"


def test_what_is_not_usable_is_absent_and_said(tmp_path: Path) -> None:
    write_second_form(tmp_path, "112001")
    folder = tmp_path / "112001"
    write_signals(folder, "112001_ECG", 1000, {"ECG": np.sin(np.arange(8000.0))}, "uV")
    write_signals(folder, "112001_ACC", 100, {"X": np.sin(np.arange(1000.0))}, "g")
    data = np.fromfile(folder / "112001_PPG.dat", dtype="<i2").reshape(300, 3)
    data[100:200, 1] = -32768  # what WFDB writes where there is no sample
    data[10:13, 0] = -32768
    data.tofile(folder / "112001_PPG.dat")
    record = read_record("112001", folder, {})
    assert set(record.channels) == {"red", "blue"}
    assert record.colours == 3
    assert [note.partition(":")[0] for note in record.notes] == ["red", "green PPG absent", "ECG absent", "ACC absent"]
    (folder / "112001_PPG.hea").unlink()
    with pytest.raises(UnusableError, match="PPG has no file"):
        read_record("112001", folder, {})


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (" 3 30 300", " 3 30 30000000000", "declares 3 signals of 30000000000"),
        (" 3 30 300", " 3 0 300", "0 Hz"),
        (" 3 30 300", " 3 30", "no signals of a known length"),
        (" 3 30 300", " 3 30 301", "1800 of 1806 bytes"),
        (" 3 30 300", " 0 30 300", "no signals"),
        ("112001_PPG.dat 16", "112002_PPG.dat 16", "does not describe"),
        ("112001_PPG.dat 16", "112001_PPG.dat 212", "does not describe"),
        ("112001_PPG 3", "112001_PPG/2 3", "no complete WFDB record"),
        ("112001_PPG.dat 16", "", "no complete WFDB record"),
    ],
)
def test_a_damaged_header_is_said_in_one_line(old: str, new: str, words: str, tmp_path: Path) -> None:
    write_second_form(tmp_path, "112001")
    rewrite(tmp_path / "112001" / "112001_PPG.hea", old, new)
    with pytest.raises(DamagedError, match=words) as damage:
        read_record("112001", tmp_path / "112001", {})
    assert "\n" not in str(damage.value)


def test_files_are_held_against_their_checksums(tmp_path: Path) -> None:
    write_second_form(tmp_path, "112001")
    folder = tmp_path / "112001"
    sums = {path.name: file_sha256(path) for path in folder.iterdir()}
    assert len(read_record("112001", folder, sums).channels) == 7
    data = bytearray((folder / "112001_ACC.dat").read_bytes())
    data[77] ^= 1
    (folder / "112001_ACC.dat").write_bytes(data)
    with pytest.raises(DamagedError, match=r"112001_ACC\.dat does not match SHA256SUMS\.txt"):
        read_record("112001", folder, sums)
    (folder / "112001_ACC.dat").unlink()
    with pytest.raises(DamagedError, match=r"112001_ACC\.dat is missing"):
        read_record("112001", folder, sums)
    with pytest.raises(DamagedError, match="0 of 6000 bytes"):
        read_record("112001", folder, {})


HEADER = b"112001_PPG 3 30 300\n" + b"".join(
    b"112001_PPG.dat 16 %d(0)/a.u. 16 0 1 2 0 PPG_%c\n" % (gain, name)
    for gain, name in ((7, b"R"), (8, b"G"), (9, b"B"))
)


@st.composite
def damaged_headers(draw: st.DrawFn) -> bytes:
    """A header with some bytes replaced, removed or put in, or anything at all."""
    header = bytearray(HEADER)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(header)))
        header[start : start + draw(st.integers(0, 30))] = draw(st.binary(max_size=12))
    return draw(st.one_of(st.just(bytes(header)), st.binary(max_size=200)))


@given(header=damaged_headers())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_ends_in_signals_or_in_one_line(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "112001_PPG.dat").write_bytes(bytes(1800))
    (tmp_path / "112001_PPG.hea").write_bytes(header)
    message, signals = "", None
    try:
        signals = read_signals(tmp_path / "112001_PPG")
    except DamagedError as damage:
        message = str(damage)
    assert "\n" not in message
    assert bool(message) != isinstance(signals, Signals)
    assert signals is None or signals.values.size == 900
