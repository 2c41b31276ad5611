import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.models.encoder import PatchTransformer
from butppg_lightning.models.inflation import Inflation, inflate_filters, verify_inflation
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS

names = st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=5, unique=True)
ways = st.builds(
    Inflation,
    new_channels=st.sampled_from(["mean", "zero", "random"]),
    noise=st.floats(0, 1),
    preserve_variance=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(source=names, target=names, inflation=ways, seed=st.integers(0, 2**31))
def test_any_inflation_is_by_name_and_passes_its_own_check(source, target, inflation, seed) -> None:
    filters = torch.randn(48, len(source), 25, generator=torch.Generator().manual_seed(seed))
    if not set(source) & set(target):
        with pytest.raises(UserError, match="no channel in common"):
            inflate_filters(filters, source, target, inflation)
        return
    generator = torch.Generator().manual_seed(seed + 1)
    inflated = inflate_filters(filters, source, target, inflation, generator)
    assert inflated.shape == (48, len(target), 25)
    findings = verify_inflation(filters, inflated, source, target, inflation)
    assert list(findings) == target
    if inflation.preserve_variance:
        assert inflated.square().sum().item() == pytest.approx(filters.square().sum().item(), rel=1e-4)
    else:
        for name in set(source) & set(target):
            assert torch.equal(inflated[:, target.index(name)], filters[:, source.index(name)])


def test_new_channels_are_the_mean_plus_noise() -> None:
    filters = torch.randn(192, 2, 25)
    inflated = inflate_filters(filters, PRETRAIN_CHANNELS, CHANNELS, Inflation(noise=0.2))
    for row in range(3):
        noise = inflated[:, row] - filters.mean(dim=1)
        assert noise.std().item() == pytest.approx(0.2 * filters.std().item(), rel=0.1)
    assert not torch.equal(inflated[:, 0], inflated[:, 1])


def test_zero_inflation_computes_what_the_pretrained_encoder_did() -> None:
    two = PatchTransformer(PRETRAIN_CHANNELS, **TINY)
    five = PatchTransformer(CHANNELS, **TINY)
    state = two.state_dict()
    state["embedding.weight"] = inflate_filters(two.embedding.weight, two.channels, five.channels, Inflation("zero"))
    state["embedding.absent"] = torch.zeros(5, TINY["width"])
    five.load_state_dict(state)
    signals = torch.randn(4, 5, 1250)
    absent = torch.tensor([[False] * 3 + [True] * 2] * 4)
    assert torch.equal(five(signals), two(signals[:, 3:]))
    assert torch.equal(five(signals, absent), two(signals[:, 3:]))


@pytest.mark.parametrize("channel", ["PPG", "ECG", "ACC_Y"])
def test_the_check_finds_a_spoilt_channel(channel: str) -> None:
    filters = torch.randn(48, 2, 25)
    inflated = inflate_filters(filters, PRETRAIN_CHANNELS, CHANNELS, Inflation())
    inflated[:, CHANNELS.index(channel)] = inflated[:, CHANNELS.index(channel)] * 1.5 + 0.1
    with pytest.raises(UserError, match=channel):
        verify_inflation(filters, inflated, PRETRAIN_CHANNELS, CHANNELS, Inflation())


@pytest.mark.parametrize("options", [{"new_channels": "copy"}, {"noise": -1}])
def test_impossible_options(options: dict) -> None:
    with pytest.raises(UserError):
        Inflation(**options)
