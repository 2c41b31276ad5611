"""Random variation of preprocessed windows while a classifier trains. Shapes stay, so that features can be stored."""

from butppg_lightning.models.variation.motion import lower_targets
from butppg_lightning.models.variation.variation import Variation, Varied

__all__ = ["Variation", "Varied", "lower_targets"]
