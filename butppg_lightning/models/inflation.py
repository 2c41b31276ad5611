"""Channel inflation: an encoder pretrained on few channels becomes one for more, without forgetting.

After the inflation of image filters to video (Carreira & Zisserman, I3D, 2017), here by channel *name*: a pretrained
channel's filters are copied bit for bit, a new channel starts from the mean of the pretrained ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

NewChannels = Literal["mean", "zero", "random"]


@dataclass
class Inflation:
    """How the filters of channels that the pretrained encoder does not know are made.

    Args:
        new_channels: ``mean`` of the pretrained channels' filters plus noise; ``zero``, so that the inflated encoder
            computes exactly what the pretrained one did; or ``random`` (the pretrained filters' own spread).
        noise: Standard deviation of the noise added to the mean, as a share of the pretrained filters' standard
            deviation.
        preserve_variance: Scale all filters, the copied ones too, by the square root of pretrained over inflated
            squared norm, so that tokens keep their variance when more channels are summed into them.
    """

    new_channels: NewChannels = "mean"
    noise: float = 0.1
    preserve_variance: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        if self.new_channels not in ("mean", "zero", "random"):
            raise UserError(f"inflation new_channels is '{self.new_channels}'; choose mean, zero or random")
        if self.noise < 0:
            raise UserError(f"inflation noise is {self.noise}; expected at least 0")


def inflate_filters(
    filters: Tensor,
    source: Sequence[str],
    target: Sequence[str],
    inflation: Inflation,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make filters ``[width, len(target), patch]`` of pretrained ones ``[width, len(source), patch]``, by channel name.

    ``generator`` draws the noise; None for torch's global one. Refused if no channel is shared: nothing would transfer.
    """
    source = list(source)
    if not set(source) & set(target):
        raise UserError(f"no channel in common: the checkpoint has {source}, the model wants {list(target)}")
    shape = filters[:, 0].shape
    inflated = filters.new_empty(filters.shape[0], len(target), filters.shape[2])
    for row, name in enumerate(target):
        if name in source:
            inflated[:, row] = filters[:, source.index(name)]
            continue
        normal = torch.randn(shape, generator=generator, dtype=filters.dtype, device=filters.device)
        start = {
            "mean": filters.mean(dim=1) + inflation.noise * filters.std() * normal,
            "zero": torch.zeros_like(normal),
            "random": filters.std() * normal,
        }
        inflated[:, row] = start[inflation.new_channels]
    if not inflation.preserve_variance:
        return inflated
    # of the same squared norm as before, so tokens of white inputs keep their variance
    return inflated * filters.square().sum().div(inflated.square().sum()).sqrt()


@torch.no_grad()
def verify_inflation(
    filters: Tensor, inflated: Tensor, source: Sequence[str], target: Sequence[str], inflation: Inflation
) -> dict[str, str]:
    """Check inflated filters against the pretrained ones and what was asked; arguments as in :func:`inflate_filters`.

    Returns a finding per target channel, in words. Refused is a copied channel that is not bit-equal (scaled by the one
    factor when variance is preserved), and a new one whose statistics lie beyond five standard errors of those asked.
    """
    source = list(source)
    factor = torch.ones((), dtype=filters.dtype, device=filters.device)
    if inflation.preserve_variance:
        shared = next(name for name in target if name in source)
        original = filters[:, source.index(shared)]
        factor = inflated[:, list(target).index(shared)].norm() / original.norm()
    spreads = {"mean": inflation.noise * filters.std(), "zero": factor * 0, "random": filters.std()}
    spread = spreads[inflation.new_channels]
    centre = filters.mean(dim=1) if inflation.new_channels == "mean" else torch.zeros_like(filters[:, 0])
    findings = {}
    for row, name in enumerate(target):
        if name in source:
            expected = filters[:, source.index(name)] * factor
            rounding = 1e-5 if inflation.preserve_variance else 0.0
            if not torch.allclose(inflated[:, row], expected, rtol=rounding, atol=0):
                raise UserError(f"inflation check: the {name} filters are not the pretrained ones")
            findings[name] = f"copied, scaled by {factor:.4f}" if inflation.preserve_variance else "copied, bit-equal"
            continue
        rest = inflated[:, row] / factor - centre
        count = rest.numel()
        off_mean = abs(float(rest.mean())) > 5 * float(spread) / count**0.5 + 1e-7
        off_spread = abs(float(rest.std()) - float(spread)) > 5 * float(spread) / (2 * count) ** 0.5 + 1e-6
        if off_mean or off_spread:
            raise UserError(
                f"inflation check: {name} differs from what was asked: noise mean {rest.mean():.2g} "
                f"and standard deviation {rest.std():.3g}, asked {float(spread):.3g}"
            )
        findings[name] = f"{inflation.new_channels}, noise standard deviation {float(rest.std()):.3g}"
    return findings
