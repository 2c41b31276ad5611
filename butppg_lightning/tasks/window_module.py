"""What the two LightningModules share: a network built when it is needed, the optimizer, an epoch's training means."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from butppg_lightning.models.architecture import normal_spec, refuse_unnamed, resolve_spec
from butppg_lightning.models.checkpoints import read_checkpoint, stored_options
from butppg_lightning.training.optimizers import build_optimizer, parameter_groups
from butppg_lightning.training.schedules import StagedLR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from butppg_lightning.models.preprocess import Preprocess

_FIT_WINDOWS = 2048  # windows that the scale of acceleration, and the training range, are fitted on


class WindowMean(Metric):
    """The mean of a figure over windows, from the means of batches; a NaN stays one.

    torchmetrics' MeanMetric looks for NaN in every batch, which makes a GPU wait, or (1.9, ``nan_strategy="disable"``)
    forgets the weights. Sums are float64, so that an epoch's mean is the same wherever it was interrupted.
    """

    total: Tensor
    windows: Tensor
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "windows"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, windows: int) -> None:
        """Take in the mean of a batch of so many windows."""
        self.total += mean.double() * windows
        self.windows += windows

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.windows.clamp(min=1)


class WindowModule(LightningModule):
    """A LightningModule over raw windows; its ``network`` has ``preprocess`` and ``encoder``.

    A subclass says in ``build(options)`` how its network is built. It is given the constructor's arguments
    (``pretrained`` is None unless a fresh fit begins), and returns the hyperparameters: plain types with the resolved
    architecture, which rebuild the network without ``pretrained``.

    Without ``pretrained`` the network is built at once. With it, the trainer builds it when a fit begins
    (:meth:`configure_model`), since only a fresh fit reads that file: whatever continues or uses a checkpoint needs
    neither the file nor its folder.

    Args:
        options: The constructor's arguments.
        figures: What the training step hands to :meth:`note`, averaged over the windows of an epoch: ``train_metrics``
            are their means so far, which survive a checkpoint in its middle.
    """

    channels: tuple[str, ...]
    """Names of the channels it takes, in order."""
    origin: Path | None = None
    """The file it was loaded from; None for one that was not."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's moments."""

    def __init__(self, options: Mapping[str, Any], figures: tuple[str, ...]) -> None:
        super().__init__()
        self.train_metrics = nn.ModuleDict({name: WindowMean() for name in figures})
        self._options: dict[str, Any] | None = dict(options)
        if options.get("pretrained") is None:
            self.configure_model()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a checkpoint as Lightning does, but without executing anything from it, and remember which.

        Raises:
            UserError: If it holds more than tensors and plain types, or names a foreign encoder class that the
                caller does not name too (``encoder={"class_path": ...}``).
        """
        stored = stored_options(read_checkpoint(Path(checkpoint_path)))
        refuse_unnamed(stored.get("encoder"), kwargs.get("encoder"))
        if kwargs.get("encoder") and stored.get("encoder"):  # naming the class does not take its arguments away
            kwargs["encoder"] = resolve_spec(kwargs["encoder"], normal_spec(stored["encoder"]), str(checkpoint_path))
        # a stranger's hyperparameters must not name a file to open: the weights are in the checkpoint
        kwargs = {"pretrained": None, **kwargs, "weights_only": True}
        module = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        module.origin = Path(checkpoint_path)
        return module

    @abstractmethod
    def build(self, options: dict[str, Any]) -> dict[str, Any]:
        """Build ``network`` and what goes with it; return the hyperparameters."""

    def configure_model(self) -> None:
        """Build the network, once. The trainer calls it; call it to look at an inflated network before a fit.

        A fit that continues a checkpoint (``ckpt_path``) builds what that checkpoint describes.

        Raises:
            UserError: If ``pretrained`` cannot be read, matches nothing, or contradicts an argument.
        """
        if self._options is None:
            return
        options = dict(self._options)
        path = None if self._trainer is None else self._trainer.ckpt_path
        if options.get("pretrained") is not None and path is not None:
            options = {**options, **stored_options(read_checkpoint(Path(path))), "pretrained": None}
        # buffers that are shared by all models of a process must not come to be on one trainer's device
        with torch.device("cpu"):
            hyperparameters = self.build(options)
        self._options = None
        self.save_hyperparameters(hyperparameters)

    def setup(self, stage: str) -> None:
        """Fit what is fitted on inputs to the training windows (a resumed run then restores what is stored)."""
        self.configure_model()
        # DDP sends all buffers at every step: those that no checkpoint holds are tables (filters, positions), the same
        # in all processes, and several times as large as the gradients
        stored = self.state_dict().keys()
        tables = [name for name, _ in self.named_buffers() if name not in stored]
        self._ddp_params_and_buffers_to_ignore = tables
        train = getattr(getattr(self.trainer, "datamodule", None), "train", None)
        if stage == "fit" and train is not None:
            self.fit_inputs(train.sample(_FIT_WINDOWS))

    def fit_inputs(self, batch: dict[str, Any]) -> None:
        """Fit the scale of acceleration on training windows spread evenly over the set."""
        cast("Preprocess", cast("Any", self.network).preprocess).fit(batch["signals"], batch["present"])

    def note(self, windows: int, **means: Tensor) -> None:
        """Take in the means of a training batch of so many windows."""
        for name, metric in self.train_metrics.items():
            cast("WindowMean", metric).update(means[name].detach(), windows)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's means; an epoch that is resumed in its middle goes on with its own."""
        for metric in self.train_metrics.values():
            cast("WindowMean", metric).reset()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        self.log_means()

    def log_means(self) -> dict[str, float]:
        """Log the means of the epoch over the windows of all processes as ``train_<name>``, and return them."""
        means = {name: float(cast("WindowMean", metric).compute()) for name, metric in self.train_metrics.items()}
        for name, value in means.items():
            self.log(f"train_{name}", value)
        return means

    def configure_optimizers(self) -> Any:
        """One optimizer over all parameters from the start; frozen ones have no gradient and stay put."""
        options = self.hparams
        network = cast("nn.Module", self.network)
        groups = parameter_groups(
            network.named_parameters(),
            lr=options["lr"],
            weight_decay=options["weight_decay"],
            depth=len(cast("Any", network.encoder).blocks),
            head_lr_multiplier=options.get("head_lr_multiplier", 1.0),
            indices_lr_multiplier=options.get("indices_lr_multiplier", 1.0),
            layer_decay=options.get("layer_decay", 1.0),
        )
        optimizer = build_optimizer(options.get("optimizer"), groups, self.device, self.betas)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = StagedLR(optimizer, options["lr_schedule"], steps, options["warmup"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def __getattr__(self, name: str) -> Any:
        """Say how to build a network that is not there yet."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network" and self.__dict__.get("_options") is not None:
                raise AttributeError(
                    f"{type(self).__name__}(pretrained=...) builds its network when a fit begins; "
                    "call configure_model() to build it now"
                ) from None
            raise
