"""The simplest rival: how far the raw PPG swings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.baselines.rival import labels_of, ppg_of, usable_ppg
from butppg_lightning.evaluation.metrics import auroc
from butppg_lightning.evaluation.ranking import within_subject_auroc

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_LEAST = 1e-12


class LogSpread:
    """log10 of the raw PPG's standard deviation, larger or smaller for better as the training windows have it.

    On BUT PPG v1 a large spread means motion, hence poor; elsewhere it may mean a strong pulse, hence good. It is in
    the unit of the device, so neither the order nor the orientation need hold on another one.
    """

    name = "log_spread"
    description = "log10 of the raw PPG's standard deviation, oriented on the training windows"

    def __init__(self) -> None:
        self.orientation = 0

    def fit(self, train: WindowSet) -> LogSpread:
        """Choose the orientation: by the mean within-subject AUROC, or pooled where subjects are not told apart."""
        labels, spread, usable = labels_of(train), _log_spread(train), usable_ppg(train)
        found = None
        if train.subjects is not None:
            found = within_subject_auroc(labels[usable], spread[usable], train.subjects[usable])[1]
        if found is None:
            found = auroc(labels[usable], spread[usable])
        if found is None:
            raise UserError(
                "the training windows with usable PPG are all of one class; a rival needs good and poor ones"
            )
        self.orientation = 1 if found >= 0.5 else -1
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the oriented log spread ``[N]``, below every possible value where there is no usable PPG."""
        if not self.orientation:
            raise UserError("log_spread is not fitted yet; call fit(train) before score(windows)")
        return np.where(usable_ppg(windows), self.orientation * _log_spread(windows), -1e3)


def _log_spread(windows: WindowSet) -> Array:
    return np.asarray(np.log10(np.maximum(ppg_of(windows).std(axis=1), _LEAST)))
