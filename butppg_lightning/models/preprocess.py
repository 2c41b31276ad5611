"""Filtering and scaling of raw windows: one module for pretraining, fine-tuning, scoring and export."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.usable_channels import channel_faults
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Mounting = Literal["canonical", "recorded"]
_AXES = 3  # of acceleration
_SWEEPS = 4  # of Jacobi's rotations over a 3 x 3 matrix: the rest is below float32's rounding
_TINY = 1e-12
_SYMMETRIC = 1e-5  # skewness of slopes; those of real pulses are of the order of 1, rounding is below
_RELATIVE_FLOOR = 1e-5  # of the largest raw sample: below lies float32 rounding (6e-8), above a 16-bit converter's step
_LOWPASS_ORDER = 6
_HIGHPASS_ORDER = 2  # gentle: a steep edge at 0.5 Hz would ring over the whole window


class Preprocess(nn.Module):
    """Band-pass each channel, then bring it to a common scale.

    PPG and ECG: band-pass, then per window minus the median, divided by the interquartile range (never by less than
    a floor), clipped. Acceleration (in g): gravity is removed by the high-pass, what is left is motion; it is divided
    by one scale for all axes fitted on the training windows, because its size is information. Absent channels are 0.

    How a sensor is mounted does not show in the result. A pulse rises more steeply than it falls, so the PPG is turned
    to have a positive third moment of its slopes. The axes of acceleration are turned to the window's own: the first is
    the one along which most motion is, and each points where its steeper flanks rise.

    The filters are zero-phase: the straight line through the window is subtracted, then the cosine transform (an
    even extension at the edges, so no jump) is weighted by the squared gain of a Butterworth filter. As the window
    has a fixed length, that is one matrix product, which exports to ONNX as it is.

    Args:
        channels: Channel names, in the order of the windows' second axis.
        ppg_band: Pass band of PPG in Hz, (low, high), or None for no filter.
        ecg_band: Pass band of ECG in Hz.
        acc_band: Pass band of acceleration in Hz; the lower edge separates motion from gravity.
        scaling: ``robust`` (median and interquartile range) or ``zscore`` (mean and standard deviation), for PPG
            and ECG, per window.
        scale_floor: The least divisor, in the unit of the recording.
        clip: Scaled values are clipped to plus and minus this.
        polarity: Of the PPG: ``canonical`` as above, or as ``recorded``.
        mounting: Of acceleration, where all three axes are there: ``canonical`` as above, or as ``recorded``.

    Raises:
        UserError: If a band or an option is impossible.
    """

    acc_scale: Tensor
    acc_fitted: Tensor

    def __init__(
        self,
        channels: Sequence[str],
        *,
        ppg_band: tuple[float, float] | None = (0.5, 8.0),
        ecg_band: tuple[float, float] | None = (0.5, 40.0),
        acc_band: tuple[float, float] | None = (0.5, 20.0),
        scaling: Literal["robust", "zscore"] = "robust",
        scale_floor: float = 1e-6,
        clip: float = 6.0,
        polarity: Mounting = "canonical",
        mounting: Mounting = "canonical",
    ) -> None:
        super().__init__()
        for name, value in (("polarity", polarity), ("mounting", mounting)):
            if value not in get_args(Mounting):
                raise UserError(f"preprocess {name} is '{value}'; choose {' or '.join(get_args(Mounting))}")
        if scaling not in ("robust", "zscore"):
            raise UserError(f"preprocess scaling is '{scaling}'; choose robust or zscore")
        if scale_floor <= 0 or clip <= 0:
            raise UserError("preprocess scale_floor and clip must be above 0")
        self.channels = channel_names(channels)
        self.bands = {"ppg_band": ppg_band, "ecg_band": ecg_band, "acc_band": acc_band}
        self.scaling = scaling
        self.scale_floor = scale_floor
        self.clip = clip
        self.polarity, self.mounting = polarity, mounting
        self._rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.channels):
            self._rows.setdefault(f"{name[:3].lower()}_band", []).append(row)
        for key in self._rows:
            # derived from the options, so it need not swell every checkpoint
            self.register_buffer(key, band_pass_matrix(key, self.bands[key]), persistent=False)
        self.register_buffer("acc_scale", torch.ones(()))
        self.register_buffer("acc_fitted", torch.zeros((), dtype=torch.bool))

    @classmethod
    def from_options(cls, channels: Sequence[str], options: Mapping[str, Any]) -> Preprocess:
        """Build one from options that a user or a checkpoint gives; an unknown or impossible one is a UserError."""
        known, options = list(inspect.signature(cls).parameters)[1:], cls.stated(options)
        for key in options:
            if key not in known:
                raise UserError(f"preprocess has no option '{key}'; it has {', '.join(known)}")
        try:
            return cls(channels, **options)
        except (TypeError, ValueError) as error:
            raise UserError(f"preprocess options {dict(options)} do not fit: {error}") from error

    @classmethod
    def stated(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a checkpoint's options with those that it is too old to state: it took windows as recorded."""
        since = dict.fromkeys(("polarity", "mounting"), "recorded")
        others = inspect.signature(cls).parameters.keys() - {"channels", *since}
        return {**since, **options} if options.keys() == others else dict(options)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options as plain types, without the channels."""
        bands = {key: None if band is None else [float(edge) for edge in band] for key, band in self.bands.items()}
        others = ("scaling", "scale_floor", "clip", "polarity", "mounting")
        return {**bands, **{name: getattr(self, name) for name in others}}

    @torch.no_grad()
    def fit(self, signals: Tensor, present: Tensor | None = None) -> None:
        """Fit the acceleration's scale: the root mean square motion (g) of the training windows ``[N, C, 1250]``.

        Absent channels (``present [N, C]`` False) are left out.
        """
        rows = self._rows.get("acc_band")
        if rows is None:
            return
        power, count = signals.new_zeros((), dtype=torch.float64), 0
        for start in range(0, len(signals), 512):
            chunk = signals[start : start + 512, rows]
            motion = self._filter("acc_band", chunk).double().square().mean(-1)
            there = torch.ones_like(motion, dtype=torch.bool)
            if present is not None:
                there = present[start : start + 512, rows]
            power += motion[there].sum().to(power)
            count += int(there.sum())
        if count:
            # a recording at perfect rest must not blow its rounding noise up to full scale
            self.acc_scale.fill_(max(float((power / count).sqrt()), 1e-3))
            self.acc_fitted.fill_(True)

    def prepare(
        self, signals: Tensor, present: Tensor | None = None, only: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Judge the channels, then filter and scale; channels that are flat or railed count as absent from here on.

        Returns:
            Windows as :meth:`forward` returns them, and the channels' faults ``[B, C]``
            (:func:`~butppg_lightning.models.usable_channels.channel_faults`).
        """
        faults = channel_faults(signals, self.channels, present)
        return self(signals, faults == 0, only), faults

    def forward(self, signals: Tensor, present: Tensor | None = None, only: Sequence[str] | None = None) -> Tensor:
        """Filter and scale raw windows ``[B, C, 1250]`` of any real dtype with ``present [B, C]`` bool.

        Args:
            signals: The windows.
            present: Which channels they have; None for all.
            only: Names of the channels that somebody looks at, None for all; sensors without one cost nothing.

        Returns:
            ``[B, C, 1250]`` float32 within plus and minus ``clip``; absent channels, and sensors that nobody looks at,
            are 0.
        """
        channels: dict[int, Tensor] = {}
        # half precision would lose the pulse on top of a camera's large offset
        with torch.autocast(signals.device.type, enabled=False):
            for key, rows in self._rows.items():
                if only is None or any(self.channels[row] in only for row in rows):
                    channels |= zip(rows, self._scale(key, signals[:, rows]).unbind(1), strict=True)
            channels = self._oriented(channels, present)
            nothing = torch.zeros((), device=signals.device).expand(signals.shape)
            if not channels:
                return nothing
            found = torch.stack([channels.get(row, nothing[:, 0]) for row in range(len(self.channels))], dim=1)
            return found if present is None else found * present.unsqueeze(-1)

    def orient(self, scaled: Tensor, present: Tensor | None = None) -> Tensor:
        """Make polarity and mounting of scaled windows ``[B, C, T]`` canonical, where the options say so, and clip.

        What is canonical already stays, but for clipped acceleration, so that varied windows can be given again.
        """
        with torch.autocast(scaled.device.type, enabled=False):
            return torch.stack([*self._oriented(dict(enumerate(scaled.unbind(1))), present).values()], dim=1)

    def _oriented(self, channels: dict[int, Tensor], present: Tensor | None) -> dict[int, Tensor]:
        acc = sorted(self._rows.get("acc_band", []), key=lambda row: self.channels[row])
        if self.mounting == "canonical" and len(acc) == _AXES and acc[0] in channels:
            there = None if present is None else present[:, acc].all(1)
            axes = _own_axes(torch.stack([channels[row] for row in acc], dim=1), there)
            channels |= zip(acc, axes.unbind(1), strict=True)
        channels = {row: one.clamp(-self.clip, self.clip) for row, one in channels.items()}
        if self.polarity == "canonical":
            for row in channels.keys() & self._rows.get("ppg_band", []):
                channels[row] = channels[row] * steep_side(channels[row])
        return channels

    def _filter(self, key: str, signals: Tensor) -> Tensor:
        signals = signals.float()
        # the offset first: the matrix would remove it too, but with the rounding error of a large number
        centred = signals - signals.mean(-1, keepdim=True)
        return centred if self.bands[key] is None else centred @ getattr(self, key).float()

    def _scale(self, key: str, signals: Tensor) -> Tensor:
        filtered = self._filter(key, signals)
        if key == "acc_band":
            return filtered / self.acc_scale
        if self.scaling == "zscore":
            centre = filtered.mean(-1, keepdim=True)
            spread = filtered.std(-1, keepdim=True)
        else:
            ordered = filtered.sort(-1).values
            centre = _quantile(ordered, 0.5)
            spread = _quantile(ordered, 0.75) - _quantile(ordered, 0.25)
        floor = (signals.float().abs().amax(-1, keepdim=True) * _RELATIVE_FLOOR).clamp(min=self.scale_floor)
        return (filtered - centre) / torch.maximum(spread, floor)


