"""Classical baselines: what a user would otherwise pick, each fitted on the training windows only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import neurokit2
import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.comparison import within_subject_auroc
from butppg_lightning.models.indices.signal_indices import GROUPS, SignalIndices, index_names
from butppg_lightning.models.usable_channels import channel_faults
from butppg_lightning.window import SAMPLING_RATE, WindowSet
from people.comparison import auroc

if TYPE_CHECKING:
    from typing_extensions import Self

    from butppg_lightning.npz import Array

_BATCH = 512
_SIGNS = {"templatematch": 1.0, "dissimilarity": -1.0}  # dissimilarity is higher for worse
_LOWEST = -1e9
_MOTION = ("motion_energy", "largest_motion")


class Baseline:
    """A method that ranks windows by quality.

    Attributes:
        name: Key in the table of results.
        description: One line for its reader.
    """

    name: str
    description: str
    fitted: Any = None

    def fit(self, train: WindowSet) -> Self:
        """Fit on labelled windows and return the baseline.

        Raises:
            UserError: If the windows lack labels, one of the classes, or a channel that is needed.
        """
        raise NotImplementedError

    def score(self, windows: WindowSet) -> Array:
        """Return ``[N]`` float64, finite, higher for better quality; windows without usable PPG are lowest.

        Raises:
            UserError: If PPG is not among the channels, or nothing was fitted.
        """
        raise NotImplementedError

    def _require_fitted(self) -> None:
        if self.fitted is None:
            raise UserError(f"{self.name} is not fitted yet; call fit(train) before score(windows)")


class IndexLogistic(Baseline):
    """Logistic regression (L2, C = 1) on standardised signal indices.

    Args:
        name: Key in the table of results.
        indices: Names of indices, see :mod:`butppg_lightning.models.indices.signal_indices`.
    """

    def __init__(self, name: str, indices: Sequence[str]) -> None:
        self.name, self.indices = name, tuple(indices)
        self.description = f"logistic regression on {', '.join(self.indices)}".replace("_", " ")

    def fit(self, train: WindowSet) -> IndexLogistic:
        """Fit standardisation and regression on the windows whose PPG is usable."""
        train = train.take(usable_ppg(train))
        model = make_pipeline(StandardScaler(), LogisticRegression())
        self.fitted = model.fit(index_columns(train, self.indices), labels_of(train))
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the probability of good ``[N]``, 0 where there is no usable PPG."""
        self._require_fitted()
        good = self.fitted.predict_proba(index_columns(windows, self.indices))[:, 1]
        return np.where(usable_ppg(windows), good, 0.0)


class IndexForest(Baseline):
    """Random forest (500 trees, at least 3 windows a leaf) on all PPG indices and two energies of acceleration.

    A second forest on the PPG indices alone judges windows without acceleration, for which no energy would be true.

    Args:
        seed: Seed of the trees.
    """

    name = "forest"
    description = "random forest (500 trees) on the PPG indices and two energies of acceleration"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, train: WindowSet) -> IndexForest:
        """Grow the forest on the windows whose PPG is usable, and a second on those that have acceleration too."""

        def grow(windows: WindowSet, names: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
            model = RandomForestClassifier(500, min_samples_leaf=3, random_state=self.seed)
            return model.fit(index_columns(windows, names), labels_of(windows)), names

        train = train.take(usable_ppg(train))
        labels, moving, names = labels_of(train), _has_motion(train), index_names(["ppg"])
        still = grow(train, names)
        both = len(np.unique(labels[moving])) == 2
        self.fitted = {False: still, True: grow(train.take(moving), names + _MOTION) if both else still}
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the share of trees' votes for good ``[N]`` in 0..1, 0 where there is no usable PPG."""
        self._require_fitted()
        usable, moving, scores = usable_ppg(windows), _has_motion(windows), np.zeros(len(windows))
        for motion, (model, names) in self.fitted.items():
            rows = usable & (moving == motion)
            if rows.any():
                scores[rows] = model.predict_proba(index_columns(windows.take(rows), names))[:, 1]
        return scores


class LogSpread(Baseline):
    """log10 of the raw PPG's standard deviation, larger or smaller for better as the training windows have it.

    On BUT PPG v1 a large spread means motion, hence poor; elsewhere it may mean a strong pulse, hence good. It is in
    the unit of the device, so neither the order nor the orientation need hold on another one.

    Attributes:
        fitted: The orientation, 1 or -1.
    """

    name = "log_spread"
    description = "log10 of the raw PPG's standard deviation, oriented on the training windows"

    def fit(self, train: WindowSet) -> LogSpread:
        """Choose the orientation: by the mean within-subject AUROC, or pooled where subjects are not told apart."""
        train = train.take(usable_ppg(train))
        labels, spread = labels_of(train), _log_spread(train)
        found = None if train.subjects is None else within_subject_auroc(labels, spread, train.subjects)[1]
        self.fitted = 1 if (auroc(labels, spread) if found is None else found) >= 0.5 else -1
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the oriented log spread ``[N]``, below every possible value where there is no usable PPG."""
        self._require_fitted()
        return np.where(usable_ppg(windows), self.fitted * _log_spread(windows), -1e3)


class NeurokitQuality(Baseline):
    """``neurokit2.ppg_quality`` of the window cleaned by ``neurokit2.ppg_clean``, averaged over the window.

    Both measures compare each pulse with the average pulse: by correlation (loosely Orphanidou et al. 2015) or by
    relative entropy (loosely Sabeti et al. 2019). Nothing is fitted.

    Args:
        method: ``templatematch`` or ``dissimilarity``.

    Attributes:
        failed: How many windows of the last :meth:`score` could not be judged (no usable PPG, or too few pulses).
    """

    def __init__(self, method: str) -> None:
        self.method, self.sign, self.failed = method, _SIGNS[method], 0
        self.name = f"neurokit_{method}"
        self.description = f"neurokit2.ppg_quality by {method}, mean over the window; not fitted"

    def fit(self, train: WindowSet) -> NeurokitQuality:
        """Fit nothing."""
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the mean quality ``[N]``; windows that cannot be judged come last, and their number is reported."""
        usable, ppg = usable_ppg(windows), ppg_of(windows)
        scores = np.full(len(windows), _LOWEST)
        for row in np.flatnonzero(usable):
            scores[row] = self._judge(ppg[row])
        self.failed = int((scores == _LOWEST).sum())
        if self.failed:
            say(f"{self.name}: {self.failed} of {len(windows)} windows have too few pulses to be judged; they are last")
        return scores

    def _judge(self, ppg: Array) -> float:
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
    "three_indices": lambda seed: IndexLogistic(
        "three_indices", ("spectral_purity", "spectral_entropy", "autocorrelation_peak")
    ),
    "pulse_indices": lambda seed: IndexLogistic("pulse_indices", ("peak_share", "local_entropy", "template_match")),
    "forest": IndexForest,
}
"""How to make each baseline from a seed (only the forest draws anything)."""


