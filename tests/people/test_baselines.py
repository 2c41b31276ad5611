"""The classical baselines: what they learn, what they refuse, and that they never look at the windows they score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import REAL_DATA, make_windows

from butppg_lightning.errors import UserError
from butppg_lightning.window import WindowSet, read_windows
from people.baselines import BASELINES, make_baseline, rank_mean
from people.comparison import auroc

NEUROKIT = ["neurokit_templatematch", "neurokit_dissimilarity"]
FAST = ["log_spread", "three_indices", "pulse_indices"]


def without(windows: WindowSet, channel: str) -> WindowSet:
    """The same windows with ``channel`` absent in every second one."""
    row = windows.channels.index(channel)
    present = np.ones(windows.signals.shape[:2], dtype=bool)
    present[::2, row] = False
    signals = windows.signals * present[..., None]
    return WindowSet(signals, windows.channels, labels=windows.labels, subjects=windows.subjects, present=present)


@pytest.fixture(scope="module")
def train() -> WindowSet:
    return make_windows(60, seed=1)


@pytest.fixture(scope="module")
def held_out() -> WindowSet:
    return make_windows(30, seed=2, subjects="t")


@pytest.fixture(scope="module")
def fitted(train: WindowSet) -> dict[str, Any]:
    return {name: make_baseline(name).fit(train) for name in BASELINES}


@pytest.mark.parametrize("name", BASELINES)
def test_a_pulse_ranks_above_motion(name: str, fitted: dict[str, Any], held_out: WindowSet) -> None:
    baseline = fitted[name]
    scores = baseline.score(held_out)
    assert scores.shape == (30,)
    assert np.isfinite(scores).all()
    found = auroc(held_out.labels, scores)
    assert found is not None
    assert found > 0.9
    assert baseline.name == name
    assert baseline.description
    assert "\n" not in baseline.description


@pytest.mark.parametrize("name", BASELINES)
def test_the_score_of_a_window_depends_on_that_window_alone(
    name: str, fitted: dict[str, Any], held_out: WindowSet
) -> None:
    rows = np.array([3, 4])
    part = held_out.take(rows)
    part.labels = 1 - part.labels
    assert np.allclose(fitted[name].score(part), fitted[name].score(held_out)[rows], atol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_a_window_without_ppg_comes_last(name: str, fitted: dict[str, Any], held_out: WindowSet) -> None:
    scores = fitted[name].score(without(held_out.take(np.arange(8)), "PPG"))
    assert np.isfinite(scores).all()
    assert scores[::2].max() <= scores[1::2].min()
    assert len(set(scores[::2])) == 1


@pytest.mark.parametrize("name", NEUROKIT)
def test_windows_neurokit_cannot_judge_are_counted_and_told(
    name: str, held_out: WindowSet, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = held_out.take(np.arange(4))
    step = (np.arange(1250) > 600).astype(np.float32) + 1e-3 * np.arange(1250) / 1250
    windows.signals[1, 3] = step
    windows.signals[2, 3] = 5.0
    baseline: Any = make_baseline(name)
    scores = baseline.score(windows)
    assert baseline.failed == 2
    assert set(np.argsort(scores)[:2]) == {1, 2}
    assert f"{name}: 2 of 4 windows" in capsys.readouterr().err


@pytest.mark.parametrize("direction", [1, -1])
def test_log_spread_takes_its_orientation_from_the_training_windows(train: WindowSet, direction: int) -> None:
    def windows(sign: int) -> WindowSet:
        made = train.take(np.arange(len(train)))
        gain = np.exp(sign * made.labels - 0.1 * np.arange(len(train)) % 0.7)
        centred = made.signals[:, 3] - made.signals[:, 3].mean(axis=1, keepdims=True)
        made.signals = made.signals.copy()
        made.signals[:, 3] = centred / centred.std(axis=1, keepdims=True) * gain[:, None]
        return made

    baseline = make_baseline("log_spread").fit(windows(direction))
    same, other = windows(direction), windows(-direction)
    assert auroc(same.labels, baseline.score(same)) == 1.0
    assert auroc(other.labels, baseline.score(other)) == 0.0  # what the scored windows' labels say is not looked at


def test_log_spread_is_oriented_within_subjects(train: WindowSet) -> None:
    windows = train.take(np.arange(40))
    subjects = np.repeat(["weak", "strong"], 20)
    labels = np.r_[np.arange(20) < 16, np.arange(20) < 4].astype(int)
    # within each of the two people good is larger, but the person with the strong pulse has more poor windows
    spread = np.where(subjects == "strong", 100.0, 1.0) * (1 + labels)
    wave = np.sin(np.arange(1250) / 15.0)
    windows.signals = np.repeat((spread[:, None] * wave)[:, None], 5, axis=1)
    windows.labels, windows.subjects = labels, subjects
    assert make_baseline("log_spread").fit(windows).fitted == 1  # type: ignore[attr-defined]
    windows.subjects = None
    assert make_baseline("log_spread").fit(windows).fitted == -1  # type: ignore[attr-defined]


def test_the_forest_does_without_acceleration(fitted: dict[str, Any], train: WindowSet, held_out: WindowSet) -> None:
    forest = fitted["forest"]
    absent = np.ones((30, 5), dtype=bool)
    absent[:, :3] = False
    still = WindowSet(held_out.signals * absent[..., None], held_out.channels, present=absent)
    only_ppg = WindowSet(held_out.signals[:, 3:4], ("PPG",))
    scores = forest.score(only_ppg)
    assert np.array_equal(forest.score(still), scores)
    assert auroc(held_out.labels, scores) > 0.9
    trained = make_baseline("forest").fit(WindowSet(train.signals[:, 3:4], ("PPG",), labels=train.labels))
    assert np.array_equal(trained.score(held_out), trained.score(only_ppg))


def test_the_seed_decides_the_forest_and_ecg_is_never_used(
    train: WindowSet, held_out: WindowSet, fitted: dict[str, Any]
) -> None:
    few = held_out.take(np.arange(12))
    first = fitted["forest"].score(few)
    few.signals = few.signals.copy()
    few.signals[:, 4] = np.random.default_rng(0).normal(size=(12, 1250))
    assert np.array_equal(make_baseline("forest", 0).fit(train).score(few), first)
    assert not np.array_equal(make_baseline("forest", 1).fit(train).score(few), first)


@pytest.mark.parametrize("name", [*FAST, "forest"])
def test_what_cannot_be_fitted_is_refused_in_one_line(name: str, train: WindowSet) -> None:
    unlabelled = WindowSet(train.signals, train.channels)
    one_class = train.take(train.labels == 1)
    no_ppg = WindowSet(train.signals[:, :3], train.channels[:3], labels=train.labels)
    for windows, reason in ((unlabelled, "no labels"), (one_class, "of one class"), (no_ppg, "no PPG")):
        with pytest.raises(UserError, match=reason) as caught:
            make_baseline(name).fit(windows)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=f"{name} is not fitted yet"):
        make_baseline(name).score(train)


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(UserError, match="no baseline 'svm'; choose from neurokit_templatematch"):
        make_baseline("svm")


def test_rank_mean_shares_ties_and_forgets_units() -> None:
    one, two = np.array([0.2, 0.9, 0.2, 0.5]), np.array([-1e9, 3.0, 4.0, 5.0])
    assert np.allclose(rank_mean([one, two]), [(0.5 / 3) / 2, (1 + 1 / 3) / 2, (0.5 / 3 + 2 / 3) / 2, (2 / 3 + 1) / 2])
    assert np.allclose(rank_mean([np.exp(one), two]), rank_mean([one, two]))
    assert rank_mean([np.array([7.0])]).tolist() == [0.5]


@pytest.mark.parametrize(
    ("scores", "reason"),
    [([], "at least one method"), ([np.zeros(2), np.zeros(3)], r"\[2\], \[3\]"), ([np.array([np.nan, 1])], "NaN")],
)
def test_rank_mean_refuses_what_it_cannot_rank(scores: list[Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        rank_mean(scores)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real recordings beside the checkout")
def test_the_baselines_reach_on_unseen_people_what_is_known_of_them() -> None:
    windows = read_windows(REAL_DATA / "spc2015_dev" / "windows.npz", labelled=True)
    least = {"three_indices": (0.84, 0.85), "pulse_indices": (0.89, 0.89)}
    for name, (within, pooled) in least.items():
        scores = np.zeros(len(windows))
        per_subject = []
        for subject in np.unique(windows.subjects):
            out = windows.subjects == subject
            scores[out] = make_baseline(name).fit(windows.take(~out)).score(windows.take(out))
            per_subject.append(auroc(windows.labels[out], scores[out]))
        assert np.mean(per_subject) > within, name
        assert auroc(windows.labels, scores) > pooled, name
