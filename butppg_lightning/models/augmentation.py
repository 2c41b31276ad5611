"""Random variation of preprocessed windows, while a classifier trains and while an encoder is pretrained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from butppg_lightning.errors import UserError
from butppg_lightning.models.motion_mixing import MotionMixing
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.window import SAMPLING_RATE

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
_MOST_PRETRAINING = {"modality_dropout": 1, "amplitude": 0.99, "time_shift": 0.5, "invert_ppg": 1}


class Varied(NamedTuple):
    """Varied windows."""

    scaled: Tensor  # [B, C, T]; absent channels are 0
    present: Tensor  # [B, C] bool
    spoiled: Tensor  # [B] in 0..1: the share of the window that motion mixing spoiled; see lower_targets


class Variation:
    """Varies a classifier's training windows; each part is off at 0, or where its channels are not among these.

    Shapes stay, so that features of varied windows can be stored. Nothing wraps around in time: a wrapped window has a
    jump that no recording has. What lies beyond an edge is the recorded signal mirrored at it. That part is made up
    (pulses run backwards there), so shifts should stay short.

    Args:
        channels: Channel names, in the order of the windows' second axis.
        channel_dropout: Probability, per channel or sensor (PPG, ECG, ACC), that a window lacks it. The axes of ACC
            are lost together; a window never loses all it has.
        preprocess: What made the windows; None for one with the default options.
        amplitude: Each channel is multiplied by a factor within 1 plus and minus this (0.2: factors 0.8 to 1.2).
        noise: Standard deviation of white noise added to the channels, in units of the preprocessed signal.
        invert_ppg: Probability that PPG is turned upside down (reflective and transmissive sensors differ in sign);
            for a polarity as recorded.
        shift: All channels are moved in time by up to this many seconds, either way.
        lag_jitter: ECG is moved against PPG by up to this many seconds, either way (clocks of two devices differ, and
            so do pulse transit times); ACC stays with PPG.
        stretch: The time axis of all channels is stretched by a factor within 1 plus and minus this, about a random
            centre (other heart rates).
        motion_mixing: Probability that PPG gets a motion artefact; the label then has to follow, see
            :class:`~butppg_lightning.models.motion_mixing.MotionMixing`.

    Raises:
        UserError: If a channel or an option is unknown, or a number impossible.
    """

    def __init__(
        self,
        channels: Sequence[str],
        channel_dropout: Mapping[str, float] | None = None,
        preprocess: Preprocess | None = None,
        /,  # so that an option that happens to be called so is refused like any other unknown one
        **options: float,
    ) -> None:
        for key in options:
            if key not in _MOST:
                raise UserError(f"model.augment has no option '{key}'; it has {', '.join(_MOST)}")
        given = {**dict.fromkeys(_MOST, 0.0), **options}
        _check("model.augment ", given, _MOST)
        names = list(channels)
        ppg = "PPG" in names
        self._ppg = names.index("PPG") if ppg else -1
        self._ecg = names.index("ECG") if "ECG" in names else -1
        self.amplitude, self.noise = given["amplitude"], given["noise"]
        self.shift, self.stretch = given["shift"], given["stretch"]
        self.invert_ppg = given["invert_ppg"] if ppg else 0.0
        self.lag_jitter = given["lag_jitter"] if ppg and "ECG" in names else 0.0
        self._motion: MotionMixing | None = None
        if given["motion_mixing"] and ppg:
            self._motion = MotionMixing(names, given["motion_mixing"], preprocess or Preprocess(names))
        self._shares = _dropout_per_channel(channel_dropout, names)
        # one draw per sensor: channels that are lost together share a column
        sensors = [name if name in (channel_dropout or {}) else name[:3] for name in names]
        self._draws = [sensors.index(sensor) for sensor in sensors]
        self._sensors = len({name[:3] for name in names})

    def __bool__(self) -> bool:
        """Return whether anything is varied."""
        parts = (self.amplitude, self.noise, self.invert_ppg, self._moves_time, self.changes_labels)
        return any(parts) or self._shares is not None

    @property
    def changes_labels(self) -> bool:
        """Whether windows may become worse, so that varied windows cannot be used without :attr:`Varied.spoiled`."""
        return self._motion is not None

    @property
    def drops_channels(self) -> bool:
        """Whether windows may lose channels."""
        return self._shares is not None

    @property
    def drops_axes(self) -> bool:
        """Whether windows may lose some axes of acceleration and keep others, which changes what is computed of it."""
        return self.drops_channels and len(set(self._draws)) > self._sensors

    @property
    def _moves_time(self) -> bool:
        return any((self.shift, self.lag_jitter, self.stretch))

    def vary(self, scaled: Tensor, present: Tensor) -> Varied:
        """Vary preprocessed windows ``[B, C, T]`` with ``present [B, C]`` bool, drawing from torch's global generator.

        The order is that of the recording: motion, then the time axis of everything, then the amplifier.
        """
        seen = self._drop(present)
        spoiled = scaled.new_zeros(len(scaled), scaled.shape[-1])
        if self._motion is not None:
            scaled, spoiled = self._motion(scaled, present, seen)
        if self._moves_time:
            positions = self._positions(scaled)
            scaled = take(scaled, positions)
            if self._motion is not None:
                spoiled = take(spoiled.unsqueeze(1), positions[:, self._ppg : self._ppg + 1]).squeeze(1)
        if self.amplitude:
            scaled = _amplified(scaled, self.amplitude)
        if self.invert_ppg:
            scaled = _inverted(scaled, self._ppg, self.invert_ppg)
        if self.noise:
            scaled = scaled + self.noise * torch.randn_like(scaled)
        return Varied(scaled * seen.unsqueeze(-1), seen, spoiled.mean(-1))

    def _drop(self, present: Tensor) -> Tensor:
        if self._shares is None:
            return present
        draw = torch.rand(present.shape, device=present.device)[:, self._draws]
        kept = present & (draw >= self._shares.to(present.device))
        return torch.where(kept.any(1, keepdim=True), kept, present)

    def _positions(self, windows: Tensor) -> Tensor:
        """Draw where in ``windows`` each sample of the varied ones comes from: ``[B, C, T]`` in samples.

        They are fractional, possibly beyond the edges; shift and lag are whole samples, and interpolate nothing.
        """
        batch, channels, samples = windows.shape
        device = windows.device
        positions = torch.arange(samples, device=device, dtype=torch.float32).expand(batch, samples)
        if self.stretch:
            factors = 1 + self.stretch * (2 * torch.rand(batch, 1, device=device) - 1)
            centres = (samples - 1) * torch.rand(batch, 1, device=device)
            positions = centres + (positions - centres) / factors
        if self.shift:
            positions = positions + _whole_samples(self.shift, batch, device)
        positions = positions.unsqueeze(1).repeat(1, channels, 1)
        if self.lag_jitter:
            positions[:, self._ecg] += _whole_samples(self.lag_jitter, batch, device)
        return positions


@dataclass
class Augment:
    """Varies the windows of masked pretraining; each part is off at 0.

    Args:
        modality_dropout: Probability that one whole channel of a window is withheld from the encoder. Never the only
            one. It stays a target: the model has to infer it from the others.
        amplitude: As in :class:`Variation`.
        time_shift: Windows are shifted by at most this share of their length (0.1: one second of ten) by cutting them
            out of the recorded one. Nothing is wrapped around or padded, so the result is shorter.
        invert_ppg: As in :class:`Variation`.
        ppg: Column of PPG; -1 where there is none.
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
        _check("", vars(self), _MOST_PRETRAINING)

    def __call__(
        self, signals: Tensor, present: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vary preprocessed windows ``[B, C, T]`` with ``present [B, C]``, drawing from ``generator`` on their device.

        Returns the windows ``[B, C, T']`` with T' at most T, withheld channels included (they are targets), and
        ``[B, C]`` bool: the channels the encoder may see.
        """
        if self.time_shift:
            signals = self._shift(signals, generator)
        if self.amplitude:
            signals = _amplified(signals, self.amplitude, generator)
        if self.invert_ppg and self.ppg >= 0:
            signals = _inverted(signals, self.ppg, self.invert_ppg, generator)
        return signals, self._withhold(present, generator) if self.modality_dropout else present

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


def take(signals: Tensor, positions: Tensor) -> Tensor:
    """Read ``[B, C, T]`` at positions ``[B, C, T']`` (samples): interpolated linearly, mirrored beyond the edges.

    Half-way between samples this halves the amplitude of ECG at 40 Hz and costs PPG 2 % at 8 Hz.

    Examples:
        >>> take(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), torch.tensor([[[-1.0, 0.5, 3.0, 4.0]]])).tolist()
        [[[1.0, 0.5, 3.0, 2.0]]]
    """
    last = signals.shape[-1] - 1
    around = positions.remainder(2 * last)
    inside = torch.minimum(around, 2 * last - around)
    below = inside.floor()
    start = signals.gather(-1, below.long())
    end = signals.gather(-1, (below.long() + 1).clamp(max=last))
    return torch.lerp(start, end, (inside - below).to(signals.dtype))


def refuse_idle_inversion(where: str, probability: float, preprocess: Preprocess) -> None:
    """Refuse to turn the PPG upside down, by the option ``where``, if polarity is canonical: it would change nothing.

    Raises:
        UserError: If so.
    """
    if probability and preprocess.polarity == "canonical":
        raise UserError(
            f"{where} is {probability}, but the PPG is turned to its canonical polarity; drop it, or set "
            "model.preprocess.polarity to recorded"
        )


def _check(where: str, given: Mapping[str, float], most: Mapping[str, float]) -> None:
    for name, limit in most.items():
        if not 0 <= given[name] <= limit:
            raise UserError(f"{where}{name} is {given[name]}; expected 0 to {limit:g}")


def _dropout_per_channel(asked: Mapping[str, float] | None, channels: Sequence[str]) -> Tensor | None:
    for name, share in (asked or {}).items():
        if name not in (*channels, "ACC") or not 0 <= share <= 1:
            raise UserError(f"model.channel_dropout {name}: {share}; expected PPG, ECG, ACC or a channel, and 0 to 1")
    if not asked or not any(asked.values()):
        return None
    return torch.tensor([asked.get(name, asked.get(name[:3], 0.0)) for name in channels])


def _amplified(signals: Tensor, amplitude: float, generator: torch.Generator | None = None) -> Tensor:
    draw = torch.rand(signals.shape[:2], generator=generator, device=signals.device)
    return signals * (1 + amplitude * (2 * draw - 1)).unsqueeze(-1)


def _inverted(signals: Tensor, ppg: int, probability: float, generator: torch.Generator | None = None) -> Tensor:
    signs = torch.ones_like(signals[..., 0])
    draw = torch.rand(len(signals), generator=generator, device=signals.device)
    signs[:, ppg] -= 2 * (draw < probability)
    return signals * signs.unsqueeze(-1)


def _whole_samples(seconds: float, batch: int, device: torch.device) -> Tensor:
    most = round(seconds * SAMPLING_RATE)
    return torch.randint(-most, most + 1, (batch, 1), device=device)
