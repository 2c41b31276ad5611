"""Synthetic recordings: labels follow BUT PPG's rule, and no single cue gives them away."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.signal import butter, find_peaks, sosfiltfilt
from scipy.stats import rankdata

from butppg_lightning.errors import UserError
from butppg_lightning.sources.synthetic import generate, synthesize, write_mock
from butppg_lightning.sources.synthetic.corruption import FAULTS
from butppg_lightning.sources.synthetic.generate import SPLIT_FILES, minimum_samples
from butppg_lightning.sources.synthetic.heart import draw_beats, draw_pulse
from butppg_lightning.sources.synthetic.motion import MOTIONS
from butppg_lightning.sources.synthetic.readers import judge, read_rates, signal_to_noise
from butppg_lightning.sources.synthetic.subjects import draw_subject
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS, read_windows

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

COUNT = 1600


@pytest.fixture(scope="module")
def timed() -> tuple[WindowSet, float]:
    start = time.perf_counter()
    windows = synthesize(COUNT, seed=2024)
    return windows, time.perf_counter() - start


@pytest.fixture(scope="module")
def recorded(timed: tuple[WindowSet, float]) -> WindowSet:
    return timed[0]


@pytest.fixture(scope="module")
def patients() -> WindowSet:
    return synthesize(240, seed=5, layout="vitaldb")


def auroc(score: Array, labels: Array) -> float:
    ranks, good = rankdata(score), labels == 1
    return float((ranks[good].mean() - (good.sum() + 1) / 2) / (~good).sum())


def separation(score: Array, labels: Array) -> float:
    """AUROC in whichever direction separates better."""
    return max(auroc(score, labels), 1 - auroc(score, labels))


def band_spectrum(ppg: Array) -> tuple[Array, Array]:
    """Frequencies (Hz) and shares of power between 0.5 and 8 Hz; 0 everywhere for a flat recording."""
    centred = (ppg - np.median(ppg, axis=1, keepdims=True)) * np.hanning(ppg.shape[1])
    frequency = np.fft.rfftfreq(4096, 1 / 125)
    inside = (frequency >= 0.5) & (frequency <= 8)
    power = np.abs(np.fft.rfft(centred, 4096, axis=1))[:, inside] ** 2
    return frequency[inside], power / np.maximum(power.sum(axis=1, keepdims=True), 1e-12)


def peak_share(ppg: Array, width: float, *, harmonic: bool) -> Array:
    frequency, power = band_spectrum(ppg)
    peak = frequency[np.where(frequency <= 3.5, power, 0).argmax(axis=1)][:, None]
    near = np.abs(frequency - peak) <= width
    if harmonic:
        near |= np.abs(frequency - 2 * peak) <= width
    return (power * near).sum(axis=1)


def motion_features(acceleration: Array) -> Array:
    """Energies of the accelerometer by band, its jerk and the spread of its magnitude, all logarithmic."""
    moving = acceleration - np.median(acceleration, axis=2, keepdims=True)
    power = (np.abs(np.fft.rfft(moving, axis=2)) ** 2).sum(axis=1)
    frequency = np.fft.rfftfreq(acceleration.shape[2], 1 / 125)
    edges = (0.1, 0.5, 1, 2, 3, 5, 10, 30)
    bands = [power[:, (frequency >= low) & (frequency < high)].mean(axis=1) for low, high in itertools.pairwise(edges)]
    jerk = (np.diff(acceleration, axis=2) ** 2).mean(axis=(1, 2))
    spread = np.linalg.norm(acceleration, axis=1).std(axis=1)
    return np.log(np.stack([(moving**2).mean(axis=(1, 2)), jerk, spread, *bands], axis=1) + 1e-9)


def cross_validated_logistic(features: Array, labels: Array, subjects: Array) -> Array:
    """Scores of a ridge logistic regression with squares, each fold of subjects scored by the others' fit."""
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    design = np.column_stack([features, features**2, np.ones(len(labels))])
    fold = np.unique(subjects, return_inverse=True)[1] % 5
    scores = np.zeros(len(labels))
    for held_out in range(5):
        train = fold != held_out
        weights = np.zeros(design.shape[1])
        for _ in range(25):  # Newton steps
            chance = 1 / (1 + np.exp(-design[train] @ weights))
            curvature = (design[train].T * (chance * (1 - chance))) @ design[train] + np.eye(weights.size)
            weights += np.linalg.solve(curvature, design[train].T @ (labels[train] - chance) - weights)
        scores[~train] = design[~train] @ weights
    return scores


