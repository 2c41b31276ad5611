"""The parser of the training commands: options of a run, help, and checks of what it parsed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.cli import LightningArgumentParser

from butppg_lightning.cli.parser import OneLineErrors
from butppg_lightning.errors import UserError
from butppg_lightning.training.frozen_prefix import FrozenPrefixCache
from butppg_lightning.training.staged_unfreezing import StagedUnfreezing
from butppg_lightning.training.weight_average import WeightAverage

if TYPE_CHECKING:
    from jsonargparse import Namespace

EXAMPLES = {
    "fit": """\
  butppg fit --config finetune.yaml --data.root data/but_ppg --output_dir artifacts/run \\
      --model.pretrained artifacts/foundation_model/best_model.pt
  butppg fit --config finetune.yaml --data.root data/but_ppg --output_dir artifacts/run --resume auto""",
    "pretrain": """\
  butppg pretrain --config pretrain.yaml --data.root data/vitaldb_windows --output_dir artifacts/foundation_model""",
    **{
        command: f"""\
  butppg {command} --data.root data/but_ppg --ckpt_path artifacts/run/best_model.pt"""
        for command in ("validate", "test", "predict")
    },
}
_USUAL = ("max_epochs", "accelerator", "devices", "precision", "gradient_clip_val", "accumulate_grad_batches")
_Logger = Literal["csv", "tensorboard"]


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser with errors of one line, and a help that begins with our own keys."""

    def format_help(self, *formatter: Any, trainer: bool = False) -> str:
        """Return the help, which is the last thing that the parser is asked for.

        Args:
            formatter: Given by Python from 3.15 on.
            trainer: Show all keys of Lightning's trainer, and nothing else; otherwise only the usual ones are shown.
        """
        groups = dict(self.groups or {})
        lightning, data = groups.pop("trainer"), groups.pop("data")
        own = {"data": data, **groups}
        for name, group in {**own, "trainer": lightning}.items():
            group.title = f"{name}: {str(group.title).removeprefix(f'{name}: ').rstrip('.:')}"
            keys = [action for action in group._group_actions if "." in action.dest]
            group._group_actions = [action for action in keys if not action.dest.endswith(".help")]
        lightning.title = "trainer: Lightning's keys" if trainer else "trainer: the usual ones of Lightning's keys"
        if trainer:
            self._action_groups = [lightning]
            return super().format_help(*formatter)
        usual = [action for action in lightning._group_actions if action.dest.partition(".")[2] in _USUAL]
        lightning._group_actions = usual
        first = [group for group in self._action_groups if group not in (lightning, *own.values())]
        self._action_groups = [*first, *own.values(), lightning]
        return f"{super().format_help(*formatter)}\nAll keys of Lightning's trainer: {self.prog} --help.trainer\n"


def add_run_options(parser: LightningArgumentParser, command: str) -> None:
    """Add what a run needs beside module, data and trainer."""
    add = parser.add_argument
    folder = "artifacts/foundation_model" if command == "pretrain" else "artifacts/but_ppg_finetuned"
    add("--output_dir", type=str, default=folder, help="Folder for everything of the run.")
    if command != "pretrain":
        parser.add_lightning_class_args(StagedUnfreezing, "stages")
        parser.add_lightning_class_args(FrozenPrefixCache, "cache")
        parser.add_lightning_class_args(WeightAverage, "average")
    trains = command in ("fit", "pretrain")
    if trains:
        how = "Continue a run: 'auto' for last.ckpt of output_dir if it is there, or the path of a checkpoint."
        add("--resume", type=str | None, default=None, help=how)
        how = "Also write last.ckpt every so many optimizer steps; null for at every epoch's end only."
        add("--save_every_n_steps", type=int | None, default=None, help=how)
    how = "What best_model.pt is: the best epoch on the validation data, or the last one (needs none)."
    # finetune_recommended.yaml says it, and serves the other commands as finetune.yaml does
    add("--select", type=Literal["best", "last"], default="best", help=how if trains else argparse.SUPPRESS)
    if trains:
        add("--overwrite", type=bool, default=False, help="Replace the run that output_dir holds.")
        how = "Write logs/ in output_dir: csv (metrics.csv), tensorboard, or [csv, tensorboard]. Others by config: "
        how += "--config loggers/wandb.yaml, loggers/mlflow.yaml."
        add("--loggers", type=_Logger | list[_Logger] | None, default=None, help=how)
    if command == "test":
        how = "Test once for each of these sets of channels, for example [all, PPG, PPG+ACC, PPG+ECG]."
        add("--subsets", type=list[str] | None, default=None, help=how)
    add("--ckpt_path", type=str | None, default=None, help="Checkpoint to continue from or to use.")
    if command == "fit":
        add("--calibrate", type=bool, default=True, help="Calibrate best_model.pt on val.npz after the training.")
        add("--test", type=bool, default=True, help="Test best_model.pt on test.npz after the training.")
    elif not trains:
        how = "Share of good windows to expect: shifts probabilities."
        add("--prior", type=float | None, default=None, help=how)
        points = Literal["balanced", "precision", "sensitivity"] | None
        how = "Which of a calibrated checkpoint's thresholds decides; null for balanced (0.5 if not calibrated)."
        add("--operating_point", type=points, default=None, help=how)


def check_values(config: Namespace, command: str) -> None:
    """Refuse values and combinations that cannot work, before anything is built.

    Args:
        config: The parsed configuration of a training command.
        command: fit, validate, test, predict or pretrain.

    Raises:
        UserError: Naming the key and what would work.
    """
    trains = command in ("fit", "pretrain")
    for key in ("output_dir", "resume", "ckpt_path", "data.root", "model.pretrained"):
        if config.get(key) == "":
            raise UserError(f"--{key} is empty; give a path or leave it out")
    if not 0 <= config.seed_everything < 2**32:
        raise UserError(f"--seed_everything is {config.seed_everything}; expected 0 to {2**32 - 1}")
    epochs = config.trainer.max_epochs
    if trains and (epochs is None or epochs < 1):
        raise UserError(f"--trainer.max_epochs is {epochs}; expected a number of epochs of at least 1")
    if config.get("save_every_n_steps") and config.trainer.val_check_interval not in (None, 1.0):
        raise UserError(
            "--save_every_n_steps with --trainer.val_check_interval could not be resumed exactly: the figures of a "
            "validation inside an epoch are not in the checkpoint; drop one of the two"
        )
    if trains and config.select == "last" and config.get("stages.restore_best"):
        raise UserError(
            "--stages.restore_best goes back to the best epoch, but --select last looks for none; drop one of them"
        )
    if str(config.trainer.precision).startswith(("64", "16-true", "bf16-true")):
        raise UserError(
            f"--trainer.precision {config.trainer.precision} is not offered: filters and scaling compute in "
            "float32; take 32-true, bf16-mixed or 16-mixed, or leave it out"
        )
    if config.trainer.accumulate_grad_batches < 1:
        raise UserError("--trainer.accumulate_grad_batches is below 1; expected a number of batches")
