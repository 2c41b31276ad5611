"""The optimizer of a run: what decays and how fast each depth learns, in AdamW or another optimizer of torch."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

from torch import optim
from torch.optim import AdamW, Optimizer

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

    import torch
    from torch import nn

_REFUSED = {
    "LBFGS": "it evaluates the loss several times a step, and keeps one state for all parameters",
    "SparseAdam": "it takes sparse gradients only",
    "Muon": "it takes matrices only, and there are biases and norms",
}
_OWNED = {"lr": "model.lr", "weight_decay": "model.weight_decay"}


def build_optimizer(
    spec: Mapping[str, Any] | None,
    groups: list[dict[str, Any]],
    device: torch.device,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """Return the optimizer over all parameters, in groups from :func:`parameter_groups`.

    Whichever it is, a frozen parameter has no gradient, and torch's optimizers then neither move nor decay it; state
    is kept per parameter, so that a part that is unfrozen later starts afresh. ``spec`` is ``{class_path, init_args}``
    of a class in ``torch.optim``, or None for AdamW with ``betas``; a UserError says why one cannot serve.
    """
    if spec is None:
        return _adamw(groups, device, betas)
    cls, arguments = torch_class(spec, optim, Optimizer, "model.optimizer", _REFUSED)
    for name, owner in _OWNED.items():
        if name in arguments:
            raise UserError(f"model.optimizer has {name} in its init_args; say --{owner} instead, which stages divide")
    if "weight_decay" not in inspect.signature(cls).parameters and any(group["weight_decay"] for group in groups):
        raise UserError(f"{cls.__name__} knows no weight decay; set --model.weight_decay 0")
    if cls is AdamW and not arguments.keys() - {"betas"}:
        return _adamw(groups, device, tuple(arguments.get("betas", betas)))
    try:
        # lr stands in every group, but some classes demand it beside them
        return cls(groups, lr=groups[0]["lr"], **arguments)  # type: ignore[no-any-return]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"model.optimizer {cls.__name__} does not take {arguments}: {error}") from None


def torch_class(
    spec: Mapping[str, Any], module: ModuleType, base: type, key: str, refused: Mapping[str, str]
) -> tuple[type[Any], dict[str, Any]]:
    """Return the class that a specification names, in full or by its name alone, and its arguments.

    Only what ``module`` itself offers is found: a checkpoint's hyperparameters cannot make us import anything. ``key``
    is the option's name, for messages; ``refused`` tells why a class of that name cannot serve.
    """
    path, arguments = spec.get("class_path"), spec.get("init_args") or {}
    if set(spec) - {"class_path", "init_args"} or not isinstance(path, str) or not isinstance(arguments, dict):
        raise UserError(f"{key} is {dict(spec)}; expected class_path: {module.__name__}.NAME and init_args")
    home, _, name = path.rpartition(".")
    known = {
        item: cls
        for item, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base and not item.startswith("_")
    }
    if name not in known or home not in ("", module.__name__, "torch.optim"):
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"{key} is {path}; choose one of {module.__name__}{f': the nearest is {near[0]}' if near else ''}"
        )
    if name in refused:
        raise UserError(f"{key} cannot be {name}: {refused[name]}")
    return known[name], dict(arguments)


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

    Biases, norms and other vectors do not decay (as in timm). Groups have ``params``, ``lr``, ``weight_decay`` and a
    ``name``.

    Args:
        parameters: Names as in ``encoder.blocks.3.fc1.weight`` and ``head.score.weight``.
        lr: Base learning rate.
        weight_decay: Decoupled weight decay of matrices.
        depth: Number of encoder blocks, for ``layer_decay``.
        head_lr_multiplier: The head's rate as a multiple of ``lr``.
        indices_lr_multiplier: The rate of the head's side inputs as a multiple of the head's.
        layer_decay: Each block's rate as a multiple of the next one's (Clark et al. 2020); the input projection
            counts as the block before the first, the final norm as part of the last.
    """
    multipliers = {"head_lr_multiplier": head_lr_multiplier, "indices_lr_multiplier": indices_lr_multiplier}
    for key, value in {"lr": lr, "layer_decay": layer_decay, **multipliers}.items():
        if not value > 0:
            raise UserError(f"model.{key} is {value}; expected above 0")
    if not weight_decay >= 0:
        raise UserError(f"model.weight_decay is {weight_decay}; expected at least 0")
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        multiplier = _multiplier(name, depth, head_lr_multiplier, layer_decay)
        multiplier *= indices_lr_multiplier if name.startswith("head.side.") else 1
        decay = weight_decay if parameter.ndim > 1 and not name.endswith("embedding.absent") else 0.0
        fresh = {"params": [], "lr": lr * multiplier, "weight_decay": decay, "name": f"lr_x{multiplier:g}_wd{decay:g}"}
        groups.setdefault((multiplier, decay), fresh)["params"].append(parameter)
    return list(groups.values())


def _adamw(groups: list[dict[str, Any]], device: torch.device, betas: tuple[float, ...]) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019), on a CPU in the fused form: one pass instead of a dozen."""
    if device.type != "cpu":
        return AdamW(groups, betas=(betas[0], betas[1]))
    optimizer = AdamW(groups, betas=(betas[0], betas[1]), fused=True)
    # Lightning takes a fused optimizer for one that unscales gradients itself, and refuses to clip them; on a CPU
    # nothing is scaled
    optimizer._step_supports_amp_scaling = False
    return optimizer


def _multiplier(name: str, depth: int, head_lr_multiplier: float, layer_decay: float) -> float:
    words = name.split(".")
    if words[0] == "head":
        return head_lr_multiplier
    if "blocks" in words:
        return float(layer_decay ** (depth - 1 - int(words[words.index("blocks") + 1])))
    return float(layer_decay**depth) if "embedding" in words else 1.0
