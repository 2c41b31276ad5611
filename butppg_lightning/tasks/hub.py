"""A classifier as a folder of safetensors, JSON and a model card: on a disk, or on the Hugging Face hub.

huggingface_hub's ``ModelHubMixin`` does the saving and uploading. It is no base class of the classifier, because the
package is optional and importing the classifier would import it; a class that has it as base is made when it is needed.
Loading only lets it fetch the two files: the mixin would parse a stranger's JSON before it has been checked, and
hand what it finds there to the constructor. ``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` are methods of
the classifier.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from butppg_lightning.errors import UserError, first_line
from butppg_lightning.export.folder import write_folder
from butppg_lightning.export.model_card import provenance
from butppg_lightning.extras import require
from butppg_lightning.files import require_writable
from butppg_lightning.models.architecture import refuse_unnamed
from butppg_lightning.models.checkpoints import (
    LICENCE,
    network_from,
    network_weights,
    read_portable,
    read_stored,
    take_stored,
)
from butppg_lightning.shipped import CONFIG, SUFFIX, WEIGHTS, download, locate

if TYPE_CHECKING:
    from collections.abc import Mapping


_NEVER_STORED = {
    "pretrained",
    "pretrained_head",
    "pretrain_channels",
    "inflation",
}  # a stranger's would make us read a file of ours
_OF_THE_HUB = {"revision", "cache_dir", "force_download", "local_files_only", "token"}


def from_pretrained(
    cls: type[Any], /, source: str | Path, *, encoder: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """Load what :meth:`save_pretrained` or ``butppg export --output model.safetensors`` wrote; no code is run.

    Args:
        cls: The class.
        source: ``shipped`` (the package's gate), a folder, a ``.safetensors`` file, or ``owner/name`` on the hub.
        encoder: ``{"class_path": ...}`` of an encoder that is not ours, if you trust it: it is imported.
        options: ``revision``, ``cache_dir``, ``force_download``, ``local_files_only``, ``token`` of huggingface_hub's
            ``hf_hub_download``, for a model on the hub.

    Returns:
        The classifier in eval mode, on the CPU.

    Raises:
        UserError: If it is not found, cannot be downloaded, is damaged, or names a foreign encoder class.
    """
    if unknown := options.keys() - _OF_THE_HUB:
        raise TypeError(f"from_pretrained() got an unexpected keyword argument '{min(unknown)}'")
    path = locate(source)
    if path.is_dir():
        weights = path / WEIGHTS
    elif path.suffix == SUFFIX:
        weights = path
    else:
        weights = download(str(source), (CONFIG, WEIGHTS), **options)[-1]
    module = _build(cls, weights, encoder)
    module.origin = weights
    return module.eval()


def save_pretrained(
    module: Any,
    folder: str | Path,
    *,
    checkpoint: str | Path | None = None,
    test_metrics: str | Path | None = None,
    licence: str = LICENCE,
) -> None:
    """Write ``model.safetensors``, ``config.json``, a model card and their digests into a folder.

    Args:
        module: The classifier.
        folder: Made if it is not there. A README.md whose first lines say so is replaced, any other one is kept.
        checkpoint: The checkpoint of this model, for the card; None for the file it was loaded from.
        test_metrics: Its test_metrics.json (or the metrics.json of ``butppg evaluate``); None for the one beside.
        licence: Of the weights, an SPDX name.

    Raises:
        UserError: If a package is missing, a file cannot be read or written, or ``checkpoint`` has other weights.
    """
    folder = require_writable(Path(folder))
    _publish(module, folder, folder.resolve().name, checkpoint, test_metrics, licence)


def push_to_hub(
    module: Any,
    repo_id: str,
    *,
    checkpoint: str | Path | None = None,
    test_metrics: str | Path | None = None,
    licence: str = LICENCE,
    **options: Any,
) -> str:
    """Upload what :meth:`save_pretrained` writes to the Hugging Face hub.

    Args:
        module: The classifier.
        repo_id: ``owner/name``.
        checkpoint: As the next two, as in :meth:`save_pretrained`.
        test_metrics: Likewise.
        licence: Likewise.
        options: ``private``, ``token``, ``branch``, ``commit_message``, ``create_pr`` of huggingface_hub.

    Returns:
        The address of the commit.

    Raises:
        UserError: As :meth:`save_pretrained`, or if the upload fails.
    """
    library = require("huggingface_hub")

    class Publication(library.ModelHubMixin):  # type: ignore[misc, name-defined]
        def _save_pretrained(self, save_directory: Path) -> None:
            _publish(module, save_directory, repo_id, checkpoint, test_metrics, licence)

    try:
        return str(Publication().push_to_hub(repo_id, **options))
    except (OSError, ValueError) as error:
        raise UserError(f"{repo_id} could not be uploaded: {first_line(error)}; is the token right?") from error


def _publish(
    module: Any, folder: Path, name: str, checkpoint: str | Path | None, test_metrics: str | Path | None, licence: str
) -> None:
    origin = module.origin if checkpoint is None else Path(checkpoint)
    record = {} if origin is None else _record(module, origin, None if test_metrics is None else Path(test_metrics))
    write_folder(folder, name, module.network, dict(module.hparams), licence=licence, record=record)


def _record(module: Any, origin: Path, test_metrics: Path | None) -> dict[str, Any]:
    content = read_stored(origin)
    stored = network_weights(content) or {}
    for name, value in module.network.state_dict().items():
        if name not in stored or not torch.equal(stored[name].to(value.dtype), value.cpu()):
            raise UserError(
                f"{origin} has other weights than this model (was it trained further?); name its own checkpoint, "
                "or set model.origin = None for a card without metrics"
            )
    return provenance(origin, content, module.network.calibration.threshold(), test_metrics)


def _build(cls: type[Any], weights: Path, encoder: Mapping[str, Any] | None) -> Any:
    content = read_portable(weights)
    options = content["hyper_parameters"]
    refuse_unnamed(options["encoder"], encoder)
    unknown = set(options) - (set(inspect.signature(cls).parameters) - _NEVER_STORED)
    if unknown:
        raise UserError(f"{weights}: this version knows no hyperparameter '{sorted(unknown)[0]}'; update the package")
    # first, because it refuses an architecture that the weights do not have before memory is taken for it
    restored = None if (encoder or {}).get("class_path") else network_from(weights, content)[0]
    try:
        module = cls(**options)
    except UserError:
        raise
    except Exception as error:  # a stranger's values can make the constructor fail in any way
        raise UserError(f"{weights}: its hyperparameters do not fit ({first_line(error)}); export it again") from None
    if restored is not None:
        module.network = restored
        return module
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{weights}: the weights do not fit: {first_line(error)}") from None
    take_stored(module.network, content, weights)
    return module
