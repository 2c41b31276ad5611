"""The quality network: raw windows in, one logit out. This is what is trained, scored and exported.

It is one chain of named steps, composed here and nowhere else::

    raw windows --prepare--> "prepared" --embed--> block 0 ... block k ... --norm--> "encoded" --pool--> "pooled"
                                                                                      --classify--> "logits"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.calibration import Calibration
from butppg_lightning.models.heads import HEADS
from butppg_lightning.models.indices.signal_indices import SignalIndices
from butppg_lightning.models.side_inputs import DIRECTIONS
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from butppg_lightning.models.augmentation import Varied
    from butppg_lightning.models.encoder import Encoder
    from butppg_lightning.models.heads import LinearHead
    from butppg_lightning.models.preprocess import Preprocess
    from butppg_lightning.models.training_range import TrainingRange

Depth = int | Literal["encoded", "pooled"]
"""A place half-way: before block k (k blocks are behind it), after the final norm, or after the head's pooling."""


class Prepared(NamedTuple):
    """Windows as they enter the encoder and the head."""

    scaled: Tensor  # [B, C, 1250] float32, filtered and scaled; 0 of a sensor that neither encoder nor head reads
    faults: Tensor  # [B, C] int8, why a channel cannot be used: an index into usable_channels.FAULTS, 0 where it can
    usable: Tensor  # [B, C] bool; a channel that random variation took away is not usable though it has no fault
    side: Tensor | None = None  # side inputs [B, K], NaN where a channel they need is not usable; or a head without
    spoiled: Tensor | None = None  # [B] in 0..1, the share of each window that random variation spoiled, if any


