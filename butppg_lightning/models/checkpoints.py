"""Checkpoints and exported models: the one place that reads and writes them. Nothing in a file is ever run.

A checkpoint is a torch file of tensors and plain types. An exported model is a pair of files that other programs can
read: ``model.safetensors`` holds the tensors of the network under the names they have in a checkpoint, ``model.json``
(or ``config.json``, as model hubs call it) the architecture and the other hyperparameters, the calibration, what
:func:`describe` returns, and the weights' SHA-256, which ties the two.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from butppg_lightning.errors import UserError
from butppg_lightning.extras import require
from butppg_lightning.files import atomic_write, file_sha256, write_json
from butppg_lightning.models.about import ABOUT_KEY, about_fault
from butppg_lightning.models.architecture import (
    PATCH_TRANSFORMER,
    TINY_TIME_MIXER,
    build_encoder,
    infer_spec,
    normal_spec,
)
from butppg_lightning.models.calibration import CHECKPOINT_KEY, OPERATING_POINTS, stored_calibration
from butppg_lightning.models.heads import HEADS
from butppg_lightning.models.network import assemble
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.models.training_range import RANGE_KEY, stored_range
from butppg_lightning.shipped import CONFIG, SUFFIX
from butppg_lightning.version import __version__
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from butppg_lightning.models.calibration import Calibration
    from butppg_lightning.models.network import QualityNetwork

HOW_TO_PRETRAIN = "pretrain one first: butppg pretrain --config pretrain.yaml --data.root DIR --output_dir DIR"
LICENCE = "Apache-2.0"
"""The package's own licence, which exported weights get unless the user says otherwise."""
ORIGIN_KEYS = ("metrics", "test_metrics", "data", "training", "checkpoint_sha256", ABOUT_KEY)
"""The keys of an exported model's description that say where it comes from."""
_FORMAT, _VERSION = "butppg_lightning quality classifier", 1
_PREFIX = "network."
_LARGEST_CONFIG = 16 * 2**20  # bytes; a calibration's curve takes most of it and is 1 MB at most
_LONGEST_NUMBER = 15  # digits of an integer: more overflow a float somewhere
_NEEDED = {"encoder": dict, "head": str, "finetune_channels": list, "preprocess": dict}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a torch file to the CPU without running any code from it.

    Raises:
        UserError: If it is missing, damaged, not a checkpoint, or holds anything beyond tensors and plain types.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} not found; {HOW_TO_PRETRAIN}")
    _refuse_zip_bomb(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            pickled = file.read(1) in (b"\x80", b"P")  # a pickle, or a zip of one; else any text would seem to run code
        if pickled and ("Unsupported" in str(error) or "GLOBAL" in str(error)):
            raise UserError(
                f"{path} holds more than tensors and plain values; loading it could run code, so it is refused"
            ) from None
        raise UserError(f"{path} is not a torch checkpoint, or is damaged") from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # a stranger's bytes can make the reader fail in any way
        raise UserError(f"{path} is not a torch checkpoint, or is damaged ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def _refuse_zip_bomb(path: Path) -> None:
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UserError(f"{path} is not a torch checkpoint, or is damaged ({type(error).__name__})") from None
    # torch stores tensors uncompressed; only its small pickle may be packed by other tools
    if unpacked > 4 * path.stat().st_size + 2**20:
        raise UserError(f"{path} unpacks to {unpacked / 2**30:.1f} GiB from far less; that is no checkpoint of torch")


def read_stored(path: Path) -> dict[str, Any]:
    """Read an exported model if ``path`` ends in ``.safetensors``, else a checkpoint."""
    return read_portable(path) if path.suffix == SUFFIX else read_checkpoint(path)


def stored_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters in a checkpoint's content, with all of preprocessing; empty where there are none."""
    options = content.get("hyper_parameters")
    options = options if isinstance(options, dict) else {}
    preprocess = options.get("preprocess")
    return {**options, "preprocess": Preprocess.stated(preprocess)} if isinstance(preprocess, dict) else options


def network_weights(content: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Return the network's weights in a Lightning checkpoint's content by name; None where there is no state dict."""
    stored = content.get("state_dict")
    if not isinstance(stored, dict):
        return None
    return {
        str(key).removeprefix(_PREFIX): value
        for key, value in stored.items()
        if str(key).startswith(_PREFIX) and isinstance(value, Tensor)
    }


def require_finite(path: Path | str, key: str, stored: Tensor, wanted: Tensor) -> None:
    """Refuse stored weights that are sparse, of another kind of number than the model's, NaN or infinite."""
    real = stored.layout == torch.strided and stored.is_floating_point() == wanted.is_floating_point()
    if not (real and bool(stored.isfinite().all())):
        raise UserError(
            f"{path}: {key} does not hold finite real numbers (a diverged training leaves NaN); choose another"
        )


def restore_network(path: Path) -> tuple[QualityNetwork, dict[str, Any]]:
    """Rebuild the network of a fine-tuned classifier, as ``PPGQualityClassifier.load_from_checkpoint`` would.

    Args:
        path: A checkpoint that ``butppg fit`` wrote, or an exported model's ``.safetensors`` file.

    Returns:
        The network in eval mode, on the CPU, and the checkpoint's hyperparameters.

    Raises:
        UserError: If it cannot be read, is no classifier's, names a foreign encoder class, or its weights are missing,
            of another shape than it declares, or not finite, or its calibration is damaged.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} not found; give the best_model.pt that `butppg fit` wrote")
    return network_from(path, read_stored(path))


def require_classifier(path: Path, content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the hyperparameters and the network's weights in what was read of ``path``; a UserError if it has none."""
    options, state = stored_options(content), network_weights(content)
    if state is None or options.get("head") not in HEADS:
        raise UserError(f"{path} is no fine-tuned classifier; give the best_model.pt that `butppg fit` wrote")
    return options, state


def network_from(path: Path, content: dict[str, Any]) -> tuple[QualityNetwork, dict[str, Any]]:
    """Rebuild the network as :func:`restore_network` does, from what was read of ``path``."""
    options, state = require_classifier(path, content)
    _check_sizes(path, options.get("encoder"), state)
    network = _build(path, options)
    for key, value in network.state_dict().items():
        if key not in state or state[key].shape != value.shape:
            raise UserError(
                f"{path} declares a model whose {key} it does not hold, or in another shape; write it again"
            )
        require_finite(path, key, state[key], value)
    network.load_state_dict(state, strict=False)
    take_stored(network, content, path)
    return network.eval(), options


def take_stored(network: QualityNetwork, content: dict[str, Any], path: Path | str) -> None:
    """Give a network the calibration and the training range in a checkpoint's content; without them it has none."""
    network.calibration = stored_calibration(content, path)
    network.training_range = stored_range(content, path)


def _build(path: Path, options: dict[str, Any]) -> QualityNetwork:
    names = options.get("finetune_channels")
    channels = channel_names(names if isinstance(names, (int, list)) else [])
    encoder, _ = build_encoder(options["encoder"], channels, named_by_user=False)
    scaling = options.get("preprocess")
    preprocess = Preprocess.from_options(channels, scaling if isinstance(scaling, dict) else {})
    given = {key: options.get(key) for key in ("indices", "encoder_channels")}
    for key, names in given.items():
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise UserError(f"{path} has {key} that are no names; write it again")
    try:
        return assemble(preprocess, encoder, options["head"], float(options.get("head_dropout") or 0.0), **given)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has a head_dropout that is none: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_sizes(path: Path, declared: Any, state: dict[str, Tensor]) -> None:
    """Refuse an architecture that the weights do not have, before memory is taken for it."""
    spec = normal_spec(declared if isinstance(declared, dict) else None)
    if sum(value.numel() * value.element_size() for value in state.values()) > 2 * path.stat().st_size:
        raise UserError(f"{path} declares more weights than it holds; write it again")
    if spec["class_path"] not in (PATCH_TRANSFORMER, TINY_TIME_MIXER):
        return
    try:
        found = infer_spec(state, spec)
    except TypeError:  # sizes that are no numbers
        found = None
    if found is None or found["class_path"] != spec["class_path"]:
        raise UserError(f"{path} holds no encoder's weights; give the best_model.pt that `butppg fit` wrote")
    for key, value in found["init_args"].items():
        if key in spec["init_args"] and spec["init_args"][key] != value:
            raise UserError(f"{path} declares an encoder of {key} {spec['init_args'][key]}, but holds {value}")


def write_portable(
    weights: Path,
    config: Path,
    network: QualityNetwork,
    hyperparameters: Mapping[str, Any],
    *,
    licence: str,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Export a model as a pair of files, ``weights`` and its JSON ``config``, each written atomically.

    The classifier's hyperparameters, and the ``record`` of where it comes from
    (:func:`~butppg_lightning.export.model_card.provenance`), are plain types; ``licence`` is an SPDX name or any text.

    Raises:
        UserError: If safetensors is missing or a file cannot be written.
    """
    tensors = {
        # a copy of each: tensors that share memory, which safetensors refuses, are written out
        _PREFIX + name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    stored: bytes = require("safetensors.torch").save(tensors, metadata={"format": "pt"})
    content = {
        "format": _FORMAT,
        "format_version": _VERSION,
        **describe(network, licence),
        "hyper_parameters": {**hyperparameters, "preprocess": network.preprocess.options},
        CHECKPOINT_KEY: _without_folders(network.calibration).state() if network.calibration.fitted else None,
        RANGE_KEY: None if network.training_range is None else network.training_range.state(),
        **(record or {}),
        "weights_sha256": hashlib.sha256(stored).hexdigest(),
    }
    with atomic_write(weights) as file:
        file.write(stored)
    write_json(config, content)


def read_portable(weights: Path) -> dict[str, Any]:
    """Read an exported model, in the form of a checkpoint's content; nothing in it is run.

    ``weights`` is the ``.safetensors`` file; its JSON has the same name but for the suffix, or is ``config.json``.
    """
    if not weights.is_file():
        raise UserError(
            f"{weights} not found; make it with: butppg export --checkpoint FILE --output model.safetensors"
        )
    content = read_description(weights)
    state, digest = read_tensors(weights)
    if content.get("weights_sha256") != digest:
        raise UserError(f"{weights} is not what its JSON describes (another SHA-256); copy or export both again")
    if content.get(CHECKPOINT_KEY) is None:
        content.pop(CHECKPOINT_KEY, None)
    return {**content, "state_dict": state}


def read_tensors(weights: Path) -> tuple[dict[str, Tensor], str]:
    """Read a ``.safetensors`` file, ours or another library's: its tensors and its SHA-256; nothing in it is run."""
    try:
        stored = weights.read_bytes()
    except OSError as error:
        raise UserError(f"{weights} cannot be read: {error.strerror}") from None
    library = require("safetensors.torch")
    try:
        return library.load(stored), hashlib.sha256(stored).hexdigest()
    except Exception as error:  # a stranger's bytes can make the reader fail in any way
        raise UserError(
            f"{weights} is no safetensors file, or is damaged ({type(error).__name__}); copy it again"
        ) from None


def read_description(weights: Path) -> dict[str, Any]:
    """Read only the JSON of an exported model, which stands beside its ``.safetensors`` file ``weights``."""
    path = weights.with_suffix(".json")
    if not path.is_file() and not (path := weights.with_name(CONFIG)).is_file():
        raise UserError(f"{weights} has no {weights.stem}.json or {CONFIG} beside it, which says what it is; copy both")
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise UserError(f"{path} is larger than {_LARGEST_CONFIG} bytes; that is no description of a model")
        content = json.loads(path.read_bytes(), parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}); copy or export it again") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path} does not describe a model of this package (its 'format' is another)")
    if content.get("format_version") != _VERSION:
        raise UserError(
            f"{path} has format_version {content.get('format_version')!r}; this version of the package reads {_VERSION}"
        )
    options = stored_options(content)
    for key, kind in _NEEDED.items():
        if not isinstance(options.get(key), kind):
            raise UserError(f"{path} is damaged: hyper_parameters.{key} is missing or no {kind.__name__}; export again")
    if ABOUT_KEY in content and (fault := about_fault(content[ABOUT_KEY])):
        raise UserError(f"{path} is damaged: {ABOUT_KEY}: {fault}; export again")
    return content


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"it holds the number {text[:20]}..., which is out of range")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text}, which is no number")
    return value


