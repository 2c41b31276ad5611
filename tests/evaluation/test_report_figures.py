"""What the report computes: bands, strata, cases, what drove a verdict, and the pulse rate."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_windows

from butppg_lightning.evaluation.report.cases import Case, choose_cases, occlusion
from butppg_lightning.evaluation.report.groups import describe_groups, motion_thirds, strata
from butppg_lightning.evaluation.report.heart_rate import SHARES, match_heart_rates, pulse_rates
from butppg_lightning.evaluation.report.pictures import case_picture, tint, tint_legend

pytest.importorskip("matplotlib")
TIME = np.arange(1250) / 125


@pytest.mark.parametrize("rate", [38, 52, 75, 110, 150, 205])
@pytest.mark.parametrize("harmonic", [0.0, 0.6, 1.2])
def test_pulse_rates_find_the_fundamental_under_drift_offset_and_either_polarity(rate: float, harmonic: float) -> None:
    phase = 2 * np.pi * rate / 60 * TIME
    pulse = np.sin(phase) + harmonic * np.sin(2 * phase + 1)
    noise = np.random.default_rng(int(rate)).normal(0, 0.2, 1250)
    found = pulse_rates(np.stack([500 + pulse + 0.5 * TIME + noise, -3 * pulse - 40, np.full(1250, 7.0)]))
    np.testing.assert_allclose(found[:2], rate, atol=1.5)
    assert np.isnan(found[2])


def test_coverage_keeps_the_surest_windows_and_leaves_unknown_ones_out() -> None:
    estimated = np.array([60, 70, 80, 90, np.nan, 100.0])
    reference = np.array([60, 72, 90, 130, 75, np.nan])
    probabilities = np.array([0.9, 0.8, 0.3, 0.2, 0.99, 0.99])
    rates = match_heart_rates(estimated, reference, probabilities)
    assert rates is not None
    assert rates.errors.tolist() == [0, 2, 10, 40]
    assert rates.left_out == 2
    figures = rates.figures()
    half = figures["by_probability"][SHARES.index(0.5)]
    assert half == {"kept": 0.5, "mean_error_bpm": 1.0, "median_error_bpm": 1.0, "within_tolerance": 1.0}
    assert figures["random"]["mean_error_bpm"] == 13
    assert match_heart_rates(estimated, reference * np.nan, probabilities) is None
    worst_first = match_heart_rates(estimated, reference, -probabilities)
    assert worst_first is not None
    told = worst_first.figures()
    assert told["by_probability"][SHARES.index(0.5)]["mean_error_bpm"] == 25
    assert told["ideal"] == figures["ideal"]


def test_strata_are_those_the_file_supports() -> None:
    windows = make_windows(30)
    windows.signals[:, :3] *= np.linspace(1, 20, 30)[:, None, None]
    windows.extras = {
        "motion": np.array(["0", "2;3", ""] * 10),
        "site": np.full(30, "finger"),
        "age": np.array([25, 30, 44, 45, 70, np.nan] * 5, dtype=np.float32),
        "record": np.arange(30).astype(str),
        "sex": np.array(["F", "M"] * 10),
    }
    found = strata(windows)
    assert list(found) == ["Motion", "Age", "Acceleration"]  # one site, and sexes of other windows
    assert found["Age"][:6].tolist() == ["under 30", "30 to 44", "30 to 44", "45 to 59", "60 and over", ""]
    assert _describe(found["Age"], windows)[0].name == "under 30"
    thirds = _describe(found["Acceleration"], windows)
    assert [(group.name, group.windows) for group in thirds] == [
        ("still", 10),
        ("some motion", 10),
        ("most motion", 10),
    ]
    assert sum(group.windows for group in _describe(found["Motion"], windows)) == 20
    windows.present = np.ones((30, 5), dtype=bool)
    windows.present[:4, 0] = False
    absent = motion_thirds(windows)
    assert absent is not None
    assert absent[:4].tolist() == [""] * 4
    windows.channels = ("PPG", "ECG")
    assert motion_thirds(windows) is None


def _describe(groups: np.ndarray, windows) -> list:
    return describe_groups(groups, windows.labels, np.linspace(0, 1, 30), windows.subjects, 0.5)


def test_groups_say_nothing_of_what_is_too_small(predictions: tuple[np.ndarray, ...]) -> None:
    labels, scores, subjects = predictions
    names = np.where(np.arange(120) < 110, "large", "small")
    labels[110:] = [1] + [0] * 9
    large, small = describe_groups(names, labels, scores, subjects, 0.5)
    assert large.auroc_interval is not None
    assert large.auroc_interval[0] < large.auroc < large.auroc_interval[1]
    assert small.auroc is not None
    assert small.auroc_interval is None
    labels[110] = 0
    assert describe_groups(names, labels, scores, subjects, 0.5)[1].auroc is None


def test_cases_are_the_surest_of_each_kind_and_of_different_people() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 1])
    scores = np.array([0.9, 0.95, 0.8, 0.1, 0.7, 0.05, 0.2])
    people = np.array(["a", "a", "b", "a", "a", "a", "b"])
    found = choose_cases(labels, scores, 0.5, people)
    assert found == [
        ("right_good", 1), ("right_good", 2), ("right_poor", 5), ("right_poor", 3), ("wrong_good", 4),
        ("wrong_poor", 6),
    ]  # fmt: skip
    assert choose_cases(None, scores, 0.5, None, each=1) == [("good", 1), ("poor", 5)]


def test_occlusion_finds_what_a_linear_model_adds_up() -> None:
    """What a second adds over the straight line between its neighbours; channels that are not usable add nothing."""
    generator = np.random.default_rng(0)
    weights, window = generator.normal(size=(2, 3, 100)).astype(np.float32)

    def logits(batch: np.ndarray) -> np.ndarray:
        assert len(batch) == 21
        return (batch * weights).sum(axis=(1, 2))

    pushes = occlusion(logits, window, np.array([True, False, True]))
    line = window.copy()
    for channel in (0, 2):
        padded = np.r_[window[channel, 10], window[channel], window[channel, 89]]  # the one sample beside either end
        for second in range(10):
            ends = padded[10 * second], padded[10 * second + 11]
            line[channel, 10 * second : 10 * second + 10] = np.linspace(*ends, 12)[1:-1]
    expected = (weights * (window - line)).reshape(3, 10, 10).sum(axis=2)
    np.testing.assert_allclose(pushes, expected, atol=1e-4)
    assert not pushes[1].any()


@pytest.mark.parametrize("kind", ["right_good", "right_poor", "wrong_good", "wrong_poor", "good", "poor"])
def test_a_tint_says_what_a_second_did_to_the_verdict_of_its_own_window(kind: str) -> None:
    """The second that pulled the logit where the verdict lies is tinted as speaking for it, whatever the verdict."""
    pushes = np.zeros((1, 10))
    pushes[0, 3], pushes[0, 7] = 2.0, -1.0  # raises, lowers the probability of good
    case = Case(0, kind, np.zeros((1, 1250)), np.array([True]), pushes)
    verdict = "good" if kind.endswith("good") else "poor"
    helped, harmed = (3, 7) if verdict == "good" else (7, 3)
    colours = [tint(support) for support in case.support[0]]
    legend = tint_legend(case)
    assert legend[colours[helped]] == f"spoke for “{verdict}”, the verdict"
    assert legend[colours[harmed]] == f"spoke for “{'poor' if verdict == 'good' else 'good'}”"
    svg = case_picture(0, case, ["PPG"])
    assert svg.count("the verdict") == 1
    assert svg.count("var(--accent)") >= 2  # the second, and the legend
    assert svg.count("var(--against)") >= 2
    assert "var(--good)" not in svg
    assert "var(--poor)" not in svg
