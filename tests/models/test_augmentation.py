"""Random variation of preprocessed windows: its ranges, and what it never does."""

import pytest
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.augmentation import Variation
from butppg_lightning.window import CHANNELS

MANY = 4000
PPG, ECG = CHANNELS.index("PPG"), CHANNELS.index("ECG")
ACC = [row for row, name in enumerate(CHANNELS) if name.startswith("ACC")]


def windows(count: int = MANY) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(count, len(CHANNELS), 4), torch.ones(count, len(CHANNELS), dtype=torch.bool)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_nothing_asked_for_is_nothing_done() -> None:
    for variation in (
        Variation(CHANNELS),
        Variation(CHANNELS, {"ECG": 0.0}),
        Variation(CHANNELS, None),
        Variation(CHANNELS, {}, **{"noise": 0.0}),
        Variation(("ECG",), invert_ppg=0.5),
    ):
        assert not variation
        state = torch.get_rng_state()
        scaled, present, _ = variation.vary(*windows(5))
        assert torch.equal(scaled, windows(5)[0])
        assert torch.equal(present, windows(5)[1])
        assert torch.equal(torch.get_rng_state(), state), "and nothing is drawn"


@pytest.mark.parametrize("option", ["amplitude", "noise", "invert_ppg"])
def test_each_option_is_something(option: str) -> None:
    assert Variation(CHANNELS, **{option: 0.5})
    assert Variation(CHANNELS, {"ACC": 0.1})


def test_amplitudes_fill_their_range_channel_by_channel() -> None:
    scaled, _, _ = Variation(CHANNELS, amplitude=0.2).vary(*windows())
    factors = scaled[:, :, 0]
    assert torch.equal(scaled, factors.unsqueeze(-1).expand_as(scaled)), "one factor for a whole channel"
    assert 0.8 <= factors.min() < 0.805
    assert 1.195 < factors.max() <= 1.2
    assert factors.mean() == pytest.approx(1, abs=0.01)
    assert abs(torch.corrcoef(factors.T)[0, 1]) < 0.1


def test_noise_has_its_size() -> None:
    scaled, _, _ = Variation(CHANNELS, noise=0.3).vary(*windows())
    assert (scaled - 1).std() == pytest.approx(0.3, rel=0.02)
    assert (scaled - 1).mean() == pytest.approx(0, abs=0.01)


def test_only_ppg_is_inverted_and_as_often_as_asked() -> None:
    scaled, _, _ = Variation(CHANNELS, invert_ppg=0.25).vary(*windows())
    assert set(scaled.unique().tolist()) == {-1.0, 1.0}
    assert (scaled[:, PPG] == -1).all(dim=1).float().mean() == pytest.approx(0.25, abs=0.03)
    others = [row for row in range(len(CHANNELS)) if row != PPG]
    assert (scaled[:, others] == 1).all()
    always, _, _ = Variation(CHANNELS, invert_ppg=1.0).vary(*windows(50))
    assert (always[:, PPG] == -1).all()


def test_the_axes_of_acc_are_lost_together_and_sensors_apart() -> None:
    scaled, present, _ = Variation(CHANNELS, {"ECG": 0.5, "ACC": 0.3}).vary(*windows())
    assert (present[:, ACC].all(1) | ~present[:, ACC].any(1)).all()
    assert (~present[:, ACC[0]]).float().mean() == pytest.approx(0.3, abs=0.03)
    assert (~present[:, ECG]).float().mean() == pytest.approx(0.5, abs=0.03)
    assert present[:, PPG].all()
    both = (~present[:, ECG] & ~present[:, ACC[0]]).float().mean()
    assert both == pytest.approx(0.15, abs=0.03), "drawn apart"
    assert torch.equal(scaled != 0, present.unsqueeze(-1).expand_as(scaled)), "what is lost is 0"


def test_an_axis_named_alone_is_lost_alone() -> None:
    _, present, _ = Variation(CHANNELS, {"ACC": 0.5, "ACC_X": 0.2}).vary(*windows())
    assert (~present[:, 0]).float().mean() == pytest.approx(0.2, abs=0.03)
    assert (present[:, 1] == present[:, 2]).all()
    assert (present[:, 0] != present[:, 1]).any()
    _, present, _ = Variation(CHANNELS, {"ACC_Y": 1.0}).vary(*windows(50))
    assert present.all(0).tolist() == [name != "ACC_Y" for name in CHANNELS]


def test_a_window_never_loses_all_it_has() -> None:
    _, present, _ = Variation(CHANNELS, {"PPG": 1.0, "ECG": 1.0, "ACC": 1.0}).vary(*windows(50))
    assert present.all(), "it keeps what it had"
    _, present, _ = Variation(CHANNELS, {"PPG": 0.6, "ECG": 0.6, "ACC": 0.6}).vary(*windows())
    assert present.any(1).all()
    assert not present.all(1).all()


def test_what_was_absent_stays_absent() -> None:
    scaled, there = windows(200)
    there = torch.rand(there.shape) > 0.5
    there[0] = False
    variation = Variation(CHANNELS, {"ECG": 0.5}, amplitude=0.5, noise=1.0, invert_ppg=0.5)
    varied, present, _ = variation.vary(scaled * there.unsqueeze(-1), there)
    assert not (present & ~there).any()
    assert (varied[~present] == 0).all(), "noise neither"
    assert torch.equal(present.any(1), there.any(1))


def test_inputs_are_left_as_they_were() -> None:
    scaled, present = windows(20)
    Variation(CHANNELS, {"ECG": 0.5}, amplitude=0.5, noise=1.0, invert_ppg=0.5).vary(scaled, present)
    assert (scaled == 1).all()
    assert present.all()


def test_the_same_seed_varies_alike() -> None:
    variation = Variation(CHANNELS, {"ECG": 0.5}, amplitude=0.5, noise=1.0, invert_ppg=0.5)
    found = []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        found.append(variation.vary(*windows(20))[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("dropout", "options", "words"),
    [
        ({"EEG": 0.5}, {}, ["EEG", "PPG, ECG, ACC"]),
        ({"ECG": 1.5}, {}, ["ECG: 1.5", "0 to 1"]),
        ({"ECG": -0.1}, {}, ["ECG: -0.1"]),
        ({"ECG": float("nan")}, {}, ["ECG: nan"]),
        (None, {"amplitude": 1.0}, ["amplitude is 1.0", "0.99"]),
        (None, {"amplitude": -0.1}, ["amplitude is -0.1"]),
        (None, {"noise": float("inf")}, ["noise is inf"]),
        (None, {"invert_ppg": 2}, ["invert_ppg is 2", "0 to 1"]),
        (None, {"volume": 2}, ["no option 'volume'", "amplitude, noise, invert_ppg"]),
        (None, {"channels": 2}, ["no option 'channels'"]),
    ],
)
def test_impossible_options_are_refused(dropout: dict, options: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Variation(CHANNELS, dropout, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
