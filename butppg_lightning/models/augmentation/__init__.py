"""Random variation of preprocessed windows while a classifier trains. Shapes stay, so that features can be stored."""

from butppg_lightning.models.augmentation.fine_tuning import Variation, Varied
from butppg_lightning.models.augmentation.motion_mixing import lower_targets

__all__ = ["Variation", "Varied", "lower_targets"]
