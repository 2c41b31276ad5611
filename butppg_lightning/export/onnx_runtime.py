"""Running an ONNX model, and proving that it computes what the network in torch does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.export.onnx import OUTPUTS
from butppg_lightning.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

TOLERANCE = 1e-4
"""The largest difference from torch, in probability and in logit, that an exported file may show."""
_BATCH_SIZES = (1, 2, 33)
_ROUNDING = 2.0**-22  # relative: the last two bits of a float32
_COPIES = 32
_MOST_ON_EDGE = 0.02  # of the windows
_RAILED_SAMPLES = 700  # longer than the 5 s from which on a channel counts as railed


def open_session(model: bytes) -> Any:
    """Open a serialised ONNX model in onnxruntime, on the CPU.

    Raises:
        UserError: If onnxruntime is missing or cannot run the model.
    """
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common name
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"onnxruntime {runtime.__version__} cannot run the model: {reason}") from error


def run_onnx(session: Any, signals: Array, present: Array) -> tuple[Array, Array]:
    """Return probabilities and logits, ``[B]`` float32 each, of raw windows ``[B, C, 1250]`` and ``present [B, C]``."""
    probabilities, logits = session.run(OUTPUTS, {"signals": signals.astype(np.float32), "present": present})
    return probabilities, logits


def damaged_copies(signals: Array, present: Array, channels: Sequence[str]) -> tuple[Array, Array]:
    """Return windows that lack what real ones may lack: absent, flat and railed channels, and no channel at all.

    Args:
        signals: ``[B, C, 1250]``.
        present: ``[B, C]`` bool.
        channels: Names of the C channels.

    Returns:
        Copies of ``signals`` and ``present``, each window damaged in one way.
    """
    signals, present = signals.astype(np.float32), present.copy()
    for row in range(len(signals)):
        kind, channel = row % 5, (row // 5) % len(channels)
        sensor = [number for number, name in enumerate(channels) if name[:3] == channels[channel][:3]]
        if kind == 0:
            present[row, channel] = False
        elif kind == 1:
            signals[row, sensor] = signals[row, sensor, :1]
        elif kind == 2:
            signals[row, channel, 100 : 100 + _RAILED_SAMPLES] = signals[row, channel].max()
        elif kind == 3:
            present[row] = np.isin(np.arange(len(channels)), sensor)
        else:
            present[row] = False
        signals[row, ~present[row]] = 0
    return signals, present


def with_damaged_copies(signals: Array, present: Array, channels: Sequence[str], most: int) -> tuple[Array, Array]:
    """Return windows, followed by :func:`damaged_copies` of the first ``most`` of them, as float32."""
    copies = damaged_copies(signals[:most], present[:most], channels)
    return np.concatenate([signals.astype(np.float32), copies[0]]), np.concatenate([present, copies[1]])


@dataclass(frozen=True)
class Parity:
    """How an ONNX model agrees with torch.

    Attributes:
        largest: The largest absolute difference over probabilities and logits.
        on_edge: Windows that are not counted there, because rounding alone moves torch's own answer as far.
        largest_on_edge: The largest difference among those.
    """

    largest: float
    on_edge: int
    largest_on_edge: float


def compare(network: QualityNetwork, session: Any, signals: Array, present: Array) -> Parity:
    """Compare an ONNX model with the network in torch, in batches of 1, 2 and 33 windows.

    A network that counts samples beyond a limit (signal indices do) jumps where one lies on it, and there two exact
    programs differ. Such a window is told by torch itself: copies of it whose samples differ in the last bits get
    answers that reach the other program's.

    Args:
        network: On the CPU.
        session: The ONNX model.
        signals: Raw windows ``[N, C, 1250]``.
        present: ``[N, C]`` bool.

    Returns:
        The agreement.

    Raises:
        UserError: If a difference exceeds :data:`TOLERANCE` and is none of these, if more than a few windows are such,
            or if an answer is not finite.
    """
    worst, edges = 0.0, []
    for rows in _batches(len(signals)):
        part, there = signals[rows].astype(np.float32), present[rows]
        wanted = _torch(network, part, there)
        found = run_onnx(session, part, there)
        difference = np.max([np.abs(mine - theirs) for mine, theirs in zip(wanted, found, strict=True)], axis=0)
        for row in np.flatnonzero(~(difference <= TOLERANCE)):  # NaN is beyond every tolerance
            if not _on_edge(network, part[row], there[row], (found[0][row], found[1][row])):
                raise UserError(
                    f"the ONNX model differs from torch by {difference[row]:.3g} on window {rows.start + row} of those "
                    f"compared, more than {TOLERANCE:g}; nothing was written"
                )
            edges.append(float(difference[row]))
            difference[row] = 0
        worst = max(worst, float(difference.max()))
    if len(edges) > _MOST_ON_EDGE * len(signals) + 1:
        raise UserError(
            f"rounding moves the model's answer by more than {TOLERANCE:g} on {len(edges)} of {len(signals)} windows, "
            "so ONNX and torch cannot agree; nothing was written"
        )
    return Parity(worst, len(edges), max(edges, default=0.0))


def _torch(network: QualityNetwork, signals: Array, present: Array) -> tuple[Array, Array]:
    logits = network.score_logits(signals, present, max(1, len(signals)))
    return network.calibration.probabilities(logits).numpy(), logits.numpy()


def _on_edge(network: QualityNetwork, signals: Array, present: Array, found: tuple[float, float]) -> bool:
    noise = np.random.default_rng(0).uniform(-_ROUNDING, _ROUNDING, (_COPIES, *signals.shape))
    copies = (signals * (1 + noise)).astype(np.float32)
    answers = _torch(network, copies, np.broadcast_to(present, (_COPIES, len(present))))
    return all(
        bool(reached.min() - TOLERANCE <= value <= reached.max() + TOLERANCE)
        for value, reached in zip(found, answers, strict=True)
    )


def _batches(count: int) -> Iterator[slice]:
    start = number = 0
    while start < count:
        size = _BATCH_SIZES[min(number, len(_BATCH_SIZES) - 1)]
        yield slice(start, min(start + size, count))
        start, number = start + size, number + 1
