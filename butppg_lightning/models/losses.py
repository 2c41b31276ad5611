"""The training losses: cross-entropy with its usual modifications, and the spectral loss of masked pretraining."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LIMITS = {"positive_weight": (0.001, 1000), "focal_gamma": (0, 10), "label_smoothing": (0, 0.99), "rate": (0, 100)}
_LEAST_GAP = 1e-6  # powers below 1 have no slope at 0


@dataclass(frozen=True)
class LossOptions:
    """Modifications of the cross-entropy; each is off by default.

    Attributes:
        positive_weight: Weight of good windows when poor ones have 1; ``balanced`` gives each class the weight
            n / (2 n_class) of the training labels, so that both count alike.
        focal_gamma: Exponent of the focal loss; 0 for none, 2 in the paper.
        label_smoothing: Share of the target that is spread evenly over both classes.
        rate: Weight of the cross-entropy between the rates of the head ``rate`` and ``hr_ref``, where windows have it.

    Raises:
        UserError: If a number is impossible.
    """

    positive_weight: float | Literal["balanced"] = 1.0
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0
    rate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if name == "positive_weight" and value == "balanced":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                other = ", or balanced" if name == "positive_weight" else ""
                raise UserError(f"model.loss {name} is {value}; expected {least:g} to {most:g}{other}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any] | None) -> LossOptions:
        """Build them from what a configuration says; one that is unknown or impossible is a UserError."""
        known = list(inspect.signature(cls).parameters)
        for key in options or {}:
            if key not in known:
                raise UserError(f"model.loss has no option '{key}'; it has {', '.join(known)}")
        return cls(**(options or {}))

    def class_weights(self, labels: Tensor | None = None) -> tuple[float, float]:
        """Return the weights of poor and good windows; ``balanced`` needs training labels ``[N]`` of both classes.

        Examples:
            >>> import torch
            >>> LossOptions("balanced").class_weights(torch.tensor([0, 0, 0, 1]))
            (0.6666666666666666, 2.0)
        """
        if self.positive_weight != "balanced":
            return 1.0, float(self.positive_weight)
        good = 0 if labels is None else int((labels == 1).sum())
        total = 0 if labels is None else len(labels)
        if not 0 < good < total:
            raise UserError(
                f"model.loss positive_weight is balanced, but {good} of {total} training windows are good; "
                "give windows of both classes, or a number"
            )
        return total / (2 * (total - good)), total / (2 * good)


def quality_loss(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    class_weights: tuple[float, float] = (1.0, 1.0),
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean binary cross-entropy of a batch, a float32 scalar.

    With soft targets t, probability p, weights w of a window and a of the classes, the mean over the batch of

        w * |t - p|^gamma * -(a_good t log p + a_poor (1 - t) log(1 - p))

    The factor |t - p|^gamma is the focal loss (Lin et al. 2017, arXiv:1708.02002) carried over to soft targets as the
    quality focal loss (Li et al. 2020, arXiv:2006.04388); for t in {0, 1} they are the same. Smoothing (Szegedy et al.
    2016, arXiv:1512.00567) comes first: t (1 - s) + s / 2. The options are those of :class:`LossOptions`.

    Args:
        logits: ``[B]``, of any real dtype; the loss is computed in float32.
        targets: ``[B]`` in 0..1, 1 for good.
        weights: ``[B]``, one per window, or None. The mean is over windows, not over weights.
        class_weights: Weights of poor and good; see :meth:`LossOptions.class_weights`.
        focal_gamma: As in :class:`LossOptions`.
        label_smoothing: Likewise.

    Examples:
        >>> import torch
        >>> quality_loss(torch.zeros(2), torch.tensor([1.0, 0.0])), quality_loss(torch.zeros(1), torch.ones(1),
        ...     focal_gamma=2.0)
        (tensor(0.6931), tensor(0.1733))
    """
    logits = logits.float()
    targets = targets.to(logits.dtype)
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
    poor, good = class_weights
    ratio = None if good == poor else logits.new_tensor(good / poor)
    if poor != 1:
        weights = logits.new_full(logits.shape, poor) if weights is None else weights * poor
    if not focal_gamma:
        return F.binary_cross_entropy_with_logits(logits, targets, weight=weights, pos_weight=ratio)
    # a weight given to torch's function gets no gradient, which this factor needs
    losses = F.binary_cross_entropy_with_logits(logits, targets, weight=weights, pos_weight=ratio, reduction="none")
    gap = (targets - logits.sigmoid()).abs().clamp(min=_LEAST_GAP)
    return (losses * gap**focal_gamma).mean()


class SpectralLoss(nn.Module):
    """Mean absolute difference of log magnitudes over short-time Fourier transforms of several lengths.

    After the multi-resolution STFT loss of Yamamoto et al. (Parallel WaveGAN, ICASSP 2020), log-magnitude part.
    Short transforms see when something happens, long ones at which rate.

    Args:
        resolutions: Transform lengths in samples (64 to 512 are 0.5 to 4.1 s at 125 Hz); each hops by a quarter.
        floor: Magnitude below which differences fade, relative to a bin of white noise of unit variance. Filtered
            signals have next to nothing in most bins; without a floor the logarithm of that nothing is the loss.

    Raises:
        UserError: If an option is impossible.
    """

    def __init__(self, resolutions: Sequence[int] = (64, 128, 256, 512), floor: float = 0.1) -> None:
        super().__init__()
        if not resolutions or min(resolutions) < 4 or floor <= 0:
            raise UserError("spectral loss: resolutions must be at least 4 samples and the floor above 0")
        self.resolutions = tuple(resolutions)
        self.floor = floor
        for length in self.resolutions:
            window = torch.hann_window(length)
            # of unit energy: white noise of unit variance then has power 1 in every bin
            self.register_buffer(f"window_{length}", window / window.norm(), persistent=False)

    def forward(self, signals: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
        """Compare signals ``[B, C, T]`` of about unit variance with ``target``, in float32, whatever autocast says.

        ``counted [B, C]`` bool says which channels count; None for all. Equal signals score 0; a T that is shorter than
        every resolution is a ValueError.
        """
        usable = [length for length in self.resolutions if length <= target.shape[-1]]
        if not usable:
            raise ValueError(f"signals of {target.shape[-1]} samples are shorter than {min(self.resolutions)}")
        weights = torch.ones(target.shape[:2], device=target.device) if counted is None else counted.float()
        weights = weights.flatten() / weights.sum().clamp(min=1)
        total = torch.zeros((), device=target.device)
        # a logarithm of small numbers, which half precision does not have
        with torch.autocast(target.device.type, enabled=False):
            for length in usable:
                difference = self._log_magnitude(signals, length) - self._log_magnitude(target, length)
                total = total + (difference.abs().mean((1, 2)) * weights).sum()
        return total / len(usable)

    def _log_magnitude(self, signals: Tensor, length: int) -> Tensor:
        window = cast("Tensor", getattr(self, f"window_{length}"))
        flat = signals.float().flatten(0, 1)
        spectrum = torch.stft(flat, length, length // 4, window=window, center=False, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        # the floor is added in power: smooth, and no root of zero to differentiate
        return 0.5 * torch.log(power + self.floor**2)
