"""The parser of the training commands: options of a run, help, checks of what it parsed, what a checkpoint says of it.

The model of a checkpoint decides what is built; flags that contradict it are refused.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from butppg_lightning.cli.configs import options_given
from butppg_lightning.cli.parser import OneLineErrors
from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.models.about import identity, in_words
from butppg_lightning.models.architecture import normal_spec, refuse_unnamed
from butppg_lightning.models.checkpoints import read_stored, stored_options
from butppg_lightning.shipped import SUFFIX
from butppg_lightning.training.frozen_prefix import FrozenPrefixCache
from butppg_lightning.training.staged_unfreezing import StagedUnfreezing
from butppg_lightning.training.weight_average import WeightAverage
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from pathlib import Path

_FIT = "  butppg fit --config finetune.yaml --data.root data/but_ppg --output_dir artifacts/run"
EXAMPLES = {
    "fit": f"{_FIT} \\\n      --model.pretrained artifacts/foundation_model/best_model.pt\n{_FIT} --resume auto",
    "pretrain": "  butppg pretrain --config pretrain.yaml --data.root data/vitaldb_windows --output_dir "
    "artifacts/foundation_model",
    **{
        name: f"  butppg {name} --data.root data/but_ppg --ckpt_path artifacts/run/best_model.pt"
        for name in ("validate", "test", "predict")
    },
}
_USUAL = ("max_epochs", "accelerator", "devices", "precision", "gradient_clip_val", "accumulate_grad_batches")
_Logger = Literal["csv", "tensorboard"]
_TRAINING = ("fit", "pretrain")
# besides model and stages (which are checked on their own): what a continued run must share to be exact
_MUST_AGREE = (
    "seed_everything", "data.batch_size", "data.seed", "trainer.precision", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val", "trainer.gradient_clip_algorithm", "trainer.limit_train_batches",
    "trainer.max_epochs", "trainer.max_steps", "cache.enabled", "average.decay", "select",
)  # fmt: skip
_LENGTH = ("trainer.max_epochs", "trainer.max_steps")
_FORMERLY = {"select": "best", "trainer.max_steps": -1}  # what a run did whose configuration does not have the key yet
_LATER = ("encoder_channels", "indices", "optimizer")  # a checkpoint without their names is older, and has none
# groups of options that only training reads; of Lightning's, those of them
_OF_TRAINING: dict[str, tuple[str, ...] | None] = {
    **dict.fromkeys(("stages", "cache", "average")),
    "trainer": (
        "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "accumulate_grad_batches",
        "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches",
    ),
}  # fmt: skip
_FRESH_ONLY = (
    "pretrained",
    "pretrained_head",
    "pretrain_channels",
    "inflation",
)  # read by a fresh fit, before there are trained weights


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser with errors of one line, and a help that begins with our own keys."""

    def format_help(self, *formatter: Any, trainer: bool = False) -> str:
        """Return the help, the last thing that the parser is asked for: the usual ones of Lightning's keys, or all.

        (``formatter`` is given by Python from 3.15 on.)
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
    trains = command in _TRAINING
    if trains:
        how = "Continue a run: 'auto' for last.ckpt of output_dir if it is there, or the path of a checkpoint."
        add("--resume", type=str | None, default=None, help=how)
        how = "Also write last.ckpt every so many optimizer steps; null for at every epoch's end only."
        add("--save_every_n_steps", type=int | None, default=None, help=how)
        how = "Write last.ckpt after every epoch; false: at the end only, so that an interrupted run starts afresh."
        add("--save_every_epoch", type=bool, default=True, help=how)
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


def check_values(config: Namespace, command: str, arguments: list[str]) -> None:
    """Refuse values and combinations that cannot work, before anything is built; names the key and what would work."""
    trains = command in _TRAINING
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
    _refuse_without_effect(config, command, arguments)
    if config.trainer.accumulate_grad_batches < 1:
        raise UserError("--trainer.accumulate_grad_batches is below 1; expected a number of batches")


def _refuse_without_effect(config: Namespace, command: str, arguments: list[str]) -> None:
    """Refuse options that would be taken and do nothing; those of a config that several commands share may stand."""
    trainer, stages = config.trainer, options_given(arguments, "stages")
    for group, names in () if command in _TRAINING else _OF_TRAINING.items():
        given = [name for name in options_given(arguments, group) if names is None or name in names]
        if given:
            raise UserError(f"--{group}.{given[0]} has no effect on `butppg {command}`, which does not train; drop it")
    beside = [name for name in stages if name.split(".")[0] not in ("plan", "restore_best")]
    if config.get("stages.plan") and beside and not any(name.startswith("plan") for name in stages):
        reason = "has no effect beside the stages.plan of a config; drop it, or add --stages.plan null"
        raise UserError(f"--stages.{beside[0]} {reason}")
    start = next((key for key in ("model.pretrained", "resume", "ckpt_path") if config.get(key)), None)
    lonely = [name for name in options_given(arguments, "model") if name.split(".")[0] in _FRESH_ONLY[1:]]
    if command == "fit" and lonely and start is None:
        raise UserError(f"--model.{lonely[0]} has no effect without --model.pretrained; give both or drop it")
    if command != "predict" and "predict_split" in options_given(arguments, "data"):
        raise UserError(f"--data.predict_split has no effect on `butppg {command}`; drop it")
    if trainer.default_root_dir is not None:
        raise UserError("--trainer.default_root_dir has no effect: everything goes to --output_dir; drop it")
    if trainer.use_distributed_sampler:
        raise UserError("--trainer.use_distributed_sampler has no effect: the data module deals out the rows; drop it")
    if trainer.gradient_clip_algorithm and not trainer.gradient_clip_val:
        raise UserError("--trainer.gradient_clip_algorithm has no effect without gradient_clip_val; set that too")
    if command not in _TRAINING or trainer.fast_dev_run:
        return
    if trainer.enable_checkpointing is False:
        raise UserError("--trainer.enable_checkpointing false is not possible: a run keeps its best and last model")
    if (trainer.min_epochs or 0) > trainer.max_epochs:
        raise UserError(f"--trainer.min_epochs {trainer.min_epochs} has no effect beyond max_epochs; raise that one")
    if config.select == "best" and trainer.limit_val_batches == 0:
        reason = "leaves nothing to choose the best epoch by; validate, or take the last one with --select last"
        raise UserError(f"--trainer.limit_val_batches 0 {reason}")


def take_model(
    checkpoint: Path, model: Namespace, arguments: list[str], command: str
) -> tuple[dict[str, tuple[int, ...]], Any, int]:
    """Put a checkpoint's hyperparameters into the configuration of the model, in place.

    What the command line itself says of the model must agree with it; what a config says yields. Returns the shapes of
    the stored weights, the configuration the checkpoint's run had (None if it has none), and its optimizer steps.
    """
    content = read_stored(checkpoint)
    stored = _hyperparameters(content, checkpoint, command)
    if known := identity(content):
        say(in_words(known))
    if unknown := sorted(set(stored) - set(model.keys())):
        raise UserError(
            f"{checkpoint} was written by another kind of module (its hyperparameters have {unknown[0]}); "
            f"`butppg {command}` cannot use it as --ckpt_path"
        )
    resumed = content.get("callbacks", {}).get("ExactResume", {}).get("ranks", []) if command in _TRAINING else []
    if any("means" not in rank for rank in resumed):
        raise UserError(
            f"{checkpoint} was written by an earlier version, whose runs cannot be continued: go on with that version, "
            "or start afresh from its weights with --model.pretrained"
        )
    config = content.get("config")
    started = {key: _canonical(key, _value(config, f"model.{key}")) for key in _FRESH_ONLY}
    _refuse_contradictions({**started, **stored}, model, options_given(arguments, "model"), checkpoint)
    refuse_unnamed(stored.get("encoder"), _canonical("encoder", model.get("encoder")))
    for key, value in stored.items():
        difference = _difference(key, _canonical(key, model[key]), value)
        if difference and difference[1] is not None and command in _TRAINING:
            path, mine, theirs = difference
            say(f"model.{path} stays {theirs}, as in {checkpoint}; the configuration says {mine}")
        model[key] = value
    for key in ("pretrained", "pretrain_channels", *(name for name in _LATER if name not in stored)):
        if key in model:
            model[key] = None
    if "pretrained_head" in model:
        model.pretrained_head = False
    shapes = {key: tuple(value.shape) for key, value in content["state_dict"].items()}
    return shapes, config, int(content.get("global_step", 0))


def what_differs(checkpoint: Path, stored: Any, config: Namespace) -> str:
    """Return, in one line, what makes a run that continues a checkpoint another one than it would have been.

    ``stored`` is the configuration that :func:`take_model` found in the checkpoint.
    """
    if not isinstance(stored, dict):
        return ""
    earlier = {key: _value(stored, key, _FORMERLY.get(key)) for key in _MUST_AGREE}
    before, epochs = earlier["trainer.max_epochs"], config.get("trainer.max_epochs")
    if isinstance(before, int) and epochs is not None and epochs < before:
        raise UserError(
            f"{checkpoint} is of a run of {before} epochs, --trainer.max_epochs is {epochs}; give {before} or more"
        )
    asked = {key: config.get(key, _FORMERLY.get(key)) for key in _MUST_AGREE}
    now = {key: f"{key} was {was}, is {asked[key]}" for key, was in earlier.items() if was != asked[key]}
    longer = [now.pop(key) for key in _LENGTH if key in now]
    if longer and (config.model.lr_schedule != "constant" or 0 < config.model.warmup < 1):
        now["rate"] = "the learning rate is from here on that of a run of the new length, and was that of the old one"
    if now:
        return f"warning: this run continues {checkpoint}, but not exactly: {'; '.join([*longer, *now.values()])}"
    rate = " (the learning rate does not depend on that)"
    return f"this run continues {checkpoint}: {'; '.join(longer)}{rate}" if longer else ""


def _value(config: Any, key: str, default: Any = None) -> Any:
    """Return what a stored configuration says of a dotted key."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return default if config is None else config