def steep_side(pulse: Tensor) -> Tensor:
    """Return ``[..., 1]`` of 1 or -1: the sign that makes the steep flanks of a pulse ``[..., T]`` rise.

    A symmetric one, such as a sine, stays as it is: rounding must not decide.
    """
    slope = pulse[..., 1:] - pulse[..., :-1]
    slope = slope - slope.mean(-1, keepdim=True)
    least = -_SYMMETRIC * slope.square().mean(-1, keepdim=True).pow(1.5)
    return torch.where(slope.pow(3).mean(-1, keepdim=True) >= least, 1.0, -1.0).to(pulse.dtype)


def _own_axes(motion: Tensor, there: Tensor | None) -> Tensor:
    """Turn motion ``[B, 3, T]`` to its principal axes, the strongest first; windows not ``there [B]`` stay.

    By Jacobi's rotations, as ONNX has no eigenvalue decomposition, without angles, which its runtime lacks in double
    precision; that is needed because axes of nearly equal strength magnify rounding. Equal ones stay as they lie.
    """
    precise = motion.to(_widest(motion.device))
    power = precise @ precise.transpose(1, 2)
    power = power / power.diagonal(dim1=1, dim2=2).sum(-1).clamp(min=_TINY)[:, None, None]
    unit = torch.eye(_AXES, dtype=power.dtype, device=motion.device)
    axes = unit.expand_as(power)
    for one, other in ((0, 1), (0, 2), (1, 2)) * _SWEEPS:
        difference, twice = power[:, one, one] - power[:, other, other], 2 * power[:, one, other]
        size = (difference.square() + twice.square()).sqrt()
        double_cosine = torch.where(size > _TINY, difference / size.clamp(min=_TINY), 1.0)
        cosine = ((1 + double_cosine) / 2).clamp(0, 1).sqrt()[:, None, None]
        sine = (((1 - double_cosine) / 2).clamp(0, 1).sqrt() * torch.where(twice >= 0, 1.0, -1.0))[:, None, None]
        plane = torch.outer(unit[one], unit[one]) + torch.outer(unit[other], unit[other])
        across = torch.outer(unit[other], unit[one]) - torch.outer(unit[one], unit[other])
        turn = unit + (cosine - 1) * plane + sine * across
        power, axes = turn.transpose(1, 2) @ power @ turn, axes @ turn
    turned = axes.transpose(1, 2).to(motion.dtype) @ motion
    turned = turned * steep_side(turned)
    return turned if there is None else torch.where(there[:, None, None], turned, motion)


