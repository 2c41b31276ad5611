"""Classical baselines: what a user would otherwise pick, each fitted on the training windows only.

Each has a ``name`` (key in the tables) and a ``description`` (one line), ``fit(train)`` on labelled windows, and
``score(windows)``: ``[N]``, finite, higher for better quality, lowest for windows without usable PPG. All raise a
UserError if labels, a class, or PPG is missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import neurokit2
import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.models.indices.signal_indices import GROUPS, INDEX_NAMES, SignalIndices, index_names
from butppg_lightning.models.usable_channels import channel_faults
from butppg_lightning.window import SAMPLING_RATE, WindowSet
from people.comparison import auroc, within_subject_auroc
from people.conditions import INDICES

if TYPE_CHECKING:
    from typing_extensions import Self

    from butppg_lightning.npz import Array

_BATCH = 512
_SIGNS = {"templatematch": 1.0, "dissimilarity": -1.0}  # dissimilarity is higher for worse
_LOWEST = -1e9


class Baseline:
    """A method that ranks windows by quality.

    Attributes:
        fitted: What was learnt; None before.
    """

    name: str
    description: str
    fitted: Any = None

    def fit(self, train: WindowSet) -> Self:
        """Fit on the labelled windows whose PPG is usable."""
        train = train.take(usable(train, "PPG"))
        if train.labels is None:
            raise UserError("a baseline is fitted on labelled windows, but these have no labels; add them to the npz")
        if len(np.unique(train.labels)) < 2:
            raise UserError("the windows with usable PPG are all of one class; a baseline needs good and poor ones")
        self.fitted = self._learn(train, train.labels)
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the scores ``[N]``."""
        if self.fitted is None:
            raise UserError(f"{self.name} is not fitted yet; call fit(train) before score(windows)")
        scores, rows = np.full(len(windows), _LOWEST), usable(windows, "PPG")
        if rows.any():
            scores[rows] = self._judge(windows.take(rows))
        return scores

    def _learn(self, train: WindowSet, labels: Array) -> Any:
        raise NotImplementedError

    def _judge(self, windows: WindowSet) -> Array:
        raise NotImplementedError


class IndexModel(Baseline):
    """A classifier on signal indices of the PPG.

    Where acceleration is used, a second classifier without it judges the windows that have none.

    Args:
        name: Key in the tables.
        estimator: Makes the classifier (of scikit-learn).
        indices: Names of indices, see :mod:`butppg_lightning.models.indices.signal_indices`.
        motion: Further ones for windows that have acceleration.
    """

    def __init__(
        self, name: str, estimator: Callable[[], Any], indices: Sequence[str], motion: Sequence[str] = ()
    ) -> None:
        self.name, self.indices, self.motion, self.estimator = name, (*indices,), (*motion,), estimator
        self.description = f"{name} on {', '.join([*indices, *motion])}".replace("_", " ")

    def score(self, windows: WindowSet) -> Array:
        """Return the probability of good ``[N]``, 0 where there is no usable PPG."""
        return np.maximum(super().score(windows), 0.0)

    def _learn(self, train: WindowSet, labels: Array) -> dict[bool, tuple[Any, tuple[str, ...]]]:
        names = (*self.indices, *self.motion)
        columns, moving = index_columns(train, names), usable(train, "ACC")
        still = self.estimator().fit(columns[:, : len(self.indices)], labels), self.indices
        if not self.motion or len(np.unique(labels[moving])) < 2:
            return {False: still, True: still}
        return {False: still, True: (self.estimator().fit(columns[moving], labels[moving]), names)}

    def _judge(self, windows: WindowSet) -> Array:
        moving, good = usable(windows, "ACC"), np.zeros(len(windows))
        for motion, (model, names) in self.fitted.items():
            if (rows := moving == motion).any():
                good[rows] = model.predict_proba(index_columns(windows.take(rows), names))[:, 1]
        return good


def logistic(name: str, indices: Sequence[str], motion: Sequence[str] = ()) -> IndexModel:
    """Return logistic regression (L2, C = 1) on standardised signal indices."""
    return IndexModel(name, lambda: _regression(0), indices, motion)


def _regression(seed: int) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


_ESTIMATORS: dict[str, Callable[[int], Any]] = {
    "logistic": _regression,
    "forest": lambda seed: RandomForestClassifier(500, min_samples_leaf=3, random_state=seed),
    "extra_trees": lambda seed: ExtraTreesClassifier(500, min_samples_leaf=3, random_state=seed),
    "boosted": lambda seed: HistGradientBoostingClassifier(
        learning_rate=0.05, l2_regularization=1.0, early_stopping=False, random_state=seed
    ),
}
"""How to make each classifier for all indices; their settings were fixed before anything was scored."""


