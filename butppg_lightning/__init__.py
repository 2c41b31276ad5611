"""PPG quality classification on BUT PPG: masked pretraining, channel inflation and staged fine-tuning.

The public names are imported on first use: ``import butppg_lightning`` loads neither torch nor lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from butppg_lightning.version import __version__

if TYPE_CHECKING:
    from butppg_lightning.data.finetune import BUTPPGDataModule as BUTPPGDataModule
    from butppg_lightning.data.pretrain import PretrainDataModule as PretrainDataModule
    from butppg_lightning.models.encoder import PatchTransformer as PatchTransformer
    from butppg_lightning.models.spectral import SpectralEncoder as SpectralEncoder
    from butppg_lightning.models.tiny_time_mixer import TinyTimeMixer as TinyTimeMixer
    from butppg_lightning.tasks.classifier import PPGQualityClassifier as PPGQualityClassifier
    from butppg_lightning.tasks.pretrainer import MaskedPretrainer as MaskedPretrainer
    from butppg_lightning.training.staged_unfreezing import StagedUnfreezing as StagedUnfreezing

_HOMES = {
    "BUTPPGDataModule": "butppg_lightning.data.finetune",
    "MaskedPretrainer": "butppg_lightning.tasks.pretrainer",
    "PPGQualityClassifier": "butppg_lightning.tasks.classifier",
    "PatchTransformer": "butppg_lightning.models.encoder",
    "PretrainDataModule": "butppg_lightning.data.pretrain",
    "SpectralEncoder": "butppg_lightning.models.spectral",
    "StagedUnfreezing": "butppg_lightning.training.staged_unfreezing",
    "TinyTimeMixer": "butppg_lightning.models.tiny_time_mixer",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
