"""Weights as safetensors with everything else as JSON beside them: a pair of files that other programs can read.

``model.safetensors`` holds the tensors of the network under the names they have in a checkpoint. ``model.json`` (or
``config.json``, as model hubs call it) holds the architecture and the other hyperparameters, the calibration, what
:func:`~butppg_lightning.models.checkpoints.description.describe` tells, and the weights' SHA-256, which ties the two.
Neither can hold code. :func:`read_portable` returns what ``read_checkpoint`` returns of a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from butppg_lightning.errors import UserError
from butppg_lightning.extras import require
from butppg_lightning.files import atomic_write, write_json
from butppg_lightning.models.calibration import CHECKPOINT_KEY
from butppg_lightning.models.checkpoints.description import describe, without_folders
from butppg_lightning.models.checkpoints.torch_file import read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from butppg_lightning.models.network import QualityNetwork

SUFFIX = ".safetensors"
"""What tells a pair's weights from a checkpoint."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The names of a pair in a folder for a model hub."""
FORMAT, VERSION = "butppg_lightning quality classifier", 1
_PREFIX = "network."
_LARGEST_CONFIG = 16 * 2**20  # bytes; a calibration's curve takes most of it and is 1 MB at most
_LONGEST_NUMBER = 15  # digits of an integer: more overflow a float somewhere
_NEEDED = {"encoder": dict, "head": str, "finetune_channels": list, "preprocess": dict}


def write_portable(
    weights: Path,
    config: Path,
    network: QualityNetwork,
    hyperparameters: Mapping[str, Any],
    *,
    licence: str,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write the pair, each file atomically.

    Args:
        weights: The file of weights.
        config: The file of JSON.
        network: The network.
        hyperparameters: Of the classifier; plain types.
        licence: An SPDX name, or any text.
        record: What :func:`~butppg_lightning.export.training_record.provenance` knows of it; plain types.

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
        "format": FORMAT,
        "format_version": VERSION,
        **describe(network, licence),
        "hyper_parameters": {**hyperparameters, "preprocess": network.preprocess.options},
        CHECKPOINT_KEY: without_folders(network.calibration).state() if network.calibration.fitted else None,
        **(record or {}),
        "weights_sha256": hashlib.sha256(stored).hexdigest(),
    }
    with atomic_write(weights) as file:
        file.write(stored)
    write_json(config, content)


def read_stored(path: Path) -> dict[str, Any]:
    """Read a pair if ``path`` ends in ``.safetensors``, else a checkpoint.

    Raises:
        UserError: As :func:`read_portable` and ``read_checkpoint``.
    """
    return read_portable(path) if path.suffix == SUFFIX else read_checkpoint(path)


def read_portable(weights: Path) -> dict[str, Any]:
    """Read a pair, in the form of a checkpoint's content; nothing in it is run.

    Args:
        weights: The ``.safetensors`` file; its JSON has the same name but for the suffix, or is ``config.json``.

    Returns:
        ``state_dict``, ``hyper_parameters``, ``calibration`` if there is one, and whatever else the JSON tells.

    Raises:
        UserError: If one of the two is missing or damaged, they do not belong together, or safetensors is missing.
    """
    weights = Path(weights)
    if not weights.is_file():
        raise UserError(f"{weights} not found; `butppg export --output model.safetensors` writes one")
    config = weights.with_suffix(".json")
    if not config.is_file() and not (config := weights.with_name(CONFIG)).is_file():
        raise UserError(f"{weights} has no {weights.stem}.json or {CONFIG} beside it, which says what it is; copy both")
    content = _read_config(config)
    try:
        stored = weights.read_bytes()
    except OSError as error:
        raise UserError(f"{weights} cannot be read: {error.strerror}") from None
    state = _read_tensors(weights, stored)
    if content.get("weights_sha256") != hashlib.sha256(stored).hexdigest():
        raise UserError(f"{weights} is not what {config.name} describes (another SHA-256); copy or export both again")
    if content.get(CHECKPOINT_KEY) is None:
        content.pop(CHECKPOINT_KEY, None)
    return {**content, "state_dict": state}


def _read_tensors(path: Path, stored: bytes) -> dict[str, Tensor]:
    library = require("safetensors.torch")
    try:
        tensors: dict[str, Tensor] = library.load(stored)
    except Exception as error:  # a stranger's bytes can make the reader fail in any way
        raise UserError(
            f"{path} is no safetensors file, or is damaged ({type(error).__name__}); copy it again"
        ) from None
    return tensors


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise UserError(f"{path} is larger than {_LARGEST_CONFIG} bytes; that is no description of a model")
        content = json.loads(path.read_bytes(), parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}); copy or export it again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} does not describe a model of this package (its 'format' is another)")
    if content.get("format_version") != VERSION:
        raise UserError(
            f"{path} has format_version {content.get('format_version')!r}; this version of the package reads {VERSION}"
        )
    options = content.get("hyper_parameters")
    for key, kind in _NEEDED.items():
        if not isinstance(options, dict) or not isinstance(options.get(key), kind):
            raise UserError(f"{path} is damaged: hyper_parameters.{key} is missing or no {kind.__name__}; export again")
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
