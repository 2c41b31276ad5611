import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification

from butppg_lightning.evaluation.bootstrap import bootstrap_intervals
from butppg_lightning.evaluation.metrics import METRICS, auroc, compute_metrics, metric_rows, quality_metrics


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 1), min_size=4, max_size=60).filter(lambda rows: 0 < sum(rows) < len(rows)),
    seed=st.integers(0, 999),
    coarse=st.booleans(),
)
def test_figures_agree_with_torchmetrics(labels: list[int], seed: int, coarse: bool) -> None:
    truth = np.array(labels)
    scores = np.random.default_rng(seed).random(len(labels))
    scores = np.round(scores, 1) if coarse else scores
    found = compute_metrics(truth, scores)
    guess, target = torch.tensor(scores), torch.tensor(truth)
    assert found["auroc"] == pytest.approx(float(classification.binary_auroc(guess, target)), abs=1e-5)
    assert found["auprc"] == pytest.approx(float(classification.binary_average_precision(guess, target)), abs=1e-5)
    called = (guess >= 0.5).long()
    assert found["f1"] == pytest.approx(float(classification.binary_f1_score(called, target)), abs=1e-5)
    assert found["accuracy"] == pytest.approx(100 * float(classification.binary_accuracy(called, target)), abs=1e-3)
    expected = float(classification.binary_matthews_corrcoef(called, target))
    if called.unique().numel() == 2:
        assert found["mcc"] == pytest.approx(expected, abs=1e-4)


def test_a_single_class_leaves_ranking_undefined() -> None:
    assert auroc(np.ones(4, int), np.arange(4.0)) is None
    assert compute_metrics(np.zeros(4, int), np.linspace(0, 1, 4))["auprc"] is None
    found = compute_metrics(np.ones(4, int), np.full(4, 0.9))
    assert found["class_0_acc"] is None
    assert found["class_1_acc"] == 100


def test_collapse_to_the_majority_is_visible() -> None:
    labels = np.array([0] * 79 + [1] * 21)
    found = compute_metrics(labels, np.full(100, 0.2))
    assert found["accuracy"] == found["majority_accuracy"] == 79
    assert found["auroc"] == 0.5
    assert found["mcc"] == 0
    assert found["balanced_accuracy"] == 50
    assert found["macro_f1"] == pytest.approx(79 / 179)
    assert found["brier"] == pytest.approx(0.79 * 0.04 + 0.21 * 0.64)


def test_the_threshold_decides_what_is_called_and_nothing_else() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 200)
    probabilities = np.clip(0.2 + 0.2 * labels + generator.normal(0, 0.15, 200), 0, 1)
    half, low = compute_metrics(labels, probabilities), compute_metrics(labels, probabilities, 0.3)
    assert half["class_1_acc"] < 50 < low["class_1_acc"]
    assert low["balanced_accuracy"] == pytest.approx((low["class_0_acc"] + low["class_1_acc"]) / 2)
    for key in ("auroc", "auprc", "brier", "loss", "ece", "ece_debiased", "calibration_slope"):
        assert half[key] == low[key]
    intervals = bootstrap_intervals(labels, probabilities, threshold=0.3, resamples=100)
    assert intervals["mcc_ci95"][0] <= low["mcc"] <= intervals["mcc_ci95"][1]
    assert half["mcc"] < intervals["mcc_ci95"][0]


def test_a_diverged_model_gives_nan_and_no_crash() -> None:
    with np.errstate(invalid="ignore"):
        found = compute_metrics(np.array([0, 1, 1, 0]), np.full(4, np.nan))
    assert np.isnan([found["loss"], found["brier"], found["ece"], found["ece_debiased"]]).all()
    assert found["calibration_slope"] is None


def test_intervals_hold_the_figure_and_widen_with_few_subjects() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 300)
    subjects = np.repeat(["a", "b", "c", "d", "e", "f"], 50)
    offset = np.repeat(generator.normal(0, 1, 6), 50)
    scores = 1 / (1 + np.exp(-(labels + offset + generator.normal(0, 1, 300))))
    by_window = bootstrap_intervals(labels, scores, resamples=300)["auroc_ci95"]
    by_subject = bootstrap_intervals(labels, scores, subjects, resamples=300)["auroc_ci95"]
    assert by_window[0] < auroc(labels, scores) < by_window[1]
    assert by_subject[1] - by_subject[0] > by_window[1] - by_window[0]
    assert bootstrap_intervals(labels, scores, resamples=50) == bootstrap_intervals(labels, scores, resamples=50)


def test_the_threshold_itself_is_good() -> None:
    """torchmetrics calls a window good above the threshold, the package at or above it."""
    found = compute_metrics(np.array([1, 0]), np.array([0.3, 0.29]), 0.3)
    assert (found["accuracy"], found["f1"], found["mcc"]) == (100, 1, 1)
    single = np.array([0.3, 0.1], dtype=np.float32)  # 0.3 in float32 lies above 0.3
    assert compute_metrics(np.array([1, 0]), single, 0.3)["class_1_acc"] == 100
    assert compute_metrics(np.array([1, 0]), np.array([0.0, 0.0]), 0.0)["class_1_acc"] == 100


def test_logits_are_refused_rather_than_passed_through_a_sigmoid() -> None:
    with pytest.raises(ValueError, match="take probabilities"):
        compute_metrics(np.array([0, 1]), np.array([0.2, 1.4]))
    assert auroc(np.array([0, 1, 1]), np.array([-3.0, 0.2, 9.0])) == 1  # of any scores


def test_a_constant_answer_has_no_correlation() -> None:
    assert compute_metrics(np.ones(4, int), np.full(4, 0.9))["mcc"] == 0
    assert compute_metrics(np.array([0, 1, 1]), np.full(3, 0.9))["mcc"] == 0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), parts=st.integers(1, 4), threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_the_collection_takes_windows_in_any_parts_and_starts_anew(seed: int, parts: int, threshold: float) -> None:
    generator = np.random.default_rng(seed)
    labels, probabilities = generator.integers(0, 2, 30), generator.random(30).astype(np.float32)
    collection = quality_metrics(threshold)
    torch.nn.ModuleList([collection]).to("meta").half()  # it stays on the CPU, in float64
    collection.update(torch.ones(3), torch.zeros(3))
    collection.reset()
    for rows in np.array_split(np.arange(30), parts):
        collection.update(torch.tensor(probabilities[rows]), torch.tensor(labels[rows]))
    found = {name: float(value) for name, value in collection.compute().items()}
    whole = compute_metrics(labels, probabilities, threshold)
    assert list(whole) == list(METRICS)
    assert set(found) == set(METRICS)
    assert not collection.state_dict()  # nothing of it goes into checkpoints
    for name, value in whole.items():
        assert found[name] == pytest.approx(np.nan if value is None else value, nan_ok=True), name


def test_what_is_imported() -> None:
    code = "import sys, butppg_lightning.evaluation.metrics; print('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_table_of_metrics_has_its_units() -> None:
    metrics = {"accuracy": 82.5, "auroc": None, "mcc": 0.25, "accuracy_ci95": [75.0, 90.04], "mcc_ci95": [-0.1, 0.5]}
    assert metric_rows(metrics) == [
        ("accuracy", "82.50 %", "75.0 to 90.0"),
        ("auroc", "undefined", ""),
        ("mcc", "0.2500", "-0.100 to 0.500"),
    ]
