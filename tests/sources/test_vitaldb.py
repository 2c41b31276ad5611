"""A `.vital` file becomes the windows that were recorded, and nothing that was not."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import vitaldb
from conftest import REAL_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from vital_files import ECG_II, PLETH, heart, write_vital

from butppg_lightning.errors import UserError
from butppg_lightning.sources import UnusableError
from butppg_lightning.sources.resampling import band_pass
from butppg_lightning.sources.vitaldb.recording import Track, read_case
from butppg_lightning.sources.vitaldb.windowing import (
    PULSE,
    QRS,
    REASONS,
    Gate,
    case_windows,
    select_windows,
    template_correlation,
)
from butppg_lightning.window import read_windows

EVERYTHING = Gate(min_sqi=-1, min_ecg_sqi=-1, min_cycles=0, max_windows_per_case=0)


@pytest.fixture(scope="module")
def minute() -> dict[str, np.ndarray]:
    return heart(60)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("integers", [True, False])
def test_every_sample_is_read_where_it_was_recorded(packed: bool, integers: bool, minute: dict, tmp_path: Path) -> None:
    signals = {name: values.copy() for name, values in minute.items()}
    signals[PLETH][1225:1250] = np.nan
    signals[ECG_II][:750] = np.nan
    path = write_vital(tmp_path / "1.vital", signals, packed=packed, integers=integers)
    found = read_case(path)
    for channel, name, rate in (("PPG", PLETH, 100), ("ECG", ECG_II, 500)):
        assert found[channel].rate == rate
        assert np.array_equal(np.isnan(found[channel].samples), np.isnan(signals[name])), "a gap is a gap"
        known = ~np.isnan(signals[name])
        assert np.allclose(found[channel].samples[known], signals[name][known], atol=0.003 if integers else 0)
        if not (packed and integers):  # the package takes the filling of a packed gap for a measurement
            theirs = vitaldb.VitalFile(str(path)).to_numpy([name], 1 / rate)[:, 0]
            assert np.allclose(found[channel].samples, theirs, equal_nan=True)


def test_clocks_that_round_open_no_gap(minute: dict, tmp_path: Path) -> None:
    for begin in (1.7e9 + 0.1, 4.1e9 + 1 / 3, 4.1e9 + 0.0049999):
        found = read_case(write_vital(tmp_path / "1.vital", minute, packed=False, begin=begin))
        assert not np.isnan(found["ECG"].samples).any()
        assert np.array_equal(found["PPG"].samples, minute[PLETH])


def test_channels_that_begin_apart_stay_aligned(tmp_path: Path) -> None:
    signals = heart(65)
    signals[PLETH][:333] = np.nan
    signals[ECG_II][:10] = np.nan
    found = select_windows(read_case(write_vital(tmp_path / "1.vital", signals)), EVERYTHING)
    assert len(found.signals) == 6
    lags = []
    for ppg, ecg in found.signals.astype(float):
        beats, peaks = PULSE.beats(np.maximum(band_pass(ppg, *PULSE.band), 0)), QRS.beats(band_pass(ecg, *QRS.band))
        lags += [min(beats[beats >= peak] - peak) / 125 for peak in peaks[:-1]]
    assert np.median(lags) == pytest.approx(0.35, abs=0.02), "the pulse peaks 0.35 s behind the R wave"


def test_resampling_keeps_the_signal_and_adds_no_tone(tmp_path: Path) -> None:
    time = {PLETH: np.arange(6000) / 100, ECG_II: np.arange(30000) / 500}
    signals = {
        PLETH: (-254 + 0.2 * np.sin(2 * np.pi * 1.2 * time[PLETH])).astype(np.float32),
        ECG_II: (0.3 + np.sin(2 * np.pi * 17 * time[ECG_II])).astype(np.float32),
    }
    found = select_windows(read_case(write_vital(tmp_path / "1.vital", signals)), EVERYTHING)
    for row, window in enumerate(found.signals[1:-1].astype(float), start=1):
        now = 10 * row + np.arange(1250) / 125
        assert np.abs(window[0] - (-254 + 0.2 * np.sin(2 * np.pi * 1.2 * now))).max() < 0.002
        assert np.abs(window[1] - (0.3 + np.sin(2 * np.pi * 17 * now))).max() < 0.01
        power = np.abs(np.fft.rfft(window[0] - window[0].mean())) ** 2
        assert power[150:].sum() < 0.005 * power.sum(), "below 0.5 % above 15 Hz"


def test_other_rates_come_to_125_too(tmp_path: Path) -> None:
    rates = {PLETH: 62.5, ECG_II: 300.0}
    signals = {name: np.sin(2 * np.pi * 1.5 * np.arange(round(40 * rate)) / rate) for name, rate in rates.items()}
    found = select_windows(read_case(write_vital(tmp_path / "1.vital", signals, rates)), EVERYTHING)
    expected = np.sin(2 * np.pi * 1.5 * (10 + np.arange(1250) / 125))
    assert np.abs(found.signals[1] - expected).max() < 0.01


def test_short_gaps_are_bridged_and_long_ones_skipped(tmp_path: Path) -> None:
    signals = heart(100)
    signals[PLETH][2005:2020] = np.nan  # 0.15 s
    signals[ECG_II][21500:21650] = np.nan  # 0.3 s, at 43 s
    for begin in range(7000, 7800, 100):  # 0.18 s in each second from 70 s: together more than 5 %
        signals[PLETH][begin : begin + 18] = np.nan
    path = write_vital(tmp_path / "1.vital", signals)
    found = select_windows(read_case(path), EVERYTHING)
    # 0-40 s whole; 40-43 s too short; 43.3-93.3 s anew, of which 63.3-83.3 s hold the many gaps
    assert len(found.signals) == 4 + 3
    assert found.left_out == {**dict.fromkeys(REASONS, 0), "gap": 3}
    assert np.isfinite(found.signals).all()
    assert np.ptp(np.diff(found.signals[2, 0, 8:18])) < 0.2, "a straight line"
    patient = select_windows(read_case(path), Gate(-1, -1, 0, max_gap=0.5, max_windows_per_case=0))
    assert len(patient.signals) == 10 - 1
    strict = select_windows(read_case(path), Gate(-1, -1, 0, max_gap=0.0, max_windows_per_case=0))
    assert len(strict.signals) == 2 + 2 + 2 + 2


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("gap", lambda signals: signals[ECG_II][7500:12500].fill(np.nan)),
        ("flat", lambda signals: signals[PLETH][1500:2500].fill(0.0)),
        ("flat", lambda signals: signals[ECG_II][7500:12500].fill(-5.0)),
        ("few cycles", None),
        (
            "PPG quality",
            lambda signals: signals[PLETH][1000:3000].__iadd__(
                np.random.default_rng(0).normal(0, 1, 2000).cumsum() * 9
            ),
        ),
        (
            "ECG quality",
            lambda signals: signals[ECG_II][5000:15000].__iadd__(np.random.default_rng(0).normal(0, 1.5, 10000)),
        ),
    ],
)
def test_what_is_not_worth_learning_from_is_left_out_and_counted(reason: str, spoil, tmp_path: Path) -> None:
    signals = heart(60)
    if spoil is None:  # three beats in ten seconds, not three cycles
        signals = {name: np.concatenate([values, heart(60, rate=18)[name]]) for name, values in signals.items()}
    else:
        spoil(signals)
    found = select_windows(read_case(write_vital(tmp_path / "1.vital", signals)), Gate())
    total = len(signals[PLETH]) // 1000
    assert len(found.signals) + sum(found.left_out.values()) == total
    assert found.left_out[reason] >= 2 or (reason == "gap" and found.left_out[reason] == 1)
    assert len(found.signals) >= 3
    assert all(count == 0 for name, count in found.left_out.items() if name not in (reason, "PPG quality"))


def test_a_case_gives_no_more_than_the_limit_spread_over_it(tmp_path: Path) -> None:
    signals = heart(200)
    signals[ECG_II] += np.repeat(np.arange(20), 5000).astype(np.float32)  # the window's number as its offset
    found = select_windows(read_case(write_vital(tmp_path / "1.vital", signals)), Gate(max_windows_per_case=5))
    assert np.median(found.signals[:, 1], axis=-1).round().tolist() == [0, 5, 10, 14, 19]
    assert found.left_out["over the limit"] == 15


@pytest.mark.parametrize(
    "limits", [{"min_sqi": 1.2}, {"min_ecg_sqi": float("nan")}, {"min_cycles": -1}, {"max_gap": -0.1}]
)
def test_impossible_limits_are_refused(limits: dict) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(limits))} is"):
        Gate(**limits)


@pytest.mark.parametrize(
    ("words", "signals", "rates"),
    [
        ("has no SNUADC/ECG_II", {PLETH: np.ones(1000)}, None),
        (
            "has no SNUADC/PLETH",
            {ECG_II: np.ones(1000), "SNUADC/PLETHX": np.ones(1000)},
            {ECG_II: 500, "SNUADC/PLETHX": 100},
        ),
        ("SNUADC/PLETH is sampled at 5 Hz", {PLETH: np.ones(1000), ECG_II: np.ones(1000)}, {PLETH: 5, ECG_II: 500}),
    ],
)
def test_a_case_without_both_waveforms_is_unusable(words: str, signals: dict, rates: dict, tmp_path: Path) -> None:
    rates = rates or dict.fromkeys(signals, 100.0)
    found = case_windows(write_vital(tmp_path / "1.vital", signals, rates), Gate())
    assert found.unusable == words
    assert found.signals.shape == (0, 2, 1250)


def test_a_damaged_file_is_unusable_not_a_shorter_recording(minute: dict, tmp_path: Path) -> None:
    whole = write_vital(tmp_path / "1.vital", minute, packed=False).read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    for content, words in {
        whole[:-9]: "is truncated",
        whole[: len(whole) // 2]: "is truncated",
        bytes(broken): "is no complete .vital file",
        b"": "is damaged (no .vital file)",
        b"no gzip": "is no complete .vital file",
        gzip.compress(b"no VITA"): "is damaged (no .vital file)",
        gzip.compress(gzip.decompress(whole)[:100]): "is damaged (unpack_from",
        gzip.compress(gzip.decompress(whole)[:2000]): "has no SNUADC/ECG_II",
    }.items():
        (tmp_path / "2.vital").write_bytes(content)
        with pytest.raises(UnusableError) as error:
            read_case(tmp_path / "2.vital")
        assert str(error.value).startswith(words)
        assert "\n" not in str(error.value)


def test_a_file_that_declares_a_month_is_unusable(minute: dict, tmp_path: Path) -> None:
    file = vitaldb.VitalFile()
    file.dtstart, file.dtend = 4.1e9, 4.1e9 + 60
    for name, rate in ((PLETH, 100), (ECG_II, 500)):
        values = minute[name]
        file.add_track(name, [{"dt": 4.1e9, "val": values}, {"dt": 4.1e9 + 30 * 86400, "val": values}], srate=rate)
    file.to_vital(str(tmp_path / "1.vital"), packed=False)
    with pytest.raises(UnusableError, match="declares a length of 720"):
        read_case(tmp_path / "1.vital")


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10**6), content=st.binary(min_size=1, max_size=40))
def test_any_damage_ends_in_windows_or_in_a_reason(at: int, content: bytes, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.vital"
    plain = path.with_suffix(".plain")
    if not plain.exists():
        plain.write_bytes(gzip.decompress(write_vital(path, heart(12), packed=False).read_bytes()))
    data = bytearray(plain.read_bytes())
    at %= len(data)
    data[at : at + len(content)] = content
    path.write_bytes(gzip.compress(bytes(data), 1))
    found = case_windows(path, EVERYTHING)
    assert np.isfinite(found.signals).all()
    assert "\n" not in found.unusable


def test_template_correlation_is_the_same_at_any_scale_and_falls_with_noise() -> None:
    pulse = heart(20)[PLETH][::1].astype(float)
    pulse = np.interp(np.arange(1250) / 125 + 2, np.arange(pulse.size) / 100, pulse)
    generator = np.random.default_rng(0)

    def index(signal: np.ndarray) -> float:
        filtered = band_pass(signal, *PULSE.band)
        return template_correlation(filtered, PULSE.beats(np.maximum(filtered, 0)))

    assert index(pulse) == pytest.approx(index(7 * pulse - 300), abs=1e-9)
    assert index(pulse) > 0.95
    noise = generator.normal(size=1250).cumsum()
    values = [index(pulse + level * noise) for level in (0, 1, 4, 16)]
    assert values[0] > 0.95 > values[2] > values[3] - 0.05
    assert template_correlation(pulse, np.array([10, 1240])) == 0.0


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real recordings beside the checkout")
def test_beats_of_both_channels_agree_and_real_windows_pass() -> None:
    windows = read_windows(REAL_DATA / "bidmc" / "val_windows.npz", labelled=False)
    agree, passed = [], []
    for ppg, ecg in windows.signals[::5].astype(float):
        found = select_windows(
            {"PPG": Track(ppg.astype(np.float32), 125.0), "ECG": Track(ecg.astype(np.float32), 125.0)}, Gate()
        )
        passed.append(len(found.signals))
        beats = PULSE.beats(np.maximum(band_pass(ppg, *PULSE.band), 0))
        agree.append(abs(beats.size - QRS.beats(band_pass(ecg, *QRS.band)).size) <= 1)
    assert np.mean(agree) > 0.85
    assert np.mean(passed) > 0.8
