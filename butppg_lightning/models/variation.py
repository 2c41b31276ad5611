"""Random variation of preprocessed windows while a classifier trains. Shapes stay, so that features can be stored."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class Variation:
    """Varies preprocessed windows; each part is off at 0.

    Args:
        channels: Channel names, in the order of the windows' second axis.
        channel_dropout: Probability, per channel or sensor (PPG, ECG, ACC), that a window lacks it. The axes of ACC
            are lost together; a window never loses all it has.
        amplitude: Each channel is multiplied by a factor within 1 plus and minus this (0.2: factors 0.8 to 1.2).
        noise: Standard deviation of white noise added to the channels, in units of the preprocessed signal.
        invert_ppg: Probability that PPG is turned upside down (reflective and transmissive sensors differ in sign).

    Raises:
        UserError: If a channel is unknown or a number impossible.
    """

    def __init__(
        self,
        channels: Sequence[str],
        channel_dropout: Mapping[str, float] | None = None,
        *,
        amplitude: float = 0.0,
        noise: float = 0.0,
        invert_ppg: float = 0.0,
    ) -> None:
        for name, value, most in (("amplitude", amplitude, 0.99), ("noise", noise, 10), ("invert_ppg", invert_ppg, 1)):
            if not 0 <= value <= most:
                raise UserError(f"model.augment {name} is {value}; expected 0 to {most:g}")
        self.amplitude = amplitude
        self.noise = noise
        self.invert_ppg = invert_ppg if "PPG" in channels else 0.0
        self._ppg = list(channels).index("PPG") if "PPG" in channels else -1
        self._shares = _dropout_per_channel(channel_dropout, channels)
        # one draw per sensor: channels that are lost together share a column
        sensors = [name if name in (channel_dropout or {}) else name[:3] for name in channels]
        self._draws = [sensors.index(sensor) for sensor in sensors]

    @classmethod
    def from_options(
        cls, channels: Sequence[str], channel_dropout: Mapping[str, float] | None, options: Mapping[str, float] | None
    ) -> Variation:
        """Build one from what a configuration says.

        Raises:
            UserError: On an unknown option or an impossible value.
        """
        known = list(inspect.signature(cls).parameters)[2:]
        for key in options or {}:
            if key not in known:
                raise UserError(f"model.augment has no option '{key}'; it has {', '.join(known)}")
        return cls(channels, channel_dropout, **(options or {}))

    def __bool__(self) -> bool:
        """Tell whether anything is varied."""
        return bool(self.amplitude or self.noise or self.invert_ppg or self._shares is not None)

    def __call__(self, scaled: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Vary a batch, drawing from torch's global generator.

        Args:
            scaled: Preprocessed windows ``[B, C, T]``.
            present: ``[B, C]`` bool.

        Returns:
            Windows and ``present`` of the same shapes.
        """
        if self._shares is not None:
            draw = torch.rand(present.shape, device=present.device)[:, self._draws]
            kept = present & (draw >= self._shares.to(present.device))
            present = torch.where(kept.any(1, keepdim=True), kept, present)
        if self.amplitude:
            draw = torch.rand(present.shape, device=scaled.device)
            scaled = scaled * (1 + self.amplitude * (2 * draw - 1)).unsqueeze(-1)
        if self.invert_ppg:
            signs = torch.ones_like(present, dtype=scaled.dtype)
            signs[:, self._ppg] -= 2 * (torch.rand(len(present), device=scaled.device) < self.invert_ppg)
            scaled = scaled * signs.unsqueeze(-1)
        if self.noise:
            scaled = scaled + self.noise * torch.randn_like(scaled)
        return scaled * present.unsqueeze(-1), present


def _dropout_per_channel(asked: Mapping[str, float] | None, channels: Sequence[str]) -> Tensor | None:
    for name, share in (asked or {}).items():
        if name not in (*channels, "ACC") or not 0 <= share <= 1:
            raise UserError(f"model.channel_dropout {name}: {share}; expected PPG, ECG, ACC or a channel, and 0 to 1")
    if not asked or not any(asked.values()):
        return None
    return torch.tensor([asked.get(name, asked.get(name[:3], 0.0)) for name in channels])
