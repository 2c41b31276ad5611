"""The indices of rhythm: finite on anything, the same for any device, and telling a pulse from noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from butppg_lightning.models.indices.rhythm import Rhythm, find_beats
from butppg_lightning.models.indices.signal_indices import GROUPS, SignalIndices
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

SECONDS = torch.arange(WINDOW_SAMPLES) / SAMPLING_RATE
RHYTHM = SignalIndices(["PPG"], ["rhythm"])
NOISE = torch.randn(WINDOW_SAMPLES, generator=torch.Generator().manual_seed(1))
UNDER_THREE_BEATS = {"interval_deviation": 1.0, "beats_alike": 0.0}


def indices_of(ppg: torch.Tensor) -> dict[str, float]:
    return dict(zip(RHYTHM.names, RHYTHM(ppg.reshape(1, 1, -1))[0].tolist(), strict=True))


def sine(rate: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * rate * SECONDS)


def pulse(rate: float) -> torch.Tensor:
    return torch.exp(2 * torch.cos(2 * torch.pi * rate * SECONDS))


RANGES = {
    **dict.fromkeys(["local_share", "local_share_p20", "local_share_p80", "beats_alike"], (0, 1)),
    "local_harmonics": (0, 2),
    **dict.fromkeys(["segment_entropy", "segment_entropy_p20", "segment_entropy_p80"], (0, np.log(151) + 1e-4)),
    "rate_step": (0, 7.5),
    "rate_spread": (0, 4),
    "centroid": (0.5, 8),
    "centroid_spread": (0, 4),
    "interval_deviation": (0, np.inf),
    "loudest_second": (0, 1),
    "envelope_variation": (0, 3),
    "instantaneous_rate": (0, 10.01),
}
WINDOWS = {
    "zero": torch.zeros(WINDOW_SAMPLES),
    "flat": torch.full((WINDOW_SAMPLES,), -3e4),
    "almost flat": 1e6 + 1e-1 * NOISE,
    "ramp": torch.arange(WINDOW_SAMPLES).float(),
    "sine": sine(1.3),
    "noise": NOISE,
    "walk": NOISE.cumsum(0),
    "huge": 3e38 * NOISE.sign(),
    "tiny": 1e-38 * NOISE,
    "spike": (torch.arange(WINDOW_SAMPLES) == 600).float(),
    "step": (torch.arange(WINDOW_SAMPLES) > 600).float(),
    "square": sine(1.1).sign(),
    "one second": NOISE * (SECONDS < 1),
    "int16": (3e4 * sine(1.2)).to(torch.int16),
    "int16 noise": (3e4 * NOISE).clamp(-32768, 32767).to(torch.int16),
    "int16 rails": torch.where(NOISE > 0, 32767, -32768).to(torch.int16),
    "float64": sine(2.0).double(),
    "half": NOISE.half(),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_every_index_is_finite_and_within_its_range(name: str) -> None:
    values = RHYTHM(WINDOWS[name].reshape(1, 1, -1))
    assert values.dtype == torch.float32
    assert bool(values.isfinite().all())
    if name in ("zero", "flat"):
        return  # a channel that is flat is not usable, and its indices are left out
    for key, value in zip(RHYTHM.names, values[0].tolist(), strict=True):
        low, high = RANGES[key]
        assert low - 1e-6 <= value <= high + 1e-6, key


def test_random_windows_are_finite_and_in_range_too() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = 10 ** (60 * torch.rand(300, 1, 1, generator=generator) - 30)
    steps = torch.randn(300, 1, WINDOW_SAMPLES, generator=generator)
    steps = steps * (
        torch.rand(300, 1, WINDOW_SAMPLES, generator=generator) < torch.rand(300, 1, 1, generator=generator)
    )
    for signals in (steps, steps.cumsum(-1), scales * steps, (1e3 * steps).to(torch.int32)):
        values = RHYTHM(signals)
        assert bool(values.isfinite().all())
        moving = values[:, 0] > 0
        for name, column in zip(RHYTHM.names, values[moving].T, strict=True):
            low, high = RANGES[name]
            assert low - 1e-6 <= float(column.min()) <= float(column.max()) <= high + 1e-6, name


def test_gain_and_offset_of_a_device_change_nothing() -> None:
    ppg = pulse(1.2) + 0.4 * NOISE
    one = indices_of(ppg)
    for gain, offset in ((0.05, -254.0), (1000.0, 0.0), (1e-3, 0.0), (3e3, 2e4), (1e20, 0.0)):
        for name, value in indices_of(gain * ppg + offset).items():
            assert value == pytest.approx(one[name], abs=5e-3), (name, gain, offset)
    # a gain of a power of two leaves every digit
    assert indices_of(8 * ppg) == one


def test_upside_down_only_the_beats_change() -> None:
    ppg = pulse(1.2) + 0.3 * NOISE
    one, turned = indices_of(ppg), indices_of(-ppg)
    for name in set(GROUPS["rhythm"]) - {"beats_alike", "interval_deviation"}:
        assert turned[name] == pytest.approx(one[name], abs=1e-4), name


@pytest.mark.parametrize("rate", [0.8, 1.3, 2.2, 3.0])
def test_a_sine_holds_its_rate(rate: float) -> None:
    found = indices_of(sine(rate))
    assert found["local_share"] > 0.85
    assert found["local_share_p20"] <= found["local_share_p80"]
    assert found["rate_step"] < 0.02
    assert found["rate_spread"] < 0.03
    assert found["centroid"] == pytest.approx(rate, abs=0.1)
    assert found["centroid_spread"] < 0.05
    assert found["beats_alike"] == 1
    assert found["interval_deviation"] < 0.02
    assert found["loudest_second"] < 0.1
    assert found["envelope_variation"] < 0.15
    assert found["instantaneous_rate"] < 0.3


def test_noise_is_told_from_a_pulse_by_every_index() -> None:
    clean, dirty = indices_of(pulse(1.2)), indices_of(NOISE)
    assert dirty["local_share"] < 0.4
    assert dirty["beats_alike"] < 0.2
    for name in ("local_share", "local_share_p20", "local_share_p80", "local_harmonics", "beats_alike"):
        assert clean[name] > dirty[name] + 0.2, name
    for name in ("segment_entropy", "rate_step", "rate_spread", "centroid", "centroid_spread", "interval_deviation"):
        assert clean[name] < dirty[name] - 0.1, name
    for name in ("envelope_variation", "instantaneous_rate"):
        assert clean[name] < dirty[name] - 0.1, name


def test_a_rate_that_jumps_is_seen_in_steps_and_intervals() -> None:
    phase = torch.cumsum(torch.where(SECONDS < 5, 0.9, 2.4) / SAMPLING_RATE, 0)
    jumped, steady = indices_of(torch.sin(2 * torch.pi * phase)), indices_of(sine(1.5))
    assert jumped["rate_spread"] == pytest.approx(0.75, abs=0.15)
    assert jumped["rate_step"] == pytest.approx(1.5 / 14, abs=0.04)
    assert jumped["interval_deviation"] > 0.2 > steady["interval_deviation"]


def test_one_loud_second_is_seen() -> None:
    ppg = pulse(1.2)
    ppg[500:625] += 20 * sine(3.0)[500:625]
    assert indices_of(ppg)["loudest_second"] > indices_of(pulse(1.2))["loudest_second"] + 0.3
    assert indices_of(ppg)["envelope_variation"] > indices_of(pulse(1.2))["envelope_variation"] + 0.3


def test_beats_lie_where_they_are_and_those_at_the_edges_are_left_out() -> None:
    peaks = torch.arange(30, WINDOW_SAMPLES, 100)
    ppg = torch.exp(-(((torch.arange(WINDOW_SAMPLES).unsqueeze(1) - peaks) / 12) ** 2)).sum(1)
    found = find_beats((ppg - ppg.mean())[None])
    whole = [peak - 50 for peak in peaks.tolist() if 50 <= peak < WINDOW_SAMPLES - 75]
    assert sorted(found.position[found.there > 0].tolist()) == whole
    assert torch.allclose(found.match[found.there > 0], torch.ones(len(whole)), atol=1e-3)
    assert bool((found.match[found.there == 0] == 0).all())


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_under_three_beats_are_no_rhythm(count: int) -> None:
    centres = torch.tensor([300.0, 550.0, 800.0])[:count]
    ppg = torch.exp(-(((torch.arange(WINDOW_SAMPLES).unsqueeze(1) - centres) / 12) ** 2)).sum(1) - 0.05
    values = torch.stack(Rhythm()(ppg[None], find_beats(ppg[None])))[:, 0]
    found = dict(zip(GROUPS["rhythm"], values.tolist(), strict=True))
    for name, value in UNDER_THREE_BEATS.items():
        assert (found[name] == value) == (count < 3), name


def test_a_batch_gives_what_each_window_gives() -> None:
    signals = torch.stack([pulse(rate) + 0.3 * NOISE for rate in (0.8, 1.4, 2.2)]).unsqueeze(1)
    together = RHYTHM(signals)
    assert torch.allclose(together, torch.cat([RHYTHM(row[None]) for row in signals]), atol=1e-5)
