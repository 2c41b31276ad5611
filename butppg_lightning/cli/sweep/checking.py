"""Checks of a sweep before its first trial: every key, every value, the data and the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.cli.configs import merge_encoder
from butppg_lightning.cli.finetune import FinetuneCLI
from butppg_lightning.cli.sweep.plan import option_word
from butppg_lightning.cli.training_parser import check_values
from butppg_lightning.data.finetune import BUTPPGDataModule
from butppg_lightning.errors import UserError
from butppg_lightning.tasks.classifier import PPGQualityClassifier

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

    from butppg_lightning.cli.sweep.plan import Plan

_FREE = (
    "output_dir", "test", "cache", "data.num_workers", "trainer.accelerator", "trainer.devices", "trainer.strategy",
    "trainer.num_nodes", "trainer.logger",
)  # fmt: skip


class _Trial(FinetuneCLI):
    """Reads the words of `butppg fit`, and builds what they ask for only when told to."""

    def __init__(self, words: list[str]) -> None:
        super().__init__("fit", PPGQualityClassifier, BUTPPGDataModule, words)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.read(self.arguments)

    def read(self, words: list[str]) -> None:
        self.config = self.parser.parse_args(merge_encoder(words))
        self.output_dir = Path(self.config.output_dir)
        check_values(self.config, self.command)

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def build(self) -> None:
        """Build data and model, without a trainer."""
        super().instantiate_classes()

    def instantiate_trainer(self, **_: Any) -> None:  # type: ignore[override]
        pass


def check_trials(plan: Plan, words: list[str]) -> dict[str, Any]:
    """Prove that `butppg fit` takes every key and value of a sweep, and that model and data can be made.

    Args:
        plan: The sweep.
        words: What every trial starts with, config paths expanded.

    Returns:
        The resolved configuration before any parameter is set: dotted key to plain value.

    Raises:
        UserError: If a key or a value is refused, or the best model would be chosen on the test split.
    """
    trial = _Trial(words)
    shared = _flat(trial.plain_config())
    for parameter in plan.parameters:
        for value in parameter.candidates():
            try:
                trial.read([*words, option_word(parameter.key, value)])
            except UserError as error:
                raise UserError(f"{plan.source}, parameters: {error}") from None
    trial.read([*words, *(option_word(parameter.key, parameter.candidates()[0]) for parameter in plan.parameters)])
    trial.build()
    data = trial.datamodule
    if data.has("test") and not data.has("val"):
        raise UserError(
            f"{data.root} has no val.npz, so trials would be chosen on test.npz; split by subject with: "
            "butppg prepare splits --source W.npz --output DIR"
        )
    data.setup("fit")
    return shared


def binding(plan: Plan, shared: dict[str, Any]) -> dict[str, Any]:
    """Return what of the trials' configuration may not change: all but the parameters and a machine's own affairs.

    Args:
        plan: The sweep.
        shared: From :func:`check_trials`.
    """
    left_out = (*_FREE, *(parameter.key for parameter in plan.parameters))
    return {key: shared[key] for key in shared if not any(f"{key}.".startswith(f"{name}.") for name in left_out)}


def _flat(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        inner = isinstance(value, dict) and value
        flat.update(_flat(value, f"{above}{key}.") if inner else {f"{above}{key}": value})
    return flat
