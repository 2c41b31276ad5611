"""A random forest on PPG indices and the energy of motion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.baselines.rival import index_columns, labels_of, require, usable_channels, usable_ppg

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_MOTION = ("motion_energy", "largest_motion")


class IndexForest:
    """Random forest (500 trees, at least 3 windows a leaf) on all PPG indices and two energies of acceleration.

    A second forest on the PPG indices alone judges windows without acceleration, for which no energy would be true.

    Args:
        seed: Seed of the trees.
    """

    name = "forest"
    description = "random forest (500 trees) on sixteen PPG indices and two energies of acceleration"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._with_motion: Any = None
        self._alone: Any = None

    def fit(self, train: WindowSet) -> IndexForest:
        """Grow the forest on the windows whose PPG is usable, and a second on those that have acceleration too."""
        ensemble = require("sklearn.ensemble")

        def grow(windows: WindowSet, names: tuple[str, ...]) -> Any:
            model = ensemble.RandomForestClassifier(500, min_samples_leaf=3, random_state=self.seed)
            return model.fit(index_columns(windows, names), labels_of(windows))

        train = train.take(usable_ppg(train))
        self._alone = grow(train, _ppg_names())
        moving = _has_motion(train)
        both = moving.any() and train.labels is not None and len(np.unique(train.labels[moving])) == 2
        self._with_motion = grow(train.take(moving), _ppg_names() + _MOTION) if both else None
        return self

    def score(self, windows: WindowSet) -> Array:
        """Return the share of trees' votes for good ``[N]`` in 0..1, 0 where there is no usable PPG."""
        if self._alone is None:
            raise UserError("forest is not fitted yet; call fit(train) before score(windows)")
        usable = usable_ppg(windows)
        moving = _has_motion(windows) & (self._with_motion is not None)
        scores = np.zeros(len(windows))
        for model, rows, names in (
            (self._with_motion, usable & moving, _ppg_names() + _MOTION),
            (self._alone, usable & ~moving, _ppg_names()),
        ):
            if rows.any():
                scores[rows] = model.predict_proba(index_columns(windows.take(rows), names))[:, 1]
        return scores


def _ppg_names() -> tuple[str, ...]:
    from butppg_lightning.models.indices.signal_indices import index_names

    return index_names(["ppg"])


def _has_motion(windows: WindowSet) -> Array:
    axes = [name.startswith("ACC") for name in windows.channels]
    return np.asarray(usable_channels(windows)[:, axes].any(axis=1))
