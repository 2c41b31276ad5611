"""The optimizer of a run: AdamW, or another one of torch that keeps what staged training promises."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import optim
from torch.optim import AdamW, Optimizer

from butppg_lightning.errors import UserError
from butppg_lightning.training.torch_classes import torch_class

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

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
    """Return the optimizer over all parameters.

    Whichever it is, a frozen parameter has no gradient, and torch's optimizers then neither move nor decay it; state
    is kept per parameter, so that a part that is unfrozen later starts afresh.

    Args:
        spec: ``{class_path, init_args}`` of a class in ``torch.optim``; None for AdamW.
        groups: From :func:`~butppg_lightning.training.parameter_groups.parameter_groups`.
        device: Where the parameters are.
        betas: Decay of AdamW's two moments, where ``spec`` does not say.

    Raises:
        UserError: If there is no such optimizer, it cannot serve, or an argument does not fit.
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


def _adamw(groups: list[dict[str, Any]], device: torch.device, betas: tuple[float, ...]) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019), on a CPU in the fused form: one pass instead of a dozen."""
    if device.type != "cpu":
        return AdamW(groups, betas=(betas[0], betas[1]))
    optimizer = AdamW(groups, betas=(betas[0], betas[1]), fused=True)
    # Lightning takes a fused optimizer for one that unscales gradients itself, and refuses to clip them; on a CPU
    # nothing is scaled
    optimizer._step_supports_amp_scaling = False
    return optimizer
