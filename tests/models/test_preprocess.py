import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.sources.resampling import resample
from butppg_lightning.window import CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES

TIME = torch.arange(WINDOW_SAMPLES) / SAMPLING_RATE
INNER = slice(125, -125)


def tone(frequency: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * frequency * TIME).view(1, 1, -1)


@pytest.mark.parametrize(
    ("channel", "frequency", "passes"),
    [
        ("PPG", 0.1, False),
        ("PPG", 1.5, True),
        ("PPG", 5.0, True),
        ("PPG", 20.0, False),
        ("ECG", 0.1, False),
        ("ECG", 15.0, True),
        ("ECG", 60.0, False),
        ("ACC_X", 0.0, False),
        ("ACC_X", 5.0, True),
    ],
)
def test_bands(channel: str, frequency: float, passes: bool) -> None:
    preprocess = Preprocess([channel], clip=1e9)
    key = f"{channel[:3].lower()}_band"
    signal = tone(frequency) if frequency else torch.full((1, 1, WINDOW_SAMPLES), 9.81)
    power = preprocess._filter(key, signal)[..., INNER].square().mean().item()
    assert power > 0.45 if passes else power < 0.01


def test_phase_is_kept() -> None:
    filtered = Preprocess(["PPG"])._filter("ppg_band", tone(2.0))
    assert torch.allclose(filtered[..., INNER], tone(2.0)[..., INNER], atol=0.03)


def test_scale_and_offset_of_a_device_do_not_matter() -> None:
    signal = tone(1.3) + 0.3 * tone(2.6)
    preprocess = Preprocess(["PPG"])
    assert torch.allclose(preprocess(signal), preprocess(0.2 * signal - 254), atol=2e-3)


def test_robust_scaling_matches_numpy() -> None:
    preprocess = Preprocess(["PPG"], clip=1e9, polarity="recorded")
    signal = tone(1.3) + 0.5 * tone(3.1)
    filtered = preprocess._filter("ppg_band", signal).numpy()
    low, middle, high = np.percentile(filtered, [25, 50, 75])
    assert np.allclose(preprocess(signal).numpy(), (filtered - middle) / (high - low), atol=1e-5)


def test_flat_and_absent_channels_are_zero() -> None:
    signals = torch.cat([tone(1.3).expand(1, 4, -1), torch.full((1, 1, WINDOW_SAMPLES), 30_000.0)], dim=1)
    present = torch.tensor([[True, False, True, True, True]])
    scaled = Preprocess(CHANNELS)(signals, present)
    assert scaled[0, 1].abs().max() == 0
    assert scaled[0, 4].abs().max() < 0.1
    assert torch.isfinite(scaled).all()


def test_acceleration_scale_comes_from_training_and_keeps_size() -> None:
    preprocess = Preprocess(CHANNELS)
    train = torch.zeros(4, 5, WINDOW_SAMPLES)
    train[:, :3] = 0.5 * tone(3.0) + 1.0
    preprocess.fit(train)
    assert preprocess.acc_scale.item() == pytest.approx(0.5 / 2**0.5, rel=0.02)
    moved = torch.zeros(1, 5, WINDOW_SAMPLES)
    moved[:, 0] = 1.0 * tone(3.0)[0] + 1.0
    assert preprocess(moved)[0, 0].square().mean().sqrt().item() == pytest.approx(2.0, rel=0.05)


def test_fit_leaves_absent_channels_out() -> None:
    preprocess = Preprocess(CHANNELS)
    train = torch.zeros(2, 5, WINDOW_SAMPLES)
    train[0, :3] = tone(3.0)
    present = torch.tensor([[True] * 5, [False] * 3 + [True] * 2])
    preprocess.fit(train, present)
    assert preprocess.acc_scale.item() == pytest.approx(0.5**0.5, rel=0.02)


def test_order_of_channels_is_kept() -> None:
    signals = torch.randn(3, 5, WINDOW_SAMPLES)
    forward = Preprocess(CHANNELS)(signals)
    order = [4, 0, 3, 2, 1]
    shuffled = Preprocess([CHANNELS[row] for row in order])(signals[:, order])
    assert torch.allclose(shuffled, forward[:, order], atol=1e-4)