def on_all_indices(name: str, seed: int) -> IndexModel:
    """Return a classifier called ``KIND_ppg`` (the PPG's indices), ``KIND_all`` (and acceleration's) or ``KIND_rates``.

    The last also has the rates that the PPG's readers find, which the head ``rate`` is given.
    """
    kind, _, chosen = name.rpartition("_")
    motion = () if chosen == "ppg" else index_names(["acc"])
    groups = ["ppg", "rhythm", *(["rates"] if chosen == "rates" else [])]
    return IndexModel(name, lambda: _ESTIMATORS[kind](seed), index_names(groups), motion)


def forest(seed: int) -> IndexModel:
    """Return a random forest (500 trees, at least 3 windows a leaf) on all PPG indices and two of acceleration."""

    def estimator() -> Any:
        return RandomForestClassifier(500, min_samples_leaf=3, random_state=seed)

    return IndexModel("forest", estimator, index_names(["ppg"]), ("motion_energy", "largest_motion"))


class LogSpread(Baseline):
    """log10 of the raw PPG's standard deviation, larger or smaller for better as the training windows have it.

    On BUT PPG v1 a large spread means motion, hence poor; elsewhere it may mean a strong pulse, hence good. It is in
    the unit of the device, so neither the order nor the orientation (1 or -1, what is fitted) need hold on another.
    """

    name = "log_spread"
    description = "log10 of the raw PPG's standard deviation, oriented on the training windows"

    def _learn(self, train: WindowSet, labels: Array) -> int:
        # by the mean within-subject AUROC, or pooled where subjects are not told apart
        spread = _log_spread(train)
        found = None if train.subjects is None else within_subject_auroc(labels, spread, train.subjects)[1]
        found = auroc(labels, spread) if found is None else found
        return 1 if found is not None and found >= 0.5 else -1

    def _judge(self, windows: WindowSet) -> Array:
        return np.asarray(self.fitted * _log_spread(windows))

    def score(self, windows: WindowSet) -> Array:
        """Return the oriented log spread ``[N]``, below every possible value where there is no usable PPG."""
        return np.maximum(super().score(windows), -1e3)