def describe(network: QualityNetwork, licence: str = LICENCE, checkpoint: Path | None = None) -> dict[str, Any]:
    """Return, in plain types, what a program has to know of an exported model.

    ``threshold`` is the probability from which on a window is good, ``operating_points`` is empty if the model is not
    calibrated, and ``checkpoint_sha256`` if no ``checkpoint`` is named; ``licence`` is an SPDX name, or any text.
    """
    calibration = _without_folders(network.calibration)
    points = {}
    for name in OPERATING_POINTS if calibration.curve is not None else ():
        point = calibration.point(name)
        points[name] = {
            "threshold": point.threshold,
            "sensitivity": point.sensitivity,
            "specificity": 1 - point.false_positive_rate,
            "precision": point.precision,
        }
    return {
        "channels": list(network.channels),
        "units": {name: "g" if name.startswith("ACC") else "any" for name in network.channels},
        "fs": SAMPLING_RATE,
        "window_seconds": WINDOW_SAMPLES / SAMPLING_RATE,
        "window_samples": WINDOW_SAMPLES,
        "threshold": points["balanced"]["threshold"] if points else 0.5,
        "operating_points": points,
        "calibration": {key: value for key, value in calibration.state().items() if key != "curve"}
        if calibration.fitted
        else None,
        "package_version": __version__,
        "checkpoint_sha256": "" if checkpoint is None else file_sha256(checkpoint),
        "licence": licence,
    }


def _without_folders(calibration: Calibration) -> Calibration:
    """Return a calibration whose source names no folder: what is given away need not tell how a disk is ordered."""
    return replace(calibration, source=last_names(calibration.source))


def last_names(text: str) -> str:
    """Shorten every path in a text to its last name.

    Examples:
        >>> last_names("val.npz of /home/ann/but_ppg, 300 windows")
        'val.npz of but_ppg, 300 windows'
    """
    return re.sub(r"[^\s,]*[/\\]", "", text)
