"""Masked autoencoder: what is hidden stays hidden, and only what is hidden counts."""

import pytest
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.encoder import PatchTransformer
from butppg_lightning.models.masked import MaskedAutoencoder, Reconstruction, mask_order, standardise
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.window import PRETRAIN_CHANNELS

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def autoencoder(patch_size=25, **options):
    torch.manual_seed(0)
    encoder = PatchTransformer(PRETRAIN_CHANNELS, patch_size=patch_size, width=32, depth=2, heads=2)
    sizes = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}
    return MaskedAutoencoder(Preprocess(PRETRAIN_CHANNELS), encoder, **sizes, **options).eval()


def pulses(count, seed=0):
    """Return [count, 2, 1250] windows with a steady beat, each at its own rate and phase."""
    draw = torch.rand(count, 2, generator=seeded(seed))
    phase = 2 * torch.pi * ((0.8 + 0.8 * draw[:, :1]) * torch.arange(1250) / 125 + draw[:, 1:])
    return torch.stack([phase.sin() + 0.4 * (2 * phase).sin(), (4 * (phase.cos() - 1)).exp()], dim=1)


@pytest.mark.parametrize("run", [1, 5, 7])
@pytest.mark.parametrize("patches", [25, 50])
def test_order_is_a_permutation(run, patches):
    order = mask_order(64, patches, run, seeded(), CPU)
    assert torch.equal(order.sort(dim=1).values, torch.arange(patches).expand(64, -1))


@pytest.mark.parametrize("masking", ["random", "block"])
@pytest.mark.parametrize(("ratio", "hidden"), [(0.4, 20), (0.75, 38), (0.001, 1), (0.999, 49)])
def test_hides_exactly_the_share_asked_for(masking, ratio, hidden):
    found = autoencoder(mask_ratio=ratio, masking=masking)(pulses(16), generator=seeded())
    assert found.masked.sum(1).tolist() == [hidden] * 16


def test_block_masking_hides_runs():
    order = mask_order(500, 50, 5, seeded(), CPU)
    masked = torch.zeros(500, 50).scatter_(1, order[:, :20], 1.0)
    starts = masked[:, :1].sum() + (masked.diff(dim=1) == 1).sum()
    # 20 hidden patches in runs of 5, some of them touching, some cut by the window's edge or by the count
    assert 3 <= starts / 500 <= 5
    random = torch.zeros(500, 50).scatter_(1, mask_order(500, 50, 1, seeded(), CPU)[:, :20], 1.0)
    assert (random.diff(dim=1) == 1).sum() / 500 > 10


@pytest.mark.parametrize("run", [1, 5])
def test_every_patch_is_hidden_about_equally_often(run):
    order = mask_order(5000, 50, run, seeded(), CPU)
    share = torch.zeros(5000, 50).scatter_(1, order[:, :20], 1.0).mean(0)
    assert (share - 0.4).abs().max() < 0.06


def test_windows_have_masks_of_their_own_and_a_seed_repeats_them():
    first, again = (autoencoder()(pulses(8), generator=seeded(3)).masked for _ in range(2))
    assert torch.equal(first, again)
    assert len({tuple(row.tolist()) for row in first}) == 8


@pytest.mark.parametrize("masking", ["random", "block"])
def test_encoder_never_sees_a_hidden_patch(masking):
    network = autoencoder(masking=masking)
    scaled, seen = network.preprocess(pulses(8)), torch.ones(8, 2, dtype=torch.bool)
    latent, visible, masked = network.encode_visible(scaled, seen, seeded())
    hidden = masked.repeat_interleave(25, dim=1).unsqueeze(1)
    noise = torch.randn(scaled.shape, generator=seeded(1))
    changed, places, _ = network.encode_visible(torch.where(hidden, noise, scaled), seen, seeded())
    assert torch.equal(places, visible)
    assert torch.equal(changed, latent)
    spoilt, _, _ = network.encode_visible(torch.where(hidden, scaled, noise), seen, seeded())
    assert not torch.allclose(spoilt, latent)


def test_visible_and_hidden_patches_are_all_there_are():
    network = autoencoder()
    scaled, seen = network.preprocess(pulses(8)), torch.ones(8, 2, dtype=torch.bool)
    _, visible, masked = network.encode_visible(scaled, seen, seeded())
    assert torch.equal(torch.ones_like(masked).scatter(1, visible, False), masked)