def channel(windows: WindowSet, name: str) -> Array:
    return windows.signals[:, windows.channels.index(name)].astype(float)


def r_peaks(ecg: Array) -> Array:
    energy = sosfiltfilt(butter(2, (8, 30), btype="bandpass", fs=125, output="sos"), ecg) ** 2
    return find_peaks(energy, height=0.25 * np.quantile(energy, 0.99), distance=32)[0]


# --- what the files hold


def test_windows_keep_the_contract(recorded: WindowSet) -> None:
    assert recorded.channels == CHANNELS
    assert recorded.signals.shape == (COUNT, 5, 1250)
    assert recorded.signals.dtype == np.float32
    assert np.isfinite(recorded.signals).all()
    assert set(np.unique(recorded.labels)) == {0, 1}
    assert len(np.unique(recorded.subjects)) == COUNT // 20
    assert recorded.hr_ref.min() > 40
    assert recorded.hr_ref.max() < 195
    assert {len(values) for values in recorded.extras.values()} == {COUNT}


def test_every_subject_has_both_labels_but_not_in_the_same_shares(recorded: WindowSet) -> None:
    shares = [recorded.labels[recorded.subjects == name].mean() for name in np.unique(recorded.subjects)]
    assert min(shares) > 0
    assert max(shares) < 1
    assert np.std(shares) > 0.1


def test_a_thousand_windows_take_seconds(timed: tuple[WindowSet, float]) -> None:
    assert timed[1] * 1000 / COUNT < 40


@pytest.mark.parametrize("good_share", [0.1, 0.21, 0.5, 0.9])
def test_share_of_good_windows_is_what_was_asked_for(good_share: float) -> None:
    assert synthesize(150, seed=1, good_share=good_share).labels.mean() == pytest.approx(good_share, abs=0.01)


def test_default_share_is_that_of_but_ppg(recorded: WindowSet) -> None:
    assert recorded.labels.mean() == pytest.approx(0.21, abs=0.02)


def test_same_seed_same_bits_other_seed_other_windows() -> None:
    first, again, other = (synthesize(40, seed=seed) for seed in (3, 3, 4))
    assert first.signals.tobytes() == again.signals.tobytes()
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.signals, other.signals)


def test_a_window_does_not_depend_on_the_windows_drawn_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    together = synthesize(40, seed=3)
    monkeypatch.setattr(generate, "_CHUNK", 7)
    assert np.array_equal(together.signals, synthesize(40, seed=3).signals)


# --- what separates good from poor, and what must not


def test_signal_to_noise_is_the_cause_of_the_label(recorded: WindowSet) -> None:
    assert auroc(recorded.extras["generator_snr_db"], recorded.labels) > 0.97


def test_amplitude_alone_does_not_tell(recorded: WindowSet) -> None:
    ppg = channel(recorded, "PPG")
    assert separation(ppg.std(axis=1), recorded.labels) < 0.9
    assert separation(np.subtract(*np.percentile(ppg, (90, 10), axis=1)), recorded.labels) < 0.9


@pytest.mark.parametrize("harmonic", [False, True])
@pytest.mark.parametrize("width", [0.1, 0.2])
def test_one_spectral_peak_does_not_tell(recorded: WindowSet, width: float, harmonic: bool) -> None:
    share = peak_share(channel(recorded, "PPG"), width, harmonic=harmonic)
    assert 0.6 < separation(share, recorded.labels) < 0.9


def test_spectral_entropy_does_not_tell(recorded: WindowSet) -> None:
    power = band_spectrum(channel(recorded, "PPG"))[1]
    assert 0.6 < separation(-(power * np.log(power + 1e-15)).sum(axis=1), recorded.labels) < 0.9


def test_acceleration_hints_but_does_not_tell(recorded: WindowSet) -> None:
    features = motion_features(recorded.signals[:, :3].astype(float))
    alone = [separation(column, recorded.labels) for column in features.T]
    together = cross_validated_logistic(features, recorded.labels, recorded.subjects)
    assert 0.53 < max(alone) < 0.75
    assert auroc(together, recorded.labels) < 0.75


def test_ecg_amplitude_does_not_tell(recorded: WindowSet) -> None:
    assert separation(channel(recorded, "ECG").std(axis=1), recorded.labels) < 0.6


def test_heart_rate_is_independent_of_the_label(recorded: WindowSet) -> None:
    assert 0.4 < auroc(recorded.hr_ref, recorded.labels) < 0.6
    assert np.quantile(recorded.hr_ref, 0.02) < 60
    assert np.quantile(recorded.hr_ref, 0.98) > 160