def test_autocast_does_not_reach_it() -> None:
    signal = 3000 + tone(1.3)
    with torch.autocast("cpu", torch.bfloat16):
        scaled = Preprocess(["PPG"])(signal)
    assert scaled.dtype == torch.float32
    assert torch.allclose(scaled, Preprocess(["PPG"])(signal))


@pytest.mark.parametrize(
    "options", [{"ppg_band": (8, 0.5)}, {"scaling": "magic"}, {"clip": 0}, {"scale_floor": 0}, {"polarity": "up"}]
)
def test_impossible_options(options: dict) -> None:
    with pytest.raises(UserError):
        Preprocess(["PPG"], **options)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gain=st.floats(1e-3, 1e3), offset=st.floats(-100, 100), up=st.booleans())
def test_neither_polarity_nor_mounting_shows(seed: int, gain: float, offset: float, up: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    signals = (
        torch.randn(2, 5, WINDOW_SAMPLES, generator=generator).cumsum(-1) * torch.tensor([3.0, 1, 2, 1, 1])[:, None]
    )
    other = signals.clone()
    other[:, 3] = signals[:, 3] * (gain if up else -gain) + offset * gain
    axes, _ = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator))
    other[:, :3] = axes @ signals[:, :3] + offset
    preprocess = Preprocess(CHANNELS)
    preprocess.fit(signals)
    assert torch.allclose(preprocess(signals), preprocess(other), atol=5e-3)
    recorded = Preprocess(CHANNELS, polarity="recorded", mounting="recorded")
    assert torch.allclose(recorded(signals)[:, 4], preprocess(signals)[:, 4]), "an ECG stays as it was recorded"


@pytest.mark.parametrize("sign", [1, -1])
def test_steep_flanks_of_the_ppg_rise(sign: int) -> None:
    sawtooth = sign * (1 - (TIME * 1.2) % 1)  # rises at once, falls slowly
    slopes = Preprocess(["PPG"])(sawtooth.view(1, 1, -1)).diff().flatten()
    assert slopes.max() > 2 * -slopes.min()


def test_the_strongest_axis_is_the_first_and_two_axes_stay_as_recorded() -> None:
    signals = torch.zeros(2, 5, WINDOW_SAMPLES)
    signals[:, 2] = tone(3.0)
    present = torch.ones(2, 5, dtype=torch.bool)
    present[1, 0] = False
    scaled = Preprocess(CHANNELS)(signals, present)
    power = scaled[:, :3].square().mean(-1)
    assert power[0].argmax() == 0
    assert power[1].argmax() == 2
    assert torch.allclose(power[0].sum(), power[1].sum(), rtol=1e-3)


def test_what_is_canonical_stays() -> None:
    signals = torch.randn(4, 5, WINDOW_SAMPLES)
    preprocess = Preprocess(CHANNELS)
    scaled = preprocess(signals)
    assert torch.allclose(preprocess.orient(scaled), scaled, atol=1e-4)


def test_a_checkpoint_of_before_keeps_what_it_was_trained_on() -> None:
    stored = Preprocess(CHANNELS).options
    del stored["polarity"], stored["mounting"]
    signals = torch.randn(2, 5, WINDOW_SAMPLES)
    assert Preprocess.from_options(CHANNELS, stored).options["polarity"] == "recorded"
    assert torch.equal(
        Preprocess.from_options(CHANNELS, stored)(signals),
        Preprocess(CHANNELS, polarity="recorded", mounting="recorded")(signals),
    )
    assert Preprocess.from_options(CHANNELS, {"clip": 5.0}).options["polarity"] == "canonical"


@pytest.mark.parametrize("rate", [25.0, 30.0, 64.0, 500.0])
def test_the_native_rate_does_not_show(rate: float) -> None:
    def recorded(rate: float) -> np.ndarray:
        time = np.arange(round(10 * rate)) / rate
        return sum(np.sin(2 * np.pi * 1.2 * k * time + 0.4 * k) / k**2 for k in range(1, 7)) * 300 - 254

    native = torch.from_numpy(resample(recorded(rate), rate)).view(1, 1, -1)
    wanted = Preprocess(["PPG"])(torch.from_numpy(recorded(125.0)).view(1, 1, -1))
    assert torch.allclose(Preprocess(["PPG"])(native)[..., INNER], wanted[..., INNER], atol=0.05)