def _hyperparameters(content: dict[str, Any], checkpoint: Path, command: str) -> dict[str, Any]:
    needed = {"hyper_parameters", "state_dict"}
    if checkpoint.suffix != SUFFIX:  # an exported model is loaded by us
        needed.add("pytorch-lightning_version")
    lacking = (needed | {"optimizer_states"} if command in _TRAINING else needed) - set(content)
    if lacking or not isinstance(content["hyper_parameters"], dict):
        raise UserError(
            f"{checkpoint} is not a checkpoint of a run (no {', '.join(sorted(lacking)) or 'hyperparameters'}); "
            "pretrained weights are given with --model.pretrained"
        )
    return stored_options(content)


def _refuse_contradictions(stored: dict[str, Any], model: Namespace, given: list[str], checkpoint: Path) -> None:
    for name in given:
        key = name.split(".")[0]
        difference = _difference(key, _canonical(key, model[key]), stored.get(key))
        # what the run itself was started with is no contradiction: the same command goes on with it
        if key in _FRESH_ONLY and (difference or stored.get(key) is None):
            raise UserError(
                f"--model.{name} contradicts {checkpoint}: its weights would replace the pretrained ones; "
                "drop one of the two"
            )
        if difference:
            path, mine, theirs = difference
            raise UserError(f"--model.{path} is {mine}, but {checkpoint} was made with {theirs}; drop the flag")


def _canonical(key: str, value: Any) -> Any:
    if key.endswith("channels") and value is not None:
        return list(channel_names(value))
    value = value.as_dict() if isinstance(value, Namespace) else value
    if key == "encoder" and value and value.get("class_path"):
        return {**value, "class_path": normal_spec(value)["class_path"]}
    return value


def _difference(key: str, asked: Any, stored: Any) -> tuple[str, Any, Any] | None:
    if isinstance(asked, dict) and isinstance(stored, dict):
        found = (_difference(f"{key}.{name}", value, stored.get(name)) for name, value in asked.items())
        return next((difference for difference in found if difference and difference[1] is not None), None)
    return None if asked == stored else (key, asked, stored)