def test_only_hidden_patches_count():
    found = autoencoder()(pulses(8), generator=seeded())
    visible = ~found.masked.repeat_interleave(25, dim=1).unsqueeze(1)
    before = found.masked_mse()
    found.prediction = torch.where(visible, found.prediction + 100, found.prediction)
    assert torch.equal(found.masked_mse(), before)
    assert torch.equal(found.completed()[visible.expand(-1, 2, -1)], found.target[visible.expand(-1, 2, -1)])
    found.prediction = found.prediction + 1
    assert found.masked_mse() > before


def test_error_is_the_mean_over_hidden_samples():
    target = torch.zeros(2, 2, 100)
    prediction = torch.zeros(2, 2, 100)
    prediction[:, 0, 25:50] = 2.0
    prediction[:, 1, 25:50] = 1.0
    masked = torch.tensor([[False, True, False, False]] * 2)
    found = Reconstruction(prediction, target, masked, torch.ones(2, 2, dtype=torch.bool))
    assert found.masked_mse() == 2.5
    errors, counts = found.squared_error()
    assert (errors / counts).tolist() == [4.0, 1.0]
    assert counts.tolist() == [50, 50]


def test_targets_have_unit_variance_and_flat_or_absent_channels_do_not_count():
    signals = pulses(4) * 7 + 3
    signals[0, 1] = 5.0  # a lead that is off
    signals[1, 0] = 0.0
    present = torch.ones(4, 2, dtype=torch.bool)
    present[1, 0] = False
    found = autoencoder()(signals, present, generator=seeded())
    assert found.counted.tolist() == [[True, False], [False, True], [True, True], [True, True]]
    spread = found.target.std(-1, correction=0)
    assert torch.allclose(spread[found.counted], torch.ones(6), atol=1e-4)
    before = found.masked_mse()
    found.prediction = torch.where(found.counted.unsqueeze(-1), found.prediction, torch.full((), 1e3))
    assert torch.equal(found.masked_mse(), before)
    assert torch.isfinite(before)


def test_a_nearly_flat_channel_is_not_blown_up():
    faint = 0.03 * torch.randn(3, 2, 1250, generator=seeded())
    target, counted = standardise(faint, torch.ones(3, 2, dtype=torch.bool))
    assert counted.all()
    assert target.std() < 0.5


def test_nothing_to_count_is_an_error_of_zero():
    found = autoencoder()(torch.zeros(2, 2, 1250), torch.zeros(2, 2, dtype=torch.bool), generator=seeded())
    assert found.masked_mse() == 0


def test_an_absent_channel_contributes_nothing_to_the_encoding():
    network = autoencoder()
    present = torch.tensor([[True, False]] * 4)
    signals = pulses(4)
    other = signals.clone()
    other[:, 1] = 9.0
    first, second = (network(part, present, generator=seeded()) for part in (signals, other))
    assert torch.equal(first.prediction, second.prediction)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_works_under_autocast(dtype):
    network = autoencoder()
    with torch.autocast("cpu", dtype):
        found = network(pulses(8), generator=seeded())
    assert found.prediction.dtype == found.target.dtype == torch.float32
    found.masked_mse().backward()
    assert all(torch.isfinite(part.grad).all() for part in network.parameters() if part.grad is not None)
    full = network(pulses(8), generator=seeded())
    assert torch.allclose(found.prediction, full.prediction, atol=0.1)


def test_fixed_positions_are_not_in_the_checkpoint():
    assert not [key for key in autoencoder().state_dict() if "position" in key]


def test_a_tiny_model_learns_a_few_windows_by_heart():
    network = autoencoder(patch_size=125).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, betas=(0.9, 0.95))
    signals, generator = pulses(4), seeded()
    for _ in range(250):
        optimizer.zero_grad()
        loss = network(signals, generator=generator).masked_mse()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert network(signals, generator=seeded(99)).masked_mse() < 0.4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mask_ratio": 0.0}, "mask_ratio"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"masking": "tube"}, "masking"),
        ({"masking": "block", "block_patches": 0}, "block_patches"),
    ],
)
def test_impossible_options_are_refused(options, named):
    with pytest.raises(UserError, match=named):
        autoencoder(**options)


def test_impossible_decoder_is_refused():
    encoder = PatchTransformer(PRETRAIN_CHANNELS, width=32, depth=1, heads=2)
    with pytest.raises(UserError, match="decoder"):
        MaskedAutoencoder(Preprocess(PRETRAIN_CHANNELS), encoder, decoder_width=30, decoder_depth=1, decoder_heads=4)
