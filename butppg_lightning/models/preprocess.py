"""Filtering and scaling of raw windows: one module for pretraining, fine-tuning, scoring and export."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.usable_channels import channel_faults
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RELATIVE_FLOOR = 1e-5  # of the largest raw sample: below lies float32 rounding (6e-8), above a 16-bit converter's step
_LOWPASS_ORDER = 6
_HIGHPASS_ORDER = 2  # gentle: a steep edge at 0.5 Hz would ring over the whole window


class Preprocess(nn.Module):
    """Band-pass each channel, then bring it to a common scale.

    PPG and ECG: band-pass, then per window minus the median, divided by the interquartile range (never by less than
    a floor), clipped. Acceleration (in g): gravity is removed by the high-pass, what is left is motion; it is divided
    by one scale for all axes fitted on the training windows, because its size is information. Absent channels are 0.

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
    ) -> None:
        super().__init__()
        if scaling not in ("robust", "zscore"):
            raise UserError(f"preprocess scaling is '{scaling}'; choose robust or zscore")
        if scale_floor <= 0 or clip <= 0:
            raise UserError("preprocess scale_floor and clip must be above 0")
        self.channels = channel_names(channels)
        self.bands = {"ppg_band": ppg_band, "ecg_band": ecg_band, "acc_band": acc_band}
        self.scaling = scaling
        self.scale_floor = scale_floor
        self.clip = clip
        self._rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.channels):
            self._rows.setdefault(f"{name[:3].lower()}_band", []).append(row)
        grouped = [row for rows in self._rows.values() for row in rows]
        self._order = [grouped.index(row) for row in range(len(grouped))]
        for key in self._rows:
            # derived from the options, so it need not swell every checkpoint
            self.register_buffer(key, band_pass_matrix(key, self.bands[key]), persistent=False)
        self.register_buffer("acc_scale", torch.ones(()))
        self.register_buffer("acc_fitted", torch.zeros((), dtype=torch.bool))

    @classmethod
    def from_options(cls, channels: Sequence[str], options: Mapping[str, Any]) -> Preprocess:
        """Build one from options that a user or a checkpoint gives; an unknown or impossible one is a UserError."""
        known = list(inspect.signature(cls).parameters)[1:]
        for key in options:
            if key not in known:
                raise UserError(f"preprocess has no option '{key}'; it has {', '.join(known)}")
        try:
            return cls(channels, **options)
        except (TypeError, ValueError) as error:
            raise UserError(f"preprocess options {dict(options)} do not fit: {error}") from error

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options as plain types, without the channels."""
        bands = {key: None if band is None else [float(edge) for edge in band] for key, band in self.bands.items()}
        return {**bands, "scaling": self.scaling, "scale_floor": self.scale_floor, "clip": self.clip}

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

    def prepare(self, signals: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Judge the channels, then filter and scale; channels that are flat or railed count as absent from here on.

        Returns:
            Windows as :meth:`forward` returns them, and the channels' faults ``[B, C]``
            (:func:`~butppg_lightning.models.usable_channels.channel_faults`).
        """
        faults = channel_faults(signals, self.channels, present)
        return self(signals, faults == 0), faults

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Filter and scale raw windows ``[B, C, 1250]`` of any real dtype with ``present [B, C]`` bool.

        Returns:
            ``[B, C, 1250]`` float32 within plus and minus ``clip``; absent channels are 0.
        """
        # half precision would lose the pulse on top of a camera's large offset
        with torch.autocast(signals.device.type, enabled=False):
            parts = [self._scale(key, signals[:, rows]) for key, rows in self._rows.items()]
            scaled = torch.cat(parts, dim=1)[:, self._order]
            scaled = scaled.clamp(-self.clip, self.clip)
            return scaled if present is None else scaled * present.unsqueeze(-1)

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


@functools.cache  # every model of a process shares the matrices: 0.2 s and 6 MB each
def _band_pass(low: float, high: float) -> Tensor:
    samples = torch.arange(WINDOW_SAMPLES, dtype=torch.float64)
    frequency = samples * SAMPLING_RATE / (2 * WINDOW_SAMPLES)
    gain = 1 / (1 + (frequency / high) ** (2 * _LOWPASS_ORDER))
    if low > 0:
        steep = frequency ** (2 * _HIGHPASS_ORDER)
        gain = gain * steep / (steep + low ** (2 * _HIGHPASS_ORDER))
    kept = gain > 1e-9
    cosines = torch.cos(torch.pi / WINDOW_SAMPLES * (samples + 0.5) * samples[kept].unsqueeze(1))
    cosines *= torch.where(samples[kept] == 0, 1.0, 2.0).div(WINDOW_SAMPLES).sqrt().unsqueeze(1)  # orthonormal DCT-II
    matrix = cosines.T @ (gain[kept].unsqueeze(1) * cosines)
    if low > 0:
        line = torch.stack([torch.ones_like(samples), samples - samples.mean()])
        line = line / line.norm(dim=1, keepdim=True)
        matrix = matrix - line.T @ (line @ matrix)
    return matrix.float()
