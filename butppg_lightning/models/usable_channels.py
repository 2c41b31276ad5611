"""Channels that carry no signal although they were recorded: flat ones and ones stuck at a rail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FAULTS = ("", "absent", "flat", "railed")
"""What the numbers of :func:`channel_faults` mean; 0 is a usable channel."""

_RAILED_SAMPLES = 625  # 5 s without a break: longer than any pause between heart beats, so no ECG baseline counts
_AT_RAIL = 1e-3  # of the range from lowest to highest: the ripple that resampling leaves on a plateau
_RELATIVE_FLOOR = 1e-5  # of the largest sample: below lies rounding noise
_ABSOLUTE_FLOOR = 1e-9


def channel_faults(signals: Tensor, channels: Sequence[str], present: Tensor | None = None) -> Tensor:
    """Judge which channels cannot be used.

    A channel is flat when it does not move but for rounding, and railed when it stays at its highest or lowest value
    for five seconds. Acceleration is flat only when all its axes are, and never railed: at rest a coarse converter
    repeats one number, which says that nothing moved.

    Args:
        signals: Raw windows ``[B, C, T]``.
        channels: Names of the C channels.
        present: ``[B, C]`` bool, False where a channel was not recorded; None when every channel is there.

    Returns:
        ``[B, C]`` int8, an index into :data:`FAULTS`.
    """
    signals = signals.float()
    highest, lowest = signals.amax(-1, keepdim=True), signals.amin(-1, keepdim=True)
    spread = highest - lowest
    floor = (signals.abs().amax(-1, keepdim=True) * _RELATIVE_FLOOR).clamp(min=_ABSOLUTE_FLOOR)
    flat = (spread <= floor).squeeze(-1)
    near = _AT_RAIL * spread
    railed = _stays(signals >= highest - near) | _stays(signals <= lowest + near)
    acc = [row for row, name in enumerate(channels) if name.startswith("ACC")]
    if acc:
        flat[:, acc] = flat[:, acc].all(1, keepdim=True)
        railed[:, acc] = False
    faults = torch.where(flat, 2, torch.where(railed, 3, 0))
    return (faults if present is None else torch.where(present, faults, 1)).to(torch.int8)


def _stays(there: Tensor) -> Tensor:
    if there.shape[-1] <= _RAILED_SAMPLES:
        return there.all(-1)
    span = 1  # samples that an entry speaks for; doubling it looks at few bytes, where counting sums numbers
    while span < _RAILED_SAMPLES:
        step = min(span, _RAILED_SAMPLES - span)
        there = there[..., step:] & there[..., :-step]
        span += step
    return there.any(-1)
