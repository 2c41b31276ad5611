"""Which loggers a run has, and that they write into its folder."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.training.run_logs import LOGS, RunCSVLogger

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch.loggers import Logger

LoggerName = Literal["csv", "tensorboard"]

_ELSEWHERE = (None, ".", "./mlruns")  # where W&B and MLflow write unless told


def build_loggers(asked: Any, folder: Path, checkpoint: Path | None) -> list[Logger]:
    """Build the loggers that ``--loggers`` names; a resumed run's continue theirs.

    Args:
        asked: csv, tensorboard, a list of them, or None.
        folder: The run's folder.
        checkpoint: What the run continues from.

    Raises:
        UserError: If a package is missing.
    """
    names = [asked] if isinstance(asked, str) else list(asked or ())
    if not names:
        return []
    after = -1 if checkpoint is None else int(read_checkpoint(checkpoint).get("global_step", 0)) - 1
    found: list[Logger] = []
    for name in dict.fromkeys(names):
        if name == "csv":
            found.append(RunCSVLogger(folder, after))
            continue
        if find_spec("tensorboard") is None:
            raise UserError("--loggers tensorboard needs tensorboard: pip install 'butppg-lightning[loggers]'")
        from lightning.pytorch.loggers import TensorBoardLogger

        # what an interrupted run logged after its last checkpoint is hidden by what is logged in its place
        purge = None if checkpoint is None else after + 1
        found.append(TensorBoardLogger(folder, name=LOGS, version="", default_hp_metric=False, purge_step=purge))
    return found


def logger_specs(trainer: Any) -> list[Any]:
    """Return the ``init_args`` of the loggers that a configuration gives by class path."""
    loggers = trainer.get("logger")
    specs = loggers if isinstance(loggers, list) else [loggers]
    return [spec["init_args"] for spec in specs if isinstance(spec, Namespace | dict) and spec.get("init_args")]


def log_into(folder: Path, trainer: Any) -> None:
    """Let the loggers of a configuration write into the run's folder, unless it says where."""
    for arguments in logger_specs(trainer):
        if "save_dir" in arguments and arguments["save_dir"] in _ELSEWHERE:
            arguments["save_dir"] = str(folder / LOGS)


def forget_folder(folder: Path, trainer: Any) -> None:
    """Take out again what :func:`log_into` put in: it follows from the folder."""
    for arguments in logger_specs(trainer):
        if arguments.get("save_dir") == str(folder / LOGS):
            del arguments["save_dir"]
