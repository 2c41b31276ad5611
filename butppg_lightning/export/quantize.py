"""An ONNX model whose transformer blocks multiply 8-bit integers.

Only the products of the blocks with their weights are quantised, signed per output channel. Filters, input projection,
head and calibration keep float32: they take little time and are where rounding would be heard. The ranges of the
activations are measured once, on training windows ("static"): ranges taken from each batch ("dynamic") gave the same
AUROC, but let the score of a window depend on its neighbours in the batch (by 0.1 in the logit, against 0.002).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.export.onnx import INPUTS, scopes, set_metadata
from butppg_lightning.extras import quiet, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.npz import Array

_BATCH = 32


def quantize_onnx(model: Any, signals: Array, present: Array) -> Any:
    """Quantise the transformer blocks of an exported model.

    Args:
        model: What :func:`~butppg_lightning.export.onnx.export_onnx` returns.
        signals: Raw windows ``[N, C, 1250]`` to measure the ranges of the activations on; a few hundred.
        present: ``[N, C]`` bool.

    Returns:
        Another ``onnx.ModelProto``.

    Raises:
        UserError: If a package is missing, or the encoder has no blocks whose products could be quantised.
    """
    onnx = require("onnx")
    require("onnxruntime")
    quantization = require("onnxruntime.quantization")
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and "encoder.blocks" in scopes(node) and node.input[1] in constants
    ]
    if not products:
        raise UserError("the encoder's blocks have no products with weights: there is nothing --int8 could quantise")
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder, "model.onnx"), Path(folder, "model.int8.onnx")
        source.write_bytes(model.SerializeToString())
        quantization.quantize_static(
            source,
            target,
            _Windows(signals, present),
            nodes_to_quantize=products,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        quantised = onnx.load(target)
    set_metadata(quantised, {"quantization": "int8 weights and uint8 activations in the encoder's blocks, static"})
    return quantised


def withhold_sensors(signals: Array, present: Array, channels: Sequence[str]) -> tuple[Array, Array]:
    """Take sensors beside the PPG away from three quarters of the windows, so that their ranges cover such windows too.

    Args:
        signals: ``[N, C, 1250]``.
        present: ``[N, C]`` bool.
        channels: Names of the C channels.

    Returns:
        Copies of both: in turn with everything, without ECG, without acceleration, without both.
    """
    signals, present = signals.astype(np.float32), present.copy()
    of_ecg, of_acc = (np.array([name.startswith(sensor) for name in channels]) for sensor in ("ECG", "ACC"))
    for turn, gone in enumerate((of_ecg, of_acc, of_ecg | of_acc), start=1):
        if not gone.all():
            present[turn::4] &= ~gone
    signals[~present] = 0
    return signals, present


class _Windows:
    """Serves windows to the quantiser, which asks until it gets None."""

    def __init__(self, signals: Array, present: Array) -> None:
        self.batches = iter(
            [
                dict(zip(INPUTS, (signals[start : start + _BATCH], present[start : start + _BATCH]), strict=True))
                for start in range(0, len(signals), _BATCH)
            ]
        )

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch, or None after the last."""
        return next(self.batches, None)
