"""The parser of the training commands: its help, and the checks of what it parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.cli import LightningArgumentParser

from butppg_lightning.cli.parser import OneLineErrors
from butppg_lightning.errors import UserError

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


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser with errors of one line, and a help that begins with our own keys."""

    def format_help(self, *formatter: Any, trainer: bool = False) -> str:
        """Return the help.

        Args:
            formatter: Given by Python from 3.15 on.
            trainer: Show all keys of Lightning's trainer, and nothing else; otherwise only the usual ones are shown.
        """
        shown, groups = self._action_groups, dict(self.groups or {})
        lightning, data = groups.pop("trainer"), groups.pop("data")
        own = {"data": data, **groups}
        first = [group for group in shown if group not in (lightning, *own.values())]
        for name, group in {**own, "trainer": lightning}.items():
            group.title = f"{name}: {str(group.title).removeprefix(f'{name}: ').rstrip('.:')}"
        lightning.title = "trainer: Lightning's keys" if trainer else "trainer: the usual ones of Lightning's keys"
        kept = {group: group._group_actions for group in (*own.values(), lightning)}
        try:
            self._action_groups = [lightning] if trainer else [*first, *own.values(), lightning]
            for group, actions in kept.items():
                keys = [action for action in actions if "." in action.dest and not action.dest.endswith(".help")]
                usual = [action for action in keys if action.dest.partition(".")[2] in _USUAL]
                group._group_actions = usual if group is lightning and not trainer else keys
            text = super().format_help(*formatter)
        finally:
            self._action_groups = shown
            for group, actions in kept.items():
                group._group_actions = actions
        return text if trainer else f"{text}\nAll keys of Lightning's trainer: {self.prog} --help.trainer\n"


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
