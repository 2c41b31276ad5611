import numpy as np
import pytest
import torch
from conftest import make_windows

from butppg_lightning.models.encoder import PatchTransformer
from butppg_lightning.models.heads import LinearHead
from butppg_lightning.models.network import QualityNetwork
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.models.usable_channels import FAULTS, channel_faults
from butppg_lightning.window import CHANNELS

from conftest import TINY  # isort: skip


def faults(signals: torch.Tensor) -> list[str]:
    return [FAULTS[int(code)] for code in channel_faults(signals, CHANNELS)[0]]


def test_sound_channels_are_usable() -> None:
    assert (channel_faults(torch.from_numpy(make_windows(20).signals), CHANNELS) == 0).all()


def test_a_flat_channel_on_a_large_offset_is_flat_and_a_small_pulse_on_it_is_not() -> None:
    signals = torch.from_numpy(make_windows(1).signals)
    time = torch.linspace(0, 10, 1250)
    signals[0, 3] = -254 + 0.2 * torch.sin(7 * time)
    assert faults(signals)[3] == ""
    signals[0, 3] = -254 + 1e-5 * torch.sin(7 * time)
    assert faults(signals)[3] == "flat"


def test_five_seconds_at_a_rail_are_railed_and_clipped_beats_are_not() -> None:
    signals = torch.from_numpy(make_windows(1).signals)
    pulse = torch.sin(2 * np.pi * 1.2 * torch.linspace(0, 10, 1250))
    signals[0, 3] = pulse.clamp(-0.5, 0.5)
    assert faults(signals)[3] == ""
    signals[0, 3] = pulse
    signals[0, 3, 100:760] = 1.5
    assert faults(signals)[3] == "railed"
    signals[0, 3, 100:600] = pulse[100:600]
    assert faults(signals)[3] == ""
    signals[0, 3, 500:] = -3.0
    assert faults(signals)[3] == "railed"


@pytest.mark.parametrize("begin", [0, 1, 313, 624, 625])
def test_624_samples_at_a_rail_are_not_five_seconds(begin: int) -> None:
    signals = torch.from_numpy(make_windows(1).signals)
    pulse = torch.sin(2 * np.pi * 1.2 * torch.linspace(0, 10, 1250))
    for count, fault in ((624, ""), (625, "railed")):
        signals[0, 3] = pulse
        signals[0, 3, begin : begin + count] = 1.5
        assert faults(signals)[3] == fault


def test_acceleration_at_rest_is_information_unless_all_axes_are_dead() -> None:
    signals = torch.from_numpy(make_windows(1).signals)
    signals[0, 2] = 1.0
    assert faults(signals)[:3] == ["", "", ""]
    signals[0, :3] = 0.0
    assert faults(signals)[:3] == ["flat"] * 3


def test_an_unusable_channel_counts_as_absent() -> None:
    torch.manual_seed(0)
    network = QualityNetwork(Preprocess(CHANNELS), PatchTransformer(CHANNELS, **TINY), LinearHead(TINY["width"])).eval()
    torch.nn.init.normal_(network.encoder.embedding.absent)
    signals = torch.from_numpy(make_windows(3).signals)
    absent = torch.ones(3, 5, dtype=torch.bool)
    absent[:, 4] = False
    flat = signals.clone()
    flat[:, 4] = 7.0
    gone = signals.clone()
    gone[:, 4] = 0.0
    assert torch.equal(network(flat), network(gone, absent))
    assert not torch.equal(network(flat), network(signals))
