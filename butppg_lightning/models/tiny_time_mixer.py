"""TinyTimeMixer: a pretrained forecaster of time series as an encoder of windows, by the layers of granite-tsfm.

Ekambaram et al., Tiny Time Mixers, NeurIPS 2024. The layers are the library's own (``TinyTimeMixerLayer``), put
together here, so that stages can freeze them one by one and a forward pass can begin before any of them.
"""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.extras import quiet, require
from butppg_lightning.models.encoder import BlockEncoder, PatchEmbedding
from butppg_lightning.window import PRETRAIN_CHANNELS, WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LIBRARY = "tsfm_public.models.tinytimemixer.modeling_tinytimemixer"
_LAYER = re.compile(r"mlp_mixer_encoder\.mixers\.(\d{1,3})\.(?:mixer_layers\.(\d{1,3})\.)?(.+)")
_WIDTHS = re.compile(r"blocks\.(\d{1,3})\.layer\.feature_mixer\.norm\.norm\.weight")


class ResampledPatches(nn.Module):
    """Windows resampled to ``count`` patches of ``size`` samples each, from windows that are filtered and scaled."""

    resample: Tensor

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.count, self.size = count, size
        self.register_buffer("resample", _resampling(count * size), persistent=False)

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Map windows ``[B, C, T]`` (T at most 1250) to ``[B, C, count, size]``; channels not ``present`` are 0."""
        with torch.autocast(signals.device.type, enabled=False):
            signals = F.pad(signals.float(), (0, WINDOW_SAMPLES - signals.shape[-1]))  # a shorter one ends silent
            if present is not None:
                signals = signals * present.unsqueeze(-1)
            resampled: Tensor = signals @ self.resample
            return resampled.reshape(*signals.shape[:2], self.count, self.size)


class MixerBlock(nn.Module):
    """One of the library's layers on one level: tokens split into ``factor`` narrower ones, mixed, joined again."""

    def __init__(self, layer: nn.Module, contexts: int, factor: int) -> None:
        super().__init__()
        self.layer = layer
        self.contexts, self.factor = contexts, factor

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[B, P, W]`` to tokens of the same shape; those of one context do not see another's."""
        batch, count, width = tokens.shape
        # the library's second axis is for channels that share all weights; here it is the contexts'
        split = tokens.reshape(batch, self.contexts, count // self.contexts * self.factor, width // self.factor)
        return cast("Tensor", self.layer(split)).reshape(batch, count, width)


class TinyTimeMixer(BlockEncoder):
    """Encoder of mixing layers over patches, which takes the weights of IBM's TTM-r2.

    A forecaster knows neither our channels nor our windows; three choices join them.

    *Time.* TTM-r2 sees 512 samples, as 8 patches of 64; a window has 1,250. It is resampled to ``contexts`` times 512
    samples, and each context of 512 is encoded by itself with the same weights. One context (51.2 Hz) would cut the ECG
    at 25.6 Hz; two (102.4 Hz) keep all that Preprocess lets through, and a frozen TTM-r2 ranks windows better with two
    (mean AUROC within a person 0.80 against 0.78, for twice the time; three add nothing). Contexts that overlap at
    125 Hz were not shown to be better, and what is hidden from one would show in the other in masked pretraining.
    ``tests/people/README.md`` has the figures.

    *Channels.* TTM-r2 has one filter bank for every channel and does not mix them (its mode ``common_channel``). Here
    each channel has a bank of its own, summed into one token as in PatchTransformer: the loaded bank becomes the PPG's,
    other channels begin as inflation says, and all mixing of channels is in these banks. With ``zero`` inflation the
    output is bit for bit that of the PPG alone. A backbone that mixes channels itself is refused.

    *Scale.* Windows come scaled by Preprocess. TTM's own scaling to unit variance is left out: the size of acceleration
    is information. The final norm is ours too; it begins as a plain standardisation of each token.

    Args:
        channels: Channel names, in the order of the windows' second axis.
        contexts: Into how many contexts a window is parted.
        patches: Patches per context.
        patch_size: Samples per patch, after resampling.
        width: Token width; divisible by 2^(levels - 1).
        levels: Level k of them splits tokens into 2^(levels - 1 - k) narrower ones (adaptive patching).
        layers: Layers per level; each is a block.
        expansion: Hidden width of each MLP as a multiple of its input's.
        dropout: Dropout share inside the blocks.

    Raises:
        UserError: If the sizes do not fit together, or granite-tsfm is not installed.
    """

    def __init__(
        self,
        channels: Sequence[str] = PRETRAIN_CHANNELS,
        *,
        contexts: int = 2,
        patches: int = 8,
        patch_size: int = 64,
        width: int = 192,
        levels: int = 3,
        layers: int = 2,
        expansion: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(contexts, patches, patch_size, levels, layers, expansion) < 1 or width % 2 ** min(levels - 1, 30):
            raise UserError(
                f"encoder width {width}, levels {levels}: sizes start at 1, width is a multiple of 2^(levels - 1)"
            )
        if (samples := contexts * patches * patch_size) > 2 * WINDOW_SAMPLES:
            raise UserError(
                f"encoder contexts {contexts}, patches {patches}, patch_size {patch_size} make {samples} samples of a "
                f"window's {WINDOW_SAMPLES}; more than twice as many hold nothing new"
            )
        if not 0 <= dropout < 1:
            raise UserError(f"encoder dropout is {dropout}; expected 0 to below 1")
        with quiet("tsfm_public", "transformers"):  # importing it sets up logging for the whole program
            library = require(_LIBRARY, "TinyTimeMixer", "ttm")
        self.channels = channel_names(channels)
        self.width = width
        self.patches = ResampledPatches(contexts * patches, patch_size)
        self.embedding = PatchEmbedding(len(self.channels), width, patch_size)
        self.blocks = nn.ModuleList()
        for factor in (2**level for level in reversed(range(levels))):
            config = library.TinyTimeMixerConfig(d_model=width // factor, expansion_factor=expansion, dropout=dropout)
            config.num_patches = patches * factor
            self.blocks.extend(MixerBlock(library.TinyTimeMixerLayer(config), contexts, factor) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def embed(self, signals: Tensor, present: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Return tokens ``[B, P, width]`` of preprocessed windows ``[B, C, T]`` (T at most 1250).

        What all channels say in the patches ``hidden [B, P]`` (bool) is withheld; masked pretraining asks for it.
        """
        patches: Tensor = self.patches(signals, present)
        if hidden is not None:
            patches = patches * ~hidden[:, None, :, None]
        return cast("Tensor", self.embedding(patches.flatten(2), present))


def own_names(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor] | None:
    """Return the library's weights in the file ``origin`` under the names they have here; None if these are others.

    The encoder may have any prefix (``backbone.encoder.``, ``backbone.model.backbone.encoder.``); what stands beside it
    (a decoder, a head) keeps its name.

    Raises:
        UserError: If its encoder has parts beyond patcher and layers, without which it computes something else.
    """
    found = [key for key, value in state.items() if key.endswith("patcher.weight") and value.ndim == 2]
    if not found:
        return None
    prefix = found[0].removesuffix("patcher.weight")
    inside = {key: _LAYER.fullmatch(key.removeprefix(prefix)) for key in state if key.startswith(prefix)}
    layers = 1 + max((int(match[2] or 0) for match in inside.values() if match), default=0)
    named = {}
    for key, value in state.items():
        if match := inside.get(key):
            named[f"{prefix}blocks.{int(match[1]) * layers + int(match[2] or 0)}.layer.{match[3]}"] = value
        elif key.removeprefix(prefix) == "patcher.weight":
            named[f"{prefix}embedding.weight"] = value.unsqueeze(1)
        elif key.removeprefix(prefix) == "patcher.bias":
            named[f"{prefix}embedding.bias"] = value
        elif prefix and key in inside:
            raise UserError(
                f"{origin}: a TinyTimeMixer with {key} does more than mix patches; use one without, as TTM-r2"
            )
        else:
            named[key] = value
    return named


def mixer_sizes(state: Mapping[str, Tensor], prefix: str) -> dict[str, int] | None:
    """Read the constructor's sizes off weights under ``prefix``; None if these are another encoder's.

    The number of contexts leaves no trace in them.
    """
    found = {
        int(match[1]): value.numel()
        for key, value in state.items()
        if (match := _WIDTHS.fullmatch(key.removeprefix(prefix)))
    }
    width, _, patch_size = state[f"{prefix}embedding.weight"].shape
    parts = [state.get(f"{prefix}blocks.0.layer.{part}_mixer.mlp.fc1.weight") for part in ("patch", "feature")]
    mixing, growing = (part if part is not None and part.ndim == 2 and part.numel() else None for part in parts)
    if growing is None or not 0 < found.get(0, 0) <= width:
        return None
    factor, levels = width // found[0], len(set(found.values()))
    return {
        "patches": 1 if mixing is None else mixing.shape[-1] // factor,
        "patch_size": patch_size,
        "width": width,
        "levels": levels,
        "layers": len(found) // levels,
        "expansion": growing.shape[0] // growing.shape[1],
    }


@functools.cache
def _resampling(samples: int) -> Tensor:
    """Return the matrix ``[1250, samples]`` that resamples a window, with what lies above the new Nyquist rate cut."""
    from scipy.signal import resample_poly

    common = math.gcd(samples, WINDOW_SAMPLES)
    matrix = resample_poly(np.eye(WINDOW_SAMPLES), samples // common, WINDOW_SAMPLES // common, axis=1)
    return torch.from_numpy(matrix.astype(np.float32))
