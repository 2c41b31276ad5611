"""The part of the classifier that judges: validation, test and prediction, at a calibrated model's threshold."""

from __future__ import annotations

import math
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch

from butppg_lightning.evaluation.bootstrap import bootstrap_intervals
from butppg_lightning.evaluation.metrics import compute_metrics
from butppg_lightning.models.calibration import CHECKPOINT_KEY, stored_calibration
from butppg_lightning.tasks.hub import HubModule
from butppg_lightning.tasks.predictions import PredictionStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

_LOGGED = {"accuracy": "acc"}  # the guide's history says val_acc


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

    def __init__(self, options: Mapping[str, Any], figures: tuple[str, ...]) -> None:
        super().__init__(options, figures)
        self.predictions = PredictionStore()

    @abstractmethod
    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Return the logits ``[B]`` of a batch."""

    def threshold(self) -> float:
        """Return the probability from which on a window is called good, at the chosen operating point and prior."""
        return self.network.calibration.threshold(self.operating_point, self.prior)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep a batch's logits."""
        self._keep(batch, exact=self.trainer.state.fn == "validate")

    def on_validation_epoch_start(self) -> None:
        """Forget earlier logits."""
        self.predictions.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the validation figures over all ranks."""
        labels, logits, _ = self.predictions.gather()
        for key, value in compute_metrics(labels, self._probabilities(logits), self.threshold()).items():
            name = _LOGGED.get(key, key)
            # an undefined figure (AUROC of a single class) is NaN here, and null in every file
            self.log(f"val_{name}", math.nan if value is None else value, prog_bar=name in ("acc", "auroc"))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep a batch's logits."""
        self._keep(batch, exact=True)

    def on_test_epoch_start(self) -> None:
        """Forget earlier logits."""
        self.predictions.clear()

    def on_test_epoch_end(self) -> None:
        """Compute the test figures with intervals; :attr:`test_metrics` keeps them."""
        labels, logits, rows = self.predictions.gather()
        probabilities, threshold = self._probabilities(logits), self.threshold()
        dataset = getattr(self.trainer.datamodule, "splits", {}).get("test")  # type: ignore[attr-defined]
        subjects = dataset.windows.subjects if dataset is not None else None
        metrics = compute_metrics(labels, probabilities, threshold)
        for key, value in metrics.items():
            self.log(f"test_{_LOGGED.get(key, key)}", math.nan if value is None else value)
        self.test_metrics = {
            **metrics,
            "threshold": threshold,
            **bootstrap_intervals(
                labels, probabilities, None if subjects is None else subjects[rows], threshold=threshold
            ),
        }

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return a batch's row numbers, logits, probabilities and the channels' faults ``[B, C]``."""
        with self._exactly():
            prepared = self.network.prepare(batch["signals"], batch["present"])
            logits = self.network.run(prepared, "prepared", "logits", prepared.side).float()
        probability = self.network.calibration.probabilities(logits, self.prior)
        return {"index": batch["index"], "logit": logits, "probability": probability, "faults": prepared.faults}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the calibration, if there is one."""
        if self.network.calibration.fitted:
            checkpoint[CHECKPOINT_KEY] = self.network.calibration.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the calibration, or the plain sigmoid where the checkpoint has none."""
        self.network.calibration = stored_calibration(checkpoint, "the checkpoint")

    def _keep(self, batch: dict[str, Tensor], *, exact: bool) -> None:
        with self._exactly(exact):
            self.predictions.add(batch["index"], batch["labels"], self.logits(batch))

    def _exactly(self, exact: bool = True) -> AbstractContextManager[Any]:
        """Return the context in which :func:`~butppg_lightning.models.prediction.predict` computes too.

        Only the validation within a fit computes as its training does: it chooses among the run's own epochs.
        """
        return torch.autocast(self.device.type, enabled=False) if exact else nullcontext()

    def _probabilities(self, logits: Array) -> Array:
        found = self.network.calibration.probabilities(torch.from_numpy(logits), self.prior)
        return cast("Array", found.numpy())
