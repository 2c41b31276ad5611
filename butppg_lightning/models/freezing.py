"""Which part of a network trains, and the frozen prefix before it.

Frozen means frozen: no gradient, no dropout, no running statistic. The prefix is what lies before the first part that
trains.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, cast

import torch

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from butppg_lightning.models.encoder import Encoder
    from butppg_lightning.models.network import Depth, QualityNetwork

Trainable = Literal["head", "all"] | int
"""What trains: the head; the last N blocks, the final norm and the head; or all."""


def trainable_parts(network: nn.Module, trainable: Trainable) -> list[nn.Module]:
    """Return the modules that train of a network with ``encoder`` (with ``blocks`` and ``norm``) and ``head``."""
    if not hasattr(network, "head") or not hasattr(network, "encoder"):
        raise UserError(f"staged unfreezing needs a module with 'encoder' and 'head'; {type(network).__name__} has not")
    head = cast("nn.Module", network.head)
    if trainable == "head":
        return [head]
    if trainable == "all":
        return [network]
    encoder = cast("Encoder", network.encoder)
    return [*encoder.blocks[len(encoder.blocks) - int(trainable) :], encoder.norm, head]


def set_trainable(network: nn.Module, trainable: Trainable) -> bool:
    """Freeze everything but the part named, in gradient and in mode; return whether the trainable parameters changed.

    A frozen parameter's gradient becomes None: AdamW skips it then, whereas a zero would still decay it.
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


def frozen_depth(network: QualityNetwork) -> Depth | None:
    """Return how far the network is frozen: neither a gradient nor a mode that would change its output.

    None if the input projection trains. Parts that train are taken to be in train mode.
    """
    encoder = cast("Encoder", network.encoder)
    inner = {id(module) for part in (encoder.blocks, encoder.norm) for module in part.modules()}
    outer = [module for module in network.encoder.modules() if id(module) not in inner]
    if not all(_is_frozen(module, own=True) for module in outer) or not _is_frozen(network.preprocess):
        return None
    for number, block in enumerate(encoder.blocks):
        if not _is_frozen(block):
            return number
    if not _is_frozen(encoder.norm):
        return len(encoder.blocks)
    return depth_before(network, "head")


def depth_before(network: QualityNetwork, trainable: Trainable) -> Depth | None:
    """Return the depth that a stage with this trainable part will have; None for ``all``."""
    if trainable == "all":
        return None
    if trainable == "head":
        return "pooled" if network.head.pools_without_parameters else "encoded"
    return len(cast("Encoder", network.encoder).blocks) - int(trainable)


def blocks_in(network: QualityNetwork, depth: Depth) -> int:
    """Return how many blocks a prefix holds."""
    return depth if isinstance(depth, int) else len(cast("Encoder", network.encoder).blocks)


def prefix_versions(network: QualityNetwork, depth: Depth) -> tuple[int, ...]:
    """Return counters that change whenever a tensor of the prefix is written to; cheap enough for every epoch."""
    return tuple(tensor._version for _, tensor in _prefix_tensors(network, depth))


def prefix_digest(network: QualityNetwork, depth: Depth) -> str:
    """Return a digest of all weights and buffers of the prefix."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in _prefix_tensors(network, depth):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _prefix_tensors(network: QualityNetwork, depth: Depth) -> Iterator[tuple[str, Tensor]]:
    stop = blocks_in(network, depth)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        words = name.split(".")
        inside = words[0] == "preprocess" or (words[0] == "encoder" and words[1] not in ("blocks", "norm"))
        inside |= words[:2] == ["encoder", "blocks"] and int(words[2]) < stop
        inside |= words[:2] == ["encoder", "norm"] and not isinstance(depth, int)
        if inside:
            yield name, tensor


def _is_frozen(module: nn.Module, *, own: bool = False) -> bool:
    modes = [module.training] if own else [part.training for part in module.modules()]
    return not any(modes) and not any(parameter.requires_grad for parameter in module.parameters(recurse=not own))
