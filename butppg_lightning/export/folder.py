"""A model as a folder: weights, description, card and digests. What is given away, and what the package ships."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from butppg_lightning.export.model_card import GENERATED, model_card
from butppg_lightning.extras import require
from butppg_lightning.files import atomic_write
from butppg_lightning.models.checkpoints import read_portable, write_portable
from butppg_lightning.models.prediction import predict_windows
from butppg_lightning.shipped import CONFIG, EXAMPLES, WEIGHTS, seal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

CARD = "README.md"


def write_folder(
    folder: Path,
    name: str,
    network: QualityNetwork,
    hyperparameters: Mapping[str, Any],
    *,
    licence: str,
    record: Mapping[str, Any],
    examples: tuple[Array, Array] | None = None,
) -> None:
    """Write a model's folder; a card that was edited stays.

    Args:
        folder: Made if it is not there.
        name: Of the model, for the card.
        network: The network.
        hyperparameters: The classifier's.
        licence: Of the weights, an SPDX name or any text.
        record: Where the model comes from; see :func:`~butppg_lightning.export.model_card.provenance`.
        examples: Raw windows ``[N, C, 1250]`` and which channels they have ``[N, C]``, to be kept with the
            probabilities that the model gives them: another machine must come to the same.

    Raises:
        UserError: If a package is missing or a file cannot be written.
    """
    require("jinja2", "the model card")  # before anything is written
    weights = folder / WEIGHTS
    write_portable(weights, folder / CONFIG, network, hyperparameters, licence=licence, record=record)
    (folder / EXAMPLES).unlink(missing_ok=True)  # those of other weights
    if examples is not None:
        probabilities = predict_windows(network, *examples).probabilities
        arrays = dict(zip(("signals", "present", "probabilities"), (*examples, probabilities), strict=True))
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        with atomic_write(folder / EXAMPLES) as file:
            file.write(require("safetensors.torch").save(tensors))
    seal(folder)
    card = folder / CARD
    if card.is_file() and GENERATED not in card.read_text(encoding="utf-8", errors="replace"):
        return
    with atomic_write(card) as file:
        file.write(model_card(read_portable(weights), name).encode())
