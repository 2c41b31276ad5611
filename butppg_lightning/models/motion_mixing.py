"""Motion mixing: PPG gets an artefact made of recorded acceleration, and the label has to follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from butppg_lightning.models.preprocess import Preprocess

_WEAKEST, _STRONGEST = -12.0, 12.0  # dB, artefact over pulse
_PULSE_STRONGEST = 3.0  # dB; another window's pulse, if much stronger than the own, would simply be a clean pulse
_SPOILS = -3.0  # dB
_LEAST_MOTION = 0.1  # of the training windows' root mean square acceleration; below is a sensor's noise
_SHORTEST = 0.1  # of the window
_TAPER = 0.25  # s


class MotionMixing:
    """Adds motion artefacts to the PPG of windows, each with the given ``probability``.

    An artefact follows one random direction of the acceleration of the window itself or of another one: partly
    rectified, as pressing and releasing differ, then delayed and smoothed, as tissue and blood follow with a time
    constant of 40 to 150 ms, then filtered as PPG is. Half of the artefacts also contain another window's PPG, turned
    round in time so that it has a pulse's rhythm but not its shape; where no window has acceleration it is that
    alone. It fills a random stretch of 1 to 10 s at -12 to +12 dB over the window's own PPG. The mixed PPG is brought
    back to the spread it had, because preprocessing would do so: a larger amplitude would give the artefact away.

    A sample counts as spoiled where the artefact, as a root mean square over one second, is stronger than -3 dB of the
    window's PPG. That is where reading fails: with whole windows of 705 clean PPGs of BIDMC mixed, most of the five
    readers of ``butppg_lightning.sources.synthetic.readers`` still found the rate in 99 % at -9 dB, 88 % at -6 dB,
    47 % at -3 dB, 21 % at 0 dB and 11 % at +3 dB.
    """

    def __init__(self, channels: Sequence[str], probability: float, preprocess: Preprocess) -> None:
        self.probability = probability
        self._preprocess = preprocess
        self._ppg = list(channels).index("PPG")
        self._acc = [row for row, name in enumerate(channels) if name.startswith("ACC")]

    def __call__(self, scaled: Tensor, present: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mix artefacts into some preprocessed windows ``[B, C, 1250]``.

        An artefact is made of what was recorded (``present [B, C]`` bool). Where PPG is not among what the network will
        see (``seen [B, C]`` bool), nothing is spoiled. Also returns ``[B, 1250]`` float: 1 where it is spoiled.
        """
        # half precision would round the filters' sums
        with torch.autocast(scaled.device.type, enabled=False):
            chosen = torch.rand(len(scaled), device=scaled.device) < self.probability
            artefact, found = self._artefact(scaled, present)
            ppg = scaled[:, self._ppg]
            mixed = self._as_before(ppg + artefact, ppg)
            strong = _local_power(artefact) > 10 ** (_SPOILS / 10) * _power(ppg).unsqueeze(-1)
            chosen = (chosen & found & seen[:, self._ppg]).unsqueeze(-1)
            scaled = scaled.clone()
            scaled[:, self._ppg] = torch.where(chosen, mixed, ppg)
            return scaled, (chosen & strong).to(scaled.dtype)

    def _artefact(self, scaled: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, samples = scaled.shape
        draw: Any = lambda: torch.rand(batch, 1, device=scaled.device)  # noqa: E731
        own = torch.arange(batch, device=scaled.device)
        other = (own + torch.randint(1, max(batch, 2), (batch,), device=scaled.device)) % batch
        envelope = _stretch(draw(), draw(), samples)
        source = torch.where(draw().squeeze(1) < 0.5, own, other)
        acceleration = scaled[source][:, self._acc]
        pressing = draw()
        direction = torch.randn(acceleration.shape[:2], device=scaled.device)
        direction = direction / direction.norm(dim=1, keepdim=True)
        drive = (acceleration * direction.unsqueeze(-1)).sum(1)
        drive = (drive + 0.8 * pressing * drive.abs()) * envelope
        moving = _power(drive).sqrt() > _LEAST_MOTION * envelope.square().mean(-1).sqrt()
        motion = _unit(self._response(drive, 0.04 + 0.11 * draw()) * envelope) * moving.unsqueeze(-1)
        there = present[other, self._ppg] & (other != own)
        share = (0.5 + 0.5 * draw()) * (there & (~moving | (draw().squeeze(1) < 0.5))).unsqueeze(-1)
        artefact = _unit(motion + share * _unit(scaled[other, self._ppg].flip(-1) * envelope))
        level = _WEAKEST + (_STRONGEST - _WEAKEST) * draw()
        level = torch.where(moving.unsqueeze(-1), level, level.clamp(max=_PULSE_STRONGEST))
        within = envelope.square().mean(-1, keepdim=True).sqrt()
        height = _power(scaled[:, self._ppg]).sqrt().unsqueeze(-1)
        return artefact * within * height * torch.pow(10, level / 20), moving | there

    def _response(self, drive: Tensor, time_constant: Tensor) -> Tensor:
        samples = drive.shape[-1]
        # mirrored at the end, so that the transform's period has no jump
        spectrum = torch.fft.rfft(torch.cat([drive, drive.flip(-1)], dim=-1))
        frequency = torch.fft.rfftfreq(2 * samples, 1 / SAMPLING_RATE, device=drive.device)
        follows: Tensor = torch.fft.irfft(spectrum / (1 + 2j * torch.pi * frequency * time_constant))[:, :samples]
        band: Tensor = self._preprocess.ppg_band  # type: ignore[assignment]
        return follows @ band.to(follows) if band.ndim else follows

    def _as_before(self, mixed: Tensor, ppg: Tensor) -> Tensor:
        if self._preprocess.scaling == "zscore":
            centre, spread, wanted = mixed.mean(-1, keepdim=True), mixed.std(-1), ppg.std(-1)
        else:
            (low, centre, high), (low_before, _, high_before) = _quartiles(mixed), _quartiles(ppg)
            centre, spread, wanted = centre.unsqueeze(-1), high - low, high_before - low_before
        factor = (wanted / spread.clamp(min=1e-6)).unsqueeze(-1)
        return ((mixed - centre) * factor).clamp(-self._preprocess.clip, self._preprocess.clip)


def lower_targets(targets: Tensor, spoiled: Tensor, *, soft: bool) -> Tensor:
    """Return the targets ``[B]`` in 0..1 of windows of which the share ``spoiled [B]`` in 0..1 was spoiled.

    Soft targets are taken for the share of the window that is fit for use; an artefact that strikes anywhere leaves
    ``target * (1 - spoiled)`` of it. A hard label 1 says only that *less than half* was unfit: if that share is
    uniform on 0 to 0.5 (it is for the good windows of SPC 2015: 32, 18, 22, 14, 19 of 105 per tenth), the window is
    still good after ``spoiled`` more with probability ``(1 - 2 spoiled) / (1 - spoiled)``, and poor from one half on.
    Poor windows stay poor. The labels of BUT PPG, made from readings of the heart rate, go the same way: of the
    windows named at :class:`MotionMixing`, 92, 72, 54, 37 and 30 % were read right in the first five tenths of
    ``spoiled``; this says 95, 82, 67, 46 and 18 %.

    Examples:
        >>> lower_targets(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 0.25, 0.25]), soft=False)
        tensor([1.0000, 0.6667, 0.0000])
        >>> lower_targets(torch.tensor([1.0, 0.8, 0.0]), torch.tensor([0.0, 0.25, 0.25]), soft=True)
        tensor([1.0000, 0.6000, 0.0000])
    """
    left = 1 - spoiled
    return targets * (left if soft else (1 - 2 * spoiled).clamp(min=0) / left.clamp(min=0.5))


def _stretch(length: Tensor, start: Tensor, samples: int) -> Tensor:
    """Return ``[B, T]``: 1 in a random stretch, 0 outside, with rounded ends, from two draws ``[B, 1]`` in 0..1."""
    length = samples * (_SHORTEST + (1 - _SHORTEST) * length)
    start = (samples - length) * start
    time = torch.arange(samples, device=start.device)
    to_edge = torch.minimum(time - start, start + length - time) / (_TAPER * SAMPLING_RATE)
    return 0.5 - 0.5 * torch.cos(torch.pi * to_edge.clamp(0, 1))


def _power(signals: Tensor) -> Tensor:
    return signals.square().mean(-1)


def _unit(signals: Tensor) -> Tensor:
    return signals / _power(signals).sqrt().clamp(min=1e-6).unsqueeze(-1)


def _local_power(signals: Tensor) -> Tensor:
    width = SAMPLING_RATE // 2 * 2 + 1
    power = signals.square().unsqueeze(1)
    return F.avg_pool1d(power, width, stride=1, padding=width // 2, count_include_pad=False).squeeze(1)


def _quartiles(signals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ordered, count = signals.sort(-1).values, signals.shape[-1]
    return ordered[:, count // 4], ordered[:, count // 2], ordered[:, 3 * count // 4]
