"""Stands in for models/prediction.py until that is there: same names, same meaning. Delete it then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from butppg_lightning.cli.precision import automatic_precision
from butppg_lightning.models.usable_channels import channel_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

_HALF = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network makes of N windows."""

    channels: tuple[str, ...]
    probabilities: Array
    faults: Array
    precision: str


def predict(
    network: QualityNetwork,
    batches: Iterable[Mapping[str, Any]],
    *,
    batch_size: int = 64,
    prior: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Score any number of raw windows in eval mode."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = automatic_precision(device)
    half = _HALF.get(precision)
    network = network.to(device)
    channels = network.preprocess.channels
    probabilities, faults = [], []
    for batch in batches:
        signals, present = batch["signals"], batch["present"]
        with torch.autocast(device, dtype=half, enabled=half is not None):
            probabilities.append(network.score(signals, present, batch_size, prior).numpy())
        faults.append(channel_faults(torch.from_numpy(signals), channels, torch.from_numpy(present)).numpy())
        if progress is not None:
            progress(len(signals))
    return Predictions(channels, np.concatenate(probabilities), np.concatenate(faults), precision)
