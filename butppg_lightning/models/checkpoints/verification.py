"""A check that anyone can call: did the pretrained encoder arrive in the inflated one?"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import build_encoder
from butppg_lightning.models.checkpoints.pretrained import load_encoder, read_encoder
from butppg_lightning.models.inflation import Inflation, verify_inflation
from butppg_lightning.window import WINDOW_SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from butppg_lightning.models.encoder import Encoder


@torch.no_grad()
def verify_pretrained(encoder: nn.Module, checkpoint: Path, inflation: Inflation) -> dict[str, str]:
    """Compare an inflated, not yet fine-tuned encoder with the checkpoint it was made from.

    Checked are the filters of every channel (copied ones bit-equal, new ones with the statistics asked for), every
    other weight (bit-equal), and with ``zero`` inflation the output on the same PPG and ECG, with noise on the new
    channels: it must equal the pretrained encoder's in every bit.

    Args:
        encoder: The inflated encoder, for example ``model.network.encoder``.
        checkpoint: The pretrained checkpoint.
        inflation: The options it was inflated with.

    Returns:
        A finding per channel, and for ``weights`` and ``output``.

    Raises:
        UserError: If something is not as it should be; the line names it.
    """
    source = read_encoder(checkpoint)
    inflated = cast("Encoder", encoder)
    if source.spec is None:
        raise UserError(f"{checkpoint} holds no encoder that could be compared")
    channels = source.channels or inflated.channels
    original, _ = build_encoder(source.spec, channels, named_by_user=False)
    load_encoder(original, source, channels, Inflation())
    filters, copied = (cast("Tensor", module.embedding.weight) for module in (cast("Encoder", original), inflated))
    findings = verify_inflation(filters, copied, channels, inflated.channels, inflation)
    for key, value in original.state_dict().items():
        if not key.startswith("embedding.") and not torch.equal(value, encoder.state_dict()[key]):
            raise UserError(f"inflation check: {key} is not the pretrained one")
    findings["weights"] = "all others bit-equal"
    if inflation.new_channels == "zero" and not inflation.preserve_variance:
        signals = torch.randn(4, len(inflated.channels), WINDOW_SAMPLES, generator=torch.Generator().manual_seed(0))
        known = signals[:, [inflated.channels.index(name) for name in channels]]
        if not torch.equal(original.eval()(known), encoder.eval()(signals)):
            raise UserError("inflation check: the inflated encoder's output differs from the pretrained one's")
        findings["output"] = "equal on the same channels, whatever the new ones hold"
    return findings
