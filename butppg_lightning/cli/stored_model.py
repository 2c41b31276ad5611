"""The model of a checkpoint decides what is built; flags that contradict it are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from butppg_lightning.cli.configs import options_given
from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import normal_spec, refuse_unnamed
from butppg_lightning.models.checkpoints.torch_file import read_checkpoint
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from pathlib import Path

_TRAINING = ("fit", "pretrain")
# besides model and stages (which are checked on their own): what a continued run must share to be exact
_MUST_AGREE = (
    "seed_everything",
    "data.batch_size",
    "data.seed",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.limit_train_batches",
    "trainer.max_epochs",
    "cache.enabled",
    "average.decay",
    "select",
)
_FORMERLY = {"select": "best"}  # what a run did whose configuration does not have the key yet
_LATER = ("encoder_channels", "indices")  # a checkpoint that does not name them is older than they, and has none
_FRESH_ONLY = ("pretrained", "pretrain_channels", "inflation")  # read by a fresh fit, before there are trained weights


def take_model(
    checkpoint: Path, model: Namespace, arguments: list[str], command: str
) -> tuple[dict[str, tuple[int, ...]], Any]:
    """Put a checkpoint's hyperparameters into the configuration of the model, in place.

    Args:
        checkpoint: The checkpoint to continue from or to use.
        model: The parsed ``model`` group.
        arguments: The words after the command: what they say of the model must agree; what a config says yields.
        command: The command, which decides what the checkpoint must hold.

    Returns:
        The shapes of the stored weights, and the configuration the checkpoint's run had (None if it has none).

    Raises:
        UserError: If the checkpoint is of another kind, or a flag contradicts it; both are named.
    """
    content = read_checkpoint(checkpoint)
    stored = _hyperparameters(content, checkpoint, command)
    if unknown := sorted(set(stored) - set(model.keys())):
        raise UserError(
            f"{checkpoint} was written by another kind of module (its hyperparameters have {unknown[0]}); "
            f"`butppg {command}` cannot use it as --ckpt_path"
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
    return {key: tuple(value.shape) for key, value in content["state_dict"].items()}, config


def report_differences(checkpoint: Path, stored: Any, config: Namespace) -> None:
    """Say, in one line, what makes a continued run differ from what the uninterrupted one would have become.

    Args:
        checkpoint: Where the run continues from.
        stored: The configuration that :func:`take_model` found in it.
        config: The resolved configuration.
    """
    earlier = {key: _value(stored, key, _FORMERLY.get(key)) for key in _MUST_AGREE}
    changed = [f"{key} was {was}, is {config.get(key)}" for key, was in earlier.items() if was != config.get(key)]
    if changed and isinstance(stored, dict):
        say(f"warning: this run continues {checkpoint}, but not exactly: {'; '.join(changed)}")


def _value(config: Any, key: str, default: Any = None) -> Any:
    """Return what a stored configuration says of a dotted key."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return default if config is None else config


def _hyperparameters(content: dict[str, Any], checkpoint: Path, command: str) -> dict[str, Any]:
    needed = {"hyper_parameters", "state_dict", "pytorch-lightning_version"}
    lacking = (needed | {"optimizer_states"} if command in _TRAINING else needed) - set(content)
    stored = content.get("hyper_parameters")
    if lacking or not isinstance(stored, dict):
        raise UserError(
            f"{checkpoint} is not a checkpoint of a run (no {', '.join(sorted(lacking)) or 'hyperparameters'}); "
            "pretrained weights are given with --model.pretrained"
        )
    return stored


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
