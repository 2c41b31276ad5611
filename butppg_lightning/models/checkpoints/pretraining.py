"""Going on with a pretraining: encoder and decoder of an earlier one, whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import Spec, normal_spec
from butppg_lightning.models.checkpoints.torch_file import read_checkpoint
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

_PREFIX = "network."


@dataclass
class EarlierPretraining:
    """What `butppg pretrain` left.

    Attributes:
        path: Where it was read.
        channels: Names of its channels, in order.
        spec: The encoder's architecture.
        preprocess: The options of the preprocessing that its encoder knows.
        state: The autoencoder's weights by name.
    """

    path: Path
    channels: tuple[str, ...]
    spec: Spec
    preprocess: dict[str, Any]
    state: dict[str, Tensor]

    def require_channels(self, channels: Sequence[str]) -> None:
        """Refuse other channels than its own: two sets of the same size have weights of the same shape.

        Raises:
            UserError: If they differ, also if only in their order.
        """
        if tuple(channels) != self.channels:
            raise UserError(
                f"{self.path} was trained on {', '.join(self.channels)}, this model is of {', '.join(channels)}; "
                "go on with the same model.channels (data.use_channels leaves some of them out)"
            )

    def load_into(self, network: nn.Module) -> None:
        """Copy all weights into an autoencoder of the same shape.

        Raises:
            UserError: If it has another shape, or its weights are not finite; the first such part is named.
        """
        wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in self.state.items()}
        for key, shape in wanted.items():
            if found.get(key) != shape:
                raise UserError(
                    f"{self.path} holds {key} as {list(found.get(key, ()))}, this model wants {list(shape)}; go on "
                    "with the same encoder and decoder (a classifier takes only the encoder: butppg fit)"
                )
            if not bool(self.state[key].isfinite().all()):
                raise UserError(f"{self.path}: {key} holds NaN or Inf (a diverged training leaves them); use another")
        network.load_state_dict({key: self.state[key] for key in wanted})


def read_pretraining(path: Path) -> EarlierPretraining:
    """Read a checkpoint of `butppg pretrain` in order to go on from it.

    Raises:
        UserError: If it cannot be read, or is none.
    """
    content = read_checkpoint(path)
    options, stored = content.get("hyper_parameters"), content.get("state_dict")
    if not isinstance(options, dict) or not isinstance(stored, dict) or "decoder_width" not in options:
        raise UserError(f"{path} is no checkpoint of `butppg pretrain`; give the best_model.pt that it wrote")
    state = {
        str(key).removeprefix(_PREFIX): value
        for key, value in stored.items()
        if str(key).startswith(_PREFIX) and isinstance(value, Tensor)
    }
    scaling = options.get("preprocess")
    scaling = scaling if isinstance(scaling, dict) else {}
    channels = options.get("channels")
    names = channel_names(channels if isinstance(channels, (int, list)) else [])
    return EarlierPretraining(path, names, normal_spec(options.get("encoder")), scaling, state)
