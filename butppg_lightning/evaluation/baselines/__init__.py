"""Classical rivals of the network: what a user would otherwise pick, each fitted on the training windows only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.baselines.forest import IndexForest
from butppg_lightning.evaluation.baselines.logistic import IndexLogistic
from butppg_lightning.evaluation.baselines.neurokit import NeurokitQuality
from butppg_lightning.evaluation.baselines.ranks import rank_mean
from butppg_lightning.evaluation.baselines.spread import LogSpread

if TYPE_CHECKING:
    from collections.abc import Callable

    from butppg_lightning.evaluation.baselines.rival import Rival

__all__ = ["RIVALS", "make_rival", "rank_mean"]

RIVALS: dict[str, Callable[[int], Rival]] = {
    "neurokit_templatematch": lambda seed: NeurokitQuality("templatematch"),
    "neurokit_dissimilarity": lambda seed: NeurokitQuality("dissimilarity"),
    "log_spread": lambda seed: LogSpread(),
    "three_indices": lambda seed: IndexLogistic(
        "three_indices", ("spectral_purity", "spectral_entropy", "autocorrelation_peak")
    ),
    "pulse_indices": lambda seed: IndexLogistic("pulse_indices", ("peak_share", "local_entropy", "template_match")),
    "forest": IndexForest,
}
"""How to make each rival from a seed (only the forest draws anything)."""


def make_rival(name: str, seed: int = 0) -> Rival:
    """Return the rival called ``name``, not yet fitted.

    Args:
        name: A key of :data:`RIVALS`.
        seed: Seed of what it draws.

    Raises:
        UserError: On an unknown name.
    """
    if name not in RIVALS:
        raise UserError(f"there is no rival '{name}'; choose from {', '.join(RIVALS)}")
    return RIVALS[name](seed)