@pytest.mark.parametrize(
    ("extra", "kinds"),
    [("motion", MOTIONS), ("fault", FAULTS), ("rhythm", ("sinus", "ectopy", "fibrillation"))],
)
def test_every_kind_occurs_with_both_labels(recorded: WindowSet, extra: str, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        assert set(recorded.labels[recorded.extras[extra] == kind]) == {0, 1}, kind


# --- the rule


def test_readers_read_clean_pulses_of_every_rhythm() -> None:
    pulses, rates, rhythms = [], [], []
    for index in range(300):
        rng = np.random.default_rng(index)
        subject = draw_subject(rng, "S", "but_ppg")
        beats = draw_beats(rng, subject)
        pulses.append(draw_pulse(rng, subject, beats))
        rates.append(beats.mean_rate)
        rhythms.append(beats.rhythm)
    good = judge(read_rates(np.stack(pulses)), np.zeros((300, 5)), np.array(rates))
    assert good.mean() > 0.97
    for rhythm in ("ectopy", "fibrillation"):
        assert good[np.array(rhythms) == rhythm].mean() > 0.88, rhythm


def test_readers_do_not_read_noise() -> None:
    rng = np.random.default_rng(0)
    noise = np.cumsum(rng.normal(size=(200, 1250)), axis=1)
    assert judge(read_rates(noise), np.zeros((200, 5)), rng.uniform(50, 170, 200)).mean() < 0.06


def test_readers_give_up_on_a_flat_recording() -> None:
    flat = np.full((1, 1250), 3.0)
    assert np.isnan(read_rates(flat)).all()
    assert signal_to_noise(np.sin(np.arange(1250.0) / 20)[None], flat)[0] == pytest.approx(-40)


def test_signal_to_noise_ignores_the_unit_and_counts_what_is_added() -> None:
    time_axis = np.arange(1250) / 125
    pulse, artefact = np.sin(2 * np.pi * 1.3 * time_axis)[None], np.sin(2 * np.pi * 3.1 * time_axis)[None]
    assert signal_to_noise(pulse, 500 + 40 * (pulse + 0.1 * artefact))[0] == pytest.approx(20, abs=0.3)


# --- physiology and devices


def test_r_peaks_come_at_the_reference_rate(recorded: WindowSet) -> None:
    rows = np.flatnonzero((recorded.extras["motion"] == "rest") & (recorded.extras["rhythm"] == "sinus"))[:200]
    found = [r_peaks(ecg) for ecg in channel(recorded, "ECG")[rows]]
    rates = np.array([60 * 125 * (peaks.size - 1) / (peaks[-1] - peaks[0]) for peaks in found])
    assert (np.abs(rates - recorded.hr_ref[rows]) < 2).mean() > 0.93


def test_upstrokes_follow_the_r_peaks_by_the_lag_of_the_device() -> None:
    for index in range(60):
        rng = np.random.default_rng(index)
        subject = draw_subject(rng, "S", "but_ppg")
        assert 0.15 <= subject.lag <= 0.6
        beats = draw_beats(rng, subject, calm=True)
        slope = np.diff(draw_pulse(rng, subject, beats)) * 125
        inside = beats.times[(beats.times > 0.2) & (beats.times < 9)]
        lags = []
        for beat in inside:
            start = int((beat + subject.lag - 0.12) * 125)
            lags.append((start + slope[start : start + 30].argmax() + 0.5) / 125 - beat)
        assert np.median(lags) == pytest.approx(subject.lag, abs=0.02)


def test_recorded_ppg_follows_the_recorded_ecg(recorded: WindowSet) -> None:
    rows = np.flatnonzero((recorded.extras["generator_snr_db"] > 14) & (recorded.hr_ref < 85))[:60]
    lags = []
    for ecg, ppg in zip(channel(recorded, "ECG")[rows], channel(recorded, "PPG")[rows], strict=True):
        slope = np.gradient(ppg)
        peaks = r_peaks(ecg)
        peaks = peaks[peaks < 1250 - 90]
        after = np.mean([slope[peak : peak + 90] for peak in peaks], axis=0)
        lags.append(after.argmax() / 125)
    inside = (np.array(lags) > 0.12) & (np.array(lags) < 0.65)
    assert inside.mean() > 0.9
    assert np.ptp(lags) > 0.2  # devices and subjects differ


def test_acceleration_at_rest_is_one_g(recorded: WindowSet) -> None:
    resting = recorded.signals[recorded.extras["motion"] == "rest", :3]
    assert np.allclose(np.linalg.norm(resting, axis=1).mean(axis=1), 1, atol=0.03)
    walking = recorded.signals[recorded.extras["motion"] == "walking", :3]
    assert np.median(walking.std(axis=2).max(axis=1)) > 10 * np.median(resting.std(axis=2).max(axis=1))


def test_camera_windows_have_no_tone_at_the_native_rate(recorded: WindowSet) -> None:
    camera = channel(recorded, "PPG")[recorded.extras["device"] == "phone_camera"]
    power = np.abs(np.fft.rfft(camera * np.hanning(1250), axis=1)) ** 2
    frequency = np.fft.rfftfreq(1250, 1 / 125)
    leaked = power[:, (frequency > 28) & (frequency < 32)].sum(axis=1) / np.maximum(power.sum(axis=1), 1e-9)
    assert leaked.max() < 1e-3


def test_devices_have_scales_of_their_own(recorded: WindowSet) -> None:
    spread = channel(recorded, "PPG").std(axis=1)
    typical = {
        device: np.median(spread[recorded.extras["device"] == device]) for device in set(recorded.extras["device"])
    }
    assert sorted(typical) == ["finger_clip", "phone_camera", "wrist_band"]
    assert typical["wrist_band"] > 30 * typical["phone_camera"] > 30 * typical["finger_clip"]


# --- pretraining windows


def test_patients_are_unlabelled_and_mostly_clean(patients: WindowSet) -> None:
    assert patients.channels == PRETRAIN_CHANNELS
    assert patients.signals.shape == (240, 2, 1250)
    assert patients.labels is None
    assert np.median(patients.extras["generator_snr_db"]) > 10
    assert 0.6 < (patients.extras["generator_snr_db"] > 5).mean() < 0.98


# --- files


@pytest.mark.parametrize("seed", range(3))
def test_splits_of_thirty_windows_have_both_labels_and_subjects_of_their_own(tmp_path: Path, seed: int) -> None:
    summary = write_mock(tmp_path, 30, seed=seed)
    parts = {split: read_windows(tmp_path / name, labelled=True) for split, name in SPLIT_FILES["but_ppg"].items()}
    seen: set[str] = set()
    for split, part in parts.items():
        assert set(np.asarray(part.labels)) == {0, 1}
        assert not seen & set(part.subjects)
        seen |= set(part.subjects)
        assert (summary[split].windows, set(summary[split].subjects)) == (len(part), set(part.subjects))
    assert sum(len(part) for part in parts.values()) == 30


def test_splits_hold_about_seventy_fifteen_fifteen_percent(tmp_path: Path) -> None:
    summary = write_mock(tmp_path, 400, seed=0)
    shares = {split: part.windows / 400 for split, part in summary.items()}
    assert shares == pytest.approx({"train": 0.7, "val": 0.15, "test": 0.15}, abs=0.02)
    assert all(0.1 < part.good_share < 0.35 for part in summary.values())


def test_files_of_the_same_seed_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    for folder in ("first", "again"):
        write_mock(tmp_path / folder, 30, seed=9)
    for name in SPLIT_FILES["but_ppg"].values():
        first, again = (np.load(tmp_path / folder / name) for folder in ("first", "again"))
        assert all(first[key].tobytes() == again[key].tobytes() for key in first.files)


def test_patients_of_the_pretraining_splits_are_disjoint(tmp_path: Path) -> None:
    write_mock(tmp_path, 60, seed=0, layout="vitaldb")
    train, val = (read_windows(tmp_path / name, labelled=False) for name in SPLIT_FILES["vitaldb"].values())
    assert train.labels is None
    assert not set(train.subjects) & set(val.subjects)
    assert len(train) + len(val) == 60


@pytest.mark.parametrize("good_share", [0.05, 0.21, 0.5, 0.95])
def test_the_minimum_is_enough_and_one_less_is_not(tmp_path: Path, good_share: float) -> None:
    least = minimum_samples("but_ppg", good_share)
    for name, part in write_mock(tmp_path, least, seed=0, good_share=good_share).items():
        assert 0 < part.good_share < 1, name
    with pytest.raises(UserError, match=f"the minimum is {least}"):
        write_mock(tmp_path, least - 1, seed=0, good_share=good_share)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "at least 1"),
        ({"seed": -1}, "0 or more"),
        ({"good_share": 0.99}, "choose 0.05 to 0.95"),
        ({"good_share": float("nan")}, "good_share"),
        ({"subjects": 50}, "choose 1 to 20"),
    ],
)
def test_impossible_requests_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        synthesize(**{"samples": 20, "seed": 0, **wrong})