class QualityNetwork(nn.Module):
    """Preprocessing, encoder and head in one module.

    Args:
        preprocess: Filters and scales raw windows.
        encoder: Maps preprocessed windows to tokens.
        head: Maps tokens, and side inputs if it has some, to a logit.
        indices: Computes the head's side inputs from raw windows; None for none.
        encoder_channels: Those that enter the encoder, the others only the side inputs; None for all.

    Raises:
        UserError: If a channel for the encoder is not among the network's.

    Attributes:
        calibration: What turns logits into probabilities; the plain sigmoid until one is fitted or restored.
        training_range: What the training windows were like; None until it is fitted or restored.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        encoder: nn.Module,
        head: LinearHead,
        indices: SignalIndices | None = None,
        encoder_channels: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.encoder = encoder
        self.head = head
        self.indices = indices
        chosen = preprocess.channels if encoder_channels is None else channel_names(encoder_channels)
        if foreign := sorted(set(chosen) - set(preprocess.channels)):
            raise UserError(f"model.encoder_channels names {foreign[0]}, but the model takes {preprocess.channels}")
        self._encoded = None if encoder_channels is None else [name in chosen for name in preprocess.channels]
        self._seen = tuple(chosen) if head.reads_tokens else ()  # channels that anybody wants filtered and scaled
        self.calibration = Calibration()
        self.training_range: TrainingRange | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels it takes, in order."""
        return self.preprocess.channels

    @property
    def used_channels(self) -> tuple[str, ...]:
        """Names of the channels that can move the logit: those of the encoder, and those of the side inputs."""
        used = {*self._seen, *(() if self.indices is None else self.indices.needed_channels)}
        return tuple(name for name in self.channels if name in used)

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Classify raw windows ``[B, C, 1250]`` of any real dtype; ``present [B, C]`` None: every channel is there.

        Returns:
            Logits ``[B]``; above 0 means good is likelier than poor.
        """
        prepared = self.prepare(signals, present)
        return self.run(prepared, "prepared", "logits", prepared.side)

    def prepare(
        self,
        signals: Tensor,
        present: Tensor | None = None,
        vary: Callable[[Tensor, Tensor], Varied] | None = None,
        *,
        side: bool = True,
        recorded: Tensor | None = None,
    ) -> Prepared:
        """Filter and scale raw windows, judge which channels are usable, and compute the side inputs.

        Args:
            signals: ``[B, C, 1250]``, unfiltered and unscaled, any real dtype.
            present: ``[B, C]`` bool, or None when every channel is there.
            vary: Random variation of scaled windows and their usable channels. Side inputs are then those of the
                window as it was recorded, less the channels that the variation took away.
            side: Whether to compute the side inputs.
            recorded: Side inputs ``[B, K]`` of the windows as they were recorded, where they are known already.
        """
        # a variation may mix channels
        scaled, faults = self.preprocess.prepare(signals, present, None if vary is not None else self._seen)
        usable, spoiled = faults == 0, None
        if vary is not None:
            scaled, usable, spoiled = vary(scaled, usable)
            scaled = self.preprocess.orient(scaled, usable)  # as it will be when such a window is recorded
        computed = self.side_inputs(signals, usable, recorded) if side and self.indices is not None else None
        return Prepared(scaled, faults, usable, computed, spoiled)

    @torch.no_grad()
    def side_inputs(self, signals: Tensor, usable: Tensor, recorded: Tensor | None = None) -> Tensor:
        """Return the head's side inputs ``[B, K]`` of raw windows, NaN where a channel they need is not usable.

        ``recorded`` are those with all recorded channels; they stand for what would be computed again.
        """
        indices = self.indices
        assert indices is not None
        if recorded is None:
            return indices.known(signals, usable)
        return torch.where(indices.available(usable), recorded, torch.nan)

    def run(
        self,
        value: Prepared | Tensor,
        start: Literal["prepared"] | Depth,
        stop: Depth | Literal["logits"],
        side: Tensor | None = None,
    ) -> Tensor:
        """Go along the chain from one named step to a later one.

        Args:
            value: What is there at ``start``: prepared windows, tokens ``[B, P, W]``, or pooled features ``[B, F]``.
            start: ``prepared``, the number of the block that the tokens enter, ``encoded`` or ``pooled``.
            stop: The number of a block, ``encoded``, ``pooled`` or ``logits``.
            side: Side inputs ``[B, K]`` for the last step, of a head that has some.

        Returns:
            Tokens, pooled features, or logits ``[B]``.
        """
        encoder = cast("Encoder", self.encoder)
        if isinstance(stop, int):
            tokens = encoder.embed(*self._entering(value)) if isinstance(value, Prepared) else value
            for block in encoder.blocks[start if isinstance(start, int) else 0 : stop]:
                tokens = block(tokens)
            return tokens
        if isinstance(value, Prepared) and stop != "encoded" and not self.head.reads_tokens:
            value = value.scaled  # stands for tokens, of which the head takes nothing
        elif isinstance(value, Prepared):
            value = encoder(*self._entering(value))
        elif isinstance(start, int):
            value = encoder(value, start=start)
        if stop == "encoded":
            return value
        # in half precision logits would keep three digits: windows would tie, and a score depend on its batch
        with torch.autocast(value.device.type, enabled=False):
            value = value.to(torch.promote_types(value.dtype, torch.float32))
            if start != "pooled":
                value = self.head.pool(value)
            return self.head.classify(value, side) if stop == "logits" else value

    def _entering(self, prepared: Prepared) -> tuple[Tensor, Tensor]:
        """Return windows ``[B, C, T]`` and their usable channels as the encoder sees them."""
        if self._encoded is None:
            return prepared.scaled, prepared.usable
        usable = prepared.usable & torch.tensor(self._encoded, device=prepared.usable.device)
        return prepared.scaled * usable.unsqueeze(-1), usable


def assemble(
    preprocess: Preprocess,
    encoder: nn.Module,
    head: str,
    head_dropout: float = 0.0,
    indices: Sequence[str] | None = None,
    encoder_channels: Sequence[str] | None = None,
) -> QualityNetwork:
    """Put a network together by its options.

    ``head`` is the name of one of :data:`butppg_lightning.models.heads.HEADS`, with its dropout share; ``indices``
    names the groups of signal indices that it is given; the others are those of :class:`QualityNetwork`.

    Raises:
        UserError: If a name is unknown or the dropout no share.
    """
    heads: dict[Any, type[LinearHead]] = dict(HEADS)
    if head not in heads:
        raise UserError(f"model.head is '{head}'; choose {', '.join(HEADS)}")
    if not 0 <= head_dropout <= 1:
        raise UserError(f"model.head_dropout is {head_dropout}; expected a share between 0 and 1")
    if head == "rate" and ("rates" not in (indices or ()) or not hasattr(encoder, "rates")):
        raise UserError("model.head rate needs --model.indices '[rates]' and an encoder over rates (SpectralEncoder)")
    computed = SignalIndices(preprocess.channels, indices, preprocess.polarity) if indices else None
    names = () if computed is None else computed.names
    if head == "monotone" and not DIRECTIONS.keys() & set(names):
        raise UserError(
            "model.head monotone needs indices with a direction: --model.indices '[rhythm, ppg, intervals]'"
        )
    built = heads[head](cast("Encoder", encoder).width, head_dropout, names)
    return QualityNetwork(preprocess, encoder, built, computed, encoder_channels)
