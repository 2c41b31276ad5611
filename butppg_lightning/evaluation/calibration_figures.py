"""Whether probabilities mean what they say, and the temperature and bias that make them do so."""

from __future__ import annotations

from dataclasses import dataclass
from math import erf
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

_STEPS = 100  # Newton needs about ten
_CLOSEST = 1e-7  # to 0 and 1, where float32 probabilities end
_CERTAIN = 1.959963984540054  # standard deviations that hold 95 % of a normal distribution


def fit_temperature(labels: Array, logits: Array, *, bias: bool = True) -> tuple[float, float]:
    """Fit ``sigmoid(logit / temperature + bias)`` by maximum likelihood.

    With a bias this is Platt's scaling (Platt 1999, in the robust form of Lin, Lin and Weng 2007), without one the
    temperature scaling of Guo et al. 2017. The targets are Platt's, ``(n1 + 1) / (n1 + 2)`` and ``1 / (n0 + 2)``
    rather than 1 and 0, so that predictions which separate the classes do not drive the temperature to 0.

    Args:
        labels: ``[N]`` in {0 poor, 1 good}, both present.
        logits: ``[N]``, finite.
        bias: Whether to fit a bias too.

    Returns:
        Temperature (above 0) and bias (0 if none was asked for).

    Raises:
        UserError: If a class is missing, the logits are all the same, or good windows rank below poor ones.
    """
    labels, logits = np.asarray(labels).astype(np.int64), np.asarray(logits, dtype=np.float64)
    good = int(labels.sum())
    poor = len(labels) - good
    if not good or not poor:
        raise UserError(f"a calibration needs windows of both classes; there are {good} good and {poor} poor")
    if not np.isfinite(logits).all() or np.ptp(logits) == 0:
        raise UserError("the model's logits are all the same, or not finite: there is nothing to calibrate")
    targets = np.where(labels == 1, (good + 1) / (good + 2), 1 / (poor + 2))
    columns = np.stack([logits, np.ones_like(logits)], axis=1)[:, : 2 if bias else 1]
    slope, *offset = _logistic(columns, targets)
    if slope <= 0:
        raise UserError(
            "the model ranks good windows below poor ones here, which no temperature mends; check labels and channels"
        )
    return float(1 / slope), float(offset[0]) if offset else 0.0


def calibration_slope(labels: Array, probabilities: Array) -> tuple[float | None, float | None]:
    """Return calibration slope and intercept (Cox 1958; Van Calster et al. 2016).

    Args:
        labels: ``[N]`` in {0, 1}.
        probabilities: ``[N]`` in 0..1.

    Returns:
        The slope of a logistic regression of the labels on the probabilities' logits (1 is ideal; below 1 they are
        too extreme), and calibration-in-the-large, the intercept with the slope held at 1 (0 is ideal; below 0 they
        are too high). None where the likelihood has no maximum: a single class, or a probability is NaN; the
        slope also where the probabilities separate the classes or are all the same.
    """
    labels = np.asarray(labels).astype(np.float64)
    inside = np.clip(np.asarray(probabilities, dtype=np.float64), _CLOSEST, 1 - _CLOSEST)
    logits = np.log(inside) - np.log1p(-inside)
    above, below = logits[labels == 1], logits[labels == 0]
    if not len(above) or not len(below) or not np.isfinite(logits).all():
        return None, None
    intercept = float(_logistic(np.ones((len(labels), 1)), labels, logits)[0])
    # Albert and Anderson 1984: a finite maximum exists exactly if the classes overlap
    overlap = above.min() < below.max() and below.min() < above.max()
    slope = float(_logistic(np.stack([logits, np.ones_like(logits)], axis=1), labels)[0]) if overlap else None
    return slope, intercept


def brier_score(labels: Array, probabilities: Array) -> float:
    """Return the mean squared difference of probability and label (Brier 1950), 0..1."""
    return float(((np.asarray(probabilities, dtype=np.float64) - labels) ** 2).mean())


def expected_calibration_error(labels: Array, probabilities: Array, bins: int = 10) -> float:
    """Return the mean gap between probability and frequency over bins of equal mass (Nixon et al. 2019).

    It is positive also where nothing is wrong: see :func:`expected_ece`.
    """
    gaps, weights, _ = _gaps(labels, probabilities, bins)
    return float((weights * np.abs(gaps)).sum())


def debiased_calibration_error(labels: Array, probabilities: Array, bins: int = 10) -> float:
    """Return the equal-mass ECE less what the labels' chance adds to it (Kumar, Liang and Ma 2019, appendix on L1).

    In each bin the frequency is taken as normal about what was observed; how much larger the absolute gap is then
    expected to be is subtracted. That takes away some two fifths of what :func:`expected_calibration_error` shows
    where nothing is wrong, so :func:`expected_ece` belongs beside it. Never below 0.
    """
    gaps, weights, spread = _gaps(labels, probabilities, bins)
    certain = spread == 0
    ratio = np.abs(gaps) / np.where(certain, 1, spread)
    inside = np.array([erf(value / 2**0.5) for value in ratio])
    folded = spread * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + np.abs(gaps) * inside
    expected = np.where(certain, np.abs(gaps), folded)
    return float(np.maximum(0.0, (weights * (2 * np.abs(gaps) - expected)).sum()))  # NaN stays NaN


