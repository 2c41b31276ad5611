"""The quality network as one ONNX file: raw windows in, calibrated probability out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.extras import quiet, require
from butppg_lightning.window import WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from butppg_lightning.models.network import QualityNetwork

INPUTS = ("signals", "present")
"""``signals [batch, C, 1250]`` float32, raw; ``present [batch, C]`` bool, False where a channel was not recorded."""
OUTPUTS = ("probability", "logit")
"""``[batch]`` float32 each: calibrated probability of good quality, and the uncalibrated logit."""
OPSETS = range(18, 24)
"""Operator sets that can be asked for: torch writes none below 18."""
DEFAULT_OPSET = 18
_EXAMPLES = 3  # windows the graph is recorded with; a single one would be taken for a constant


class ExportedNetwork(nn.Module):
    """A network with its calibration: what an ONNX file computes.

    Args:
        network: The network; it stays as it is.
    """

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
        metadata: Stored in the model's ``metadata_props``; what is no text, as JSON.
        opset: Version of the operators; one of :data:`OPSETS`.

    Returns:
        The ``onnx.ModelProto``.

    Raises:
        UserError: If a package is missing, the operator set is out of range or not reached, or the network computes
            something that ONNX lacks.
    """
    if opset not in OPSETS:
        raise UserError(f"opset {opset} is out of range; choose {OPSETS[0]} (read by most programs) to {OPSETS[-1]}")
    require("onnx")
    require("onnxscript")
    program = _convert(ExportedNetwork(network).eval(), len(network.preprocess.channels), opset)
    model = program.model_proto
    reached = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if reached != opset:
        raise UserError(f"this network can be written in opset {reached}, not {opset}; use --opset {reached}")
    _describe(model, metadata)
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
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"the network cannot be written as ONNX: {reason}; --output model.safetensors can") from error


def _describe(model: Any, metadata: Mapping[str, Any]) -> None:
    """Fill a model's ``metadata_props``; drop those of its nodes, which name folders of this machine."""
    for item in (model, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