class NeurokitQuality(Baseline):
    """``neurokit2.ppg_quality`` of the window cleaned by ``neurokit2.ppg_clean``, averaged over the window.

    Both measures compare each pulse with the average pulse: by correlation (loosely Orphanidou et al. 2015) or by
    relative entropy (loosely Sabeti et al. 2019). Nothing is fitted.

    Args:
        method: ``templatematch`` or ``dissimilarity``.

    Attributes:
        failed: How many windows of the last :meth:`score` could not be judged (no usable PPG, or too few pulses).
    """

    fitted = True

    def __init__(self, method: str) -> None:
        self.method, self.sign, self.failed = method, _SIGNS[method], 0
        self.name = f"neurokit_{method}"
        self.description = f"neurokit2.ppg_quality by {method}, mean over the window; not fitted"

    def fit(self, train: WindowSet) -> Self:
        """Fit nothing."""
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the mean quality ``[N]``; windows that cannot be judged come last, and their number is reported."""
        scores = super().score(windows)
        self.failed = int((scores == _LOWEST).sum())
        if self.failed:
            say(f"{self.name}: {self.failed} of {len(windows)} windows have too few pulses to be judged; they are last")
        return scores

    def _judge(self, windows: WindowSet) -> Array:
        return np.array([self._quality(ppg) for ppg in _ppg_of(windows)])

    def _quality(self, ppg: Array) -> float:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of means over no pulse; such a window is counted as failed
            try:
                clean = neurokit2.ppg_clean(ppg, sampling_rate=SAMPLING_RATE)
                quality = neurokit2.ppg_quality(clean, sampling_rate=SAMPLING_RATE, method=self.method)
            except (ValueError, IndexError, ZeroDivisionError, KeyError):
                return _LOWEST  # what its peak search and beat segmentation raise at too few pulses
            mean = float(np.nanmean(quality))
        return self.sign * mean if np.isfinite(mean) else _LOWEST


BASELINES: dict[str, Callable[[int], Baseline]] = {
    "neurokit_templatematch": lambda seed: NeurokitQuality("templatematch"),
    "neurokit_dissimilarity": lambda seed: NeurokitQuality("dissimilarity"),
    "log_spread": lambda seed: LogSpread(),
    "three_indices": lambda seed: logistic(
        "three_indices", ("spectral_purity", "spectral_entropy", "autocorrelation_peak")
    ),
    "pulse_indices": lambda seed: logistic("pulse_indices", ("peak_share", "local_entropy", "template_match")),
    "forest": forest,
    **{
        f"{kind}_{channels}": partial(on_all_indices, f"{kind}_{channels}")
        for kind in _ESTIMATORS
        for channels in ("all", "ppg", "rates")
    },
}
"""How to make each baseline from a seed (only forests and trees draw anything)."""


def make_baseline(name: str, seed: int = 0) -> Baseline:
    """Return the baseline called ``name``, not yet fitted."""
    if name not in BASELINES:
        raise UserError(f"there is no baseline '{name}'; choose from {', '.join(BASELINES)}")
    return BASELINES[name](seed)


def rank_mean(scores: Sequence[Array]) -> Array:
    """Return the mean over methods of each window's rank within the scored set, as a fraction.

    Args:
        scores: One array ``[N]`` per method over the same windows, higher for better quality.

    Returns:
        ``[N]`` float64 in 0..1: 0 where every method puts the window last, 1 where every method puts it first. Tied
        windows share the average of their ranks; a single window gets 0.5.

    Raises:
        UserError: Without a method, with different lengths, or with NaN.

    Examples:
        >>> rank_mean([np.array([0.1, 0.9, 0.1]), np.array([-5.0, 7.0, 0.0])]).tolist()
        [0.125, 1.0, 0.375]
    """
    if not scores or len({np.shape(values) for values in scores}) > 1:
        shapes = [list(np.shape(values)) for values in scores]
        raise UserError(f"a rank mean needs scores of the same windows from at least one method; got shapes {shapes}")
    table = np.asarray(scores, dtype=np.float64)
    if np.isnan(table).any():
        raise UserError("a rank mean cannot rank NaN; give windows that cannot be scored the lowest score")
    count = table.shape[1]
    ranks = (rankdata(table, axis=1) - 1) / (count - 1) if count > 1 else np.full(table.shape, 0.5)
    return np.asarray(ranks.mean(axis=0))


def usable(windows: WindowSet, sensor: str) -> Array:
    """Return ``[N]`` bool: windows with a channel of a sensor (PPG, ACC) that is there, neither flat nor railed."""
    return np.asarray(_usable_channels(windows)[:, [name.startswith(sensor) for name in windows.channels]].any(axis=1))


def index_columns(windows: WindowSet, names: Sequence[str]) -> Array:
    """Return the signal indices ``[N, len(names)]`` float64 of windows, 0 where a channel is not usable."""
    if (known := windows.extras.get(INDICES)) is not None:
        return np.asarray(known[:, [INDEX_NAMES.index(name) for name in names]])
    indices = SignalIndices(windows.channels, [group for group, members in GROUPS.items() if set(members) & set(names)])
    columns, present = [indices.names.index(name) for name in names], torch.from_numpy(_usable_channels(windows))
    found = np.empty((len(windows), len(names)))
    for rows, chunk in _chunks(windows):
        found[rows] = indices(chunk, present[rows])[:, columns].double().numpy()
    return found


def _usable_channels(windows: WindowSet) -> Array:
    if "PPG" not in windows.channels:
        raise UserError(f"these windows have no PPG, only {', '.join(windows.channels)}; a baseline judges the PPG")
    sound = np.ones(windows.signals.shape[:2], dtype=bool) if windows.present is None else windows.present.copy()
    for rows, chunk in _chunks(windows):
        sound[rows] &= channel_faults(chunk, windows.channels).numpy() == 0
    return sound


def _chunks(windows: WindowSet) -> Iterator[tuple[slice, torch.Tensor]]:
    for start in range(0, len(windows), _BATCH):
        rows = slice(start, start + _BATCH)
        # a copy: torch cannot look at read-only memory, which is what a memory-mapped file is
        yield rows, torch.from_numpy(np.array(windows.signals[rows], dtype=np.float32))


def _ppg_of(windows: WindowSet) -> Array:
    return np.asarray(windows.signals[:, windows.channels.index("PPG")], dtype=np.float64)


def _log_spread(windows: WindowSet) -> Array:
    return np.asarray(np.log10(np.maximum(_ppg_of(windows).std(axis=1), 1e-12)))
