"""Is atrial fibrillation called poor? Irregular is not bad: shares of windows called poor at equal signal quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.signal import welch

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.calibration import roc_points
from butppg_lightning.window import SAMPLING_RATE, WindowSet, read_windows
from people.held import Held, read_predictions
from people.methods import COMBINED

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from people.study import Study

RHYTHMS = ("SR", "AF")
_PULSE, _WHOLE = (0.5, 8.0), (0.5, 40.0)  # Hz
_BINS, _RESAMPLES, _ALARMS = 10, 2000, 0.1


def pulse_band_share(windows: WindowSet) -> Array:
    """Return the signal quality ``[N]`` that rhythms are compared at: the PPG's power in 0.5-8 Hz over 0.5-40 Hz.

    It knows noise, and neither beats, nor a rate, nor a template, so that it is blind to rhythm. Slow wander is left
    out of it: beats of different size, which fibrillation makes, are slow power too.
    """
    ppg = np.asarray(windows.signals[:, windows.channels.index("PPG")], dtype=np.float64)
    frequencies, power = welch(ppg, SAMPLING_RATE, nperseg=5 * SAMPLING_RATE, detrend="constant", axis=1)
    shares = [power[:, (frequencies >= low) & (frequencies <= high)].sum(axis=1) for low, high in (_PULSE, _WHOLE)]
    return np.asarray(shares[0] / np.maximum(shares[1], 1e-300))


def shares_called_poor(poor: Array, rhythm: Array, quality: Array, subjects: Array) -> dict[str, Any]:
    """Return the share of each rhythm's windows that is called poor, as they are and at equal quality.

    At equal quality, shares are taken in ten bins of the quality (its deciles over all windows), and averaged with the
    number of windows of the rhythm that has fewer in a bin as its weight. The interval resamples people.

    Args:
        poor: ``[N]`` bool.
        rhythm: ``[N]`` of SR and AF.
        quality: ``[N]``.
        subjects: ``[N]`` names.
    """
    edges = np.quantile(quality, np.linspace(0, 1, _BINS + 1)[1:-1])
    bins, raw = np.searchsorted(edges, quality, side="right"), {}
    tables, drawn = [], []
    generator = np.random.default_rng(0)
    for name in RHYTHMS:
        people, owner = np.unique(subjects[rhythm == name], return_inverse=True)
        places = owner * _BINS + bins[rhythm == name]
        counts = [np.bincount(places, found, len(people) * _BINS) for found in (None, poor[rhythm == name])]
        cells = np.stack(counts).reshape(2, len(people), _BINS)
        raw[name] = float(poor[rhythm == name].mean())
        times = generator.multinomial(len(people), np.full(len(people), 1 / len(people)), _RESAMPLES)
        tables.append(cells.sum(axis=1)[:, None])
        drawn.append(np.einsum("rp,kpb->krb", times, cells))
    (normal, irregular), resampled = _matched(*tables)[:, 0], _matched(*drawn)
    low, high = np.nanquantile(resampled[1] - resampled[0], [0.025, 0.975])
    return {
        "raw": raw,
        "matched": {"SR": float(normal), "AF": float(irregular)},
        "difference": float(irregular - normal),
        "ci95": [float(low), float(high)],
    }


def _matched(normal: Array, irregular: Array) -> Array:
    """Return the shares ``[2, R]`` of both rhythms at equal quality, of counts and poor ones ``[2, R, bins]``."""
    weights = np.minimum(normal[0], irregular[0])
    shares = [(weights * found[1] / np.maximum(found[0], 1)).sum(axis=-1) for found in (normal, irregular)]
    with np.errstate(invalid="ignore"):
        return np.asarray(shares / weights.sum(axis=-1))


def describe_rhythm(study: Study, held: Mapping[str, Held]) -> dict[str, Any] | None:
    """Return which share of SR and AF windows each method calls poor that is scored on others; None if none is.

    Called poor is what lies below the threshold of the largest balanced accuracy among held-out people; and, so that
    methods compare, below the one that calls a tenth of the SR windows poor.
    """
    chosen = {name: each for name, each in held.items() if each.method.external and each.method.kind not in COMBINED}
    if study.data.rhythm is None or not chosen:
        return None
    windows = read_windows(study.data.rhythm, labelled=False)
    rhythm, subjects = windows.extras.get("rhythm"), windows.subjects
    if rhythm is None or subjects is None or not set(RHYTHMS) <= set(np.unique(rhythm)):
        raise UserError(f"{study.data.rhythm} must have 'subjects' and 'rhythm' with SR and AF")
    quality, seen = pulse_band_share(windows), study.digests["rhythm"] in study.digests.get("patients", [])
    methods = {}
    for name, each in chosen.items():
        scores = read_predictions(study.rhythm_prediction(each.method)).iloc[:, -1].to_numpy()
        thresholds, kept, alarms = roc_points(each.labels, each.scores[0])
        own, tenth = thresholds[np.argmax(kept - alarms)], np.quantile(scores[rhythm == "SR"], _ALARMS)
        methods[name] = {
            "title": each.title,
            "seen": seen and (each.method.pooled or each.method.encoder == "supervised"),
            "own": shares_called_poor(scores < own, rhythm, quality, subjects),
            "tenth": shares_called_poor(scores < tenth, rhythm, quality, subjects),
        }
    counts = {name: [int((rhythm == name).sum()), len(np.unique(subjects[rhythm == name]))] for name in RHYTHMS}
    medians = {name: float(np.median(quality[rhythm == name])) for name in RHYTHMS}
    return {"counts": counts, "quality": medians, "methods": methods}
