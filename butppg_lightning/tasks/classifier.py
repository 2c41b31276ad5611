"""The PPG quality classifier as a LightningModule."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.bootstrap import bootstrap_intervals
from butppg_lightning.evaluation.metrics import compute_metrics
from butppg_lightning.models.architecture import build_encoder, resolve_spec
from butppg_lightning.models.augmentation import Variation, refuse_idle_inversion
from butppg_lightning.models.calibration import CHECKPOINT_KEY, Calibration
from butppg_lightning.models.checkpoints import take_stored
from butppg_lightning.models.heads import HeadName  # noqa: TC001  (jsonargparse resolves it at run time)
from butppg_lightning.models.inflation import Inflation
from butppg_lightning.models.losses import LossOptions, quality_loss
from butppg_lightning.models.motion_mixing import lower_targets
from butppg_lightning.models.network import QualityNetwork, assemble
from butppg_lightning.models.prediction import BATCH_SIZE, EXACT, predict_windows
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.models.pretrained import LoadReport, PretrainedEncoder, load_encoder, load_head, read_encoder
from butppg_lightning.models.training_range import RANGE_KEY, fit_range
from butppg_lightning.models.usable_channels import channel_faults
from butppg_lightning.tasks import hub
from butppg_lightning.tasks.window_module import WindowModule
from butppg_lightning.training.schedules import ScheduleName  # noqa: TC001
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from butppg_lightning.models.heads import RateHead
    from butppg_lightning.models.network import Depth
    from butppg_lightning.npz import Array

_LOGGED = {"accuracy": "acc"}  # the guide's history says val_acc


class PPGQualityClassifier(WindowModule):
    """Classifies PPG windows as usable or not: preprocessing, (inflated) encoder and head.

    Args:
        encoder: Architecture as {class_path, init_args}; null for the checkpoint's, or the default one
            (init_args: patch_size 25, width 192, depth 12, heads 3, mlp_ratio 4.0, dropout 0.0).
        head: linear, mlp (one hidden layer), attention (weighted mean of the tokens), probe (mean, spread and step
            of the tokens, standardised), rate (of SpectralEncoder, with the indices rates) or monotone (indices alone,
            each with a fixed direction).
        head_dropout: Dropout share before each linear layer of the head.
        pretrained: Checkpoint of a pretrained encoder, or shipped: the package's gate; read by a fresh fit only.
        pretrained_head: Whether the head begins as that of `pretrained` too, a classifier with its head and indices.
        pretrain_channels: Channels of the pretrained encoder, names or 2; null for what the checkpoint says.
        finetune_channels: Channels of the classifier, names or 5.
        encoder_channels: Channels that enter the encoder, the others only the indices; null for all.
        indices: Groups of signal indices given to the head as side inputs (rates, intervals, ppg, rhythm, acc, ecg,
            amplitude; see models/indices/); null for none.
        inflation: How channels that the pretrained encoder does not know start.
        preprocess: Options of Preprocess (ppg_band, ecg_band, acc_band, scaling, scale_floor, clip, polarity,
            mounting); null for the checkpoint's, or the defaults.
        lr: Learning rate of stages whose divisor is 1.
        weight_decay: Weight decay of AdamW, on matrices.
        optimizer: {class_path, init_args} of an optimizer of torch.optim, without lr and weight_decay, which stay here;
            null for AdamW.
        lr_schedule: constant, linear, cosine or one_cycle, or {class_path, init_args} of a scheduler of
            torch.optim.lr_scheduler that depends on the step alone; per optimizer step.
        warmup: Linear warm-up as a share of the run (below 1) or in steps.
        head_lr_multiplier: The head's learning rate as a multiple of lr.
        indices_lr_multiplier: That of the side inputs as a multiple of the head's.
        layer_decay: Each block's learning rate as a multiple of the next one's.
        channel_dropout: Probability, per channel or sensor (PPG, ECG, ACC), that a training window lacks it.
        augment: Random variation of training windows: {amplitude, noise, invert_ppg, shift, lag_jitter, stretch,
            motion_mixing}; see Variation.
        loss: Modifications of the cross-entropy: {positive_weight, focal_gamma, label_smoothing,
            rate}; see LossOptions.

    Attributes:
        prior: Share of good windows that validate, test and predict assume; None for the one calibrated at.
        operating_point: Where they cut a calibrated model's probabilities: balanced, precision or sensitivity.
        test_metrics: The metrics of the last test.
        load_report: What became of the keys of ``pretrained``.

    Raises:
        UserError: If the checkpoint cannot be read, matches nothing, or contradicts an argument.
    """

    network: QualityNetwork
    prior: float | None = None
    operating_point: str = "balanced"
    test_metrics: dict[str, Any]
    load_report: LoadReport | None = None

    from_pretrained = classmethod(hub.from_pretrained)
    save_pretrained = hub.save_pretrained
    push_to_hub = hub.push_to_hub

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        head: HeadName = "linear",
        head_dropout: float = 0.0,
        pretrained: str | None = None,
        pretrained_head: bool = False,
        pretrain_channels: int | list[str] | None = None,
        finetune_channels: int | list[str] = 5,
        encoder_channels: list[str] | None = None,
        indices: list[str] | None = None,
        inflation: Inflation | None = None,
        preprocess: dict[str, Any] | None = None,
        lr: float = 2e-5,
        weight_decay: float = 0.01,
        optimizer: dict[str, Any] | None = None,
        lr_schedule: ScheduleName | dict[str, Any] = "constant",
        warmup: float = 0.0,
        head_lr_multiplier: float = 1.0,
        indices_lr_multiplier: float = 1.0,
        layer_decay: float = 1.0,
        channel_dropout: dict[str, float] | None = None,
        augment: dict[str, float] | None = None,
        loss: dict[str, Any] | None = None,
    ) -> None:
        options = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        if pretrained_head and pretrained is None:
            raise UserError("model.pretrained_head needs model.pretrained, a classifier with the same head and indices")
        self.channels = channel_names(finetune_channels)
        self.predictions = PredictionStore()
        self._class_weights = (1.0, 1.0)
        super().__init__(options, ("loss", "acc"))

    def build(self, options: dict[str, Any]) -> dict[str, Any]:
        """Build the network, inflated from ``pretrained`` where a fresh fit names it."""
        pretrained, asked, names = options.pop("pretrained"), options["encoder"], options.pop("pretrain_channels")
        with_head = options.pop("pretrained_head")
        inflation = options.pop("inflation") or Inflation()
        source = read_encoder(pretrained, asked) if pretrained else None
        spec = asked
        if source is not None and source.spec is not None:
            spec = resolve_spec(asked, source.spec, source.path, source.config)
        by_user = source is None or bool((asked or {}).get("class_path"))
        built, spec = build_encoder(spec or {}, self.channels, named_by_user=by_user)
        scaling = Preprocess.from_options(self.channels, _preprocess_options(options["preprocess"], source))
        parts = (options[key] for key in ("head", "head_dropout", "indices", "encoder_channels"))
        self.network = assemble(scaling, built, *parts)
        if source is not None:
            known = None if names is None else channel_names(names)
            self.load_report = load_encoder(built, source, known, inflation)
            if with_head:
                load_head(self.network.head, options["head"], options["indices"], source, self.load_report)
            rank_zero_only(print)(self.load_report)
        self.variation = Variation(self.channels, options["channel_dropout"], scaling, **(options["augment"] or {}))
        refuse_idle_inversion("model.augment.invert_ppg", self.variation.invert_ppg, scaling)
        if self.variation.drops_axes and scaling.mounting == "canonical":
            raise UserError(
                "model.channel_dropout takes single axes of ACC away, but these are turned to the window's own; "
                "name ACC, or set model.preprocess.mounting to recorded"
            )
        if self.variation.changes_labels and options["indices"]:
            raise UserError(
                "model.augment motion_mixing spoils the PPG that model.indices were computed from; drop one of the two"
            )
        self.loss_options = LossOptions.from_options(options["loss"])
        if self.loss_options.rate and options["head"] != "rate":
            raise UserError(f"model.loss rate is of the head rate, and model.head is {options['head']}; drop one")
        # only plain types, and the resolved architecture: a checkpoint loads where `pretrained` is not
        resolved = {"encoder": spec, "finetune_channels": list(self.channels), "preprocess": scaling.options}
        return {**options, **resolved}

    def fit_inputs(self, batch: dict[str, Any]) -> None:
        """Fit the scale of acceleration, and take the range of the training windows."""
        super().fit_inputs(batch)
        self.network.training_range = fit_range(self.channels, batch["signals"], batch["present"], batch["labels"])

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Classify raw windows ``[B, C, 1250]`` (``present [B, C]`` bool); return logits ``[B]``."""
        logits: Tensor = self.network(signals, present)
        return logits

    def predict_probabilities(
        self, signals: Any, present: Any = None, batch_size: int = BATCH_SIZE, precision: str = EXACT
    ) -> Tensor:
        """Return the probability of good quality, ``[N]`` float32 in 0..1, of raw windows ``[N, C, 1250]``.

        Args:
            signals: Array or tensor, unfiltered and unscaled, channels in the order of ``channels``.
            present: ``[N, C]`` bool, or None when every channel is there.
            batch_size: Windows per forward pass.
            precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.

        Raises:
            UserError: If the shape does not fit.
        """
        options = {"prior": self.prior, "batch_size": batch_size, "precision": precision}
        found = predict_windows(self.network, signals, present, **options)
        return torch.from_numpy(found.probabilities)

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Return the logits ``[B]`` of a batch: ``signals`` and ``present``, or what the frozen prefix made of them.

        That is ``features`` and their ``depth``; side inputs that are known already are ``indices``.
        """
        pooled, side, _ = self._pooled(batch, vary=False)
        return self.network.run(pooled, "pooled", "logits", side)

    @torch.no_grad()
    def prefix(self, batch: dict[str, Any], depth: Depth, *, vary: bool = False) -> Tensor:
        """Return what the frozen prefix makes of a batch of windows, up to ``depth``.

        Raises:
            UserError: If variation is asked for that changes labels, which stored features cannot follow.
        """
        if vary and self.variation.changes_labels:
            raise UserError(
                "model.augment motion_mixing changes labels, so varied windows cannot be stored; "
                "drop --cache.views or motion_mixing"
            )
        prepared = self.network.prepare(
            batch["signals"], batch["present"], self.variation.vary if vary else None, side=False
        )
        return self.network.run(prepared, "prepared", depth)

    @torch.no_grad()
    def side_inputs(self, batch: dict[str, Any]) -> Tensor | None:
        """Return the head's side inputs ``[B, K]`` of a batch of windows; None for a head without."""
        if self.network.indices is None:
            return None
        usable = channel_faults(batch["signals"], self.network.channels, batch["present"]) == 0
        return self.network.side_inputs(batch["signals"], usable)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch; see :func:`quality_loss`."""
        soft, options = "soft_labels" in batch, self.loss_options
        classes = batch["labels"] == 1
        pooled, side, spoiled = self._pooled(batch, vary=bool(self.variation))
        logits = self.network.run(pooled, "pooled", "logits", side).float()
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
        if options.rate and "hr_ref" in batch:
            loss = loss + options.rate * cast("RateHead", self.network.head).rate_loss(pooled, batch["hr_ref"])
        right = (logits.detach() >= 0) == classes
        self.note(len(logits), loss=loss, acc=100 * right.double().mean())
        return loss

    def on_fit_start(self) -> None:
        """Weigh the classes, and forget a calibration: it is not that of the weights to come."""
        self.network.calibration = Calibration()
        train = getattr(self.trainer.datamodule, "splits", {}).get("train")  # type: ignore[attr-defined]
        self._class_weights = self.loss_options.class_weights(
            None if train is None else torch.as_tensor(train.windows.labels)
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep a batch's logits."""
        self._keep(batch, exact=self.trainer.state.fn == "validate")

    def on_validation_epoch_start(self) -> None:
        """Forget earlier logits."""
        self.predictions.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics over all ranks."""
        labels, logits, _ = self.predictions.gather()
        self._log_metrics("val", compute_metrics(labels, self._probabilities(logits), self.threshold()))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep a batch's logits."""
        self._keep(batch, exact=True)

    on_test_epoch_start = on_validation_epoch_start

    def on_test_epoch_end(self) -> None:
        """Compute the test metrics with intervals; :attr:`test_metrics` keeps them."""
        labels, logits, rows = self.predictions.gather()
        probabilities, threshold = self._probabilities(logits), self.threshold()
        dataset = getattr(self.trainer.datamodule, "splits", {}).get("test")  # type: ignore[attr-defined]
        subjects = None if dataset is None or dataset.windows.subjects is None else dataset.windows.subjects[rows]
        metrics = compute_metrics(labels, probabilities, threshold)
        self._log_metrics("test", metrics)
        intervals = bootstrap_intervals(labels, probabilities, subjects, threshold=threshold)
        self.test_metrics = {**metrics, "threshold": threshold, **intervals}

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return a batch's row numbers, logits, probabilities and the channels' faults ``[B, C]``."""
        with self._exactly():
            prepared = self.network.prepare(batch["signals"], batch["present"])
            logits = self.network.run(prepared, "prepared", "logits", prepared.side).float()
        probability = self.network.calibration.probabilities(logits, self.prior)
        return {"index": batch["index"], "logit": logits, "probability": probability, "faults": prepared.faults}

    def threshold(self) -> float:
        """Return the probability from which on a window is called good, at the chosen operating point and prior."""
        return self.network.calibration.threshold(self.operating_point, self.prior)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the calibration and the training range, if there are any."""
        if self.network.calibration.fitted:
            checkpoint[CHECKPOINT_KEY] = self.network.calibration.state()
        if self.network.training_range is not None:
            checkpoint[RANGE_KEY] = self.network.training_range.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the calibration and the training range, or none where the checkpoint has none."""
        take_stored(self.network, checkpoint, "the checkpoint")

    def _pooled(self, batch: dict[str, Any], *, vary: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return pooled features ``[B, F]``, side inputs, and how much of each window variation spoiled ``[B]``."""
        network = self.network
        if "features" in batch:
            return network.run(batch["features"], batch["depth"], "pooled"), batch.get("indices"), None
        varied, recorded = self.variation.vary if vary else None, batch.get("indices")
        prepared = network.prepare(batch["signals"], batch["present"], varied, recorded=recorded)
        return network.run(prepared, "prepared", "pooled"), prepared.side, prepared.spoiled

    def _keep(self, batch: dict[str, Tensor], *, exact: bool) -> None:
        with self._exactly(exact):
            self.predictions.add(batch["index"], batch["labels"], self.logits(batch))

    def _exactly(self, exact: bool = True) -> AbstractContextManager[Any]:
        """Return the context in which :func:`~butppg_lightning.models.prediction.predict` computes too.

        Only the validation within a fit computes as its training does: it chooses among the run's own epochs.
        """
        return torch.autocast(self.device.type, enabled=False) if exact else nullcontext()

    def _probabilities(self, logits: Array) -> Array:
        return cast("Array", self.network.calibration.probabilities(torch.from_numpy(logits), self.prior).numpy())

    def _log_metrics(self, split: str, metrics: Mapping[str, float | None]) -> None:
        for key, value in metrics.items():
            name = _LOGGED.get(key, key)
            # an undefined figure (AUROC of a single class) is NaN here, and null in every file
            value = math.nan if value is None else value
            self.log(f"{split}_{name}", value, prog_bar=split == "val" and name in ("acc", "auroc"))


