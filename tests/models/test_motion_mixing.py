"""Motion mixing: what the artefact is made of, what it leaves alone, and how far the target follows."""

import numpy as np
import pytest
import torch
from conftest import TINY, make_windows

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.errors import UserError
from butppg_lightning.models.augmentation import Variation
from butppg_lightning.models.motion_mixing import lower_targets
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.sources.synthetic.readers import read_rates
from butppg_lightning.window import CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES

MANY = 300
PPG = CHANNELS.index("PPG")
ACC = [row for row, name in enumerate(CHANNELS) if name.startswith("ACC")]
REST = [row for row in range(len(CHANNELS)) if row != PPG]
PRESENT = torch.ones(MANY, len(CHANNELS), dtype=torch.bool)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def preprocess() -> Preprocess:
    return Preprocess(CHANNELS)


@pytest.fixture(scope="module")
def clean(preprocess: Preprocess) -> torch.Tensor:
    """Preprocessed windows with a readable pulse and a walk whose cadence is not the heart rate."""
    generator = np.random.default_rng(0)
    time = np.arange(WINDOW_SAMPLES) / SAMPLING_RATE
    rate = generator.uniform(0.9, 1.4, (MANY, 1))
    phase = 2 * np.pi * rate * time
    windows = make_windows(MANY).signals
    windows[:, PPG] = np.sin(phase) + 0.3 * np.sin(2 * phase - 1)
    steps = 2 * np.pi * generator.uniform(1.8, 2.4, (MANY, 1)) * time + generator.uniform(0, 6, (MANY, 1))
    for axis in ACC:
        windows[:, axis] += generator.uniform(-0.5, 0.5, (MANY, 1)) * (np.sin(steps) + 0.5 * np.sin(2 * steps))
    preprocess.fit(torch.from_numpy(windows))
    return preprocess(torch.from_numpy(windows))


def mixing(preprocess: Preprocess, **options: float) -> Variation:
    return Variation(CHANNELS, None, preprocess, **{"motion_mixing": 1.0, **options})


def test_as_many_windows_as_asked_get_an_artefact_in_ppg_only(clean: torch.Tensor, preprocess: Preprocess) -> None:
    varied = mixing(preprocess, motion_mixing=0.3).vary(clean, PRESENT)
    changed = (varied.scaled[:, PPG] != clean[:, PPG]).any(1)
    assert changed.float().mean() == pytest.approx(0.3, abs=0.08)
    assert torch.equal(varied.scaled[:, REST], clean[:, REST])
    assert (varied.spoiled[~changed] == 0).all(), "and what is not mixed keeps its bits and its label"
    assert ((varied.spoiled >= 0) & (varied.spoiled <= 1)).all()
    assert varied.spoiled.max() > 0.9
    assert 0.1 < (varied.spoiled[changed] == 0).float().mean() < 0.6, "weak artefacts spoil nothing"


def test_mixed_ppg_looks_preprocessed(clean: torch.Tensor, preprocess: Preprocess) -> None:
    mixed = mixing(preprocess).vary(clean, PRESENT).scaled[:, PPG]
    quartiles = torch.tensor([0.25, 0.5, 0.75])
    low, middle, high = mixed.quantile(quartiles, dim=1)
    low_before, _, high_before = clean[:, PPG].quantile(quartiles, dim=1)
    assert torch.allclose(high - low, high_before - low_before, rtol=0.02), "no larger amplitude to tell it by"
    assert middle.abs().max() < 0.02
    assert mixed.abs().max() <= preprocess.clip
    power = torch.fft.rfft(mixed * torch.hann_window(WINDOW_SAMPLES)).abs().square().sum(0)
    frequency = torch.fft.rfftfreq(WINDOW_SAMPLES, 1 / SAMPLING_RATE)
    assert power[frequency > 12].sum() < 1e-3 * power.sum(), "nor frequencies that PPG cannot have"


def test_the_artefact_comes_from_acceleration(clean: torch.Tensor, preprocess: Preprocess) -> None:
    alone, there = clean[:1], PRESENT[:1]
    # a window by itself has only its own acceleration
    steps = torch.fft.rfft(alone[0, ACC]).abs().sum(0)[5:].argmax() + 5
    added = 0.0
    for _ in range(50):
        varied = mixing(preprocess).vary(alone, there)
        if varied.spoiled > 0.6:
            difference = torch.fft.rfft(varied.scaled[0, PPG]).abs()
            added = max(added, float(difference[steps - 1 : steps + 2].max() / difference[5:].max()))
    assert added > 0.9, "the strongest line of the mixed PPG is the cadence"
    still = alone.clone()
    still[:, ACC] = 0
    assert torch.equal(mixing(preprocess).vary(still, there).scaled, still), "at rest, alone: nothing to mix"
    assert not mixing(preprocess).vary(still, there).spoiled.any()


