"""`butppg fit`, `validate`, `test`, `predict` and `pretrain`: LightningCLI with one folder for everything of a run."""

from __future__ import annotations

import argparse
import inspect
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from butppg_lightning.cli.configs import expand_config_paths, merge_encoder
from butppg_lightning.cli.loggers import LoggerName, build_loggers, forget_folder, log_into
from butppg_lightning.cli.parser import one_line
from butppg_lightning.cli.quiet import quieten
from butppg_lightning.cli.resources import resources_reported
from butppg_lightning.cli.stored_model import take_model, tell_differences
from butppg_lightning.cli.training_parser import EXAMPLES, TrainingParser, check_values
from butppg_lightning.console import say
from butppg_lightning.errors import StoppedError, UserError
from butppg_lightning.models.prediction import automatic_precision
from butppg_lightning.training.exact_resume import AtomicCheckpointIO, ExactResume
from butppg_lightning.training.frozen_prefix import FrozenPrefixCache
from butppg_lightning.training.progress import RunProgress, is_wanted
from butppg_lightning.training.provenance import DataRecord, versions
from butppg_lightning.training.run_folder import FINETUNING, LAST, PRETRAINING, RunFolder, holds_run
from butppg_lightning.training.run_logs import LOGS, StageRecord, StepLog
from butppg_lightning.training.staged_unfreezing import StagedUnfreezing
from butppg_lightning.training.weight_average import WeightAverage


