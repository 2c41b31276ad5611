"""Signal indices: what they say of signals whose answer is known, what they must not depend on, and ONNX."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from conftest import REAL_DATA

from butppg_lightning.errors import UserError
from butppg_lightning.models.indices.signal_indices import GROUPS, INDEX_NAMES, SignalIndices, index_names
from butppg_lightning.window import CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES, read_windows

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = torch.arange(WINDOW_SAMPLES) / SAMPLING_RATE
ALL = list(GROUPS)


def pulse(rate: float, sharpness: float = 2.0) -> torch.Tensor:
    """A train of smooth pulses, ``rate`` a second."""
    return torch.exp(sharpness * torch.cos(2 * torch.pi * rate * SECONDS))


def beats(rate: float) -> torch.Tensor:
    """An ECG of narrow spikes, ``rate`` a second."""
    return torch.exp(300 * (torch.cos(2 * torch.pi * rate * (SECONDS - 0.2)) - 1))


def window(ppg: torch.Tensor, ecg_rate: float = 1.2, motion: float = 0.02, motion_rate: float = 2.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    acc = motion * torch.sin(2 * torch.pi * motion_rate * SECONDS).repeat(3, 1) + torch.tensor([[0.0], [0.0], [1.0]])
    acc = acc + 1e-3 * torch.randn(acc.shape, generator=generator)
    return torch.cat([acc, ppg[None], beats(ecg_rate)[None]])[None]


def noise(seed: int) -> torch.Tensor:
    return torch.randn(WINDOW_SAMPLES, generator=torch.Generator().manual_seed(seed))


def indices_of(signals: torch.Tensor, **more: torch.Tensor) -> dict[str, float]:
    module = SignalIndices(CHANNELS, ALL)
    return dict(zip(module.names, module(signals, **more)[0].tolist(), strict=True))


def test_a_clean_pulse_and_its_rates() -> None:
    found = indices_of(window(pulse(1.2)))
    assert found["autocorrelation_peak"] > 0.95
    assert abs(found["autocorrelation_lag"] - 1 / 1.2) < 0.01
    assert found["template_match"] > 0.98
    assert found["harmonic_share"] > 0.8
    assert found["rate_conflict"] < 0.1
    assert found["skewness"] > 0.5
    assert found["ecg_rate_difference"] < 0.02
    assert found["power_at_ecg_rate"] > 0.8
    assert found["spread_variation"] < 0.15


def test_noise_is_told_from_a_pulse_in_every_index_of_quality() -> None:
    clean = indices_of(window(pulse(1.2)))
    dirty = indices_of(window(noise(1)))
    for name in ("template_match", "peak_share", "autocorrelation_peak", "harmonic_share", "power_at_ecg_rate"):
        assert clean[name] > dirty[name] + 0.15, name
    for name in ("spectral_entropy", "local_entropy", "rate_conflict", "ecg_rate_difference"):
        assert clean[name] < dirty[name] - 0.1, name


def test_a_sine_is_pure_and_its_moments_are_those_of_the_textbook() -> None:
    found = indices_of(window(torch.sin(2 * torch.pi * 2.0 * SECONDS)))
    assert found["spectral_purity"] > 0.9
    assert found["log_kurtosis"] == pytest.approx(math.log10(1.5), abs=0.02)
    assert abs(found["skewness"]) < 0.05
    assert found["zero_crossing_rate"] == pytest.approx(4.0, abs=0.2)
    assert found["relative_power"] > 0.9


def test_an_ecg_of_another_rate_disagrees() -> None:
    found = indices_of(window(pulse(1.2), ecg_rate=1.9))
    assert found["ecg_regularity"] > 0.8
    assert found["ecg_rate_difference"] == pytest.approx(0.7, abs=0.05)
    assert found["power_at_ecg_rate"] < 0.2


def test_a_burst_is_seen_as_non_stationary() -> None:
    ppg = pulse(1.2)
    steady = indices_of(window(ppg))
    burst = ppg.clone()
    burst[500:625] += 20 * torch.sin(2 * torch.pi * 3 * SECONDS[:125])
    moved = indices_of(window(burst))
    assert moved["largest_segment"] > steady["largest_segment"] + 0.3
    assert moved["spread_variation"] > steady["spread_variation"] + 0.3
    assert moved["log_kurtosis"] > steady["log_kurtosis"] + 0.2


def test_clipping_is_counted() -> None:
    ppg = SECONDS + torch.sin(2 * torch.pi * 1.2 * SECONDS)
    assert indices_of(window(ppg))["clipped_share"] < 0.01
    clipped = ppg.clamp(max=float(ppg.sort().values[-250]))  # 20 % of the samples
    assert indices_of(window(clipped))["clipped_share"] == pytest.approx(0.2, abs=0.01)


def test_motion_is_measured_in_g_and_at_its_frequency() -> None:
    found = indices_of(window(pulse(1.2), motion=0.5))
    assert found["motion_energy"] == pytest.approx(math.log10(3 * 0.5**2 / 2), abs=0.02)
    assert found["largest_motion"] >= found["motion_energy"]
    assert found["motion_frequency"] == pytest.approx(2.3, abs=0.06)
    same = indices_of(window(torch.sin(2 * torch.pi * 2.3 * SECONDS), motion=0.5))
    assert same["motion_overlap"] > 0.9 > 0.4 > found["motion_overlap"]


def test_a_burst_of_motion_counts_in_its_second() -> None:
    signals = window(pulse(1.2), motion=0.0)
    signals[:, 0, 500:625] += 0.4 * torch.sin(2 * torch.pi * 4 * SECONDS[:125])
    found = indices_of(signals)
    assert found["largest_motion"] == pytest.approx(math.log10(0.4**2 / 2), abs=0.1)
    assert found["motion_energy"] == pytest.approx(found["largest_motion"] - 1, abs=0.1)


def test_offset_and_gain_of_the_device_change_amplitude_only() -> None:
    ppg = pulse(1.2) + 0.2 * noise(3)
    one = indices_of(window(ppg))
    other = indices_of(window(-254 + 0.05 * ppg))
    for name in GROUPS["ppg"] + ("motion_overlap", "ecg_rate_difference", "power_at_ecg_rate"):
        assert other[name] == pytest.approx(one[name], abs=5e-3), name
    assert one["log_spread"] == pytest.approx(math.log10(ppg.std().item()), abs=1e-3)
    assert other["log_spread"] == pytest.approx(one["log_spread"] + math.log10(0.05), abs=1e-3)


@pytest.mark.parametrize(
    "ppg",
    [
        torch.zeros(WINDOW_SAMPLES),
        torch.full((WINDOW_SAMPLES,), -3e4),
        torch.arange(WINDOW_SAMPLES).float(),
        1e38 * noise(4).sign(),
        1e-38 * noise(5),
        (torch.arange(WINDOW_SAMPLES) == 600).float(),
    ],
    ids=["zero", "flat", "ramp", "huge", "tiny", "spike"],
)
def test_every_index_is_finite(ppg: torch.Tensor) -> None:
    signals = ppg.repeat(1, len(CHANNELS), 1)
    values = SignalIndices(CHANNELS, ALL)(signals)
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    ("absent", "zero"),
    [
        (
            ["PPG"],
            {
                *GROUPS["ppg"],
                *GROUPS["rates"],
                *GROUPS["intervals"],
                *GROUPS["rhythm"],
                *GROUPS["amplitude"],
                "motion_overlap",
                "ecg_rate_difference",
                "power_at_ecg_rate",
            },
        ),
        (["ECG"], set(GROUPS["ecg"])),
        (["ACC_X", "ACC_Y", "ACC_Z"], set(GROUPS["acc"])),
        (["ACC_X"], set()),
    ],
    ids=["ppg", "ecg", "acc", "one_axis"],
)
def test_what_needs_an_absent_channel_is_zero_and_the_rest_unmoved(absent: list[str], zero: set[str]) -> None:
    signals = window(pulse(1.2) + 0.3 * noise(6))
    present = torch.tensor([[name not in absent for name in CHANNELS]])
    module = SignalIndices(CHANNELS, ALL)
    full, part = module(signals)[0], module(signals, present)[0]
    for name, before, after in zip(module.names, full.tolist(), part.tolist(), strict=True):
        if name in zero:
            assert after == 0, name
        elif absent != ["ACC_X"] or name not in GROUPS["acc"]:
            assert after == before, name
    available = dict(zip(module.names, module.available(present)[0].tolist(), strict=True))
    assert {name for name, there in available.items() if not there} == zero
    # what an absent channel holds is not looked at
    filled = signals.clone()
    filled[:, [CHANNELS.index(name) for name in absent]] = 7.5
    assert torch.equal(module(filled, present)[0], part)


def test_columns_do_not_depend_on_the_order_of_channels_or_on_which_there_are() -> None:
    signals = window(pulse(1.2) + 0.3 * noise(7))
    module = SignalIndices(CHANNELS, ALL)
    turned = SignalIndices(CHANNELS[::-1], ALL)(signals.flip(1))
    assert torch.allclose(turned, module(signals), atol=1e-5)
    alone = SignalIndices(["PPG"], ALL)(signals[:, 3:4])[0]
    for name, value, whole in zip(INDEX_NAMES, alone.tolist(), module(signals)[0].tolist(), strict=True):
        expected = 0 if name in GROUPS["acc"] + GROUPS["ecg"] else whole
        assert value == pytest.approx(expected, abs=1e-5), name


def test_groups_are_chosen_and_amplitude_and_ecg_are_off() -> None:
    assert index_names() == GROUPS["ppg"] + GROUPS["acc"]
    assert index_names(ALL) == INDEX_NAMES
    assert SignalIndices(CHANNELS, ["ecg"])(window(pulse(1.2))).shape == (1, len(GROUPS["ecg"]))
    with pytest.raises(
        UserError, match="no group of signal indices 'spo2'; choose from rates, intervals, ppg, rhythm, acc, ecg"
    ):
        SignalIndices(CHANNELS, ["spo2"])


def test_nothing_is_stored_in_a_checkpoint() -> None:
    assert not SignalIndices(CHANNELS, ALL).state_dict()


def test_a_batch_gives_what_each_window_gives_also_under_autocast() -> None:
    signals = torch.cat([window(pulse(rate) + 0.3 * noise(8)) for rate in (0.8, 1.4, 2.2)])
    module = SignalIndices(CHANNELS, ALL)
    together = module(signals)
    assert torch.allclose(together, torch.cat([module(row[None]) for row in signals]), atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(signals), together)


def test_it_takes_less_than_a_third_of_a_millisecond_a_window() -> None:
    module = SignalIndices(
        CHANNELS, [group for group in ALL if group not in ("rates", "intervals")]
    )  # peaks alone take 0.4 ms
    signals = window(pulse(1.2) + noise(9)).repeat(128, 1, 1)
    durations = []
    for _ in range(6):
        begin = time.process_time()  # of this process: neighbours on the machine do not count
        module(signals)
        durations.append(time.process_time() - begin)
    # 0.2 ms on an idle core; the margin is for a machine whose caches are shared
    assert min(durations) / len(signals) < 0.6e-3


@pytest.mark.filterwarnings("ignore")
def test_onnx_computes_the_same_for_any_number_of_windows(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    module = SignalIndices(CHANNELS, ALL).eval()
    signals = torch.cat([window(pulse(1.1) + 0.1 * k * noise(k), ecg_rate=1.3, motion=0.1) for k in range(5)])
    present = torch.ones(5, len(CHANNELS), dtype=torch.bool)
    present[1, 4] = present[2, :3] = present[3, 3] = False
    names = ["signals", "present"]
    torch.onnx.export(
        module,
        (signals[:3], present[:3]),
        tmp_path / "indices.onnx",
        input_names=names,
        dynamic_axes={name: {0: "windows"} for name in names},
        opset_version=17,
        dynamo=False,  # in half a second; the other exporter takes ten
    )
    session = runtime.InferenceSession(tmp_path / "indices.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"signals": signals.numpy(), "present": present.numpy()})
    assert np.allclose(found, module(signals, present).numpy(), atol=1e-4)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real recordings beside the checkout")
def test_real_windows_rank_as_measured_and_the_rate_of_the_ecg_is_right() -> None:
    windows = read_windows(REAL_DATA / "spc2015_dev" / "windows.npz", labelled=True)
    module = SignalIndices(windows.channels, ALL)
    signals = torch.from_numpy(windows.signals.copy())
    values = dict(zip(module.names, module(signals).T.numpy(), strict=True))
    assert all(np.isfinite(column).all() for column in values.values())
    labels = windows.labels
    assert labels is not None
    assert windows.hr_ref is not None
    for name, sign in {"peak_share": 1, "local_entropy": -1, "spectral_entropy": -1}.items():
        column = sign * values[name]
        wins = (column[labels == 1][:, None] > column[labels == 0]).mean()
        assert wins > 0.87, name
    # where PPG and ECG agree in rate, that rate is the reference's, unless PPG follows the arm's motion too
    agree = values["ecg_rate_difference"] < 0.05
    rate = 60 / values["autocorrelation_lag"][agree]
    assert agree.sum() > 30
    assert (np.abs(rate - windows.hr_ref[agree]) < 5).mean() > 0.95
