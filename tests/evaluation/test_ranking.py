import numpy as np
import pytest

from butppg_lightning.evaluation.bootstrap import bootstrap_mean
from butppg_lightning.evaluation.ranking import within_subject_auroc


def test_ranking_counts_within_subjects_only() -> None:
    """Subjects told apart perfectly, windows of one subject not at all."""
    subjects = np.repeat(["a", "b", "c"], 4)
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1])
    scores = np.array([1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9.0])
    assert within_subject_auroc(labels, scores, subjects) == ({"a": 0.5, "b": 0.5, "c": None}, 0.5)
    found, mean = within_subject_auroc(labels, scores + labels * (subjects == "b"), subjects)
    assert (found["b"], mean) == (1.0, 0.75)
    assert within_subject_auroc(np.ones(3), np.zeros(3), np.array([1, 1, 2])) == ({"1": None, "2": None}, None)


def test_the_interval_is_about_the_subjects() -> None:
    values = [0.8, 0.9, 0.85, 0.95, 0.7, 0.9]
    low, high = bootstrap_mean(values)
    assert min(values) < low < np.mean(values) < high < max(values)
    assert (low, high) == bootstrap_mean(values)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([0.5, float("nan")])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
