"""The quality network as one ONNX file (raw windows in, calibrated probability out), run and compared with torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError, first_line
from butppg_lightning.extras import quiet, require
from butppg_lightning.models.prediction import predict_windows
from butppg_lightning.window import WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

INPUTS = ("signals", "present")
"""``signals [batch, C, 1250]`` float32, raw; ``present [batch, C]`` bool, False where a channel was not recorded."""
OUTPUTS = ("probability", "logit")
"""``[batch]`` float32 each: calibrated probability of good quality, and the uncalibrated logit."""
OPSETS = range(18, 24)
"""Operator sets that can be asked for: torch writes none below 18."""
DEFAULT_OPSET = 18
TOLERANCE = 1e-4
"""The largest difference from torch, in probability and in logit, that an exported file may show."""
_EXAMPLES = 3  # windows the graph is recorded with; a single one would be taken for a constant
_ROUNDING = 2.0**-22  # relative: the last two bits of a float32
_COPIES = 32
_MOST_ON_EDGE = 0.02  # of the windows
_RAILED_SAMPLES = 700  # longer than the 5 s from which on a channel counts as railed


class ExportedNetwork(nn.Module):
    """A network with its calibration: what an ONNX file computes."""

    def __init__(self, network: QualityNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, signals: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Map raw windows ``[B, C, 1250]`` float32 and ``present [B, C]`` bool to probabilities and logits ``[B]``."""
        logits: Tensor = self.network(signals, present).float()
        return self.network.calibration.probabilities(logits), logits


def export_onnx(network: QualityNetwork, metadata: Mapping[str, Any], opset: int = DEFAULT_OPSET) -> Any:
    """Write a network down as an ONNX model, whatever its ``forward(signals, present)`` computes.

    Filters, scaling, the rule for flat and railed channels and the calibration are inside; the batch size is free.

    Args:
        network: On the CPU and in eval mode.
        metadata: Stored in the ``metadata_props`` of the ``onnx.ModelProto``; what is no text, as JSON.
        opset: Version of the operators; one of :data:`OPSETS`.
    """
    if opset not in OPSETS:
        raise UserError(f"opset {opset} is out of range; choose {OPSETS[0]} (read by most programs) to {OPSETS[-1]}")
    require("onnx")
    require("onnxscript")
    model = _convert(ExportedNetwork(network).eval(), len(network.channels), opset).model_proto
    reached = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if reached != opset:
        raise UserError(f"this network can be written in opset {reached}, not {opset}; use --opset {reached}")
    # the metadata of nodes names folders of this machine
    for item in (model, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    return model


def _convert(exported: ExportedNetwork, channels: int, opset: int) -> Any:
    signals = torch.randn(_EXAMPLES, channels, WINDOW_SAMPLES)
    example = (signals, torch.ones(signals.shape[:2], dtype=torch.bool))
    shapes = tuple({0: torch.export.Dim("batch")} for _ in INPUTS)
    try:
        with quiet("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir"):
            # strict: otherwise len(tensor) anywhere in the network would tie the graph to the example's batch size
            recorded = torch.export.export(exported, example, dynamic_shapes=shapes, strict=True)
            return torch.onnx.export(
                recorded,
                dynamo=True,  # the older exporter writes a graph that onnxruntime cannot run
                opset_version=opset,
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds, from the recording of whatever an encoder computes
        raise UserError(
            f"the network cannot be written as ONNX: {first_line(error)}; --output model.safetensors can"
        ) from error


def open_session(model: bytes) -> Any:
    """Open a serialised ONNX model in onnxruntime, on the CPU; a UserError says why that cannot be."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common name
        raise UserError(f"onnxruntime {runtime.__version__} cannot run the model: {first_line(error)}") from error


def damaged_copies(signals: Array, present: Array, channels: Sequence[str]) -> tuple[Array, Array]:
    """Return windows that lack what real ones may lack: absent, flat and railed channels, and no channel at all.

    They are copies of ``signals [B, C, 1250]`` and ``present [B, C]``, each window damaged in one way.
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
    """How an ONNX model agrees with torch."""

    largest: float  # absolute difference over probabilities and logits
    on_edge: int  # windows that are not counted there, because rounding alone moves torch's own answer as far
    largest_on_edge: float  # difference among those


def compare(network: QualityNetwork, session: Any, signals: Array, present: Array) -> Parity:
    """Compare an ONNX model with the network in torch, in batches of 1, 2 and 33 windows.

    A network that counts samples beyond a limit (signal indices do) jumps where one lies on it, and there two exact
    programs differ. Such a window is found by torch itself: copies of it whose samples differ in the last bits get
    answers that reach the other program's.

    Refused is a difference beyond :data:`TOLERANCE` that is none of these, more than a few such windows, and an answer
    that is not finite. The network is on the CPU, ``signals [N, C, 1250]`` are raw, ``present [N, C]`` is bool.
    """
    worst, edges = 0.0, []
    # one window, two, then 33 at a time
    for start, stop in pairwise(sorted({0, 1, *range(3, len(signals), 33), len(signals)})):
        rows = slice(start, stop)
        part, there = signals[rows].astype(np.float32), present[rows]
        wanted = _torch(network, part, there)
        found = session.run(OUTPUTS, {"signals": part, "present": there})
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
    found = predict_windows(network, signals, present)
    return found.probabilities, found.logits


def _on_edge(network: QualityNetwork, signals: Array, present: Array, found: tuple[float, float]) -> bool:
    noise = np.random.default_rng(0).uniform(-_ROUNDING, _ROUNDING, (_COPIES, *signals.shape))
    copies = (signals * (1 + noise)).astype(np.float32)
    answers = _torch(network, copies, np.broadcast_to(present, (_COPIES, len(present))))
    return all(
        bool(reached.min() - TOLERANCE <= value <= reached.max() + TOLERANCE)
        for value, reached in zip(found, answers, strict=True)
    )