class TrainingCLI(LightningCLI):
    """Parses one training command and builds module, data and trainer; :meth:`run` then does the work.

    Args:
        command: fit, validate, test, predict or pretrain.
        model_class: The LightningModule.
        datamodule_class: The LightningDataModule.
        arguments: The words after the command.
    """

    def __init__(
        self,
        command: str,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        arguments: list[str],
    ) -> None:
        self.command = command
        self.trains = command in ("fit", "pretrain")
        self.arguments = expand_config_paths(arguments)
        self.stored_shapes: dict[str, tuple[int, ...]] | None = None
        self.stage_record = StageRecord()
        quieten()
        super().__init__(
            model_class,
            datamodule_class,
            save_config_callback=None,
            trainer_defaults={"use_distributed_sampler": False, "max_epochs": 30, "enable_model_summary": False},
            seed_everything_default=0,
            parser_class=TrainingParser,
            parser_kwargs={
                "prog": f"butppg {command}",
                "usage": f"butppg {command} [--config CONFIG ...] [OPTIONS]",
                "description": f"{inspect.getdoc(model_class)}".partition("\n")[0]
                + f"\n\nExample:\n{EXAMPLES[command]}",
                "allow_abbrev": False,  # an abbreviated flag would slip past the comparison with the checkpoint
            },
            args=self.arguments,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a run needs beside module, data and trainer."""
        folder = "artifacts/foundation_model" if self.command == "pretrain" else "artifacts/but_ppg_finetuned"
        parser.add_argument("--output_dir", type=str, default=folder, help="Folder for everything of the run.")
        if self.command != "pretrain":
            parser.add_lightning_class_args(StagedUnfreezing, "stages")
            parser.add_lightning_class_args(FrozenPrefixCache, "cache")
            parser.add_lightning_class_args(WeightAverage, "average")
        if self.trains:
            parser.add_argument(
                "--resume",
                type=str | None,
                default=None,
                help="Continue a run: 'auto' for last.ckpt of output_dir if it is there, or the path of a checkpoint.",
            )
            parser.add_argument(
                "--save_every_n_steps",
                type=int | None,
                default=None,
                help="Also write last.ckpt every so many optimizer steps; null for at every epoch's end only.",
            )
            parser.add_argument(
                "--select",
                type=Literal["best", "last"],
                default="best",
                help="What best_model.pt is: the best epoch on the validation data, or the last one (needs none).",
            )
            parser.add_argument("--overwrite", type=bool, default=False, help="Replace the run that output_dir holds.")
            parser.add_argument(
                "--loggers",
                type=LoggerName | list[LoggerName] | None,
                default=None,
                help="Write logs/ in output_dir: csv (metrics.csv), tensorboard, or [csv, tensorboard]. Others by "
                "config: --config loggers/wandb.yaml, loggers/mlflow.yaml.",
            )
        else:  # finetune_recommended.yaml says it, and serves here as finetune.yaml does
            parser.add_argument("--select", type=Literal["best", "last"], default="best", help=argparse.SUPPRESS)
        if self.command == "test":
            parser.add_argument(
                "--subsets",
                type=list[str] | None,
                default=None,
                help="Test once for each of these sets of channels, for example [all, PPG, PPG+ACC, PPG+ECG].",
            )
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to continue from or to use.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then let the checkpoint decide what the model is."""
        if "--help.trainer" in self.arguments:
            print(cast("TrainingParser", parser).format_help(trainer=True))
            raise SystemExit(0)
        self.config = parser.parse_args(merge_encoder(self.arguments))
        check_values(self.config, self.command)
        self.output_dir = Path(self.config.output_dir)
        self.checkpoint = self._checkpoint_path()
        if self.checkpoint is not None:
            found = take_model(self.checkpoint, self.config.model, self.arguments, self.command)
            self.stored_shapes, self.stored_config = found
        elif self.command == "fit" and self.config.model.get("pretrained") is None:
            say("no --model.pretrained: the encoder starts from random weights")

    def before_instantiate_classes(self) -> None:
        """Settle what is left open: precision, progress bar, logger, and where things go."""
        trainer = self.config.trainer
        if trainer.precision is None:
            trainer.precision = automatic_precision(str(trainer.accelerator))
            say(f"precision: {trainer.precision} (automatic)")
        elif str(trainer.precision).startswith("16") and not torch.cuda.is_available():
            say(f"precision: {trainer.precision} means bf16 where there is no CUDA device")
        trainer.default_root_dir = str(self.output_dir)
        if trainer.logger is None:
            trainer.logger = False
        if trainer.enable_progress_bar is None:
            trainer.enable_progress_bar = is_wanted()
        if self.trains:
            log_into(self.output_dir, trainer)
        if self.trains and holds_run(self.output_dir):
            self._check_earlier_run()
        if self.trains and self.checkpoint is not None:
            tell_differences(self.checkpoint, self.stored_config, self.config)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer."""
        try:
            self.config_init = self.parser.instantiate(self.config)
            self.datamodule = self.config_init["data"]
            self.model = self.config_init["model"]
            self.model.configure_model()  # before the trainer does: what is wrong with pretrained is said at once
            if self.trains and self.config.select == "last":
                self.datamodule.needs_validation = False
            self.trainer = self.instantiate_trainer()
        except (MisconfigurationException, TypeError, ValueError, ModuleNotFoundError) as error:
            raise UserError(one_line(str(error), [])) from error
        if self.stored_shapes is not None:
            wanted = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
            if differing := sorted(key for key, _ in wanted.items() ^ self.stored_shapes.items()):
                raise UserError(
                    f"{self.checkpoint} does not fit the model it describes ({differing[0]}): it is damaged; "
                    "take another checkpoint of the run, or train again with --overwrite"
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run folder (when training) and atomic checkpoints."""
        given = self.config_init.trainer.get("plugins")
        plugins = [*(given if isinstance(given, list) else [given] if given else []), AtomicCheckpointIO()]
        callbacks = self.config_init.trainer.get("callbacks") or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if self.trains and not self.config.trainer.fast_dev_run:
            self.run_folder = self._run_folder()
            record = DataRecord(self.datamodule.root, self.run_folder.config)
            callbacks += [ExactResume(), self.stage_record, *self._logs(kwargs), record, self.run_folder]
        else:
            callbacks.append(self.stage_record)
            kwargs["enable_checkpointing"] = False
        if self.config.trainer.enable_progress_bar and not any(isinstance(item, ProgressBar) for item in callbacks):
            callbacks.append(RunProgress())
        return super().instantiate_trainer(plugins=plugins, callbacks=callbacks, **kwargs)

    def train(self) -> None:
        """Fit, from the checkpoint if there is one.

        Raises:
            StoppedError: If a signal ended it.
        """
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        go_on = "continue with the same command and --resume auto"
        try:
            with self.memory_told():
                self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True)
        except SIGTERMException:
            raise StoppedError(f"stopped by SIGTERM; {go_on}", 128 + signal.SIGTERM) from None
        except (SystemExit, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit of its own
            raise StoppedError(f"interrupted; {go_on}", 128 + signal.SIGINT) from None

        self.trainer.loggers = []  # what is validated and tested after it is not part of the run

    def memory_told(self) -> AbstractContextManager[None]:
        """Return a context in which running out of memory or disk ends in one line that says what to change."""
        return resources_reported(self.config, lambda: self.stage_record.place)

    def plain_config(self) -> dict[str, Any]:
        """Return the resolved configuration in plain types, as it can be given to --config again."""
        text = self.parser.dump(self.config, skip_unset=False, skip_link_targets=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        for key in ("config", "resume", "overwrite", "ckpt_path"):
            config.pop(key, None)
        # they follow from the folder and the terminal of the run at hand
        for key in ("default_root_dir", "enable_progress_bar"):
            config["trainer"].pop(key, None)
        forget_folder(self.output_dir, config["trainer"])
        return config

    def _checkpoint_path(self) -> Path | None:
        resume = self.config.get("resume")
        if resume and self.config.ckpt_path:
            raise UserError(f"--resume {resume} and --ckpt_path {self.config.ckpt_path} both name a start; give one")
        if resume == "auto":
            last = self.output_dir / LAST
            return last if last.is_file() else None
        if not resume and not self.config.ckpt_path:
            return None
        path = Path(resume or self.config.ckpt_path)
        if not path.is_file():
            hint = "--resume auto takes the run's last.ckpt" if resume else "`butppg fit` leaves best_model.pt in a run"
            raise UserError(f"checkpoint {path} not found; {hint}")
        return path

    def _check_earlier_run(self) -> None:
        continued = self.checkpoint is not None and self.checkpoint.resolve().parent == self.output_dir.resolve()
        if continued and self.config.overwrite:
            raise UserError(f"--overwrite would remove {self.checkpoint}, from which the run continues; drop one")
        if not continued and not self.config.overwrite:
            last = self.output_dir / LAST
            way = "continue it with --resume auto, " if last.is_file() else ""
            raise UserError(
                f"{self.output_dir} already holds a run; {way}replace it with --overwrite, "
                "or choose another --output_dir"
            )

    def _run_folder(self) -> RunFolder:
        config = {**self.plain_config(), "versions": versions()}
        record = PRETRAINING if self.command == "pretrain" else FINETUNING
        overwrite, every = bool(self.config.overwrite), self.config.save_every_n_steps
        return RunFolder(self.output_dir, config, record, overwrite, every, self.config.select)

    def _logs(self, kwargs: dict[str, Any]) -> list[StepLog]:
        loggers = build_loggers(self.config.loggers, self.output_dir, self.checkpoint)
        if loggers:
            given = self.config_init.trainer.get("logger") or []
            kwargs["logger"] = [*(given if isinstance(given, list) else [given]), *loggers]
        fresh = self.checkpoint is None and bool(loggers or self.config.overwrite)
        return [StepLog(self.output_dir / LOGS, fresh)]
