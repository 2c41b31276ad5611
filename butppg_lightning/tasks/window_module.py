"""What the two LightningModules share: preprocessing fitted on train, and loading that executes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningModule

from butppg_lightning.models.checkpoints.torch_file import refuse_stranger

if TYPE_CHECKING:
    from typing_extensions import Self

    from butppg_lightning.models.preprocess import Preprocess

_FIT_WINDOWS = 2048  # windows the scale of acceleration is fitted on


class WindowModule(LightningModule):
    """A LightningModule over raw windows; its ``network`` has a ``preprocess``.

    Attributes:
        channels: Names of the channels it takes, in order.
    """

    channels: tuple[str, ...]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a checkpoint as Lightning does, but without executing anything from it.

        Raises:
            UserError: If it holds more than tensors and plain types, or names a foreign encoder class that the
                caller does not name too (``encoder={"class_path": ...}``).
        """
        refuse_stranger(Path(checkpoint_path), kwargs.get("encoder"))
        # a stranger's hyperparameters must not name a file to open: the weights are in the checkpoint
        kwargs = {"pretrained": None, **kwargs, "weights_only": True}
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def setup(self, stage: str) -> None:
        """Fit the scale of acceleration on the training windows (a resumed run then restores the stored one)."""
        train = getattr(getattr(self.trainer, "datamodule", None), "train", None)
        if stage == "fit" and train is not None:
            batch = train.sample(_FIT_WINDOWS)
            cast("Preprocess", cast("Any", self.network).preprocess).fit(batch["signals"], batch["present"])
