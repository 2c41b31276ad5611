"""Augmentations: off by default, never wrapping, never withholding the only channel."""

import pytest
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.augmentation import Augment

EVERY = torch.ones(400, 2, dtype=torch.bool)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ramps(count=400, channels=2):
    """Return windows whose samples are their own index, so that a wrapped or repeated sample shows."""
    return torch.arange(1250.0).expand(count, channels, -1)


def test_off_by_default():
    signals, seen = Augment()(ramps(), EVERY)
    assert torch.equal(signals, ramps())
    assert torch.equal(seen, EVERY)


def test_shift_crops_and_never_wraps():
    lengths = set()
    for seed in range(40):
        signals, _ = Augment(time_shift=0.1, patch_size=25)(ramps(), EVERY, seeded(seed))
        assert (signals.diff(dim=-1) == 1).all()  # neighbours in the result were neighbours in the recording
        assert torch.equal(signals[:, 0], signals[:, 1])  # the delay between channels is kept
        assert signals.min() >= 0
        assert signals.max() <= 1249
        cut = 1250 - signals.shape[-1]
        assert cut % 25 == 0
        assert signals[:, 0, 0].max() <= cut <= 125
        lengths.add(signals.shape[-1])
    assert lengths == {1125, 1150, 1175, 1200, 1225, 1250}


def test_windows_of_a_batch_are_shifted_differently():
    signals, _ = Augment(time_shift=0.1, patch_size=125)(ramps(), EVERY, seeded(1))
    assert signals.shape[-1] == 1125
    starts = signals[:, 0, 0]
    assert starts.min() == 0
    assert starts.max() == 125


def test_amplitude_scales_each_channel_by_its_own_factor():
    signals, seen = Augment(amplitude=0.2)(torch.ones(400, 2, 1250), EVERY, seeded())
    factors = signals[..., 0]
    assert (signals == factors.unsqueeze(-1)).all()
    assert 0.8 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2
    assert (factors[:, 0] != factors[:, 1]).float().mean() > 0.99
    assert seen.all()


def test_modality_dropout_withholds_one_channel_from_the_input_only():
    original = ramps(channels=3)
    signals, seen = Augment(modality_dropout=0.25)(original, torch.ones(400, 3, dtype=torch.bool), seeded())
    assert torch.equal(signals, original)  # still a target
    missing = (~seen).sum(1)
    assert set(missing.tolist()) == {0, 1}
    assert missing.float().mean() == pytest.approx(0.25, abs=0.07)
    assert ((~seen).sum(0) > 15).all()  # any of them


def test_modality_dropout_never_withholds_the_only_channel():
    present = torch.tensor([[True, False], [False, True], [False, False], [True, True]]).repeat(100, 1)
    _, seen = Augment(modality_dropout=1.0)(ramps(), present, seeded())
    assert torch.equal(seen.view(100, 4, 2)[:, :3], present.view(100, 4, 2)[:, :3])
    assert (seen.view(100, 4, 2)[:, 3].sum(-1) == 1).all()


def test_a_generator_repeats_and_the_global_seed_serves_otherwise():
    augment = Augment(modality_dropout=0.5, amplitude=0.2, time_shift=0.1, patch_size=25)
    first, again = (augment(ramps(), EVERY, seeded(5)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    torch.manual_seed(7)
    loose = augment(ramps(), EVERY)
    torch.manual_seed(7)
    repeated = augment(ramps(), EVERY)
    assert torch.equal(loose[0], repeated[0])
    assert torch.equal(loose[1], repeated[1])


@pytest.mark.parametrize("options", [{"modality_dropout": 1.5}, {"amplitude": -0.1}, {"time_shift": 0.6}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Augment(**options)
