"""Logistic regression on a few signal indices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.baselines.rival import index_columns, labels_of, require, usable_ppg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet


class IndexLogistic:
    """Logistic regression (L2, C = 1) on standardised signal indices.

    Args:
        name: Key in the table of results.
        indices: Names of PPG indices (group ``ppg``), see :mod:`butppg_lightning.models.indices.signal_indices`.
    """

    def __init__(self, name: str, indices: Sequence[str]) -> None:
        self.name = name
        self.indices = tuple(indices)
        self.description = f"logistic regression on {', '.join(self.indices)}".replace("_", " ")
        self._model: Any = None

    def fit(self, train: WindowSet) -> IndexLogistic:
        """Fit standardisation and regression on the windows whose PPG is usable."""
        pipeline, scaling, linear = (
            require(f"sklearn.{part}") for part in ("pipeline", "preprocessing", "linear_model")
        )
        train = train.take(usable_ppg(train))
        labels = labels_of(train)
        model = pipeline.make_pipeline(scaling.StandardScaler(), linear.LogisticRegression())
        self._model = model.fit(index_columns(train, self.indices), labels)
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the probability of good ``[N]``, 0 where there is no usable PPG."""
        if self._model is None:
            raise UserError(f"{self.name} is not fitted yet; call fit(train) before score(windows)")
        good = self._model.predict_proba(index_columns(windows, self.indices))[:, 1] if len(windows) else np.empty(0)
        return np.where(usable_ppg(windows), good, 0.0)
