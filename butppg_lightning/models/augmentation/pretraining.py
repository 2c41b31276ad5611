"""Variations of preprocessed windows for masked pretraining: lost channels, amplitude, time shift."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from butppg_lightning.errors import UserError


@dataclass
class Augment:
    """Varies preprocessed windows; each part is off at 0.

    Args:
        modality_dropout: Probability that one whole channel of a window is withheld from the encoder. Never the only
            one. It stays a target: the model has to infer it from the others.
        amplitude: Each channel is multiplied by a factor within 1 plus and minus this (0.2: factors 0.8 to 1.2).
        invert_ppg: Probability that PPG is turned upside down (reflective and transmissive sensors differ in sign).
        ppg: Column of PPG; -1 where there is none.
        time_shift: Windows are shifted by at most this share of their length (0.1: one second of ten) by cutting them
            out of the recorded one. Nothing is wrapped around or padded, so the result is shorter.
        patch_size: The result's length is a multiple of this many samples.

    Raises:
        UserError: If a number is impossible.
    """

    modality_dropout: float = 0.0
    amplitude: float = 0.0
    time_shift: float = 0.0
    invert_ppg: float = 0.0
    ppg: int = -1
    patch_size: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        for name, most in (("modality_dropout", 1.0), ("amplitude", 0.99), ("time_shift", 0.5), ("invert_ppg", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"{name} is {getattr(self, name)}; expected 0 to {most:g}")

    def __call__(
        self, signals: Tensor, present: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vary a batch.

        Args:
            signals: Preprocessed windows ``[B, C, T]``.
            present: ``[B, C]`` bool.
            generator: Source of randomness, on the device of the signals; None for torch's global one.

        Returns:
            The windows ``[B, C, T']`` with T' at most T, withheld channels included (they are targets), and
            ``[B, C]`` bool: the channels the encoder may see.
        """
        seen = present
        if self.time_shift:
            signals = self._shift(signals, generator)
        if self.amplitude:
            draw = torch.rand(present.shape, generator=generator, device=signals.device)
            signals = signals * (1 + self.amplitude * (2 * draw - 1)).unsqueeze(-1)
        if self.invert_ppg and self.ppg >= 0:
            signs = torch.ones_like(present, dtype=signals.dtype)
            draw = torch.rand(len(present), generator=generator, device=signals.device)
            signs[:, self.ppg] -= 2 * (draw < self.invert_ppg)
            signals = signals * signs.unsqueeze(-1)
        if self.modality_dropout:
            seen = self._withhold(present, generator)
        return signals, seen

    def _shift(self, signals: Tensor, generator: torch.Generator | None) -> Tensor:
        batch, channels, samples = signals.shape
        device = signals.device
        most = int(self.time_shift * samples) // self.patch_size
        # one length per batch, the full one among them: the last positions of the encoder are trained too
        cut = int(torch.randint(most + 1, (), generator=generator, device=device)) * self.patch_size
        if not cut:
            return signals
        starts = torch.randint(cut + 1, (batch, 1), generator=generator, device=device)
        # the same for all channels: the delay between them is physiology
        index = starts + torch.arange(samples - cut, device=device)
        return signals.gather(2, index.unsqueeze(1).expand(-1, channels, -1))

    def _withhold(self, present: Tensor, generator: torch.Generator | None) -> Tensor:
        chance = torch.rand(len(present), 1, generator=generator, device=present.device)
        draw = torch.rand(present.shape, generator=generator, device=present.device)
        chosen = draw.masked_fill(~present, -1).argmax(1, keepdim=True)
        withheld = torch.zeros_like(present).scatter_(1, chosen, True)
        spare = present.sum(1, keepdim=True) > 1
        return present & ~(withheld & spare & (chance < self.modality_dropout))
