"""The PPG quality classifier as a LightningModule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import build_encoder, resolve_spec
from butppg_lightning.models.augmentation import Variation, lower_targets
from butppg_lightning.models.calibration import Calibration
from butppg_lightning.models.checkpoints.pretrained import (
    LoadReport,
    PretrainedEncoder,
    load_encoder,
    read_encoder,
)
from butppg_lightning.models.heads import HeadName  # noqa: TC001  (jsonargparse resolves it at run time)
from butppg_lightning.models.inflation import Inflation
from butppg_lightning.models.losses import LossOptions, quality_loss
from butppg_lightning.models.network import assemble
from butppg_lightning.models.prefix import run_prefix, run_suffix
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.tasks.judged_module import JudgedModule
from butppg_lightning.tasks.totals import EpochTotals
from butppg_lightning.training.parameter_groups import adamw, parameter_groups
from butppg_lightning.training.schedules import ScheduleName, StagedLR
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from torch import Tensor

    from butppg_lightning.models.prefix import Depth


class PPGQualityClassifier(JudgedModule):
    """Tells usable from unusable PPG windows: preprocessing, (inflated) encoder and head.

    Args:
        encoder: Architecture as {class_path, init_args}; null for the checkpoint's, or the default one
            (init_args: patch_size 25, width 192, depth 12, heads 3, mlp_ratio 4.0, dropout 0.0).
        head: linear, mlp (one hidden layer), attention (weighted mean of the tokens) or probe (mean, spread and step
            of the tokens, standardised).
        head_dropout: Dropout share before each linear layer of the head.
        pretrained: Checkpoint of a pretrained encoder; read by a fresh fit only.
        pretrain_channels: Channels of the pretrained encoder, names or 2; null for what the checkpoint says.
        finetune_channels: Channels of the classifier, names or 5.
        encoder_channels: Channels that enter the encoder, the others only the indices; null for all.
        indices: Groups of signal indices given to the head as side inputs (rhythm, ppg, acc, ecg, amplitude; see
            models/indices/); null for none.
        inflation: How channels that the pretrained encoder does not know start.
        preprocess: Options of Preprocess (ppg_band, ecg_band, acc_band, scaling, scale_floor, clip); null for the
            checkpoint's, or the defaults.
        lr: Learning rate of stages whose divisor is 1.
        weight_decay: Weight decay of AdamW, on matrices.
        lr_schedule: constant, linear, cosine or one_cycle, per optimizer step.
        warmup: Linear warm-up as a share of the run (below 1) or in steps.
        head_lr_multiplier: The head's learning rate as a multiple of lr.
        indices_lr_multiplier: That of the side inputs as a multiple of the head's.
        layer_decay: Each block's learning rate as a multiple of the next one's.
        channel_dropout: Probability, per channel or sensor (PPG, ECG, ACC), that a training window lacks it.
        augment: Random variation of training windows: {amplitude, noise, invert_ppg, shift, lag_jitter, stretch,
            motion_mixing}; see Variation.
        loss: Modifications of the cross-entropy: {positive_weight, focal_gamma, label_smoothing}; see LossOptions.

    Raises:
        UserError: If the checkpoint cannot be read, matches nothing, or contradicts an argument.
    """

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        head: HeadName = "linear",
        head_dropout: float = 0.0,
        pretrained: str | None = None,
        pretrain_channels: int | list[str] | None = None,
        finetune_channels: int | list[str] = 5,
        encoder_channels: list[str] | None = None,
        indices: list[str] | None = None,
        inflation: Inflation | None = None,
        preprocess: dict[str, Any] | None = None,
        lr: float = 2e-5,
        weight_decay: float = 0.01,
        lr_schedule: ScheduleName = "constant",
        warmup: float = 0.0,
        head_lr_multiplier: float = 1.0,
        indices_lr_multiplier: float = 1.0,
        layer_decay: float = 1.0,
        channel_dropout: dict[str, float] | None = None,
        augment: dict[str, float] | None = None,
        loss: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.channels = channel_names(finetune_channels)
        self.load_report: LoadReport | None = None
        source = read_encoder(Path(pretrained), encoder) if pretrained else None
        spec = encoder
        if source is not None and source.spec is not None:
            spec = resolve_spec(encoder, source.spec, source.path)
        by_user = source is None or bool((encoder or {}).get("class_path"))
        built, spec = build_encoder(spec or {}, self.channels, named_by_user=by_user)
        scaling = Preprocess.from_options(self.channels, _preprocess_options(preprocess, source))
        self.network = assemble(scaling, built, head, head_dropout, indices, encoder_channels)
        if source is not None:
            self._load(source, pretrain_channels, inflation or Inflation())
        self.variation = Variation.from_options(self.channels, channel_dropout, augment, scaling)
        if self.variation.changes_labels and indices:
            raise UserError(
                "model.augment motion_mixing spoils the PPG that model.indices were computed from; drop one of the two"
            )
        self.loss_options = LossOptions.from_options(loss)
        self._class_weights = (1.0, 1.0)
        # only plain types, and the resolved architecture: a checkpoint loads where `pretrained` is not
        self.save_hyperparameters(
            {
                "encoder": spec,
                "head": head,
                "head_dropout": head_dropout,
                "indices": indices,
                "encoder_channels": encoder_channels,
                "finetune_channels": list(self.channels),
                "preprocess": scaling.options,
                "lr": lr,
                "weight_decay": weight_decay,
                "lr_schedule": lr_schedule,
                "warmup": warmup,
                "head_lr_multiplier": head_lr_multiplier,
                "indices_lr_multiplier": indices_lr_multiplier,
                "layer_decay": layer_decay,
                "channel_dropout": channel_dropout,
                "augment": augment,
                "loss": loss,
            }
        )
        self.totals = EpochTotals("loss", "acc")

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Classify raw windows ``[B, C, 1250]`` (``present [B, C]`` bool); return logits ``[B]``."""
        logits: Tensor = self.network(signals, present)
        return logits

    def predict_probabilities(self, signals: Any, present: Any = None, batch_size: int = 256) -> Tensor:
        """Return the probability of good quality of raw windows; see :meth:`QualityNetwork.score`."""
        return self.network.score(signals, present, batch_size)

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Return the logits ``[B]`` of a batch of windows, or of what the frozen prefix made of them.

        Args:
            batch: ``signals`` and ``present``, or ``features``, their ``depth`` and, with side inputs, ``indices``.
        """
        if "features" in batch:
            return run_suffix(self.network, batch["features"], batch["depth"], batch.get("indices"))
        return self(batch["signals"], batch["present"])  # type: ignore[no-any-return]

    @torch.no_grad()
    def prefix(self, batch: dict[str, Any], depth: Depth, *, vary: bool = False) -> Tensor:
        """Return what the frozen prefix makes of a batch of windows; see :func:`run_prefix`."""
        return run_prefix(self.network, *self._scaled(batch, vary=vary), depth)

    @torch.no_grad()
    def side_inputs(self, batch: dict[str, Any]) -> Tensor | None:
        """Return the head's side inputs ``[B, K]`` of a batch of windows; None for a head without."""
        network = self.network
        if network.indices is None:
            return None
        return network.side_inputs(batch["signals"], network.preprocess.usable(batch["signals"], batch["present"]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch; see :func:`quality_loss`."""
        soft, options = "soft_labels" in batch, self.loss_options
        classes = batch["labels"] == 1
        if self.variation and "features" not in batch:
            logits, spoiled = self._varied_logits(batch)
        else:
            logits, spoiled = self.logits(batch).float(), None
        targets = batch["soft_labels" if soft else "labels"].to(logits.dtype)
        if self.variation.changes_labels and spoiled is not None:
            targets = lower_targets(targets, spoiled, soft=soft)
            classes = targets >= 0.5
        loss = quality_loss(
            logits,
            targets,
            batch.get("weights"),
            class_weights=self._class_weights,
            focal_gamma=options.focal_gamma,
            label_smoothing=options.label_smoothing,
        )
        right = (logits.detach() >= 0) == classes
        self.totals.add(len(logits), loss=loss, acc=100 * right.double().mean())
        return loss

    def on_train_epoch_start(self) -> None:
        """Start the epoch's totals."""
        self.totals.clear()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training loss and accuracy over all ranks."""
        for name, value in self.totals.means(self.trainer).items():
            self.log(f"train_{name}", value)

    def on_fit_start(self) -> None:
        """Weigh the classes, and forget a calibration: it is not that of the weights to come."""
        self.network.calibration = Calibration()
        train = getattr(self.trainer.datamodule, "splits", {}).get("train")  # type: ignore[attr-defined]
        self._class_weights = self.loss_options.class_weights(
            None if train is None else torch.as_tensor(train.windows.labels)
        )

    def configure_optimizers(self) -> Any:
        """One AdamW over all parameters from the start; frozen ones have no gradient and stay put."""
        options = self.hparams
        groups = parameter_groups(
            self.network.named_parameters(),
            lr=options["lr"],
            weight_decay=options["weight_decay"],
            depth=len(self.network.encoder.blocks),  # type: ignore[arg-type]
            head_lr_multiplier=options["head_lr_multiplier"],
            indices_lr_multiplier=options["indices_lr_multiplier"],
            layer_decay=options["layer_decay"],
        )
        optimizer = adamw(groups, self.device)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = StagedLR(optimizer, options["lr_schedule"], steps, options["warmup"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _scaled(self, batch: dict[str, Any], *, vary: bool) -> tuple[Tensor, Tensor]:
        scaled, usable = self.network.scaled(batch["signals"], batch["present"])
        return self.variation(scaled, usable) if vary else (scaled, usable)

    def _varied_logits(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the logits ``[B]`` of randomly varied windows, and how much of each was spoiled ``[B]``."""
        varied = self.variation.vary(*self.network.scaled(batch["signals"], batch["present"]))
        side = None
        if self.network.indices is not None:
            # of the window as it was recorded, less the channels that the variation took away
            side = self.network.side_inputs(batch["signals"], varied.present)
        return self.network.classify(varied.scaled, varied.present, side).float(), varied.spoiled

    def _load(self, source: PretrainedEncoder, asked: int | list[str] | None, inflation: Inflation) -> None:
        names = None if asked is None else channel_names(asked)
        self.load_report = load_encoder(self.network.encoder, source, names, inflation)


def _preprocess_options(asked: dict[str, Any] | None, source: PretrainedEncoder | None) -> dict[str, Any]:
    stored = source.preprocess if source is not None else None
    for key, value in (asked or {}).items():
        if stored is not None and key in stored and stored[key] != value:
            raise UserError(
                f"the flags ask for preprocess {key} {value}, but {source.path} was trained with {stored[key]}; "  # type: ignore[union-attr]
                "drop the flag: the encoder only knows signals filtered its way"
            )
    return {**(stored or {}), **(asked or {})}
