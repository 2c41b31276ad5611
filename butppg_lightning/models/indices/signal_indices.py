"""Signal indices: what the literature computes by hand from a window, as side inputs to the head and for baselines.

Each is a finite float32 in the range given, and 0 where a channel it needs is absent. Gain and offset of a device do
not change it, but for the groups ``acc`` (in g) and ``amplitude``, where the size is the information. PPG is
band-passed to 0.5-8 Hz first, and "power" is its spectral power there; f is the frequency of the largest, below 3.5 Hz.

```
======================== ===== ======= ===============================================================================
index                    unit  range   what it is, and its source
======================== ===== ======= ===============================================================================
group rates               (of PPG in 0.6-4 Hz, steep flanks rising; READERS of models/rates.py)
rate_spectrum            bpm   0..210  the largest power
rate_autocorrelation     bpm   0..183  the lag at which the signal resembles itself most
rate_peaks               bpm   0..220  median interval of the peaks; 0 under three
rate_peaks_below         bpm   0..220  the same of the feet
group intervals           (of the readers' peaks; _below: of the feet)
interval_spread          1     0..2    10th to 90th percentile of intervals over their median, and _below; 2 under two
interval_spread_wide     1     0..2    the same of PPG in 0.5-8 Hz, and _below
spectrum_to_peaks        1     0..0.8  distance of the logarithms of rate_spectrum and rate_peaks, and _below
peaks_to_peaks_below     1     0..0.8  the same of rate_peaks and rate_peaks_below
group ppg
clipped_share            1     0..1    samples of the raw window within 0.1 % of its range from either extreme
skewness                 1     -5..5   third standardised moment [Elgendi]
log_kurtosis             1     0..3    log10 of the fourth standardised moment [Selvaraj]; 0.48 for a Gaussian
zero_crossing_rate       1/s   0..125  sign changes [Elgendi]
spread_variation         1     0..3.2  standard deviation over mean of the spreads of ten 1-s segments; 0 if stationary
largest_segment          1     0..4    log10 of the largest of these spreads over their median
template_match           1     -1..1   mean correlation of the beats with their average [Orphanidou]; 0 if under three
spectral_purity          1     0..1    m2^2 / (m0 m4), mk the sum of f^k times Welch's power [Soernmo, Nemati]; sine: 1
spectral_entropy         1     0..1    entropy of Welch's power in 0.75-3.5 Hz over its largest value [Inouye]
local_entropy            1     0..1    the same of single 4-s segments, one a second: their median
peak_share               1     0..1    share of Welch's power in 0.75-3.5 Hz within 0.25 Hz of its largest
relative_power           1     0..1    share of the power in 1-2.25 Hz [Elgendi, there of 0-8 Hz]
autocorrelation_peak     1     -1..1   highest peak of the autocorrelation at lags of 0.3-1.5 s; 0 without one
autocorrelation_lag      s     0..1.5  the pulse period: the shortest lag there whose peak nearly reaches it
harmonic_share           1     0..1    share of the power within 0.15 Hz of f, 2 f and 3 f
rate_conflict            Hz    0..3    distance of f from the autocorrelation's rate
group rhythm              (3-s segments every half second; power in 0.5-8 Hz; p20, p80: percentiles over the segments)
local_share              1     0..1    share of a segment's power within 1/3 Hz of its largest: mean, and _p20 _p80
segment_entropy          nat   0..5    entropy of a segment's power [Inouye]: mean, and _p20 _p80
local_harmonics          1     0..2    the same and that at twice the frequency, added (they overlap below 2/3 Hz), mean
rate_step                Hz    0..7.5  mean distance of neighbouring segments' f
rate_spread              Hz    0..4    standard deviation of the segments' f
centroid                 Hz    0.5..8  mean frequency of the segments' power, mean
centroid_spread          Hz    0..4    the same, standard deviation
beats_alike              1     0..1    share of the beats that correlate above 0.9 with their average [Orphanidou]
interval_deviation       1     0..     mean distance of beat intervals from their mean, over that; 1 under three beats
loudest_second           1     0..1    log10 of the largest amplitude of ten 1-s segments over their mean
envelope_variation       1     0..3    standard deviation over mean of the analytic signal's modulus, 0.6-4 Hz
instantaneous_rate       Hz    0..10   standard deviation of its instantaneous frequency
group acc
motion_energy            1     -8..    log10 of the mean square of acceleration at 0.5-10 Hz, axes added (g^2)
largest_motion           1     -8..    the same of the 1-s segment that moves most
motion_frequency         Hz    0.5..5  largest power of acceleration at 0.5-5 Hz, axes added
motion_overlap           1     0..1    cosine of the amplitude spectra of PPG and acceleration over 0.5-5 Hz
group ecg
ecg_regularity           1     -1..1   as autocorrelation_peak, of the absolute value of the ECG's 5-20 Hz band
ecg_rate_difference      Hz    0..3    distance between the autocorrelation's rates of PPG and ECG
power_at_ecg_rate        1     0..1    share of PPG's power within 0.15 Hz of the ECG's rate and its double
group amplitude
log_spread               1     any     log10 of the raw PPG's standard deviation, in the device's unit
======================== ===== ======= ===============================================================================
```

The ``ecg`` indices restate how BUT PPG's own labels were made (agreement of the two heart rates), and ``amplitude``
does not carry over from one device to another: both are off unless chosen.

[Elgendi] Bioengineering 2016, 3(4), 21. [Inouye] Electroenceph. clin. Neurophysiol. 1991, 79, 204. [Nemati] EURASIP
J. Adv. Signal Process. 2010, 926305. [Orphanidou] IEEE J. Biomed. Health Inform. 2015, 19(3), 832. [Selvaraj] EMBC
2011, 4974. [Soernmo] Soernmo & Laguna, Bioelectrical Signal Processing, 2005.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.indices.rhythm import Rhythm, Spectra, find_beats, segments, shape_indices, squared_modulus
from butppg_lightning.models.preprocess import band_pass_matrix, steep_side
from butppg_lightning.models.rates import INTERVALS, READERS, RateReaders
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.models.preprocess import Mounting

_NAMES = {
    "rates": " ".join(READERS),
    "intervals": " ".join(INTERVALS),
    "ppg": "clipped_share skewness log_kurtosis zero_crossing_rate spread_variation largest_segment template_match "
    "spectral_purity spectral_entropy local_entropy peak_share relative_power autocorrelation_peak autocorrelation_lag "
    "harmonic_share rate_conflict",
    "rhythm": "local_share local_share_p20 local_share_p80 segment_entropy segment_entropy_p20 segment_entropy_p80 "
    "local_harmonics rate_step rate_spread centroid centroid_spread beats_alike interval_deviation loudest_second "
    "envelope_variation instantaneous_rate",
    "acc": "motion_energy largest_motion motion_frequency motion_overlap",
    "ecg": "ecg_regularity ecg_rate_difference power_at_ecg_rate",
    "amplitude": "log_spread",
}
GROUPS = {group: tuple(names.split()) for group, names in _NAMES.items()}
"""The indices of each group, in the order of their columns."""
INDEX_NAMES = tuple(name for names in GROUPS.values() for name in names)
"""Every index, in the order of the columns when all groups are chosen."""
DEFAULT_GROUPS = ("ppg", "acc")
"""What carries over from one device to another and restates no label."""

_RELATIVE_FLOOR = 1e-5  # of the largest raw sample: below lies float32 rounding
_TINY = 1e-12
_LEAST_MOTION = 1e-8  # g^2: a tenth of a milli-g, below any accelerometer's noise
_MOST_ACCELERATION = 1e6  # g: squares of anything larger would overflow
_FASTEST = 3.5  # Hz: 210 beats a minute
_NO_RATE = 2.0  # Hz: the distance between two rates of which one was not found


def index_names(groups: Sequence[str] = DEFAULT_GROUPS) -> tuple[str, ...]:
    """Return the names of the indices in ``groups``, in the order of their columns, whatever that of the groups.

    Raises:
        UserError: On an unknown group.

    Examples:
        >>> index_names(["amplitude", "ecg"])
        ('ecg_regularity', 'ecg_rate_difference', 'power_at_ecg_rate', 'log_spread')
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise UserError(f"there is no group of signal indices '{unknown[0]}'; choose from {', '.join(GROUPS)}")
    return tuple(name for group, names in GROUPS.items() if group in groups for name in names)


