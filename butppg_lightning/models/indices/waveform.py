"""Indices of the shape of a PPG window: how its samples are distributed, how its spread and its beats hold still."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

_SEGMENTS = 10  # of one second
_AT_EXTREME = 1e-3  # of the range from lowest to highest: the ripple that resampling leaves on a plateau
_LEAST_SPREAD = 1e-3  # of the window's
_APART = 37  # samples: beats are at least 0.3 s apart, 200 a minute
_BEFORE, _AFTER = 50, 75  # samples: a beat is what lies from 0.4 s before its peak to 0.6 s after it
FEWEST_BEATS = 3
"""Beats from which on a comparison of beats means something."""
_MOST_BEATS = WINDOW_SAMPLES // _APART
_TINY = 1e-12


def shape_indices(raw: Tensor, ppg: Tensor) -> list[Tensor]:
    """Return clipped share, skewness, log kurtosis, zero crossings, spread variation, largest segment, template match.

    Args:
        raw: ``[B, 1250]`` raw PPG, any gain and offset.
        ppg: ``[B, 1250]`` the same, band-passed and brought to a root mean square of 1.

    Returns:
        Seven tensors ``[B]``, described in :mod:`butppg_lightning.models.indices.signal_indices`.
    """
    highest, lowest = raw.amax(-1, keepdim=True), raw.amin(-1, keepdim=True)
    near = _AT_EXTREME * (highest - lowest)
    clipped = (raw >= highest - near) | (raw <= lowest + near)
    spreads = segments(ppg).std(-1).clamp(min=_LEAST_SPREAD).sort(-1).values
    median = spreads[:, _SEGMENTS // 2 - 1 : _SEGMENTS // 2 + 1].mean(-1)
    return [
        clipped.float().mean(-1),
        ppg.pow(3).mean(-1).clamp(-5, 5),
        ppg.pow(4).mean(-1).clamp(1, 1000).log10(),
        (ppg[:, 1:] * ppg[:, :-1] < 0).float().sum(-1) * SAMPLING_RATE / WINDOW_SAMPLES,
        spreads.std(-1) / spreads.mean(-1),
        (spreads[:, -1] / median).log10(),
        template_match(ppg),
    ]


def segments(signals: Tensor) -> Tensor:
    """Cut ``[..., T]`` into ten segments of one second, ``[..., 10, T / 10]``."""
    return signals.reshape(*signals.shape[:-1], _SEGMENTS, -1)


class Beats(NamedTuple):
    """The beats of a window, in as many places as there can be beats.

    Attributes:
        there: ``[B, P]`` float, 1 where a place holds a beat.
        position: ``[B, P]`` sample its cut-out begins with.
        match: ``[B, P]`` correlation with the average of the window's beats; 0 where there is none.
    """

    there: Tensor
    position: Tensor
    match: Tensor


def find_beats(ppg: Tensor) -> Beats:
    """Find the beats of ``[B, 1250]`` band-passed PPG and compare each with their average (Orphanidou et al. 2015).

    A beat's peak is positive and the highest sample within 0.3 s to either side; beats cut by the window's edges are
    left out.
    """
    highest = torch.nn.functional.max_pool1d(ppg.unsqueeze(1), 2 * _APART + 1, stride=1, padding=_APART).squeeze(1)
    inner = slice(_BEFORE, WINDOW_SAMPLES - _AFTER)
    peaks = (ppg[:, inner] == highest[:, inner]) & (ppg[:, inner] > 0)
    # as many places as there can be beats; those without a beat have the weight 0
    there, position = peaks.float().topk(_MOST_BEATS, dim=-1)
    around = torch.arange(_BEFORE + _AFTER, device=ppg.device)
    samples = (position.unsqueeze(-1) + around).flatten(1)
    beats = ppg.gather(1, samples).reshape(-1, _MOST_BEATS, _BEFORE + _AFTER)
    beats = _unit_length(beats - beats.mean(-1, keepdim=True)) * there.unsqueeze(-1)
    template = _unit_length(beats.sum(1))
    return Beats(there, position, (beats * template.unsqueeze(1)).sum(-1))


def template_match(ppg: Tensor) -> Tensor:
    """Return the mean correlation of the beats with their average, ``[B]`` in -1..1; 0 with fewer than three beats.

    Args:
        ppg: ``[B, 1250]``, band-passed.
    """
    beats = find_beats(ppg)
    count = beats.there.sum(-1)
    return beats.match.sum(-1) / count.clamp(min=1) * (count >= FEWEST_BEATS)


def _unit_length(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt().clamp(min=_TINY)
