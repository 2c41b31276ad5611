"""`butppg export`: a trained classifier as ONNX (checked before it is written), safetensors with JSON, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from butppg_lightning.cli.checks import require_checkpoint
from butppg_lightning.console import print_table
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, refuse_existing, require_writable
from butppg_lightning.shipped import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from butppg_lightning.export.onnx import Parity
    from butppg_lightning.npz import Array

_ONNX, _SAFETENSORS = ".onnx", ".safetensors"
_SYNTHETIC = 36  # windows to make where there are no real ones: batches of 1, 2 and 33
_COMPARED = 256
_EXAMPLES = 8  # windows in a folder, 25 kB each


def export(
    *,
    checkpoint: Path,
    output: Path,
    data_dir: Path | None = None,
    split: Literal["train", "val", "test"] = "val",
    opset: int | None = None,
    licence: str | None = None,
    about: list[Path] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a classifier as ONNX, as safetensors with JSON, or as a folder of these with a model card and digests.

    ONNX takes raw windows and gives calibrated probabilities; it is compared with torch before the file is there.

    Args:
        checkpoint: best_model.pt of `butppg fit`, an exported model, or shipped: the package's gate.
        output: model.onnx, model.safetensors (model.json is put beside it), or a folder (a name without a dot).
        data_dir: Folder with real windows to compare on; without it, synthetic ones are made.
        split: The split of --data_dir to compare on.
        opset: Version of the ONNX operators, from 18 (the default) to 23.
        licence: SPDX name of the weights' licence; default: Apache-2.0, the package's.
        about: YAML or JSON files with what a folder's card says beside: version, trained_on, sources, figures ...
        overwrite: Replace files that are there.

    Raises:
        UserError: If an option is wrong, a file or package cannot be used, results exist, or the exported model
            differs from torch; nothing is written then.

    Example:
        butppg export --checkpoint artifacts/but_ppg_finetuned/best_model.pt --output model.onnx --data-dir data/but_ppg
    """
    if output.suffix not in (_ONNX, _SAFETENSORS, ""):
        raise UserError(f"--output is {output}; name a folder, or a file that ends in {_ONNX} or {_SAFETENSORS}")
    checkpoint = require_checkpoint(checkpoint)
    given = [name for name, value in (("opset", opset), ("data_dir", data_dir)) if value is not None]
    if given and output.suffix != _ONNX:
        raise UserError(f"--{given[0]} is about ONNX, but --output is {output}; name a file that ends in .onnx")
    if about and output.suffix:
        raise UserError(f"--about is for the card of a folder, but --output is {output}; name a folder")
    weights = output if output.suffix else output / WEIGHTS
    config = weights.with_suffix(".json") if output.suffix else output / CONFIG
    outputs = [output] if output.suffix == _ONNX else [weights, config]
    refuse_existing(outputs, overwrite)
    require_writable(weights.parent)
    from butppg_lightning.models.checkpoints import LICENCE

    if output.suffix == _ONNX:
        _export_onnx(checkpoint, output, data_dir, split, opset, licence or LICENCE)
    else:
        _export_portable(checkpoint, output, licence or LICENCE, about or [])
    print(f"Results: {', '.join(map(str, outputs if output.suffix else [output]))}")


def _export_portable(checkpoint: Path, output: Path, licence: str, about: list[Path]) -> None:
    from butppg_lightning.export.folder import write_folder
    from butppg_lightning.export.model_card import provenance
    from butppg_lightning.models.about import ABOUT_KEY, read_about
    from butppg_lightning.models.checkpoints import read_stored, restore_network, write_portable

    said = read_about(about)
    network, trained = restore_network(checkpoint)
    record = provenance(checkpoint, read_stored(checkpoint), network.calibration.threshold())
    record |= {ABOUT_KEY: said} if said else {}
    if output.suffix:
        write_portable(output, output.with_suffix(".json"), network, trained, licence=licence, record=record)
        return
    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.sources.synthetic.generate import synthesize

    made = WindowDataset(synthesize(_EXAMPLES, seed=0), network.channels).sample(_EXAMPLES)
    examples = made["signals"].numpy(), made["present"].numpy()
    name = str(record.get(ABOUT_KEY, {}).get("name", output.resolve().name))
    write_folder(output, name, network, trained, licence=licence, record=record, examples=examples)


def _export_onnx(
    checkpoint: Path, output: Path, data_dir: Path | None, split: str, opset: int | None, licence: str
) -> None:
    from rich.console import Console

    from butppg_lightning.export.onnx import DEFAULT_OPSET, compare, export_onnx, open_session
    from butppg_lightning.extras import require
    from butppg_lightning.models.checkpoints import describe, restore_network

    require("onnxruntime")
    network, _ = restore_network(checkpoint)
    channels = network.preprocess.channels
    signals, present, kind = _windows(data_dir, split, channels)
    opset = DEFAULT_OPSET if opset is None else opset
    console = Console(stderr=True)  # its status is seen on a terminal only
    with console.status("writing the network as ONNX"):
        model = export_onnx(network, describe(network, licence, checkpoint), opset).SerializeToString()
    with console.status("comparing with torch"):
        parity = compare(network, open_session(model), signals, present)
    with atomic_write(output) as file:
        file.write(model)
    rows = [
        ("inputs", f"signals, float32, batch x {len(channels)} x 1250: {', '.join(channels)}"),
        ("", f"present, bool, batch x {len(channels)}"),
        ("outputs", "probability and logit, float32, batch"),
        ("calibrated", "yes" if network.calibration.fitted else "no: `butppg calibrate` does that"),
        ("opset", str(opset)),
        *_agreement(parity, f"{kind}, and copies without channels, flat, railed: {len(signals)} windows"),
    ]
    print_table(f"{output} of {checkpoint}", None, rows)


def _windows(data_dir: Path | None, split: str, channels: tuple[str, ...]) -> tuple[Array, Array, str]:
    """Return ``signals [N, C, 1250]`` and ``present [N, C]`` to compare on, and in words what they are."""
    from butppg_lightning.data.dataset import WindowDataset, read_split
    from butppg_lightning.export.onnx import with_damaged_copies

    if data_dir is None:
        from butppg_lightning.sources.synthetic.generate import synthesize

        served, kind = WindowDataset(synthesize(_SYNTHETIC, seed=0), channels), "synthetic windows"
    else:
        served, kind = read_split(data_dir, split, channels, labelled=False), f"{data_dir / split}.npz"
    batch = served.sample(_COMPARED)
    return *with_damaged_copies(batch["signals"].numpy(), batch["present"].numpy(), channels, _SYNTHETIC), kind


def _agreement(parity: Parity, compared_on: str) -> list[tuple[str, str]]:
    from rich.markup import escape

    from butppg_lightning.export.onnx import TOLERANCE

    rows = [
        ("largest difference from torch", f"{parity.largest:.2g} (at most {TOLERANCE:g} is allowed)"),
        ("compared on", escape(compared_on)),
    ]
    if parity.on_edge:
        reason = "where rounding in the last bits moves torch's own answer as far"
        rows.append(("left out of it", f"{parity.on_edge} of these, {reason} (by {parity.largest_on_edge:.2g})"))
    return rows