def make_baseline(name: str, seed: int = 0) -> Baseline:
    """Return the baseline called ``name``, not yet fitted.

    Args:
        name: A key of :data:`BASELINES`.
        seed: Seed of what it draws.

    Raises:
        UserError: On an unknown name.
    """
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


def ppg_of(windows: WindowSet) -> Array:
    """Return the raw PPG ``[N, 1250]``.

    Raises:
        UserError: If PPG is not among the channels.
    """
    return np.asarray(windows.signals[:, _ppg_row(windows)], dtype=np.float64)


def labels_of(train: WindowSet) -> Array:
    """Return the labels ``[N]`` of training windows.

    Raises:
        UserError: If there are none, or all are of one class.
    """
    if train.labels is None:
        raise UserError("a baseline is fitted on labelled windows, but these have no labels; add them to the npz file")
    if len(np.unique(train.labels)) < 2:
        raise UserError(
            "the training windows with usable PPG are all of one class; a baseline needs good and poor ones"
        )
    return train.labels


def usable_ppg(windows: WindowSet) -> Array:
    """Return ``[N]`` bool: windows whose PPG is there and neither flat nor railed.

    Raises:
        UserError: If PPG is not among the channels.
    """
    return usable_channels(windows)[:, _ppg_row(windows)]


def usable_channels(windows: WindowSet) -> Array:
    """Return ``[N, C]`` bool: channels that are there and neither flat nor railed."""
    sound = np.ones(windows.signals.shape[:2], dtype=bool) if windows.present is None else windows.present.copy()
    for rows, chunk in _chunks(windows):
        sound[rows] &= channel_faults(chunk, windows.channels).numpy() == 0
    return sound


def index_columns(windows: WindowSet, names: Sequence[str]) -> Array:
    """Return the signal indices ``[N, len(names)]`` float64 of windows, 0 where a channel is not usable.

    Raises:
        UserError: If PPG is not among the channels.
    """
    _ppg_row(windows)
    indices = SignalIndices(windows.channels, [group for group, members in GROUPS.items() if set(members) & set(names)])
    columns, present = [indices.names.index(name) for name in names], torch.from_numpy(usable_channels(windows))
    found = np.empty((len(windows), len(names)))
    for rows, chunk in _chunks(windows):
        found[rows] = indices(chunk, present[rows])[:, columns].double().numpy()
    return found


def _log_spread(windows: WindowSet) -> Array:
    return np.asarray(np.log10(np.maximum(ppg_of(windows).std(axis=1), 1e-12)))


def _has_motion(windows: WindowSet) -> Array:
    axes = [name.startswith("ACC") for name in windows.channels]
    return np.asarray(usable_channels(windows)[:, axes].any(axis=1))


def _ppg_row(windows: WindowSet) -> int:
    if "PPG" not in windows.channels:
        raise UserError(f"these windows have no PPG, only {', '.join(windows.channels)}; a baseline judges the PPG")
    return windows.channels.index("PPG")


def _chunks(windows: WindowSet) -> Iterator[tuple[slice, torch.Tensor]]:
    for start in range(0, len(windows), _BATCH):
        rows = slice(start, start + _BATCH)
        # a copy: torch cannot look at read-only memory, which is what a memory-mapped file is
        yield rows, torch.from_numpy(np.array(windows.signals[rows], dtype=np.float32))
