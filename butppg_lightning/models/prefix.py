"""The frozen prefix of a network: what lies before the first part that trains, and where it ends."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from butppg_lightning.models.encoder import Encoder
    from butppg_lightning.models.network import Depth, QualityNetwork


def frozen_depth(network: QualityNetwork) -> Depth | None:
    """Return how far the network is frozen: neither a gradient nor a mode that would change its output.

    Args:
        network: The network as it is now (parts that train are in train mode).

    Returns:
        The depth, or None if the input projection trains.
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
    return "pooled" if network.head.pools_without_parameters else "encoded"


def depth_before(network: QualityNetwork, trainable: Literal["head", "all"] | int) -> Depth | None:
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
