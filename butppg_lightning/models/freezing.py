"""Which part of a network trains. Frozen means frozen: no gradient, no dropout, no running statistic."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, cast

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from butppg_lightning.models.encoder import Encoder


def trainable_parts(network: nn.Module, trainable: Literal["head", "all"] | int) -> list[nn.Module]:
    """Return the modules that train.

    Args:
        network: A module with ``encoder`` (with ``blocks`` and ``norm``) and ``head``.
        trainable: ``head``; N for the last N blocks, the final norm and the head; ``all``.

    Raises:
        UserError: If the network has no such parts.
    """
    if not hasattr(network, "head") or not hasattr(network, "encoder"):
        raise UserError(f"staged unfreezing needs a module with 'encoder' and 'head'; {type(network).__name__} has not")
    head = cast("nn.Module", network.head)
    if trainable == "head":
        return [head]
    if trainable == "all":
        return [network]
    encoder = cast("Encoder", network.encoder)
    return [*encoder.blocks[len(encoder.blocks) - int(trainable) :], encoder.norm, head]


def set_trainable(network: nn.Module, trainable: Literal["head", "all"] | int) -> bool:
    """Freeze everything but the part named, in gradient and in mode.

    A frozen parameter's gradient becomes None: AdamW skips it then, whereas a zero would still decay it.

    Args:
        network: As in :func:`trainable_parts`.
        trainable: As there.

    Returns:
        Whether the set of trainable parameters changed.
    """
    parts = trainable_parts(network, trainable)
    wanted = {parameter for part in parts for parameter in part.parameters()}
    changed = False
    for parameter in network.parameters():
        changed |= parameter.requires_grad != (parameter in wanted)
        parameter.requires_grad_(parameter in wanted)
        if parameter not in wanted:
            parameter.grad = None
    network.eval()
    for part in parts:
        part.train()
    return changed


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode; afterwards each of its modules has the mode it had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
