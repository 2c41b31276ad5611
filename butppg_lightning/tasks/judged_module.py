"""The part of the classifier that judges: validation, test and prediction, at a calibrated model's threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from butppg_lightning.evaluation.bootstrap import bootstrap_intervals
from butppg_lightning.evaluation.metrics import compute_metrics
from butppg_lightning.models.calibration import CHECKPOINT_KEY, stored_calibration
from butppg_lightning.models.usable_channels import channel_faults
from butppg_lightning.tasks.hub import HubModule
from butppg_lightning.tasks.predictions import PredictionStore

if TYPE_CHECKING:
    from torch import Tensor

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array


class JudgedModule(HubModule):
    """A classifier of windows; its ``network`` is a :class:`QualityNetwork` and its ``logits`` take a batch.

    Attributes:
        prior: Share of good windows that validate, test and predict assume; None for the one calibrated at.
        operating_point: Where they cut a calibrated model's probabilities: balanced, precision or sensitivity.
        test_metrics: The figures of the last test.
    """

    network: QualityNetwork
    prior: float | None = None
    operating_point: str = "balanced"
    test_metrics: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.predictions = PredictionStore()

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Return the logits ``[B]`` of a batch."""
        raise NotImplementedError

    def threshold(self) -> float:
        """Return the probability from which on a window is called good, at the chosen operating point and prior."""
        return self.network.calibration.threshold(self.operating_point, self.prior)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep a batch's logits."""
        self._keep(batch)

    def on_validation_epoch_start(self) -> None:
        """Forget earlier logits."""
        self.predictions.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the validation figures over all ranks."""
        labels, logits, _ = self.predictions.gather()
        for key, value in compute_metrics(labels, self._probabilities(logits), self.threshold()).items():
            name = {"accuracy": "acc"}.get(key, key)
            # an undefined figure (AUROC of a single class) is NaN here, and null in every file
            self.log(f"val_{name}", float("nan") if value is None else value, prog_bar=name in ("acc", "auroc"))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep a batch's logits."""
        self._keep(batch)

    def on_test_epoch_start(self) -> None:
        """Forget earlier logits."""
        self.predictions.clear()

    def on_test_epoch_end(self) -> None:
        """Compute the test figures with intervals; :attr:`test_metrics` keeps them."""
        labels, logits, rows = self.predictions.gather()
        probabilities, threshold = self._probabilities(logits), self.threshold()
        dataset = getattr(self.trainer.datamodule, "splits", {}).get("test")  # type: ignore[attr-defined]
        subjects = dataset.windows.subjects if dataset is not None else None
        self.test_metrics = {
            **compute_metrics(labels, probabilities, threshold),
            "threshold": threshold,
            **bootstrap_intervals(
                labels, probabilities, None if subjects is None else subjects[rows], threshold=threshold
            ),
        }

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return a batch's row numbers, probabilities, and why channels could not be used."""
        probabilities = self.network.probabilities(batch["signals"], batch["present"], self.prior)
        faults = channel_faults(batch["signals"], self.network.preprocess.channels, batch["present"])
        return {"index": batch["index"], "probability": probabilities, "faults": faults}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the calibration, if there is one."""
        if self.network.calibration.fitted:
            checkpoint[CHECKPOINT_KEY] = self.network.calibration.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the calibration, or the plain sigmoid where the checkpoint has none."""
        self.network.calibration = stored_calibration(checkpoint, "the checkpoint")

    def _keep(self, batch: dict[str, Tensor]) -> None:
        self.predictions.add(batch["index"], batch["labels"], self.logits(batch))

    def _probabilities(self, logits: Array) -> Array:
        found = self.network.calibration.probabilities(torch.from_numpy(logits), self.prior)
        return cast("Array", found.numpy())
