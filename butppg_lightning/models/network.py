"""The quality network: raw windows in, one logit out. This is what is trained, scored and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.freezing import evaluating
from butppg_lightning.window import WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.models.encoder import Encoder
    from butppg_lightning.models.heads import LinearHead
    from butppg_lightning.models.preprocess import Preprocess


class QualityNetwork(nn.Module):
    """Preprocessing, encoder and head in one module.

    Args:
        preprocess: Filters and scales raw windows.
        encoder: Maps preprocessed windows to tokens.
        head: Maps tokens to a logit.
    """

    def __init__(self, preprocess: Preprocess, encoder: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.encoder = encoder
        self.head = head

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Classify raw windows.

        Args:
            signals: ``[B, C, 1250]``, unfiltered and unscaled, any real dtype.
            present: ``[B, C]`` bool, or None when every channel is there.

        Returns:
            Logits ``[B]``; above 0 means good is likelier than poor.
        """
        return self.classify(*self.scaled(signals, present))

    def scaled(self, signals: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Preprocess raw windows; channels that are flat or railed count as absent from here on.

        Args:
            signals: ``[B, C, 1250]``, unfiltered and unscaled, any real dtype.
            present: ``[B, C]`` bool, or None when every channel is there.

        Returns:
            Preprocessed windows ``[B, C, 1250]`` and ``[B, C]`` bool.
        """
        usable = self.preprocess.usable(signals, present)
        return self.preprocess(signals, usable), usable

    def classify(self, scaled: Tensor, present: Tensor | None = None) -> Tensor:
        """Classify preprocessed windows ``[B, C, T]``; return logits ``[B]``."""
        return cast("Tensor", self.head(cast("Encoder", self.encoder)(scaled, present)))

    @torch.no_grad()
    def probabilities(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the probability of good quality, ``[B]`` float32 in 0..1, of raw windows ``[B, C, 1250]``."""
        logits: Tensor = self(signals, present)
        return logits.float().sigmoid()

    @torch.no_grad()
    def score(self, signals: Any, present: Any = None, batch_size: int = 256) -> Tensor:
        """Score any number of raw windows in eval mode, leaving the user's mode as it was.

        Args:
            signals: ``[N, C, 1250]`` array or tensor, unfiltered and unscaled, channels in the order of
                ``preprocess.channels``; may be memory-mapped.
            present: ``[N, C]`` bool, or None when every channel is there.
            batch_size: Windows per forward pass.

        Returns:
            Probability of good quality, ``[N]`` float32 in 0..1, on the CPU.

        Raises:
            UserError: If the shape does not fit.
        """
        channels = self.preprocess.channels
        if len(signals.shape) != 3 or tuple(signals.shape[1:]) != (len(channels), WINDOW_SAMPLES):
            raise UserError(
                f"signals have shape {list(signals.shape)}; expected [N, {len(channels)}, {WINDOW_SAMPLES}] "
                f"with channels {', '.join(channels)}"
            )
        device = self.preprocess.acc_scale.device
        found = []
        with evaluating(self):
            for start in range(0, len(signals), batch_size):
                rows = slice(start, start + batch_size)
                there = None if present is None else _tensor(present[rows]).to(device)
                found.append(self.probabilities(_tensor(signals[rows]).to(device), there).cpu())
        return torch.cat(found) if found else torch.empty(0)


def _tensor(values: Any) -> Tensor:
    # a copy: torch cannot look at read-only memory, which is what a memory-mapped file is
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
