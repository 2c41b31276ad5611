"""The encoder over candidate rates: what must not move it, its contract, and a network that learns from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_windows
from scipy.stats import special_ortho_group

from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import build_encoder
from butppg_lightning.models.heads import RateHead
from butppg_lightning.models.network import QualityNetwork, assemble
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.models.rates import RATES, READERS
from butppg_lightning.models.spectral import SpectralEncoder
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS

WORN = ("ACC_X", "ACC_Y", "ACC_Z", "PPG")


def network(channels: tuple[str, ...] = WORN, seed: int = 0) -> QualityNetwork:
    """A network whose every weight counts."""
    torch.manual_seed(seed)
    made = assemble(Preprocess(channels), SpectralEncoder(channels), "rate", indices=["rates"])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture(scope="module")
def worn() -> torch.Tensor:
    return torch.from_numpy(make_windows(64, seed=3).signals[:, :4])


@pytest.mark.parametrize("gain", [-1.0, 3.0, -1e-3])
def test_polarity_gain_and_offset_of_the_ppg_do_not_matter(worn: torch.Tensor, gain: float) -> None:
    model, turned = network(), worn.clone()
    turned[:, 3] = gain * worn[:, 3] + 50
    with torch.no_grad():
        moved = (model(turned) - model(worn)).abs()
    assert moved.median() < 1e-3
    assert (moved > 0.05).float().mean() < 0.05  # a reader may find the other of two equal peaks


@pytest.mark.parametrize("mounting", ["permuted", "turned", "rotated"])
def test_how_the_accelerometer_is_mounted_does_not_matter(worn: torch.Tensor, mounting: str) -> None:
    turn = {
        "permuted": np.eye(3)[[2, 0, 1]],
        "turned": np.diag([-1.0, 1.0, -1.0]),
        "rotated": special_ortho_group.rvs(3, random_state=1),
    }[mounting]
    model, other = network(), worn.clone()
    other[:, :3] = torch.einsum("ij,bjt->bit", torch.from_numpy(turn).float(), worn[:, :3])
    with torch.no_grad():
        np.testing.assert_allclose(model(other).numpy(), model(worn).numpy(), atol=2e-3)


def test_it_can_be_entered_before_any_block(worn: torch.Tensor) -> None:
    encoder = SpectralEncoder(WORN).eval()
    scaled = Preprocess(WORN)(worn)
    whole, tokens = encoder(scaled), encoder.embed(scaled)
    assert tokens.shape == (64, len(RATES), encoder.width)
    for start, block in enumerate([*encoder.blocks, None]):
        assert torch.equal(encoder(tokens, start=start), whole)
        tokens = block(tokens) if block is not None else tokens


def test_a_checkpoint_states_its_defaults_too() -> None:
    _, spec = build_encoder({"class_path": "SpectralEncoder", "init_args": {"depth": 2}}, WORN, named_by_user=False)
    sizes = {"width": 32, "depth": 2, "kernel": 5, "dropout": 0.2, "input_dropout": 0.1}
    assert spec["init_args"] == {"channels": list(WORN), **sizes}


@pytest.mark.parametrize("depth", [0, 1, 3, "encoded", "pooled"])
def test_the_networks_chain_can_be_cut_anywhere(worn: torch.Tensor, depth: int | str) -> None:
    model = network()
    prepared = model.prepare(worn)
    value = model.run(prepared, "prepared", depth)
    torch.testing.assert_close(model.run(value, depth, "logits", prepared.side), model(worn))


def test_every_weight_learns_and_other_indices_add_to_the_logit(worn: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = assemble(Preprocess(WORN), SpectralEncoder(WORN, dropout=0.0), "rate", indices=["rates", "rhythm"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):  # what begins at zero moves from the second step on
        optimizer.zero_grad()
        model(worn).square().mean().backward()
        optimizer.step()
    still = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.abs().sum()}
    assert still <= {"encoder.embedding.absent", "head.score.bias"}  # no channel is absent; a softmax has no bias
    assert not model.head.side.score.weight.eq(0).all()


def test_what_does_not_enter_the_encoder_does_not_reach_the_logit(worn: torch.Tensor) -> None:
    made = assemble(Preprocess(WORN), SpectralEncoder(WORN), "rate", indices=["rates"], encoder_channels=["PPG"]).eval()
    other = worn.clone()
    other[:, :3] = torch.randn_like(other[:, :3])
    with torch.no_grad():
        assert torch.equal(made(other), made(worn))


@pytest.mark.parametrize("rate", [25.0, 50.0, 64.0, 256.0, 500.0])
def test_the_native_rate_of_a_sensor_does_not_matter(rate: float) -> None:
    """One pulse, recorded at another rate and resampled as `score` does."""
    from butppg_lightning.sources.recordings.recording import Channel, Recording
    from butppg_lightning.sources.recordings.windowing import Windows

    def windows(rate: float) -> torch.Tensor:
        phase = 2 * np.pi * 1.27 * np.arange(round(60 * rate)) / rate
        pulse = (np.sin(phase) + 0.4 * np.sin(2 * phase + 0.6)).astype(np.float32)
        recording = Recording("made", {"PPG": Channel("PPG", "PPG", rate, 0.0, pulse)}, None, ("PPG",))
        return torch.from_numpy(np.concatenate([batch["signals"] for batch in Windows(recording, ("PPG",))]))

    model = network(("PPG",))
    with torch.no_grad():
        np.testing.assert_allclose(model(windows(rate))[1:-1], model(windows(125.0))[1:-1], atol=0.05)


def test_an_absent_channel_adds_its_own_vector_only(worn: torch.Tensor) -> None:
    encoder = SpectralEncoder(WORN).eval()
    scaled, present = Preprocess(WORN)(worn), torch.ones(64, 4, dtype=torch.bool)
    present[:, :3] = False
    garbage = scaled.clone()
    garbage[:, :3] = torch.randn_like(garbage[:, :3])
    assert torch.equal(encoder(scaled, present), encoder(garbage, present))
    alone = SpectralEncoder(("PPG",)).eval()
    alone.load_state_dict({
        key: value[:, 3:] if key == "embedding.weight" else value[3:] if key == "embedding.absent" else value
        for key, value in encoder.state_dict().items()
    })  # fmt: skip
    torch.testing.assert_close(alone(scaled[:, 3:]), encoder(scaled, present))


def test_a_channel_that_a_whole_batch_lacks_is_as_absent_as_one_that_a_window_lacks(worn: torch.Tensor) -> None:
    signals, model = worn[:16].clone(), network()
    present = torch.ones(16, len(WORN), dtype=torch.bool)
    present[:8, :3] = False
    signals[:8, :3] = 0
    torch.testing.assert_close(model(signals[:8], present[:8]), model(signals, present)[:8], atol=1e-6, rtol=0)


def test_the_token_of_the_pulses_rate_stands_out() -> None:
    time = torch.arange(1250) / 125
    encoder = SpectralEncoder(PRETRAIN_CHANNELS)
    signals = torch.sin(2 * torch.pi * 1.5 * time).expand(1, 2, -1)
    patches = encoder.patches(signals)
    assert RATES[patches[0, 0, :, 1].argmax()] == 90
    assert RATES[patches[0, 0, :, 2].argmax()] == 46 or RATES[patches[0, 0, :, 2].argmax()] == 44  # its double is 90


def test_what_is_hidden_cannot_be_seen(worn: torch.Tensor) -> None:
    encoder = SpectralEncoder(WORN).eval()
    scaled = Preprocess(WORN)(worn)
    hidden = torch.ones(64, len(RATES), dtype=torch.bool)
    tokens = encoder.embed(scaled, hidden=hidden)
    assert torch.equal(tokens, tokens[:1].expand_as(tokens))


def test_the_rate_head_needs_rates() -> None:
    for encoder, indices in ((SpectralEncoder(WORN), None), (SpectralEncoder(WORN), ["rhythm"])):
        with pytest.raises(UserError, match=r"model\.head rate needs --model\.indices"):
            assemble(Preprocess(WORN), encoder, "rate", indices=indices)


def test_reference_rates_teach_only_where_they_are_known() -> None:
    head = RateHead(8, side_inputs=READERS)
    pooled = head.pool(torch.randn(3, len(RATES), 8))
    known = torch.tensor([60.0, torch.nan, 0.0])
    wanted = head.rate_loss(pooled[:1], known[:1]) / 3
    torch.testing.assert_close(head.rate_loss(pooled, known), wanted)


IMPOSSIBLE = [{"width": 1}, {"depth": 0}, {"kernel": 4}, {"dropout": 1.0}, {"input_dropout": -0.1}]


@pytest.mark.parametrize("sizes", IMPOSSIBLE)
def test_impossible_sizes_are_refused(sizes: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"^encoder "):
        SpectralEncoder(CHANNELS, **sizes)  # type: ignore[arg-type]