def test_without_acceleration_another_pulse_is_mixed_in_but_never_takes_over(
    clean: torch.Tensor, preprocess: Preprocess
) -> None:
    ppg_only = Preprocess(("PPG",))
    windows, there = clean[:, PPG : PPG + 1], PRESENT[:, :1]
    varied = Variation(("PPG",), None, ppg_only, motion_mixing=1.0).vary(windows, there)
    assert (varied.scaled != windows).any(-1).all()
    assert varied.spoiled.max() > 0.9
    both = torch.stack([varied.scaled[:, 0], windows[:, 0]])
    correlation = torch.stack([torch.corrcoef(both[:, row])[0, 1] for row in range(MANY)])
    assert correlation.quantile(0.05) > 0.3, "the own pulse is in it"
    absent = PRESENT.clone()
    absent[:, ACC] = False
    varied = mixing(preprocess).vary(clean * absent.unsqueeze(-1), absent)
    assert varied.spoiled.max() > 0.9
    assert (varied.scaled[:, ACC] == 0).all()
    assert not Variation(("ECG", "ACC_X"), motion_mixing=0.5), "no PPG, no artefact"


def test_what_is_not_seen_is_not_spoiled(clean: torch.Tensor, preprocess: Preprocess) -> None:
    there = PRESENT.clone()
    there[::2, PPG] = False
    varied = mixing(preprocess).vary(clean * there.unsqueeze(-1), there)
    assert not varied.spoiled[::2].any()
    assert (varied.scaled[::2, PPG] == 0).all()
    dropping = Variation(CHANNELS, {"PPG": 1.0}, preprocess, motion_mixing=1.0).vary(clean, PRESENT)
    assert not dropping.spoiled.any()
    lost = Variation(CHANNELS, {"ACC": 1.0}, preprocess, motion_mixing=1.0).vary(clean, PRESENT)
    assert lost.spoiled.any(), "the motion was there, whether or not the network sees it"
    assert (lost.scaled[:, ACC] == 0).all()


def test_spoiled_windows_are_those_that_cannot_be_read(clean: torch.Tensor, preprocess: Preprocess) -> None:
    true = np.nanmedian(read_rates(clean[:, PPG].double().numpy()), axis=1)
    varied = mixing(preprocess).vary(clean, PRESENT)
    rates = read_rates(varied.scaled[:, PPG].double().numpy())
    read = torch.from_numpy((np.abs(rates - true[:, None]) < 5).sum(axis=1) >= 3).float()
    assert read[varied.spoiled < 0.05].mean() > 0.85
    assert read[varied.spoiled > 0.7].mean() < 0.3


def test_spoiled_share_follows_the_time_axis(clean: torch.Tensor, preprocess: Preprocess) -> None:
    torch.manual_seed(3)
    plain = mixing(preprocess).vary(clean, PRESENT)
    torch.manual_seed(3)
    moved = mixing(preprocess, shift=2.0, stretch=0.1).vary(clean, PRESENT)
    assert not torch.equal(moved.spoiled, plain.spoiled)
    assert (moved.spoiled - plain.spoiled).abs().max() < 0.45
    assert torch.corrcoef(torch.stack([moved.spoiled, plain.spoiled]))[0, 1] > 0.9
    torch.manual_seed(3)
    again = mixing(preprocess, shift=2.0, stretch=0.1).vary(clean, PRESENT)
    assert all(torch.equal(*pair) for pair in zip(again, moved, strict=True)), "the same seed varies alike"


def test_half_precision_around_it_changes_nothing(clean: torch.Tensor, preprocess: Preprocess) -> None:
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(mixing(preprocess).vary(clean[:20], PRESENT[:20]))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("options", [{"scaling": "zscore"}, {"ppg_band": None}, {"clip": 3.0}])
def test_it_follows_the_options_of_preprocessing(options: dict, clean: torch.Tensor) -> None:
    other = Preprocess(CHANNELS, **options)
    before = clean.clamp(-other.clip, other.clip)
    mixed = mixing(other).vary(before, PRESENT).scaled[:, PPG]
    assert mixed.isfinite().all()
    assert mixed.abs().max() <= other.clip
    if other.scaling == "zscore":
        assert torch.allclose(mixed.std(-1), before[:, PPG].std(-1), rtol=0.1)


def test_callers_that_cannot_change_labels_are_refused(clean: torch.Tensor, preprocess: Preprocess) -> None:
    variation = mixing(preprocess)
    assert variation
    assert variation.changes_labels
    model = PPGQualityClassifier(encoder={"init_args": TINY}, augment={"motion_mixing": 1.0})
    with pytest.raises(UserError, match="changes labels"):
        model.prefix({"signals": clean, "present": PRESENT}, 0, vary=True)


def test_targets_follow() -> None:
    spoiled = torch.linspace(0, 1, 11)
    good, poor = torch.ones(11), torch.zeros(11)
    assert torch.equal(lower_targets(poor, spoiled, soft=False), poor)
    assert torch.equal(lower_targets(poor, spoiled, soft=True), poor)
    hard = lower_targets(good, spoiled, soft=False)
    assert hard[0] == 1
    assert (hard[5:] == 0).all(), "half a window spoiled is poor"
    assert (hard[:5].diff() < 0).all()
    assert torch.allclose(lower_targets(0.8 * good, spoiled, soft=True), 0.8 * (1 - spoiled))
    # the formula against its own assumption, drawn: the share spoiled before is uniform below one half
    before = torch.rand(100_000) / 2
    for share in (0.1, 0.3, 0.45):
        still = float(((before + share * (1 - before)) < 0.5).float().mean())
        assert lower_targets(torch.ones(1), torch.tensor([share]), soft=False).item() == pytest.approx(still, abs=0.01)
