"""The quality measures of neurokit2, as a user would call them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.baselines.rival import ppg_of, require, usable_ppg
from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_SIGNS = {"templatematch": 1.0, "dissimilarity": -1.0}  # dissimilarity is higher for worse
_LOWEST = -1e9
# what its peak search and its beat segmentation raise when a window has too few pulses
_TOO_FEW_PULSES = (ValueError, IndexError, ZeroDivisionError, KeyError)


class NeurokitQuality:
    """``neurokit2.ppg_quality`` of the window cleaned by ``neurokit2.ppg_clean``, averaged over the window.

    Both measures compare each pulse with the average pulse: by correlation (loosely Orphanidou et al. 2015) or by
    relative entropy (loosely Sabeti et al. 2019). Nothing is fitted.

    Args:
        method: ``templatematch`` or ``dissimilarity``.

    Attributes:
        failed: How many windows of the last :meth:`score` could not be judged (no usable PPG, or too few pulses).

    Raises:
        UserError: On another method.
    """

    def __init__(self, method: str) -> None:
        if method not in _SIGNS:
            raise UserError(f"neurokit2's PPG quality by '{method}' is no rival here; choose {' or '.join(_SIGNS)}")
        self.method = method
        self.name = f"neurokit_{method}"
        self.description = f"neurokit2.ppg_quality by {method}, mean over the window; not fitted"
        self.failed = 0

    def fit(self, train: WindowSet) -> NeurokitQuality:
        """Fit nothing."""
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the mean quality ``[N]``; windows that cannot be judged come last, and their number is told."""
        neurokit = require("neurokit2")
        usable, ppg = usable_ppg(windows), ppg_of(windows)
        scores = np.full(len(windows), _LOWEST)
        for row in np.flatnonzero(usable):
            scores[row] = self._judge(neurokit, ppg[row])
        self.failed = int((scores == _LOWEST).sum())
        if self.failed:
            say(
                f"{self.name}: {self.failed} of {len(windows)} windows have too few pulses to be judged; they come last"
            )
        return scores

    def _judge(self, neurokit: Any, ppg: Array) -> float:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of means over no pulse; such a window is counted as failed
            try:
                clean = neurokit.ppg_clean(ppg, sampling_rate=SAMPLING_RATE)
                quality = neurokit.ppg_quality(clean, sampling_rate=SAMPLING_RATE, method=self.method)
            except _TOO_FEW_PULSES:
                return _LOWEST
            mean = float(np.nanmean(quality))
        return _SIGNS[self.method] * mean if np.isfinite(mean) else _LOWEST
