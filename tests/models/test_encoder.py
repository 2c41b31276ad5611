import sys

import pytest
import torch
from conftest import TINY

from butppg_lightning.errors import UserError
from butppg_lightning.models import tiny_time_mixer
from butppg_lightning.models.encoder import PatchTransformer, init_args_of, sine_positions
from butppg_lightning.window import CHANNELS


def test_default_size() -> None:
    count = sum(parameter.numel() for parameter in PatchTransformer().parameters())
    assert count == pytest.approx(5.4e6, rel=0.02)


def test_starting_half_way_gives_the_same() -> None:
    encoder = PatchTransformer(CHANNELS, **TINY)
    signals = torch.randn(3, 5, 1250)
    tokens = encoder.embed(signals)
    whole = encoder(signals)
    assert torch.equal(encoder(tokens, start=0), whole)
    assert torch.equal(encoder(encoder.blocks[0](tokens), start=1), whole)


def test_an_absent_channel_does_not_count() -> None:
    encoder = PatchTransformer(CHANNELS, **TINY)
    signals = torch.randn(2, 5, 1250)
    other = signals.clone()
    other[:, 4] = 7.0
    present = torch.tensor([[True] * 4 + [False]] * 2)
    assert torch.equal(encoder(signals, present), encoder(other, present))
    assert not torch.equal(encoder(signals), encoder(other))


def test_an_absent_channel_can_be_learned() -> None:
    encoder = PatchTransformer(CHANNELS, **TINY)
    encoder(torch.randn(2, 5, 1250), torch.tensor([[True] * 4 + [False]] * 2)).square().sum().backward()
    gradient = encoder.embedding.absent.grad
    assert gradient[4].abs().sum() > 0
    assert gradient[:4].abs().sum() == 0


def test_positions_are_no_parameters_and_not_stored() -> None:
    encoder = PatchTransformer(CHANNELS, **TINY)
    assert not any("position" in name for name in dict(encoder.named_parameters()))
    assert not any("position" in name for name in encoder.state_dict())
    assert sine_positions(50, 32).unique(dim=0).shape[0] == 50


def test_init_args_rebuild_it() -> None:
    encoder = PatchTransformer(CHANNELS, **TINY, dropout=0.1)
    twin = PatchTransformer(**init_args_of(encoder))
    twin.load_state_dict(encoder.state_dict())
    signals = torch.randn(2, 5, 1250)
    assert torch.equal(twin.eval()(signals), encoder.eval()(signals))


def test_an_encoder_of_an_extra_that_is_absent_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, tiny_time_mixer._LIBRARY, None)
    with pytest.raises(UserError, match=r"TinyTimeMixer needs tsfm_public; pip install 'butppg-lightning\[ttm\]'"):
        tiny_time_mixer.TinyTimeMixer()


@pytest.mark.parametrize(
    "sizes", [{"patch_size": 7}, {"width": 33, "heads": 1}, {"heads": 5}, {"depth": 0}, {"dropout": 1}]
)
def test_impossible_sizes(sizes: dict) -> None:
    with pytest.raises(UserError):
        PatchTransformer(CHANNELS, **{**TINY, **sizes})