class PredictionStore:
    """Row numbers, labels and logits of a pass through a split, gathered from all processes."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def clear(self) -> None:
        """Forget everything."""
        self._parts = []

    def add(self, rows: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Keep a batch: ``rows [B]``, ``labels [B]`` and ``logits [B]``."""
        self._parts.append((rows, labels, logits.float()))

    def gather(self) -> tuple[Array, Array, Array]:
        """Return labels, logits and row numbers of all processes, each window once, in row order."""
        columns = [torch.cat(column).cpu().numpy() for column in zip(*self._parts, strict=True)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            shares: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shares, columns)
            columns = [np.concatenate(column) for column in zip(*(share for share in shares if share), strict=True)]
        if not columns:
            return np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        rows, first = np.unique(columns[0], return_index=True)
        return columns[1][first], columns[2][first], rows


def _preprocess_options(asked: dict[str, Any] | None, source: PretrainedEncoder | None) -> dict[str, Any]:
    stored = source.preprocess if source is not None else None
    for key, value in (asked or {}).items():
        if stored is not None and key in stored and stored[key] != value:
            raise UserError(
                f"the flags ask for preprocess {key} {value}, but {source.path} was trained with {stored[key]}; "  # type: ignore[union-attr]
                "drop the flag: the encoder only knows signals filtered its way"
            )
    return {**(stored or {}), **(asked or {})}