class SignalIndices(nn.Module):
    """Compute the indices of raw windows from matrix products, sums and sorts, which ONNX takes as they are.

    Args:
        channels: Channel names, in the order of the windows' second axis. Groups whose channels are not among them
            keep their columns, which are 0.
        groups: Which groups; see :data:`GROUPS`. ``names`` are those of their K columns.
        polarity: ``canonical``: beats and skewness are those of the PPG turned so that its steep flanks rise; or as
            ``recorded``. The groups ``rates`` and ``intervals`` always turn it.

    Raises:
        UserError: On an unknown group or channel.
    """

    ppg_band: Tensor
    acc_band: Tensor
    acc_tapered: Tensor
    ecg_band: Tensor

    def __init__(
        self, channels: Sequence[str], groups: Sequence[str] = DEFAULT_GROUPS, polarity: Mounting = "canonical"
    ) -> None:
        super().__init__()
        self.polarity = polarity
        self.names = index_names(groups)
        self.groups = tuple(group for group in GROUPS if group in groups)
        self.channels = channel_names(channels)
        self.rows = {
            kind: [row for row, name in enumerate(self.channels) if name.startswith(kind)]
            for kind in ("PPG", "ACC", "ECG")
        }
        self.spectra = Spectra()
        self.rhythm = Rhythm() if "rhythm" in self.groups else None
        self.readers = None if {"rates", "intervals"}.isdisjoint(self.groups) else RateReaders()
        matrices = {"ppg_band": band_pass_matrix("ppg_band", (0.5, 8.0))}
        if "ecg" in self.groups:
            matrices["ecg_band"] = band_pass_matrix("ecg_band", (5.0, 20.0))
        if "acc" in self.groups:
            motion = band_pass_matrix("acc_band", (0.5, 10.0))
            # its energy needs no more than 25 samples a second, its spectrum no samples in between
            matrices["acc_band"] = motion[:, 2::5].contiguous()
            matrices["acc_tapered"] = motion @ self.spectra.tapered
        for key, matrix in matrices.items():
            self.register_buffer(key, matrix, persistent=False)

    @property
    def needed_channels(self) -> tuple[str, ...]:
        """Names of the channels that any of the chosen groups is computed from."""
        sensors = {"PPG", *(group.upper() for group in self.groups if group in ("acc", "ecg"))}
        return tuple(name for name in self.channels if name[:3] in sensors)

    def available(self, present: Tensor) -> Tensor:
        """Return ``[B, K]`` bool: which columns have the channels they need (one axis of acceleration is enough)."""
        ppg, acc, ecg = (present[:, rows].any(1) for rows in self.rows.values())
        needed = {
            "rates": ppg,
            "intervals": ppg,
            "ppg": ppg,
            "rhythm": ppg,
            "acc": acc,
            "ecg": ecg & ppg,
            "amplitude": ppg,
        }
        alone = {"motion_overlap": acc & ppg, "ecg_regularity": ecg}
        return torch.stack([alone.get(name, needed[key]) for key in self.groups for name in GROUPS[key]], dim=1)

    @torch.no_grad()
    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Compute the indices.

        Args:
            signals: Raw windows ``[B, C, 1250]``, unfiltered and unscaled, any real dtype; acceleration in g.
            present: ``[B, C]`` bool, False where a channel is absent or unusable; None when every channel is there.

        Returns:
            ``[B, K]`` float32, finite, columns as in ``names``.
        """
        if present is None:
            present = torch.ones_like(signals[..., 0], dtype=torch.bool)
        # half precision would lose the pulse on top of a camera's large offset
        with torch.autocast(signals.device.type, enabled=False):
            raw, gain = _to_unit(self._part(signals, present, "PPG")[:, 0])
            found: list[Tensor] = []
            wide = raw @ self.ppg_band
            if not {"ppg", "rhythm", "acc", "ecg"}.isdisjoint(self.groups):
                ppg = wide / wide.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
                if self.polarity == "canonical":
                    ppg = ppg * steep_side(ppg)
            if not {"ppg", "acc", "ecg"}.isdisjoint(self.groups):  # the others need neither
                power, pulse = self.spectra.power(ppg), self.spectra.pulse(ppg)
            if not {"ppg", "rhythm"}.isdisjoint(self.groups):
                beats = find_beats(ppg)
            for group in self.groups:
                if group == "rates":
                    found += self.readers(raw, wide).unbind(1)  # type: ignore[misc]
                elif group == "intervals":
                    found += self.readers.intervals(raw, wide).unbind(1)  # type: ignore[union-attr]
                elif group == "ppg":
                    found += [*shape_indices(raw, ppg, beats), *self._rhythm(ppg, power, *pulse)]
                elif group == "rhythm":
                    found += self.rhythm(ppg, beats)  # type: ignore[misc]
                elif group == "acc":
                    found += self._motion(self._part(signals, present, "ACC"), power)
                elif group == "ecg":
                    found += self._agreement(self._part(signals, present, "ECG")[:, 0], power, pulse[1])
                else:
                    found.append(raw.square().mean(-1).clamp(min=_TINY).log10() / 2 + gain.log10())
            return torch.stack(found, dim=1) * self.available(present)

    def known(self, signals: Tensor, usable: Tensor) -> Tensor:
        """Compute the indices ``[B, K]`` of raw windows, NaN where a channel they need is not ``usable [B, C]``."""
        return torch.where(self.available(usable), self(signals, usable), torch.nan)

    def _part(self, signals: Tensor, present: Tensor, kind: str) -> Tensor:
        rows = self.rows[kind]
        if not rows:
            return torch.zeros_like(signals[:, :1], dtype=torch.float32)
        return signals[:, rows].float() * present[:, rows].unsqueeze(-1)

    def _rhythm(self, ppg: Tensor, power: Tensor, height: Tensor, period: Tensor) -> list[Tensor]:
        spectra = self.spectra
        powers = spectra.segment_powers(ppg)
        averaged = _shares(powers.mean(1))
        frequency = spectra.coarse_frequency
        second, fourth = averaged @ frequency**2, averaged @ frequency**4
        pulses = powers[..., spectra.pulse_band]  # what a camera or a lamp adds above it says nothing of the pulse
        local = _entropy(_shares(pulses)).sort(-1).values
        pulse = _shares(pulses.mean(1))
        away = torch.arange(pulse.shape[-1], device=pulse.device) - pulse.argmax(-1, keepdim=True)
        share = _shares(power)
        peak = spectra.peak(power, _FASTEST)
        harmonics = spectra.near(peak) + spectra.near(2 * peak) + spectra.near(3 * peak)
        return [
            second.square() / fourth.clamp(min=_TINY),
            _entropy(pulse),
            local[:, local.shape[-1] // 2],
            (pulse * (away.abs() <= 1)).sum(-1),
            share @ spectra.within(1.0, 2.25),
            height,
            period,
            (share * harmonics).sum(-1),
            _distance(peak, _rate(period)),
        ]

    def _motion(self, acc: Tensor, power: Tensor) -> list[Tensor]:
        acc = acc.clamp(-_MOST_ACCELERATION, _MOST_ACCELERATION)
        acc = acc - acc.mean(-1, keepdim=True)
        energy = segments(acc @ self.acc_band).square().mean(-1).sum(1).clamp(min=_LEAST_MOTION)
        moving = squared_modulus(acc @ self.acc_tapered).sum(1)
        within = self.spectra.within(0.5, 5.0)
        overlap = (power.sqrt() * moving.sqrt()) @ within
        size = (power @ within).sqrt() * (moving @ within).sqrt()
        return [
            energy.mean(-1).log10(),
            energy.amax(-1).log10(),
            self.spectra.peak(moving, 5.0),
            overlap / size.clamp(min=_TINY),
        ]

    def _agreement(self, ecg: Tensor, power: Tensor, pulse_period: Tensor) -> list[Tensor]:
        envelope = (_to_unit(ecg)[0] @ self.ecg_band).abs()
        height, period = self.spectra.pulse(envelope - envelope.mean(-1, keepdim=True))
        rate = _rate(period)
        at_rate = self.spectra.near(rate) + self.spectra.near(2 * rate)
        return [height, _distance(_rate(pulse_period), rate), (_shares(power) * at_rate).sum(-1)]


def _to_unit(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``raw`` without offset and with a largest sample of 1, and the gain that was divided out, ``[B]``."""
    # twice, because the offset may be so large that the square of the first result would be lost in rounding
    largest = raw.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    centred = raw / largest
    centred = centred - centred.mean(-1, keepdim=True)
    rest = centred.abs().amax(-1, keepdim=True).clamp(min=_RELATIVE_FLOOR)
    return centred / rest, (largest * rest).squeeze(-1)


def _shares(power: Tensor) -> Tensor:
    return power / power.sum(-1, keepdim=True).clamp(min=_TINY)


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp(min=_TINY).log()).sum(-1) / math.log(shares.shape[-1])


def _rate(period: Tensor) -> Tensor:
    return torch.where(period > 0, 1 / period.clamp(min=0.1), 0.0)


def _distance(first: Tensor, second: Tensor) -> Tensor:
    return torch.where((first > 0) & (second > 0), (first - second).abs(), _NO_RATE)
