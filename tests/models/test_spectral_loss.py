"""Spectral loss: zero for equal signals, blind to what lies below the floor, computed in float32."""

import pytest
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.losses import SpectralLoss

TIME = torch.arange(1250) / 125


def tone(rate, phase=0.0):
    return (2**0.5 * torch.sin(2 * torch.pi * rate * TIME + phase)).expand(2, 2, -1).clone()


def test_equal_signals_have_no_loss():
    assert SpectralLoss()(tone(1.2), tone(1.2)) == 0


def test_a_wrong_rate_costs_more_than_a_shift_in_time():
    loss = SpectralLoss()
    assert loss(tone(5.0), tone(1.2)) > 3 * loss(tone(1.2, phase=0.5), tone(1.2))


def test_a_flat_prediction_costs():
    assert SpectralLoss()(torch.zeros(2, 2, 1250), tone(1.2)) > 0.1


def test_noise_below_the_floor_hardly_matters():
    faint = 0.01 * torch.randn(2, 2, 1250, generator=torch.Generator().manual_seed(0))
    loss = SpectralLoss(floor=0.1)(tone(1.2) + faint, tone(1.2))
    assert loss < 0.02
    assert SpectralLoss(floor=1e-4)(tone(1.2) + faint, tone(1.2)) > 10 * loss


def test_white_noise_of_unit_variance_has_unit_power():
    noise = torch.randn(64, 1, 1250, generator=torch.Generator().manual_seed(0))
    for length in (64, 512):
        measure = SpectralLoss(resolutions=(length,), floor=1e-6)
        power = (2 * measure._log_magnitude(noise, length)).exp()
        assert power.mean() == pytest.approx(1, abs=0.05)


def test_channels_that_do_not_count_are_left_out():
    prediction, target = tone(1.2), tone(1.2)
    prediction[0, 1] = tone(7.0)[0, 1]
    counted = torch.tensor([[True, False], [True, True]])
    loss = SpectralLoss()
    assert loss(prediction, target, counted) == 0
    assert loss(prediction, target) > 0
    assert loss(prediction, target, torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_gradients_are_finite_where_a_signal_is_silent():
    silent = torch.zeros(2, 2, 1250, requires_grad=True)
    SpectralLoss()(silent, tone(1.2)).backward()
    assert torch.isfinite(silent.grad).all()


def test_autocast_changes_nothing():
    prediction = tone(1.3).bfloat16()
    plain = SpectralLoss()(prediction, tone(1.2))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = SpectralLoss()(prediction, tone(1.2))
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_short_signals_use_the_resolutions_that_fit():
    short = tone(1.2)[..., :100]
    expected = SpectralLoss(resolutions=(64,))(short * 0.5, short)
    assert torch.equal(SpectralLoss()(short * 0.5, short), expected)
    with pytest.raises(ValueError, match="shorter"):
        SpectralLoss()(short[..., :50], short[..., :50])


def test_nothing_of_it_is_in_a_checkpoint():
    assert not SpectralLoss().state_dict()


@pytest.mark.parametrize("options", [{"resolutions": ()}, {"resolutions": (2,)}, {"floor": 0.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        SpectralLoss(**options)
