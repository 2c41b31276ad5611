"""Rates that a PPG shows: as scipy finds its peaks, whichever way the sensor faces; and whether they will agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import find_peaks

from butppg_lightning.models.indices.signal_indices import SignalIndices
from butppg_lightning.models.rates import INTERVALS, RATES, READERS, RateReaders, agreement, peak_rate
from butppg_lightning.window import WINDOW_SAMPLES

BAND = RateReaders().band.double().numpy()
TIME = np.arange(WINDOW_SAMPLES) / 125


def pulse(bpm: float, noise: float = 0.0, seed: int = 0) -> torch.Tensor:
    """A pulse whose flanks rise more steeply than they fall."""
    phase = 2 * np.pi * bpm / 60 * TIME
    wave = np.sin(phase) + 0.4 * np.sin(2 * phase + 0.6) + 0.1 * np.sin(3 * phase + 1.2)
    wave += noise * np.random.default_rng(seed).normal(size=WINDOW_SAMPLES)
    return torch.from_numpy(wave).float().unsqueeze(0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 20.0))
def test_peaks_are_those_of_scipy(seed: int, noise: float) -> None:
    """In the band that is read."""
    generator = np.random.default_rng(seed)
    wave = np.sin(2 * np.pi * generator.uniform(0.7, 3) * TIME) + noise * generator.normal(size=WINDOW_SAMPLES)
    wave = wave @ BAND
    found = find_peaks(wave, distance=34, prominence=0.5 * wave.std())[0]
    wanted = 60 * 125 / np.median(np.diff(found)) if len(found) > 2 else 0.0
    assert peak_rate(torch.from_numpy(wave).unsqueeze(0)).item() == pytest.approx(wanted, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 20.0))
def test_spreads_are_those_of_scipys_peaks(seed: int, noise: float) -> None:
    """In both bands and on both sides."""
    ppg = pulse(np.random.default_rng(seed).uniform(45, 180), noise, seed)
    found, readers = RateReaders().intervals(ppg)[0, :4].tolist(), RateReaders()
    narrow, wide, _ = (part[0].double().numpy() for part in readers._pulses(ppg))
    for value, wave in zip(found, (narrow, -narrow, wide, -wide), strict=True):
        intervals = np.diff(find_peaks(wave, distance=34, prominence=0.5 * wave.std())[0])
        low, high = np.quantile(intervals, [0.1, 0.9]) if len(intervals) > 1 else (0, 2)
        wanted = min((high - low) / (np.median(intervals) if len(intervals) > 1 else 1), 2)
        assert value == pytest.approx(wanted, abs=1e-5)


def test_rates_apart_are_those_of_the_readers() -> None:
    ppg = torch.cat([pulse(bpm, noise, seed) for seed, (bpm, noise) in enumerate([(60, 0), (90, 3), (120, 9)])])
    spectrum, _, peaks, below = RateReaders()(ppg).clamp(min=20).log().unbind(1)
    wanted = torch.stack([spectrum - peaks, spectrum - below, peaks - below], 1).abs().clamp(max=0.8)
    assert torch.equal(RateReaders().intervals(ppg)[:, 4:], wanted)


@pytest.mark.parametrize("bpm", [48, 61, 75, 90, 124, 170])
def test_every_reader_finds_a_clean_pulse(bpm: float) -> None:
    found = RateReaders()(pulse(bpm))
    assert found.shape == (1, len(READERS))
    np.testing.assert_allclose(found[0].numpy(), bpm, atol=2.0)


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_polarity_gain_and_offset_move_no_rate(noise: float) -> None:
    readers = RateReaders()
    wave = torch.cat([pulse(60 + 5 * seed, noise, seed) for seed in range(16)])
    wanted = readers(wave)
    for gain, offset in ((-1.0, 0.0), (1e-3, 5.0), (-4e5, 2e6)):
        np.testing.assert_allclose(readers(wave * gain + offset).numpy(), wanted.numpy(), atol=0.6)


def test_a_flat_window_has_no_rate() -> None:
    found = RateReaders()(torch.zeros(2, WINDOW_SAMPLES))
    assert (found == 0).all()


def test_they_are_a_group_of_indices() -> None:
    indices = SignalIndices(("PPG", "ECG"), ["rhythm", "rates"])
    assert indices.names[: len(READERS)] == READERS
    signals = torch.stack([pulse(72)[0], torch.randn(WINDOW_SAMPLES)]).unsqueeze(0)
    np.testing.assert_allclose(indices(signals)[0, : len(READERS)].numpy(), 72, atol=2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000))
def test_the_probability_of_agreement_is_that_of_drawn_rates(seed: int) -> None:
    """Closed form against a hundred thousand rates drawn from the distribution."""
    generator = torch.Generator().manual_seed(seed)
    shares = (3 * torch.randn(len(RATES), generator=generator)).softmax(0)
    rates = 40 + 150 * torch.rand(1, 3, generator=generator)
    rates[0, 1] = rates[0, 0] + 8 * torch.randn(1, generator=generator)
    behind = torch.nn.functional.pad(shares.cumsum(0), (1, 0)).unsqueeze(0)
    drawn = RATES[torch.multinomial(shares, 100_000, replacement=True, generator=generator)]
    drawn = drawn + 2 * torch.rand(100_000, generator=generator) - 1
    wanted = ((drawn[:, None] - rates).abs() <= 5).sum(1).ge(2).float().mean()
    assert agreement(behind, rates).item() == pytest.approx(wanted.item(), abs=0.01)


def test_no_windows_have_no_rates() -> None:
    """A rank's last batch may be empty."""
    readers, nothing = RateReaders(), torch.empty(0, WINDOW_SAMPLES)
    assert readers(nothing).shape == (0, len(READERS))
    assert readers.intervals(nothing).shape == (0, len(INTERVALS))
