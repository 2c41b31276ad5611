"""`butppg export`: a trained classifier as ONNX or as safetensors with JSON, checked before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.cli.parser import OneLineErrors, command_parser, parse
from butppg_lightning.console import print_table, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, require_writable

if TYPE_CHECKING:
    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.export.onnx_runtime import Parity
    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

_ONNX, _SAFETENSORS = ".onnx", ".safetensors"
_SPLITS = ("train", "val", "test")
_MEASURED = 256  # windows on which the ranges of an int8 model are measured
_NOTABLE_LOSS = 0.005


def run(arguments: list[str]) -> None:
    """Export a checkpoint.

    Args:
        arguments: The words after ``butppg export``.

    Raises:
        UserError: If an option is wrong, a file or package cannot be used, results exist, or the exported model
            differs from torch; nothing is written then.
    """
    options = parse(_parser(), arguments)
    _check(options)
    from butppg_lightning.models.checkpoints.classifier import restore_network

    network, trained = restore_network(options.checkpoint)
    require_writable(options.output.parent)
    if options.output.suffix == _ONNX:
        _export_onnx(options, network)
    else:
        _export_portable(options, network, trained)


def _parser() -> OneLineErrors:
    parser = command_parser(
        "export",
        "Write a classifier as ONNX (raw windows in, calibrated probability out; compared with torch before the file "
        "is there), or as safetensors with JSON.",
        "butppg export --checkpoint artifacts/but_ppg_finetuned/best_model.pt --output model.onnx --data-dir "
        "data/but_ppg",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="best_model.pt of `butppg fit`")
    add("--output", type=Path, required=True, help="model.onnx, or model.safetensors (model.json is put beside it)")
    add("--data_dir", type=Path, help="folder with real windows to compare on; without it, synthetic ones are made")
    add("--split", choices=_SPLITS, default="val", help="the split of --data_dir to compare on")
    add("--int8", action="store_true", help="also write model.int8.onnx, and tell what it costs (needs --data_dir)")
    add("--opset", type=int, help="version of the ONNX operators, from 18 (the default) to 23")
    add("--licence", type=str, help="SPDX name of the weights' licence; default: Apache-2.0, the package's")
    add("--overwrite", type=bool, default=False, help="replace files that are there")
    return parser


def _check(options: Any) -> None:
    suffix = options.output.suffix
    if suffix not in (_ONNX, _SAFETENSORS):
        raise UserError(f"--output is {options.output}; name a file that ends in {_ONNX} or {_SAFETENSORS}")
    if not options.checkpoint.is_file():
        raise UserError(f"checkpoint {options.checkpoint} not found; give the best_model.pt that `butppg fit` wrote")
    given = [name for name in ("int8", "opset", "data_dir") if getattr(options, name)]
    if given and suffix != _ONNX:
        raise UserError(f"--{given[0]} is about ONNX, but --output is {options.output}; name a file that ends in .onnx")
    if options.int8 and options.data_dir is None:
        raise UserError("--int8 needs --data_dir DIR: labelled windows to measure ranges and the loss of AUROC on")
    for path in _outputs(options):
        if path.exists() and not options.overwrite:
            raise UserError(f"{path} is there already; add --overwrite to replace it, or name another --output")


def _outputs(options: Any) -> list[Path]:
    output: Path = options.output
    if output.suffix == _SAFETENSORS:
        return [output, output.with_suffix(".json")]
    return [output, output.with_suffix(".int8.onnx")] if options.int8 else [output]


def _export_portable(options: Any, network: QualityNetwork, trained: dict[str, Any]) -> None:
    from butppg_lightning.export.training_record import provenance
    from butppg_lightning.models.checkpoints.description import LICENCE, file_sha256
    from butppg_lightning.models.checkpoints.portable import read_stored, write_portable

    weights, config = _outputs(options)
    told = provenance(options.checkpoint, read_stored(options.checkpoint), network.calibration.threshold())
    digest, licence = file_sha256(options.checkpoint), options.licence or LICENCE
    write_portable(weights, config, network, trained, checkpoint_sha256=digest, licence=licence, told=told)
    print(f"Results: {weights}, {config}")


def _export_onnx(options: Any, network: QualityNetwork) -> None:
    from rich.markup import escape

    from butppg_lightning.cli.exporting import judge, windows_to_compare
    from butppg_lightning.export.onnx import DEFAULT_OPSET, export_onnx
    from butppg_lightning.export.onnx_runtime import TOLERANCE, compare, open_session
    from butppg_lightning.extras import require
    from butppg_lightning.models.checkpoints.description import LICENCE, describe, file_sha256

    require("onnxruntime")
    channels = network.preprocess.channels
    served, kind = _windows(options, channels)
    labels = _labels(options, served) if options.int8 else None
    metadata = describe(network, file_sha256(options.checkpoint), options.licence or LICENCE)
    opset = DEFAULT_OPSET if options.opset is None else options.opset
    with _status("writing the network as ONNX"):
        model = export_onnx(network, metadata, opset)
    stored = {options.output: model.SerializeToString()}
    session = open_session(stored[options.output])
    with _status("comparing with torch"):
        signals, present = windows_to_compare(served, channels)
        parity = compare(network, session, signals, present)
    rows = [
        ("inputs", f"signals, float32, batch x {len(channels)} x 1250: {', '.join(channels)}"),
        ("", f"present, bool, batch x {len(channels)}"),
        ("outputs", "probability and logit, float32, batch"),
        ("calibrated", "yes" if network.calibration.fitted else "no: `butppg calibrate` does that"),
        ("opset", str(opset)),
        ("largest difference from torch", f"{parity.largest:.2g} (at most {TOLERANCE:g} is allowed)"),
        ("compared on", f"{escape(kind)}, and copies without channels, flat, railed: {len(signals)} windows"),
    ]
    if parity.on_edge:
        rows.append(("left out of it", _on_edge(parity)))
    figures = None
    if labels is not None:
        target = options.output.with_suffix(".int8.onnx")
        stored[target] = _quantised(options, model, channels)
        figures = judge(stored, served, labels)
    for path, content in stored.items():
        with atomic_write(path) as file:
            file.write(content)
    print_table(f"{options.output} of {options.checkpoint}", None, rows)
    if figures is not None:
        _show_loss(options, figures)
    print(f"Results: {', '.join(map(str, stored))}")


def _on_edge(parity: Parity) -> str:
    return (
        f"{parity.on_edge} of these, where rounding in the last bits moves torch's own answer as far "
        f"(by {parity.largest_on_edge:.2g})"
    )


def _windows(options: Any, channels: tuple[str, ...]) -> tuple[WindowDataset, str]:
    """Return windows with the model's channels, and in words what they are."""
    from butppg_lightning.cli.exporting import SYNTHETIC, serve_windows
    from butppg_lightning.data.dataset import WindowDataset

    if options.data_dir is None:
        from butppg_lightning.sources.synthetic.generate import synthesize

        return WindowDataset(synthesize(SYNTHETIC, seed=0), channels), "synthetic windows"
    path = options.data_dir / f"{options.split}.npz"
    return serve_windows(path, channels, labelled=options.int8), f"{path}"


