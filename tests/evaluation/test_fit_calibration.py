import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.calibration import fit_temperature, roc_points
from butppg_lightning.evaluation.reliability import (
    Panel,
    calibration_slope,
    debiased_calibration_error,
    draw_reliability,
    expected_calibration_error,
    expected_ece,
    reliability_curve,
)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def draw(count: int, seed: int = 0, temperature: float = 1.0, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that they describe once divided by the temperature and shifted."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, count)
    return (generator.random(count) < sigmoid(logits / temperature + bias)).astype(np.int64), logits


def test_temperature_and_bias_are_found_again() -> None:
    labels, logits = draw(20_000, temperature=2.5, bias=-0.8)
    temperature, bias = fit_temperature(labels, logits)
    assert temperature == pytest.approx(2.5, rel=0.06)
    assert bias == pytest.approx(-0.8, abs=0.05)
    slope, intercept = calibration_slope(labels, sigmoid(logits / temperature + bias))
    assert slope == pytest.approx(1, abs=2e-3)
    assert intercept == pytest.approx(0, abs=2e-3)
    labels, logits = draw(20_000, temperature=0.5)
    assert fit_temperature(labels, logits, bias=False) == (pytest.approx(0.5, rel=0.06), 0.0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), scale=st.floats(1e-6, 1e4), offset=st.floats(-1e3, 1e3))
def test_no_other_temperature_is_likelier(seed: int, scale: float, offset: float) -> None:
    labels, logits = draw(60, seed)
    if labels.min() == labels.max():
        return
    targets = np.where(labels == 1, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((1 - labels).sum() + 2))

    def loss(slope: float, bias: float) -> float:
        scores = (logits + offset) * scale * slope + bias
        return float((np.logaddexp(0, scores) - targets * scores).sum())

    try:
        temperature, bias = fit_temperature(labels, (logits + offset) * scale)
    except UserError:
        return
    best = loss(1 / temperature, bias)
    for slope in (0.97, 1.03):
        moved = bias + offset * scale / temperature * (1 - slope)  # turn about the data, not about 0
        assert loss(slope / temperature, moved) >= best - 1e-6
    assert min(loss(1 / temperature, bias - 0.05), loss(1 / temperature, bias + 0.05)) >= best - 1e-6


def test_separable_predictions_keep_a_finite_temperature() -> None:
    logits = np.r_[np.linspace(-9, -1, 40), np.linspace(1, 9, 40)]
    temperature, bias = fit_temperature(np.repeat([0, 1], 40), logits)
    assert 0.2 < temperature < 2
    assert abs(bias) < 0.1
    assert 0.9 < sigmoid(np.array(9 / temperature)) < 1


def test_what_cannot_be_calibrated() -> None:
    labels, logits = draw(200)
    for found, scores, message in (
        (np.ones(200), logits, "both classes; there are 200 good and 0 poor"),
        (labels, np.zeros(200), "all the same"),
        (labels, np.where(np.arange(200) == 3, np.nan, logits), "not finite"),
        (labels, -logits, "good windows below poor ones"),
    ):
        with pytest.raises(UserError, match=message):
            fit_temperature(found, scores)


def test_slope_tells_too_extreme_and_intercept_too_high() -> None:
    labels, logits = draw(20_000)
    assert calibration_slope(labels, sigmoid(2 * logits))[0] == pytest.approx(0.5, abs=0.03)
    assert calibration_slope(labels, sigmoid(logits + 1))[1] == pytest.approx(-1, abs=0.06)
    assert calibration_slope(np.ones(5), np.full(5, 0.5)) == (None, None)
    slope, intercept = calibration_slope(np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.3, 0.9]))
    assert slope is None, "classes that touch but do not overlap have no likeliest slope"
    assert math.isfinite(intercept)
    assert calibration_slope(np.array([0, 1, 0, 1]), np.full(4, 0.2))[0] is None
    assert calibration_slope(np.array([0, 1]), np.array([0.1, np.nan])) == (None, None)


def test_a_perfect_model_shows_an_ece_too() -> None:
    plain, debiased, foretold = [], [], []
    for seed in range(150):
        labels, logits = draw(170, seed)
        probabilities = sigmoid(logits)
        plain.append(expected_calibration_error(labels, probabilities))
        debiased.append(debiased_calibration_error(labels, probabilities))
        foretold.append(expected_ece(probabilities, resamples=40, seed=seed))
    assert np.mean(foretold) == pytest.approx(0.07, abs=0.005)
    assert np.mean(plain) == pytest.approx(np.mean(foretold), abs=0.005)
    assert np.mean(debiased) < 0.7 * np.mean(plain)
    assert min(debiased) >= 0


def test_debiasing_leaves_a_real_gap() -> None:
    labels, logits = draw(3000)
    probabilities = sigmoid(3 * logits + 1)
    plain = expected_calibration_error(labels, probabilities)
    assert plain > 0.1
    assert debiased_calibration_error(labels, probabilities) == pytest.approx(plain, abs=0.01)


def test_reliability_has_wilsons_intervals() -> None:
    labels, probabilities = np.array([1] * 8 + [0] * 2 + [0] * 10), np.r_[np.full(10, 0.7), np.full(10, 0.1)]
    curve = reliability_curve(labels, probabilities, bins=2)
    assert curve.predicted.tolist() == pytest.approx([0.1, 0.7])
    assert curve.observed.tolist() == [0.0, 0.8]
    assert curve.counts.tolist() == [10, 10]
    assert (curve.low[1], curve.high[1]) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert (curve.low[0], curve.high[0]) == (0, pytest.approx(0.2775, abs=1e-4))


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 1), min_size=4, max_size=80).filter(lambda rows: 0 < sum(rows) < len(rows)),
    seed=st.integers(0, 999),
    coarse=st.booleans(),
)
def test_the_curve_has_every_point_worth_choosing(labels: list[int], seed: int, coarse: bool) -> None:
    truth = np.array(labels)
    logits = np.random.default_rng(seed).normal(truth * 1.0, 1)
    logits = np.round(logits) if coarse else logits
    cuts, kept, alarms = roc_points(truth, logits)
    for cut, sensitivity, rate in zip(cuts, kept, alarms, strict=True):
        assert ((logits >= cut)[truth == 1]).mean() == pytest.approx(sensitivity)
        assert ((logits >= cut)[truth == 0]).mean() == pytest.approx(rate)
    for cut in np.unique(logits):
        sensitivity, rate = ((logits >= cut)[truth == 1]).mean(), ((logits >= cut)[truth == 0]).mean()
        assert not sensitivity or ((kept >= sensitivity - 1e-12) & (alarms <= rate + 1e-12)).any()
    assert (cuts[-1], kept[-1], alarms[-1]) == (-np.inf, 1, 1)
    assert (np.diff(cuts) < 0).all()


def test_a_long_curve_is_thinned() -> None:
    labels, logits = draw(20_000)
    cuts, kept, alarms = roc_points(labels, logits)
    whole = roc_points(labels, logits, most=10**9)
    assert len(cuts) <= 200 < len(whole[0])
    assert (kept - alarms).max() > (whole[1] - whole[2]).max() - 0.005
    assert np.diff(np.r_[0, kept + alarms]).max() < 0.04


def test_the_diagram_is_a_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    labels, logits = draw(60)
    panels = [Panel("before", labels, sigmoid(3 * logits)), Panel("after", labels, sigmoid(logits), {"balanced": 0.4})]
    draw_reliability(tmp_path / "reliability.png", panels)
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
