"""Validates, tests and keeps an average of the weights over the last steps instead of the last step's.

Lightning's own EMAWeightAveraging (2.6.6) is not used. In this project's runs

- it averages frozen weights too, and rounding moves them by up to 6e-8: validation with stored features of the frozen
  part would not be validation of the model that is kept;
- testing the best model after a fit, with the same trainer, tests the last step's weights: loading a checkpoint puts
  them back whatever the checkpoint is loaded for;
- parts that are unfrozen later, and the random head, keep a share of where they began for the length of the average;
- ``stages.restore_best`` would leave the average where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback

from butppg_lightning.errors import UserError
from butppg_lightning.training.staged_unfreezing import staging

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor, nn


class WeightAverage(Callback):
    """Keeps an exponential moving average of the weights that train (Polyak and Juditsky 1992).

    After each optimizer step, average = decay average + (1 - decay) weights, divided by 1 - decay^n after n steps as
    Adam does: where a part began has no share in it, and its first steps are averaged evenly. A part starts when
    it is unfrozen. A part that is frozen again goes on as it was trained. Buffers are not averaged.

    Training itself is as without it. The average takes the weights' place during validation, after the fit, and in
    every checkpoint's ``state_dict``; the weights to train on with are in the callback's own state.

    Args:
        decay: Share of the average that stays at each optimizer step: 0.99 averages over about the last 100 steps,
            0.999 over 1000; null for no averaging.

    Raises:
        UserError: If ``decay`` is not between 0 and 1; in ``fit``, if weights of 16 bits are trained.
    """

    def __init__(self, decay: float | None = None) -> None:
        if decay is not None and not 0 < decay < 1:
            raise UserError(f"average.decay is {decay}; expected above 0 and below 1, or null for no averaging")
        self.decay = decay
        self._module: LightningModule | None = None
        # the average; while it has taken the weights' place, the weights
        self._other: dict[nn.Parameter, Tensor] = {}
        self._swapped = False
        # optimizer steps in each average, and of the run
        self._steps: dict[nn.Parameter, int] = {}
        self._step = 0
        self._later_stages: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start with no average; only a fit has one."""
        self._module = pl_module if stage == "fit" else None
        self._other, self._swapped, self._steps, self._later_stages = {}, False, {}, None

    def state_dict(self) -> dict[str, Any]:
        """Return the weights to train on with, as a checkpoint's ``state_dict`` holds their average."""
        if self._module is None or not self._other:
            return {}
        names = {name: value for name, value in self._module.named_parameters() if value in self._other}
        weights = {name: self._other[value] if self._swapped else value.detach() for name, value in names.items()}
        steps = {name: self._steps[value] for name, value in names.items()}
        return {"weights": weights, "steps": steps, "later_stages": self._later_stages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the module's weights, just loaded, for the average, and the stored ones to train on with."""
        if self._module is None:
            return
        for name, weights in state_dict["weights"].items():
            parameter = self._module.get_parameter(name)
            if self.decay is not None:
                self._other[parameter] = parameter.detach().clone()
                self._steps[parameter] = state_dict["steps"][name]
            with torch.no_grad():
                parameter.copy_(weights)
        self._later_stages = state_dict["later_stages"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average into the checkpoint's ``state_dict``."""
        if self._swapped:
            return
        for name, parameter in pl_module.named_parameters(remove_duplicate=False):
            if parameter in self._other:
                checkpoint["state_dict"][name] = self._other[parameter]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module to its device."""
        types = {parameter.dtype for parameter in pl_module.parameters()}
        if self.decay is not None and types & {torch.float16, torch.bfloat16}:
            raise UserError(
                "average.decay needs weights of 32 bits: 16 cannot hold an average's small changes; "
                "use --trainer.precision bf16-mixed or 32-true"
            )
        self._other = {parameter: value.to(parameter.device) for parameter, value in self._other.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the stage; a run resumed mid-epoch never reaches ``on_train_epoch_start``."""
        self._step = trainer.global_step
        if self.decay is None:
            return
        if (staged := staging(trainer)) is not None:
            later = len(staged.later_stages)
            if staged.restore_best and later != self._later_stages:
                self._other = {}  # the weights are those of the best model now
            self._later_stages = later
        # frozen weights have no average and are never written to: stored features of theirs stay valid
        trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        self._steps = {parameter: self._steps[parameter] if parameter in self._other else 0 for parameter in trained}
        self._other = {
            parameter: self._other[parameter] if parameter in self._other else parameter.detach().clone()
            for parameter in trained
        }

    on_train_epoch_start = on_train_start

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights after an optimizer step."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        for parameter, average in self._other.items():
            self._steps[parameter] += 1
            average.lerp_(parameter, _share(self.decay or 0.0, self._steps[parameter]))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        self._swap(to_average=True)

    # after the fit too, the average: the module is then what the last checkpoint holds
    on_fit_end = on_validation_start

    def on_validation_end(self, *_: Any, **__: Any) -> None:
        """Train on with the weights, and leave them where the run breaks off."""
        self._swap(to_average=False)

    on_exception = on_validation_end

    @torch.no_grad()
    def _swap(self, *, to_average: bool) -> None:
        if self._swapped == to_average or not self._other:
            return
        for parameter, other in self._other.items():
            held = parameter.clone()
            parameter.copy_(other)
            other.copy_(held)
        self._swapped = to_average


def _share(decay: float, step: int) -> float:
    """Return the share of the newest weights in an average over ``step`` steps.

    Examples:
        >>> [round(_share(0.99, step), 3) for step in (1, 2, 3, 100, 1000)]
        [1.0, 0.503, 0.337, 0.016, 0.01]
    """
    return float((1 - decay) / (1 - decay**step))
