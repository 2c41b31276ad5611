"""The variation of a classifier's training windows: what is asked for, and in which order it is done."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from butppg_lightning.errors import UserError
from butppg_lightning.models.augmentation.motion_mixing import MotionMixing
from butppg_lightning.models.augmentation.time_warp import TimeAxis, take
from butppg_lightning.models.preprocess import Preprocess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST = {
    "amplitude": 0.99,
    "noise": 10,
    "invert_ppg": 1,
    "shift": 5,
    "lag_jitter": 1,
    "stretch": 0.5,
    "motion_mixing": 1,
}


class Varied(NamedTuple):
    """Varied windows.

    Attributes:
        scaled: ``[B, C, T]``; absent channels are 0.
        present: ``[B, C]`` bool.
        spoiled: ``[B]`` in 0..1: the share of the window that motion mixing spoiled; see :func:`lower_targets`.
    """

    scaled: Tensor
    present: Tensor
    spoiled: Tensor


class Variation:
    """Varies preprocessed windows; each part is off at 0, or where the channels it is about are not among these.

    Args:
        channels: Channel names, in the order of the windows' second axis.
        channel_dropout: Probability, per channel or sensor (PPG, ECG, ACC), that a window lacks it. The axes of ACC
            are lost together; a window never loses all it has.
        preprocess: What made the windows; None for one with the default options.
        amplitude: Each channel is multiplied by a factor within 1 plus and minus this (0.2: factors 0.8 to 1.2).
        noise: Standard deviation of white noise added to the channels, in units of the preprocessed signal.
        invert_ppg: Probability that PPG is turned upside down (reflective and transmissive sensors differ in sign).
        shift: All channels are moved in time by up to this many seconds, either way: one end is cut off, and the
            other is filled with the signal mirrored at the edge.
        lag_jitter: ECG is moved against PPG by up to this many seconds, either way, and filled in the same way
            (clocks of two devices differ, and so do pulse transit times); ACC stays with PPG.
        stretch: The time axis of all channels is stretched by a factor within 1 plus and minus this, about a random
            centre (other heart rates); what lies beyond the edges is mirrored.
        motion_mixing: Probability that PPG gets a motion artefact; the label then has to follow, see
            :class:`~butppg_lightning.models.augmentation.motion_mixing.MotionMixing`.

    Raises:
        UserError: If a channel is unknown or a number impossible.
    """

    def __init__(
        self,
        channels: Sequence[str],
        channel_dropout: Mapping[str, float] | None = None,
        preprocess: Preprocess | None = None,
        *,
        amplitude: float = 0.0,
        noise: float = 0.0,
        invert_ppg: float = 0.0,
        shift: float = 0.0,
        lag_jitter: float = 0.0,
        stretch: float = 0.0,
        motion_mixing: float = 0.0,
    ) -> None:
        given = (amplitude, noise, invert_ppg, shift, lag_jitter, stretch, motion_mixing)
        for (name, most), value in zip(_MOST.items(), given, strict=True):
            if not 0 <= value <= most:
                raise UserError(f"model.augment {name} is {value}; expected 0 to {most:g}")
        names = list(channels)
        self.amplitude = amplitude
        self.noise = noise
        self.invert_ppg = invert_ppg if "PPG" in names else 0.0
        self._ppg = names.index("PPG") if "PPG" in names else -1
        both = "PPG" in names and "ECG" in names
        self._time_axis = TimeAxis(shift, lag_jitter, stretch, names.index("ECG") if both else None)
        self._motion: MotionMixing | None = None
        if motion_mixing and "PPG" in names:
            self._motion = MotionMixing(names, motion_mixing, preprocess or Preprocess(names))
        self._shares = _dropout_per_channel(channel_dropout, names)
        # one draw per sensor: channels that are lost together share a column
        sensors = [name if name in (channel_dropout or {}) else name[:3] for name in names]
        self._draws = [sensors.index(sensor) for sensor in sensors]

    @classmethod
    def from_options(
        cls,
        channels: Sequence[str],
        channel_dropout: Mapping[str, float] | None,
        options: Mapping[str, float] | None,
        preprocess: Preprocess | None = None,
    ) -> Variation:
        """Build one from what a configuration says.

        Raises:
            UserError: On an unknown option or an impossible value.
        """
        parameters = inspect.signature(cls).parameters.values()
        known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        for key in options or {}:
            if key not in known:
                raise UserError(f"model.augment has no option '{key}'; it has {', '.join(known)}")
        return cls(channels, channel_dropout, preprocess, **(options or {}))

    def __bool__(self) -> bool:
        """Tell whether anything is varied."""
        parts = (self.amplitude, self.noise, self.invert_ppg, self._time_axis, self.changes_labels)
        return any(parts) or self._shares is not None

    @property
    def changes_labels(self) -> bool:
        """Whether windows may become worse, so that varied windows cannot be used without :attr:`Varied.spoiled`."""
        return self._motion is not None

    @property
    def drops_channels(self) -> bool:
        """Whether windows may lose channels."""
        return self._shares is not None

    def vary(self, scaled: Tensor, present: Tensor) -> Varied:
        """Vary a batch, drawing from torch's global generator.

        The order is that of the recording: motion, then the time axis of everything, then the amplifier.

        Args:
            scaled: Preprocessed windows ``[B, C, T]``.
            present: ``[B, C]`` bool.

        Returns:
            Windows and ``present`` of the same shapes, and the share of each window that was spoiled.
        """
        seen = self._drop(present)
        spoiled = scaled.new_zeros(len(scaled), scaled.shape[-1])
        if self._motion is not None:
            scaled, spoiled = self._motion(scaled, present, seen)
        if self._time_axis:
            positions = self._time_axis.draw(scaled)
            scaled = take(scaled, positions)
            if self._motion is not None:
                spoiled = take(spoiled.unsqueeze(1), positions[:, self._ppg : self._ppg + 1]).squeeze(1)
        if self.amplitude:
            draw = torch.rand(present.shape, device=scaled.device)
            scaled = scaled * (1 + self.amplitude * (2 * draw - 1)).unsqueeze(-1)
        if self.invert_ppg:
            signs = torch.ones_like(present, dtype=scaled.dtype)
            signs[:, self._ppg] -= 2 * (torch.rand(len(present), device=scaled.device) < self.invert_ppg)
            scaled = scaled * signs.unsqueeze(-1)
        if self.noise:
            scaled = scaled + self.noise * torch.randn_like(scaled)
        return Varied(scaled * seen.unsqueeze(-1), seen, spoiled.mean(-1))

    def _drop(self, present: Tensor) -> Tensor:
        if self._shares is None:
            return present
        draw = torch.rand(present.shape, device=present.device)[:, self._draws]
        kept = present & (draw >= self._shares.to(present.device))
        return torch.where(kept.any(1, keepdim=True), kept, present)


def _dropout_per_channel(asked: Mapping[str, float] | None, channels: Sequence[str]) -> Tensor | None:
    for name, share in (asked or {}).items():
        if name not in (*channels, "ACC") or not 0 <= share <= 1:
            raise UserError(f"model.channel_dropout {name}: {share}; expected PPG, ECG, ACC or a channel, and 0 to 1")
    if not asked or not any(asked.values()):
        return None
    return torch.tensor([asked.get(name, asked.get(name[:3], 0.0)) for name in channels])
