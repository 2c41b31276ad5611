"""The zero-phase band-pass by which sources look at pulses and beats; what the model sees is filtered by the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from butppg_lightning.npz import Array


def band_pass(signals: Array, low: float, high: float) -> Array:
    """Filter forwards and backwards with a second-order Butterworth band-pass.

    Args:
        signals: ``[..., T]`` at 125 Hz.
        low: Lower edge (Hz).
        high: Upper edge (Hz).

    Returns:
        ``[..., T]`` float64 without phase shift.
    """
    from scipy.signal import butter, sosfiltfilt

    sections = butter(2, (low, high), btype="bandpass", fs=SAMPLING_RATE, output="sos")
    centred = np.asarray(signals, dtype=np.float64)
    centred = centred - np.median(centred, axis=-1, keepdims=True)
    return np.asarray(sosfiltfilt(sections, centred, axis=-1))
