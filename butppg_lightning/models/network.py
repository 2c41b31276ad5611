"""The quality network: raw windows in, one logit out. This is what is trained, scored and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.calibration import Calibration
from butppg_lightning.models.freezing import evaluating
from butppg_lightning.models.heads import HEADS
from butppg_lightning.models.indices.signal_indices import SignalIndices
from butppg_lightning.window import WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.models.encoder import Encoder
    from butppg_lightning.models.heads import LinearHead
    from butppg_lightning.models.preprocess import Preprocess


class QualityNetwork(nn.Module):
    """Preprocessing, encoder and head in one module.

    Args:
        preprocess: Filters and scales raw windows.
        encoder: Maps preprocessed windows to tokens.
        head: Maps tokens, and side inputs if it has some, to a logit.
        indices: Computes the head's side inputs from raw windows; None for none.
        encoder_channels: Those that enter the encoder, the others only the side inputs; None for all.

    Raises:
        UserError: If a channel for the encoder is not among the network's.

    Attributes:
        calibration: What turns logits into probabilities; the plain sigmoid until one is fitted or restored.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        encoder: nn.Module,
        head: LinearHead,
        indices: SignalIndices | None = None,
        encoder_channels: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.encoder = encoder
        self.head = head
        self.indices = indices
        chosen = preprocess.channels if encoder_channels is None else channel_names(encoder_channels)
        if foreign := sorted(set(chosen) - set(preprocess.channels)):
            raise UserError(f"model.encoder_channels names {foreign[0]}, but the model takes {preprocess.channels}")
        self._encoded = None if encoder_channels is None else [name in chosen for name in preprocess.channels]
        self.calibration = Calibration()

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Classify raw windows.

        Args:
            signals: ``[B, C, 1250]``, unfiltered and unscaled, any real dtype.
            present: ``[B, C]`` bool, or None when every channel is there.

        Returns:
            Logits ``[B]``; above 0 means good is likelier than poor.
        """
        scaled, usable = self.scaled(signals, present)
        return self.classify(scaled, usable, None if self.indices is None else self.side_inputs(signals, usable))

    @torch.no_grad()
    def side_inputs(self, signals: Tensor, usable: Tensor) -> Tensor:
        """Return the head's side inputs ``[B, K]`` of raw windows, NaN where a channel they need is not usable.

        Args:
            signals: ``[B, C, 1250]``, unfiltered and unscaled.
            usable: ``[B, C]`` bool; see :meth:`Preprocess.usable`.
        """
        indices = self.indices
        assert indices is not None
        return torch.where(indices.available(usable), indices(signals, usable), torch.nan)

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

    def seen(self, scaled: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return preprocessed windows ``[B, C, T]`` and their ``present`` as the encoder sees them."""
        if self._encoded is None:
            return scaled, present
        entering = torch.tensor(self._encoded, device=scaled.device)
        present = entering.expand(len(scaled), -1) if present is None else present & entering
        return scaled * present.unsqueeze(-1), present

    def classify(self, scaled: Tensor, present: Tensor | None = None, side: Tensor | None = None) -> Tensor:
        """Classify preprocessed windows ``[B, C, T]`` with the head's side inputs ``[B, K]``; return logits ``[B]``."""
        return cast("Tensor", self.head(cast("Encoder", self.encoder)(*self.seen(scaled, present)), side))

    @torch.no_grad()
    def probabilities(self, signals: Tensor, present: Tensor | None = None, prior: float | None = None) -> Tensor:
        """Return the calibrated probability of good quality, ``[B]`` float32 in 0..1, of raw windows ``[B, C, 1250]``.

        Args:
            signals: ``[B, C, 1250]``, unfiltered and unscaled, any real dtype.
            present: ``[B, C]`` bool, or None when every channel is there.
            prior: Share of good windows where the model is used; None for the one it was calibrated at.
        """
        logits: Tensor = self(signals, present)
        return self.calibration.probabilities(logits, prior)

    @torch.no_grad()
    def score(self, signals: Any, present: Any = None, batch_size: int = 256, prior: float | None = None) -> Tensor:
        """Score any number of raw windows in eval mode, leaving the user's mode as it was.

        Args:
            signals: ``[N, C, 1250]`` array or tensor, unfiltered and unscaled, channels in the order of
                ``preprocess.channels``; may be memory-mapped.
            present: ``[N, C]`` bool, or None when every channel is there.
            batch_size: Windows per forward pass.
            prior: Share of good windows where the model is used; None for the one it was calibrated at.

        Returns:
            Calibrated probability of good quality, ``[N]`` float32 in 0..1, on the CPU.

        Raises:
            UserError: If the shape does not fit, or the prior needs a calibration that is not there.
        """
        return self.calibration.probabilities(self.score_logits(signals, present, batch_size), prior)

    @torch.no_grad()
    def score_logits(self, signals: Any, present: Any = None, batch_size: int = 256) -> Tensor:
        """Return the logits ``[N]`` float32, on the CPU, of any number of raw windows; arguments as :meth:`score`.

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
                found.append(self(_tensor(signals[rows]).to(device), there).float().cpu())
        return torch.cat(found) if found else torch.empty(0)


def assemble(
    preprocess: Preprocess,
    encoder: nn.Module,
    head: str,
    head_dropout: float = 0.0,
    indices: Sequence[str] | None = None,
    encoder_channels: Sequence[str] | None = None,
) -> QualityNetwork:
    """Put a network together by its options.

    Args:
        preprocess: Filters and scales raw windows.
        encoder: Maps preprocessed windows to tokens.
        head: Name of the head; see :data:`butppg_lightning.models.heads.HEADS`.
        head_dropout: Dropout share in the head.
        indices: Groups of signal indices that the head is given; None or empty for none.
        encoder_channels: Channels that enter the encoder; None for all.

    Raises:
        UserError: If a name is unknown.
    """
    if head not in HEADS:
        raise UserError(f"model.head is '{head}'; choose {', '.join(HEADS)}")
    computed = SignalIndices(preprocess.channels, indices) if indices else None
    count = 0 if computed is None else len(computed.names)
    built = HEADS[head](cast("Encoder", encoder).width, head_dropout, count)
    return QualityNetwork(preprocess, encoder, built, computed, encoder_channels)


def _tensor(values: Any) -> Tensor:
    # a copy: torch cannot look at read-only memory, which is what a memory-mapped file is
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
