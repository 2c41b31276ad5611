from itertools import product

import numpy as np
import pytest

from people.comparison import interval, sign_flip_test, within_subject_auroc
from people.figures import compare


def test_differences_pair_subjects_by_name() -> None:
    one, other = {"a": 0.9, "b": 0.8, "c": None, "d": 0.7}, {"b": 0.5, "a": 0.7, "c": 0.1, "e": 0.3}
    found = compare({"within": one}, {"within": other})
    assert found["differences"] == {"a": pytest.approx(0.2), "b": pytest.approx(0.3)}
    assert compare({"within": {"a": None}}, {"within": other}) is None


@pytest.mark.parametrize("count", [1, 4, 6, 9])
def test_the_p_value_is_that_of_all_sign_flips(count: int) -> None:
    values = np.random.default_rng(count).normal(0.4, 1, count)
    means = [abs(np.mean(values * signs)) for signs in product((1, -1), repeat=count)]
    expected = np.mean(np.array(means) >= abs(values.mean()) - 1e-12)
    found = sign_flip_test(values)
    assert found.exact
    assert found.p_value == pytest.approx(expected)
    assert sign_flip_test(-values).p_value == found.p_value


def test_six_of_six_is_the_least_p_there_is() -> None:
    assert sign_flip_test([0.1, 0.2, 0.1, 0.3, 0.1, 0.1]).p_value == 2 / 64
    assert sign_flip_test([0.0] * 6).p_value == 1


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1] * 5 + [-0.1], "better"),
        ([0.1] * 4 + [-0.1, -0.1], "not shown"),
        ([0.1] * 5 + [-0.9], "not shown"),  # five of six, but the mean is below 0
        ([0.1] * 5 + [0.0], "better"),
        ([0.1] * 4 + [0.0, 0.0], "not shown"),
        ([-0.1] * 5 + [0.1], "worse"),
        ([-0.1] * 5 + [0.9], "not shown"),
        ([0.1] * 5, "better"),
        ([0.1] * 4, "not shown"),  # four subjects show nothing
        ([0.1] * 42 + [-0.1] * 8, "better"),
        ([0.1] * 41 + [-0.1] * 9, "not shown"),
    ],
)
def test_the_verdict_is_the_rule_fixed_beforehand(differences: list[float], verdict: str) -> None:
    assert sign_flip_test(differences).verdict == verdict


def test_many_subjects_are_sampled() -> None:
    values = np.random.default_rng(0).normal(0.25, 1, 40)
    found = sign_flip_test(values)
    z = values.sum() / np.sqrt((values**2).sum())
    assert not found.exact
    assert found.p_value == pytest.approx(
        2 * (1 - 0.5 * (1 + np.tanh(z * 0.7978845608 * (1 + 0.044715 * z * z)))), abs=0.02
    )
    assert sign_flip_test(np.ones(40)).p_value > 0


def test_the_interval_is_about_the_subjects() -> None:
    values = [0.8, 0.9, 0.85, 0.95, 0.7, 0.9]
    low, high = interval(values)
    assert min(values) < low < np.mean(values) < high < max(values)
    assert [low, high] == interval(values)
    assert interval([0.5]) is None
    with pytest.raises(ValueError, match="at least one"):
        sign_flip_test([])


def test_ranking_counts_within_subjects_only() -> None:
    """Subjects told apart perfectly, windows of one subject not at all."""
    subjects = np.repeat(["a", "b", "c"], 4)
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1])
    scores = np.array([1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9.0])
    assert within_subject_auroc(labels, scores, subjects) == ({"a": 0.5, "b": 0.5, "c": None}, 0.5)
    found, mean = within_subject_auroc(labels, scores + labels * (subjects == "b"), subjects)
    assert (found["b"], mean) == (1.0, 0.75)
    assert within_subject_auroc(np.ones(3), np.zeros(3), np.array([1, 1, 2])) == ({"1": None, "2": None}, None)
