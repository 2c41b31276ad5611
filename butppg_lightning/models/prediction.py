"""The one way from raw windows to probabilities and verdicts, whoever asks: every command, the study, notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from butppg_lightning.models.usable_channels import channel_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

GOOD, POOR, NO_PPG = "good", "poor", "no_ppg"
"""The verdicts. ``no_ppg``: the network takes PPG, and the window's is absent, flat or railed: nothing to judge."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network makes of N windows.

    Attributes:
        channels: Names of the network's C channels.
        logits: ``[N]`` float32, as the network computes them; above 0 good is likelier.
        probabilities: ``[N]`` float32 in 0..1, calibrated probability of good quality.
        faults: ``[N, C]`` int8, why a channel could not be used; an index into
            :data:`~butppg_lightning.models.usable_channels.FAULTS`, 0 where it could.
    """

    channels: tuple[str, ...]
    logits: Array
    probabilities: Array
    faults: Array


def predict(
    network: QualityNetwork,
    batches: Iterable[Mapping[str, Any]],
    *,
    batch_size: int = 64,
    prior: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Score any number of raw windows, in eval mode, leaving the user's mode as it was.

    Args:
        network: The network; it is moved to a CUDA device if there is one.
        batches: Mappings with tensors ``signals [b, C, 1250]`` and ``present [b, C]``.
        batch_size: Windows per forward pass.
        prior: Share of good windows where the model is used; None for the one it was calibrated at.
        progress: Called with the number of windows done since the last call.
    """
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    channels = network.preprocess.channels
    logits, faults = [torch.empty(0)], [torch.empty(0, len(channels), dtype=torch.int8)]
    for batch in batches:
        logits.append(network.score_logits(batch["signals"], batch["present"], batch_size))
        faults.append(channel_faults(batch["signals"], channels, batch["present"]))
        if progress is not None:
            progress(len(batch["signals"]))
    found = torch.cat(logits)
    probabilities = network.calibration.probabilities(found, prior).numpy()
    return Predictions(channels, found.numpy(), np.asarray(probabilities), torch.cat(faults).numpy())
