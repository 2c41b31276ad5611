"""A trained classifier back from its checkpoint in plain torch: nothing of lightning is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import PATCH_TRANSFORMER, build_encoder, infer_spec, normal_spec
from butppg_lightning.models.calibration import stored_calibration
from butppg_lightning.models.checkpoints.portable import read_stored
from butppg_lightning.models.heads import HEADS
from butppg_lightning.models.network import assemble
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.models.network import QualityNetwork

_PREFIX = "network."


def restore_network(path: Path) -> tuple[QualityNetwork, dict[str, Any]]:
    """Rebuild the network of a fine-tuned classifier, as ``PPGQualityClassifier.load_from_checkpoint`` would.

    Args:
        path: A checkpoint that ``butppg fit`` wrote.

    Returns:
        The network in eval mode, on the CPU, and the checkpoint's hyperparameters.

    Raises:
        UserError: If it cannot be read, is no classifier's, names a foreign encoder class, or its weights are missing,
            of another shape than it declares, or not finite, or its calibration is damaged.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} not found; give the best_model.pt that `butppg fit` wrote")
    content = read_stored(path)
    options, stored = content.get("hyper_parameters"), content.get("state_dict")
    if not isinstance(options, dict) or not isinstance(stored, dict) or options.get("head") not in HEADS:
        raise UserError(f"{path} is no fine-tuned classifier; give the best_model.pt that `butppg fit` wrote")
    state = {
        str(key).removeprefix(_PREFIX): value
        for key, value in stored.items()
        if str(key).startswith(_PREFIX) and isinstance(value, Tensor)
    }
    _check_sizes(path, options.get("encoder"), state)
    channels = options.get("finetune_channels")
    network = _build(path, options, channel_names(channels if isinstance(channels, (int, list)) else []))
    for key, value in network.state_dict().items():
        if key not in state or state[key].shape != value.shape:
            raise UserError(
                f"{path} declares a model whose {key} it does not hold, or in another shape; write it again"
            )
        if state[key].layout != value.layout or not bool(state[key].isfinite().all()):
            raise UserError(f"{path}: {key} does not hold finite numbers (a diverged training leaves NaN); use another")
    network.load_state_dict(state, strict=False)
    network.calibration = stored_calibration(content, path)
    return network.eval(), options


def _build(path: Path, options: dict[str, Any], channels: tuple[str, ...]) -> QualityNetwork:
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


def _check_sizes(path: Path, declared: Any, state: dict[str, Tensor]) -> None:
    """Refuse an architecture that the weights do not have, before memory is taken for it."""
    spec = normal_spec(declared if isinstance(declared, dict) else None)
    if sum(value.numel() * value.element_size() for value in state.values()) > 2 * path.stat().st_size:
        raise UserError(f"{path} declares more weights than it holds; write it again")
    try:
        found = infer_spec(state, spec)
    except TypeError:  # sizes that are no numbers
        found = None
    if spec["class_path"] == PATCH_TRANSFORMER and found is not None:
        for key, value in found["init_args"].items():
            if key in spec["init_args"] and spec["init_args"][key] != value:
                raise UserError(f"{path} declares an encoder of {key} {spec['init_args'][key]}, but holds {value}")
    elif spec["class_path"] == PATCH_TRANSFORMER:
        raise UserError(f"{path} holds no encoder's weights; give the best_model.pt that `butppg fit` wrote")
