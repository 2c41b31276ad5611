"""Long recordings into windows: rates, alignment, gaps, sensors that are off, and chunks that make no difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from butppg_lightning.errors import UserError
from butppg_lightning.models.usable_channels import FAULTS, channel_faults
from butppg_lightning.sources.recordings.recording import Channel, Recording, assemble
from butppg_lightning.sources.recordings.windowing import Windows, outline
from butppg_lightning.sources.resampling import Gaps, Resampler
from butppg_lightning.window import CHANNELS, WINDOW_SAMPLES


def make(**signals: tuple[float, float, np.ndarray]) -> Recording:
    """A recording of (rate, start, samples) by channel."""
    channels = {
        name: Channel(name, name, rate, start, np.asarray(samples, dtype=np.float32))
        for name, (rate, start, samples) in signals.items()
    }
    return assemble(Path("made"), channels, None, tuple(channels))


def cut(recording: Recording, channels: tuple[str, ...] = ("PPG",), **options: float) -> tuple[np.ndarray, np.ndarray]:
    """All windows and the faults of their channels."""
    batches = list(Windows(recording, channels, **options))  # type: ignore[arg-type]
    signals, present = (np.concatenate([batch[key] for batch in batches]) for key in ("signals", "present"))
    return signals, channel_faults(torch.from_numpy(signals), channels, torch.from_numpy(present)).numpy()


def pulse(seconds: float, rate: float, frequency: float = 1.3) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [20.0, 30.0, 50.0, 64.0, 63.9712, 100.0, 125.0, 128.0, 250.0, 256.0, 1000.0])
def test_every_rate_gives_the_same_signal_at_125_hz(rate: float) -> None:
    signals, states = cut(make(PPG=(rate, 0.0, 5 + pulse(40, rate))))
    assert signals.shape == (4, 1, WINDOW_SAMPLES)
    assert not states.any()
    wanted = 5 + np.sin(2 * np.pi * 1.3 * np.arange(4 * WINDOW_SAMPLES) / 125)
    inside = slice(125, -125)  # the ends are held, which bends the last samples
    assert np.abs(signals.ravel()[inside] - wanted[inside]).max() < 0.01


def test_an_odd_rate_does_not_drift_in_six_hours() -> None:
    rate = 63.97123
    signals, _ = cut(make(PPG=(rate, 0.0, pulse(6 * 3600, rate))))
    times = (len(signals) - 2) * 10 + np.arange(WINDOW_SAMPLES) / 125
    assert np.abs(signals[-2, 0] - np.sin(2 * np.pi * 1.3 * times)).max() < 0.02


@pytest.mark.parametrize("jump", [0.0, 200.0])
def test_an_offset_does_not_leak_through_the_filter(jump: float) -> None:
    """As that of 30 Hz camera values does through the plain polyphase filter where it is not the whole's median."""
    values = (-254 + 0.2 * pulse(60, 30) + jump * (np.arange(1800) >= 900)).astype(np.float32)
    ours = Resampler(30.0).resample(
        lambda begin, end: values[np.clip(np.arange(begin, end), 0, 1799)], 4000, 7000, -254
    )
    plain = resample_poly(values + np.float32(254), 25, 6)[4000:7000]

    def share_above_15_hz(signal: np.ndarray) -> float:
        power = np.abs(np.fft.rfft((signal - np.mean(signal)) * np.hanning(len(signal)))) ** 2
        return float(power[len(signal) * 15 // 125 :].sum() / power[2:].sum())

    assert share_above_15_hz(ours) < 0.005
    assert (share_above_15_hz(plain) > 0.1) == (jump > 0)


def test_batches_make_no_difference() -> None:
    generator = np.random.default_rng(0)
    ppg, ecg, acc = generator.normal(size=(3, 60_000)).astype(np.float32)
    for start, length in ((100, 30), (9_000, 700), (20_000, 64), (30_000, 40), (45_000, 9_000)):
        ppg[start : start + length] = np.nan
    acc[-3000:] = np.nan
    signals = {"PPG": (64.0, 0.0, ppg), "ECG": (63.99, 3.21, ecg), "ACC_X": (50.0, 12.5, acc)}
    whole, states = cut(make(**signals), CHANNELS, hop=7.3, batch_size=10_000)
    assert (states[:, CHANNELS.index("ACC_Y")] == 1).all()
    assert 0 < (states[:, CHANNELS.index("PPG")] != 0).sum() < len(states) / 2
    for batch_size in (1, 2, 37):
        parts, others = cut(make(**signals), CHANNELS, hop=7.3, batch_size=batch_size)
        np.testing.assert_array_equal(parts, whole)
        np.testing.assert_array_equal(others, states)
    windows = Windows(make(**signals), CHANNELS, hop=7.3)
    for number in (0, 17, len(windows) - 1):
        np.testing.assert_array_equal(windows[number]["signals"], whole[number])
        np.testing.assert_array_equal(windows[number]["present"], states[number] != FAULTS.index("absent"))


def test_channels_of_different_starts_share_the_time_axis() -> None:
    """A spike at second 24 of the recording, in two channels of other rates and starts."""
    signals = {}
    for name, rate, start, length in (("PPG", 100.0, 4.0, 50), ("ECG", 250.0, 0.0, 40)):
        samples = np.random.default_rng(0).normal(0, 1e-3, round(rate * length))
        spike = round((24 - start) * rate)
        samples[spike - round(rate / 10) : spike + round(rate / 10)] += np.hanning(2 * round(rate / 10))
        signals[name] = (rate, start + 100.0, samples)  # what the starts are relative to does not matter
    recording = make(**signals)
    assert recording.duration == pytest.approx(54)
    windows, states = cut(recording, ("PPG", "ECG"))
    assert len(windows) == 5
    assert FAULTS[states[0, 0]] == "absent"  # 4 of its 10 s
    assert FAULTS[states[4, 1]] == "absent"  # has ended
    assert not windows[0, 0].any()
    assert not states[1:4].any()
    for column in range(2):
        assert abs(int(windows[2, column].argmax()) - 500) <= 1


@pytest.mark.parametrize(("seconds", "state"), [(0.5, ""), (0.95, ""), (1.1, "absent")])
def test_gaps_up_to_a_second_are_bridged(seconds: float, state: str) -> None:
    samples = np.arange(64 * 30, dtype=np.float32)
    samples[64 * 14 : 64 * 14 + round(64 * seconds)] = np.nan
    windows, states = cut(make(PPG=(64.0, 0.0, samples)))
    assert [FAULTS[value] for value in states[:, 0]] == ["", state, ""]
    if state:
        assert not windows[1].any()
    else:  # a straight line, which is what the signal is
        assert np.abs(windows[1, 0] - 64 * (10 + np.arange(WINDOW_SAMPLES) / 125)).max() < 0.05


def test_many_short_gaps_count_together() -> None:
    samples = pulse(30, 64)
    samples.reshape(-1, 64)[10:20, :10] = np.nan  # 16 % of the second window
    _, states = cut(make(PPG=(64.0, 0.0, samples)))
    assert [FAULTS[value] for value in states[:, 0]] == ["", "absent", ""]


@pytest.mark.parametrize(("name", "states"), [("PPG", ["flat", "railed", "", ""]), ("ACC_X", ["flat", "", "", ""])])
def test_sensors_that_are_off_or_overdriven_are_not_usable(name: str, states: list[str]) -> None:
    """Off from one window's first sample to its last, and at a rail for six seconds; clipped beats are no rail."""
    samples = 2 * pulse(40, 64)
    samples[:640] = 7.0
    samples[700:1084] = 2.5
    samples[1280:1920] = np.clip(3 * samples[1280:1920], -1, 1)
    windows, found = cut(make(**{name: (64.0, 0.0, samples)}), (name,))
    assert [FAULTS[value] for value in found[:, 0]] == states
    assert np.ptp(windows[0]) == 0


def test_a_value_that_is_held_does_not_ring() -> None:
    """What leads to a rail overshoots it in the filter, which would hide that the channel stays there."""
    values = np.where(np.arange(64 * 20) < 600, pulse(20, 64), 3.0).astype(np.float32)
    resampled = Resampler(64.0).resample(lambda begin, end: values[np.clip(np.arange(begin, end), 0, 1279)], 0, 2500, 0)
    assert (resampled[-(-600 * 125 // 64) :] == 3.0).all()
    assert np.ptp(resampled[:1100]) > 1.9


def test_a_coarse_converter_is_not_railed() -> None:
    """A pulse of 20 steps rests at its lowest value for a while."""
    samples = np.round(20 * np.exp(-(((np.arange(64 * 30) / 64 % 0.8 - 0.3) / 0.1) ** 2)))
    _, states = cut(make(PPG=(64.0, 0.0, np.where(samples > 2, samples, samples + np.arange(1920) % 5))))
    assert not states.any()


@pytest.mark.parametrize(("hop", "count"), [(10, 3), (2.5, 9), (15, 2), (60, 1)])
def test_windows_begin_every_hop(hop: float, count: int) -> None:
    windows = Windows(make(PPG=(64.0, 0.0, pulse(30, 64))), ("PPG",), hop)
    assert len(windows) == count
    np.testing.assert_allclose(windows.starts, np.arange(count) * hop)
    assert sum(len(batch["signals"]) for batch in windows) == count


def test_a_long_hop_does_not_hold_the_recording_in_memory() -> None:
    recording = make(PPG=(10.0, 0.0, np.random.default_rng(0).normal(size=10 * 86_400)))
    assert [len(batch["signals"]) for batch in Windows(recording, ("PPG",), 3600.0)][:3] == [2, 2, 2]


@pytest.mark.parametrize("hop", [0.0, -1.0, float("nan"), 1e9])
def test_an_impossible_hop_is_refused(hop: float) -> None:
    with pytest.raises(UserError, match="--hop is"):
        Windows(make(PPG=(64.0, 0.0, pulse(30, 64))), ("PPG",), hop)


def test_a_short_recording_is_refused() -> None:
    with pytest.raises(UserError, match="lasts 3 s; a window is 10 s"):
        Windows(make(PPG=(64.0, 0.0, pulse(3, 64))), ("PPG",))


def test_a_recording_of_years_is_refused() -> None:
    with pytest.raises(UserError, match="days; at most 31"):
        make(PPG=(64.0, 0.0, pulse(30, 64)), ECG=(64.0, 1e8, pulse(30, 64)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.just(float("nan")), st.floats(-9, 9, width=32)), min_size=1, max_size=40).filter(
        lambda values: not np.isnan(values).all()
    ),
    st.integers(-9, 50),
    st.integers(0, 50),
)
def test_bridges_are_straight_lines_wherever_one_looks(values: list[float], begin: int, length: int) -> None:
    samples = np.array(values, dtype=np.float32)
    gaps, rows = Gaps(samples), np.arange(len(samples))
    there = ~np.isnan(samples)
    wanted = np.interp(np.arange(begin, begin + length), rows[there], samples[there])
    np.testing.assert_allclose(gaps.bridged(begin, begin + length), wanted, atol=1e-4)
    outside = [row for row in range(begin, begin + length) if not (0 <= row < len(samples) and there[row])]
    assert gaps.missing(np.array([begin]), np.array([begin + length])).tolist() == [len(outside)]


def test_the_outline_follows_the_swing_and_leaves_gaps_open() -> None:
    samples = 1000 + np.linspace(0, 50, 64 * 600) + pulse(600, 64) * np.repeat([1, 5], 64 * 300)
    samples[64 * 100 : 64 * 160] = np.nan
    recording = make(PPG=(64.0, 0.0, samples))
    edges, low, high = outline(recording.channels["PPG"], 600.0, 60)
    assert len(edges) == 61
    assert np.isnan(high).nonzero()[0].tolist() == [10, 11, 12, 13, 14]  # the next one has the first sample after
    np.testing.assert_allclose(high[18:28], 1, atol=0.1)
    np.testing.assert_allclose(low[32:58], -5, atol=0.4)
