"""Intervals over resamples of whole subjects, held against torchmetrics on the resamples written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional import classification

from butppg_lightning.evaluation.bootstrap import (
    GRID,
    Ranking,
    WeightedMetrics,
    bootstrap_intervals,
    bootstrap_mean,
    curve_bands,
    roc,
    window_weights,
)
from butppg_lightning.evaluation.metrics import auroc, compute_metrics


@pytest.mark.parametrize("by_subject", [True, False])
def test_weights_stand_for_resamples(predictions: tuple[np.ndarray, ...], by_subject: bool) -> None:
    """Every resample, written out, has the metrics that its weights give."""
    labels, scores, subjects = predictions
    weights = next(window_weights(120, subjects if by_subject else None, resamples=25))
    found = WeightedMetrics(labels, scores, 0.4)(weights)
    for row, times in enumerate(weights):
        drawn = np.repeat(np.arange(120), times.astype(int))
        own = compute_metrics(labels[drawn], scores[drawn], 0.4)
        for name in ("auroc", "auprc", "f1", "mcc", "ece", "accuracy", "balanced_accuracy"):
            assert found[name][row] == pytest.approx(own[name], abs=1e-6), name
        margin = own["accuracy"] - own["majority_accuracy"]
        assert found["accuracy_above_majority"][row] == pytest.approx(margin, abs=1e-6)
        guess, target = torch.tensor(scores[drawn]), torch.tensor(labels[drawn])
        called = (guess >= 0.4).long()
        for name, theirs in (
            ("auroc", classification.binary_auroc(guess, target)),
            ("auprc", classification.binary_average_precision(guess, target)),
            ("f1", classification.binary_f1_score(called, target)),
            ("mcc", classification.binary_matthews_corrcoef(called, target)),
        ):
            assert found[name][row] == pytest.approx(float(theirs), abs=1e-5), name


def test_whole_subjects_are_drawn(predictions: tuple[np.ndarray, ...]) -> None:
    _, _, subjects = predictions
    weights = np.concatenate(list(window_weights(120, subjects, resamples=300)))
    by_subject = weights.reshape(300, 8, 15)
    assert (by_subject == by_subject[:, :, :1]).all()
    assert (by_subject[:, :, 0].sum(axis=1) == 8).all()
    np.testing.assert_array_equal(weights, np.concatenate(list(window_weights(120, subjects, resamples=300))))


def test_many_windows_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch, predictions: tuple[np.ndarray, ...]) -> None:
    labels, scores, subjects = predictions
    whole = bootstrap_intervals(labels, scores, subjects, resamples=100)
    monkeypatch.setattr("butppg_lightning.evaluation.bootstrap._AT_ONCE", 700)
    assert len(list(window_weights(120, subjects, resamples=100))) == 20
    parts = bootstrap_intervals(labels, scores, subjects, resamples=100)
    for name, edges in whole.items():
        np.testing.assert_allclose(parts[name], edges, err_msg=name)


def test_what_no_resample_defines_has_no_interval() -> None:
    found = bootstrap_intervals(np.ones(20, dtype=np.int64), np.linspace(0, 1, 20), resamples=20)
    undefined = {"auroc_ci95", "auprc_ci95", "balanced_accuracy_ci95"}
    assert {name for name, edges in found.items() if edges is None} == undefined
    diverged = bootstrap_intervals(np.array([0, 1, 1, 0]), np.full(4, np.nan), resamples=20)
    assert (diverged["auroc_ci95"], diverged["auprc_ci95"], diverged["ece_ci95"]) == (None, None, None)


def test_weighted_ranking_agrees_with_the_metrics(predictions: tuple[np.ndarray, ...]) -> None:
    labels, scores, subjects = predictions
    drawn = []
    for weights in np.concatenate(list(window_weights(120, subjects))):
        rows = np.repeat(np.arange(120), weights.astype(int))
        drawn.append(auroc(labels[rows], scores[rows]))
    interval = bootstrap_intervals(labels, scores, subjects)["auroc_ci95"]
    np.testing.assert_allclose(np.percentile(drawn, [2.5, 97.5]), interval)


def test_bands_hold_the_curve_and_weigh_accuracy_by_subject(predictions: tuple[np.ndarray, ...]) -> None:
    labels, scores, subjects = predictions
    found = curve_bands(labels, scores, subjects)
    assert found is not None
    rate, sensitivity = roc(*(counts[0] for counts in Ranking(labels, scores).counts()))
    curve = np.interp(GRID[5:-5], rate, sensitivity)
    assert np.all(found[0][0, 5:-5] <= curve + 1e-9)
    assert np.all(found[0][1, 5:-5] >= curve - 1e-9)
    right = (scores >= 0.5) == labels
    weights = np.concatenate(list(window_weights(120, subjects)))
    drawn = [100 * np.average(right, weights=row) for row in weights]
    intervals = bootstrap_intervals(labels, scores, subjects)
    np.testing.assert_allclose(intervals["accuracy_ci95"], np.percentile(drawn, [2.5, 97.5]))
    assert intervals["accuracy_above_majority_ci95"][1] < intervals["accuracy_ci95"][1] - 50
    assert curve_bands(np.ones(120, dtype=np.int64), scores, subjects) is None


def test_the_interval_is_about_the_subjects() -> None:
    values = [0.8, 0.9, 0.85, 0.95, 0.7, 0.9]
    low, high = bootstrap_mean(values)
    assert min(values) < low < np.mean(values) < high < max(values)
    assert (low, high) == bootstrap_mean(values)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([0.5, float("nan")])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