def _labels(options: Any, served: WindowDataset) -> Array:
    labels = np.asarray(served.windows.labels)
    if len(np.unique(labels)) < 2:
        raise UserError(
            f"{options.data_dir / options.split}.npz holds a single class, on which no AUROC can be measured; "
            "name another --split, or leave --int8 out"
        )
    return labels


def _quantised(options: Any, model: Any, channels: tuple[str, ...]) -> bytes:
    from butppg_lightning.cli.exporting import serve_windows
    from butppg_lightning.export.quantize import quantize_onnx, withhold_sensors

    path = options.data_dir / "train.npz"
    if not path.is_file():
        path = options.data_dir / f"{options.split}.npz"
        say(f"note: there is no train.npz in {options.data_dir}: ranges are measured on {path.name}, which flatters")
    batch = serve_windows(path, channels, labelled=False).sample(_MEASURED)
    signals, present = withhold_sensors(batch["signals"].numpy(), batch["present"].numpy(), channels)
    with _status("measuring ranges for int8"):
        found: bytes = quantize_onnx(model, signals, present).SerializeToString()
    return found


def _show_loss(options: Any, figures: dict[Path, tuple[float, float, int]]) -> None:
    from rich.markup import escape

    (full, *_), (small, *_) = figures.values()
    rows = [
        (escape(path.name), f"{area:.4f}", f"{speed:,.0f}", f"{size / 1e6:.1f} MB")
        for path, (area, speed, size) in figures.items()
    ]
    rows.append(("loss by int8", f"{full - small:+.4f}", "", ""))
    columns = ("", "AUROC", "windows/s here", "size")
    print_table(f"On {options.data_dir / options.split}.npz", columns, rows)
    if full - small > _NOTABLE_LOSS:
        say(f"note: int8 costs {full - small:.4f} of AUROC; prefer {options.output.name} unless speed matters more")


def _status(text: str) -> Any:
    from rich.console import Console

    return Console(stderr=True).status(text)  # seen on a terminal only
