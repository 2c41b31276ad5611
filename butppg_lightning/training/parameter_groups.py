"""Parameter groups: what decays, and how fast each depth learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    depth: int = 0,
    head_lr_multiplier: float = 1.0,
    indices_lr_multiplier: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Group named parameters for an optimizer: every parameter from the start, frozen or not.

    Biases, norms and other vectors do not decay (as in timm). A frozen parameter has no gradient, and AdamW then
    neither moves nor decays it, so that one optimizer serves all stages.

    Args:
        parameters: Names as in ``encoder.blocks.3.fc1.weight`` and ``head.score.weight``.
        lr: Base learning rate.
        weight_decay: Decoupled weight decay of matrices.
        depth: Number of encoder blocks, for ``layer_decay``.
        head_lr_multiplier: The head's rate as a multiple of ``lr``.
        indices_lr_multiplier: The rate of the head's side inputs as a multiple of the head's.
        layer_decay: Each block's rate as a multiple of the next one's (Clark et al. 2020); the input projection
            counts as the block before the first, the final norm as part of the last.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and a ``name``.

    Raises:
        UserError: If a rate is not above 0 or the weight decay negative.
    """
    rates = {
        "lr": lr,
        "head_lr_multiplier": head_lr_multiplier,
        "indices_lr_multiplier": indices_lr_multiplier,
        "layer_decay": layer_decay,
    }
    for key, value in rates.items():
        if not value > 0:
            raise UserError(f"model.{key} is {value}; expected above 0")
    if not weight_decay >= 0:
        raise UserError(f"model.weight_decay is {weight_decay}; expected at least 0")
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        multiplier = _multiplier(name, depth, head_lr_multiplier, layer_decay)
        multiplier *= indices_lr_multiplier if name.startswith("head.side.") else 1
        decay = weight_decay if parameter.ndim > 1 and not name.endswith("embedding.absent") else 0.0
        group = groups.setdefault(
            (multiplier, decay),
            {"params": [], "lr": lr * multiplier, "weight_decay": decay, "name": f"lr_x{multiplier:g}_wd{decay:g}"},
        )
        group["params"].append(parameter)
    return list(groups.values())


def _multiplier(name: str, depth: int, head_lr_multiplier: float, layer_decay: float) -> float:
    if name.split(".")[0] == "head":
        return head_lr_multiplier
    words = name.split(".")
    if "blocks" in words:
        above = depth - 1 - int(words[words.index("blocks") + 1])
    elif "embedding" in words:
        above = depth
    else:
        above = 0
    return float(layer_decay**above)