def expected_ece(probabilities: Array, bins: int = 10, resamples: int = 200, seed: int = 0) -> float:
    """Return the ECE that these probabilities would show if they were perfectly calibrated.

    Labels are drawn from the probabilities (the consistency resampling of Broecker and Smith 2007) and the mean
    of :func:`expected_calibration_error` over the draws is returned: about 0.07 at 170 windows and 10 bins.

    Args:
        probabilities: ``[N]`` in 0..1.
        bins: Bins of equal mass.
        resamples: Number of draws.
        seed: Seed of the draws.
    """
    ordered = np.sort(np.asarray(probabilities, dtype=np.float64))
    generator = np.random.default_rng(seed)
    starts, sizes = _bins(len(ordered), bins)
    total = 0.0
    for _ in range(resamples):
        drawn = generator.random(len(ordered)) < ordered
        total += float(np.abs(np.add.reduceat(ordered - drawn, starts)).sum())
    return total / resamples / int(sizes.sum())


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """How often windows of a given probability were good.

    Attributes:
        predicted: ``[B]`` mean probability of each bin, ascending.
        observed: ``[B]`` share of good windows in it.
        low: ``[B]`` lower end of the share's 95 % interval (Wilson 1927).
        high: ``[B]`` upper end.
        counts: ``[B]`` windows.
    """

    predicted: Array
    observed: Array
    low: Array
    high: Array
    counts: Array


def reliability_curve(labels: Array, probabilities: Array, bins: int = 10) -> ReliabilityCurve:
    """Return the reliability curve over bins of equal mass, with Wilson intervals."""
    order = np.argsort(probabilities, kind="stable")
    starts, counts = _bins(len(order), bins)
    predicted = np.add.reduceat(np.asarray(probabilities, dtype=np.float64)[order], starts) / counts
    observed = np.add.reduceat(np.asarray(labels, dtype=np.float64)[order], starts) / counts
    squared = _CERTAIN**2 / counts
    centre = (observed + squared / 2) / (1 + squared)
    half = _CERTAIN * np.sqrt(observed * (1 - observed) / counts + squared / (4 * counts)) / (1 + squared)
    low, high = np.clip(centre - half, 0, observed), np.clip(centre + half, observed, 1)
    return ReliabilityCurve(predicted, observed, low, high, counts)


def roc_points(labels: Array, logits: Array, most: int = 200) -> tuple[Array, Array, Array]:
    """Return the points of a ROC curve that are worth choosing from.

    Only its upper left corners are kept (no other point has both fewer false alarms and more hits), and the end at
    which everything is called good. Thresholds lie half-way between neighbouring logits, so that rounding elsewhere
    does not move a window across.

    Args:
        labels: ``[N]`` in {0, 1}, both present.
        logits: ``[N]``.
        most: Points to return at most; more are thinned evenly along the curve.

    Returns:
        Thresholds on the logit (falling, the last one is -inf), sensitivities and false-positive rates (rising).
    """
    labels, logits = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    values, inverse = np.unique(-logits, return_inverse=True)
    hits = np.bincount(inverse, weights=labels)
    alarms = np.bincount(inverse, weights=1 - labels)
    thresholds = np.r_[-(values[:-1] + values[1:]) / 2, -np.inf]
    corner = (hits > 0) & np.r_[alarms[1:] > 0, True]
    corner[-1] = True
    sensitivity, rate = np.cumsum(hits)[corner] / hits.sum(), np.cumsum(alarms)[corner] / alarms.sum()
    thresholds = thresholds[corner]
    if len(thresholds) > most:
        along = sensitivity + rate
        rows = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], most)).clip(0, len(along) - 1))
        return thresholds[rows], sensitivity[rows], rate[rows]
    return thresholds, sensitivity, rate


def _bins(count: int, bins: int) -> tuple[Array, Array]:
    sizes = np.array([len(part) for part in np.array_split(np.arange(count), min(bins, count))])
    return np.cumsum(sizes) - sizes, sizes


def _gaps(labels: Array, probabilities: Array, bins: int) -> tuple[Array, Array, Array]:
    """Return, per bin, observed minus predicted, the share of windows, and the observed share's standard error."""
    curve = reliability_curve(labels, probabilities, bins)
    spread = np.sqrt(curve.observed * (1 - curve.observed) / curve.counts)
    return curve.observed - curve.predicted, curve.counts / curve.counts.sum(), spread


def _logistic(columns: Array, targets: Array, offset: Array | float = 0.0) -> Array:
    """Return the weights of a logistic regression: Newton's steps, halved until the likelihood grows."""
    scale = np.abs(columns).max(axis=0)
    scaled = columns / scale
    weights: Array = np.zeros(columns.shape[1])

    def loss(tried: Array) -> float:
        return float((np.logaddexp(0, scaled @ tried + offset) - targets * (scaled @ tried + offset)).sum())

    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(scaled @ weights + offset, -700, 700)))
        gradient = scaled.T @ (chances - targets)
        curvature = (scaled * (chances * (1 - chances))[:, None]).T @ scaled
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(weights)), gradient)
        size, before = 1.0, loss(weights)
        while size > 1e-10 and loss(weights - size * step) > before:
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-10 or size <= 1e-10:
            break
    found: Array = weights / scale
    return found
