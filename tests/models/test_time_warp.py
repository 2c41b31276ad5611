"""Shift, lag and stretch: what moves, how far, and what fills the edges."""

import pytest
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.augmentation import Variation
from butppg_lightning.window import CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES

MANY = 400
PPG, ECG = CHANNELS.index("PPG"), CHANNELS.index("ECG")
REST = [row for row in range(len(CHANNELS)) if row != ECG]
PRESENT = torch.ones(MANY, len(CHANNELS), dtype=torch.bool)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def ramps(count: int = MANY) -> torch.Tensor:
    """Each sample is its own position, so that the varied windows say where they come from."""
    return torch.arange(WINDOW_SAMPLES, dtype=torch.float32).expand(count, len(CHANNELS), -1).clone()


def test_a_shift_cuts_one_end_off_and_mirrors_the_other() -> None:
    varied, _, _ = Variation(CHANNELS, shift=0.08).vary(ramps(), PRESENT)
    assert (varied == varied[:, :1]).all(), "all channels together"
    middle = WINDOW_SAMPLES // 2
    shifts = varied[:, 0, middle].long() - middle
    assert set(shifts.tolist()) == set(range(-10, 11))
    for row, shift in enumerate(shifts.tolist()):
        wanted = torch.arange(shift, shift + WINDOW_SAMPLES).abs()
        wanted = torch.minimum(wanted, 2 * (WINDOW_SAMPLES - 1) - wanted)
        assert torch.equal(varied[row, 0], wanted.float()), "recorded samples, mirrored at the edge, none interpolated"


def test_a_lag_moves_ecg_only() -> None:
    varied, _, _ = Variation(CHANNELS, lag_jitter=0.3).vary(ramps(), PRESENT)
    assert torch.equal(varied[:, REST], ramps()[:, REST])
    lags = varied[:, ECG, 600] - 600
    most = round(0.3 * SAMPLING_RATE)
    assert (lags.min(), lags.max()) == (-most, most)
    both, _, _ = Variation(CHANNELS, lag_jitter=0.3, shift=1.0, stretch=0.1).vary(ramps(), PRESENT)
    assert (both[:, REST] == both[:, :1]).all()
    assert (both[:, ECG, 600] - both[:, PPG, 600]).abs().max() <= most + 0.01
    assert not Variation(("PPG", "ACC_X"), lag_jitter=0.3), "nothing to move against"
    assert not Variation(("ECG",), lag_jitter=0.3)


def test_a_stretch_is_a_factor_about_a_centre_inside() -> None:
    varied, _, _ = Variation(CHANNELS, stretch=0.1).vary(ramps(), PRESENT)
    assert (varied == varied[:, :1]).all()
    slopes = (varied[:, 0, 700] - varied[:, 0, 600]) / 100
    assert 1 / 1.1 - 1e-3 <= slopes.min() < 1 / 1.09
    assert 1 / 0.91 < slopes.max() <= 1 / 0.9 + 1e-3
    assert varied.min() >= 0
    assert varied.max() <= WINDOW_SAMPLES - 1
    centres = (600 - varied[:, 0, 600] / slopes) / (1 - 1 / slopes)  # where position and source agree
    clear = (slopes - 1).abs() > 0.03
    assert -5 < centres[clear].min() < 100
    assert WINDOW_SAMPLES - 100 < centres[clear].max() < WINDOW_SAMPLES + 5


def test_a_stretched_pulse_is_another_rate_at_the_same_height() -> None:
    time = torch.arange(WINDOW_SAMPLES) / SAMPLING_RATE
    pulse = torch.sin(2 * torch.pi * 2 * time).expand(MANY, len(CHANNELS), -1)
    varied, _, _ = Variation(CHANNELS, stretch=0.2).vary(pulse, PRESENT)
    spectrum = torch.fft.rfft(varied[:, PPG] * torch.hann_window(WINDOW_SAMPLES), n=8192).abs()
    rates = spectrum.argmax(1) * SAMPLING_RATE / 8192
    assert 2 / 1.2 - 0.1 < rates.min() < 1.75
    assert 2.4 < rates.max() < 2 / 0.8 + 0.1
    assert varied.abs().amax(-1).min() > 0.99


def test_absent_channels_stay_absent_and_labels_stay() -> None:
    present = torch.rand(PRESENT.shape) > 0.3
    variation = Variation(CHANNELS, shift=1, lag_jitter=0.3, stretch=0.1)
    varied = variation.vary((ramps() + 1) * present.unsqueeze(-1), present)
    assert torch.equal(varied.present, present)
    assert (varied.scaled[~present] == 0).all()
    assert (varied.scaled[present] > 0).all()
    assert not varied.spoiled.any()
    assert not variation.changes_labels
    whole = ramps(5)
    variation.vary(whole, PRESENT[:5])
    assert torch.equal(whole, ramps(5)), "inputs are left alone"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift": 6}, "shift is 6; expected 0 to 5"),
        ({"lag_jitter": -0.1}, "lag_jitter is -0.1; expected 0 to 1"),
        ({"stretch": 0.6}, "stretch is 0.6; expected 0 to 0.5"),
        ({"stretch": float("nan")}, "stretch is nan"),
        ({"motion_mixing": 1.5}, "motion_mixing is 1.5; expected 0 to 1"),
        ({"mixup": 0.5}, "it has amplitude, noise, invert_ppg, shift, lag_jitter, stretch, motion_mixing"),
        ({"preprocess": 1}, "no option 'preprocess'"),
    ],
)
def test_impossible_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Variation(CHANNELS, None, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