def _widest(device: torch.device) -> torch.dtype:
    """Return the most precise type that a device computes in; Apple's GPUs have no float64.

    Examples:
        >>> _widest(torch.device("mps")), _widest(torch.device("cuda"))
        (torch.float32, torch.float64)
    """
    return torch.float32 if device.type == "mps" else torch.float64


def _quantile(ordered: Tensor, share: float) -> Tensor:
    # torch.quantile has no ONNX form; linear interpolation as in numpy's default
    position = share * (ordered.shape[-1] - 1)
    below = int(position)
    above = min(below + 1, ordered.shape[-1] - 1)
    return torch.lerp(ordered[..., below : below + 1], ordered[..., above : above + 1], position - below)


def band_pass_matrix(key: str, band: tuple[float, float] | None) -> Tensor:
    """Return the zero-phase band pass as a matrix ``[1250, 1250]`` to multiply windows with; a zero without a band.

    ``key`` is the option's name, for the UserError of an impossible band (Hz).
    """
    if band is None:
        return torch.zeros(())
    low, high = (float(edge) for edge in band)
    if not 0 <= low < high:
        raise UserError(f"preprocess {key} is [{low:g}, {high:g}]; expected 0 <= low < high in Hz")
    return _band_pass(low, high)


@functools.cache  # every model of a process shares the matrices: 6 MB each
def _band_pass(low: float, high: float) -> Tensor:
    samples = torch.arange(WINDOW_SAMPLES, dtype=torch.float64)
    frequency = samples * SAMPLING_RATE / (2 * WINDOW_SAMPLES)
    gain = 1 / (1 + (frequency / high) ** (2 * _LOWPASS_ORDER))
    if low > 0:
        steep = frequency ** (2 * _HIGHPASS_ORDER)
        gain = gain * steep / (steep + low ** (2 * _HIGHPASS_ORDER))
    # a cosine transform (DCT-II), its gain and the way back: as cos a cos b = (cos(a - b) + cos(a + b)) / 2, sample i
    # of what comes out takes from sample j what one sequence has at i - j and at i + j + 1
    kernel: Tensor = torch.fft.irfft(torch.nn.functional.pad(gain, (0, 1)), n=2 * WINDOW_SAMPLES)
    place = torch.arange(WINDOW_SAMPLES)
    matrix = kernel[(place - place.unsqueeze(1)).abs()] + kernel[place + place.unsqueeze(1) + 1]
    if low > 0:
        line = torch.stack([torch.ones_like(samples), samples - samples.mean()])
        line = line / line.norm(dim=1, keepdim=True)
        matrix = matrix - line.T @ (line @ matrix)
    return matrix.float()
