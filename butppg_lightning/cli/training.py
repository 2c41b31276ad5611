"""`butppg fit`, `validate`, `test`, `predict` and `pretrain`: LightningCLI with one folder for everything of a run."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from butppg_lightning.cli.configs import expand_config_paths, merge_encoder, without
from butppg_lightning.cli.messages import quieten, resources_reported
from butppg_lightning.cli.parser import one_line
from butppg_lightning.cli.training_parser import (
    EXAMPLES,
    TrainingParser,
    add_run_options,
    check_values,
    take_model,
    what_differs,
)
from butppg_lightning.console import say, suggestion
from butppg_lightning.data.finetune import BUTPPGDataModule
from butppg_lightning.data.pretrain import PretrainDataModule
from butppg_lightning.errors import StoppedError, UserError
from butppg_lightning.files import claim
from butppg_lightning.models.checkpoints import read_portable, take_stored
from butppg_lightning.models.prediction import EXACT, precision_reason
from butppg_lightning.shipped import SUFFIX, locate
from butppg_lightning.tasks.classifier import PPGQualityClassifier
from butppg_lightning.tasks.pretrainer import MaskedPretrainer
from butppg_lightning.training.conflicts import ANYWHERE, STAGED, refuse_conflicts, refuse_other_launch
from butppg_lightning.training.exact_resume import AtomicCheckpointIO, ExactResume
from butppg_lightning.training.interruptions import LAST, LastCheckpoint, cut_off, newest_state
from butppg_lightning.training.progress import RunProgress, is_wanted
from butppg_lightning.training.provenance import DataRecord, versions
from butppg_lightning.training.run_folder import (
    BEST,
    CONFIG,
    FINAL,
    FINETUNING,
    PRETRAINING,
    RUN_FILES,
    RunFolder,
    holds_run,
)
from butppg_lightning.training.run_logs import LOGS, StageRecord, StepLog, build_loggers

_ELSEWHERE = (None, ".", "./mlruns")  # where W&B and MLflow write unless a path is given


def pretrain(arguments: list[str]) -> None:
    """Pretrain an encoder by masked signal modelling."""
    cli = TrainingCLI("pretrain", arguments)
    with cli.claimed():
        cli.train()
        if cli.config.trainer.fast_dev_run or not cli.trainer.is_global_zero:
            return
        cli.require_epoch()
        cli.run_folder.finish(cli.cut_off)
        how = suggestion("fit --config finetune.yaml", "--model.pretrained", cli.shown(BEST))
        print(f"Results: {cli.shown()}. Fine-tune with: {how}")
        cli.report_cut()


class TrainingCLI(LightningCLI):
    """Parses what follows a training command, and builds module, data and trainer; its function then does the work."""

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command = command
        self.trains = command in ("fit", "pretrain")
        self.given = arguments
        self.arguments = expand_config_paths(arguments)
        self.stored_shapes: dict[str, tuple[int, ...]] | None = None
        self.stored_step: int | None = None
        self.stage_record = StageRecord()
        self.cut_off = ""
        quieten()
        pretrains = command == "pretrain"
        model_class = MaskedPretrainer if pretrains else PPGQualityClassifier
        super().__init__(
            model_class,
            PretrainDataModule if pretrains else BUTPPGDataModule,
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
        add_run_options(parser, self.command)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then let the checkpoint decide what the model is."""
        if "--help.trainer" in self.arguments:
            print(cast("TrainingParser", parser).format_help(trainer=True))
            raise SystemExit(0)
        self.config = parser.parse_args(merge_encoder(self.arguments))
        check_values(self.config, self.command, self.arguments)
        # what is written goes there even if somebody's callback changes the working directory
        self.output_dir = Path(self.config.output_dir).absolute()
        self.checkpoint = self._checkpoint_path()
        self._found = self._state()
        if self.checkpoint is not None:
            found = take_model(self.checkpoint, self.config.model, self.arguments, self.command)
            self.stored_shapes, self.stored_config, self.stored_step = found
        elif self.command == "fit" and self.config.model.get("pretrained") is None:
            say("no --model.pretrained: the encoder starts from random weights")

    def before_instantiate_classes(self) -> None:
        """Settle what is left open: precision, progress bar, logger, and where things go."""
        trainer = self.config.trainer
        if trainer.precision is None and not self.trains:
            trainer.precision = EXACT
        elif trainer.precision is None:
            trainer.precision, reason = precision_reason(str(trainer.accelerator))
            say(f"precision: {trainer.precision} (automatic: {reason})")
        elif str(trainer.precision).startswith("16") and not torch.cuda.is_available():
            say(f"precision: {trainer.precision} means bf16 where there is no CUDA device")
        trainer.default_root_dir = str(self.output_dir)
        if trainer.logger is None:
            trainer.logger = False
        if trainer.enable_progress_bar is None:
            trainer.enable_progress_bar = is_wanted()
        if self.trains and holds_run(self.output_dir):
            self._check_earlier_run()
        if self.trains and self.checkpoint is not None:
            self.stage_record.note = what_differs(self.checkpoint, self.stored_config, self.config)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer."""
        try:
            self.config_init = self.parser.instantiate(self._with_log_folder())
            self.datamodule = self.config_init["data"]
            self.model = self.config_init["model"]
            self.model.configure_model()  # before the trainer does: what is wrong with pretrained is said at once
            if self.trains and self.config.select == "last":
                self.datamodule.needs_validation = False
            self.trainer = self.instantiate_trainer()
        except (MisconfigurationException, TypeError, ValueError, ModuleNotFoundError) as error:
            raise UserError(one_line(str(error), [])) from error
        if self.stored_shapes is not None and self.checkpoint is not None:
            wanted = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
            if differing := sorted(key for key, _ in wanted.items() ^ self.stored_shapes.items()):
                raise UserError(
                    f"{self.checkpoint} does not fit the model it describes ({differing[0]}): it is damaged; "
                    "take another checkpoint of the run, or train again with --overwrite"
                )
            if self.checkpoint.suffix == SUFFIX:  # the trainer could not read it
                content = read_portable(self.checkpoint)
                self.model.load_state_dict(content["state_dict"])
                take_stored(self.model.network, content, self.checkpoint)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run folder (when training) and atomic checkpoints."""
        plugins = [*_listed(self.config_init.trainer.get("plugins")), AtomicCheckpointIO()]
        callbacks = _listed(self.config_init.trainer.get("callbacks"))
        if self.trains and not self.config.trainer.fast_dev_run:
            config = {**self.plain_config(), "versions": versions()}
            kind = PRETRAINING if self.command == "pretrain" else FINETUNING
            overwrite, every = bool(self.config.overwrite), self.config.save_every_n_steps
            each = self.config.save_every_epoch
            self.run_folder = RunFolder(self.output_dir, config, kind, overwrite, every, self.config.select, each)
            record = DataRecord(self.datamodule.root, self.run_folder.config)
            loggers = build_loggers(_listed(self.config.loggers), self.output_dir, self.stored_step)
            if loggers:
                kwargs["logger"] = [*_listed(self.config_init.trainer.get("logger")), *loggers]
            anew = self.checkpoint is None and bool(loggers or overwrite)
            steps = StepLog(self.output_dir / LOGS, anew)
            callbacks += [ExactResume(), self.stage_record, steps, record, self.run_folder]
        else:
            callbacks.append(self.stage_record)
            kwargs["enable_checkpointing"] = False
        if self.config.trainer.enable_progress_bar and not any(isinstance(item, ProgressBar) for item in callbacks):
            callbacks.append(RunProgress())
        try:
            trainer = super().instantiate_trainer(plugins=plugins, callbacks=callbacks, **kwargs)
        except RuntimeError as error:  # of SLURM's settings
            raise UserError(one_line(str(error), [])) from error
        refuse_other_launch(trainer)
        trainer._checkpoint_connector = LastCheckpoint(trainer)
        if self.trains:  # before their own hooks fail in ways that nobody understands
            refuse_conflicts(trainer, STAGED if self.command == "fit" else ANYWHERE)
        return trainer

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the run's folder, and refuse what another run did there since it was looked at; once for all ranks."""
        if self.config.trainer.fast_dev_run or not self.trainer.is_global_zero:
            yield
            return
        with claim(self.output_dir):
            if self._state() != self._found:
                raise UserError(f"another run has just been at work in {self.shown()}; start this one again")
            yield

    def train(self) -> None:
        """Fit, from the checkpoint if there is one; a signal ends it with a StoppedError."""
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        try:
            with resources_reported(self.config, self.stage_record):
                self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True)
        except SIGTERMException:
            raise StoppedError(f"stopped by SIGTERM; {self._go_on()}", 128 + signal.SIGTERM) from None
        except (SystemExit, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit of its own
            raise StoppedError(f"interrupted; {self._go_on()}", 128 + signal.SIGINT) from None
        except (MisconfigurationException, ValueError) as error:
            if isinstance(error, ValueError) and "val_check_interval" not in str(error):
                raise
            raise UserError(one_line(str(error), [])) from error

        if not self.config.trainer.fast_dev_run:
            self.cut_off = cut_off(self.trainer, self.run_folder.epochs)
        self.trainer.loggers = []  # what is validated and tested after it is not part of the run

    def require_epoch(self) -> None:
        """Refuse to go on where nothing was trained."""
        if not self.trainer.global_step or not (self.output_dir / LAST).is_file():
            raise UserError(
                "no epoch was completed, so there is no model; see limit_train_batches, max_steps and max_time"
            )

    def report_cut(self) -> None:
        """Say that the plan was not completed, if so, and how to go on."""
        if self.cut_off:
            limit = {"max_steps": "-1", "max_time": "null"}
            lifted = [f"--trainer.{key}={none}" for key, none in limit.items() if f"trainer.{key}" in self.cut_off]
            say(f"warning: the run was cut off {self.cut_off}: there is no {FINAL}; {self._go_on(*lifted)}")

    def shown(self, name: str = "") -> Path:
        """Return the run's folder, or a file in it, as the user wrote it."""
        return Path(self.config.output_dir) / name

    def plain_config(self) -> dict[str, Any]:
        """Return the resolved configuration in plain types, as it can be given to --config again."""
        text = self.parser.dump(self.config, skip_unset=False, skip_link_targets=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        for key in ("config", "resume", "overwrite", "ckpt_path"):
            config.pop(key, None)
        # they follow from the folder and the terminal of the run at hand
        for key in ("default_root_dir", "enable_progress_bar"):
            config["trainer"].pop(key, None)
        return config

    def _checkpoint_path(self) -> Path | None:
        resume = self.config.get("resume")
        if resume and self.config.ckpt_path:
            raise UserError(f"--resume {resume} and --ckpt_path {self.config.ckpt_path} both name a start; give one")
        if resume == "auto":
            return newest_state(self.output_dir)
        if not resume and not self.config.ckpt_path:
            return None
        path = locate(resume or self.config.ckpt_path)
        if not path.is_file():
            hint = "--resume auto takes the run's last.ckpt" if resume else "`butppg fit` leaves best_model.pt in a run"
            raise UserError(f"checkpoint {path} not found; {hint}")
        return path

    def _go_on(self, *limits: str) -> str:
        """Return how to continue the run, as a command."""
        words = [*without(self.given, "--resume", "--ckpt_path", "--overwrite"), "--resume", "auto", *limits]
        return f"continue with: {suggestion(self.command, *words)}"

    def _state(self) -> dict[str, tuple[int, int]]:
        """Return what tells whether another run has written into the folder."""
        found = ((name, self.output_dir / name) for name in RUN_FILES)
        return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in found if path.exists()}

    def _check_earlier_run(self) -> None:
        continued = self.checkpoint is not None and self.checkpoint.resolve().parent == self.output_dir.resolve()
        if continued and self.config.overwrite:
            raise UserError(f"--overwrite would remove {self.checkpoint}, from which the run continues; drop one")
        if self.config.resume == "auto" and self.checkpoint is None and set(self._found) <= {CONFIG}:
            return  # it was ended before its first checkpoint, and begins again
        if not continued and not self.config.overwrite:
            way = "continue it with --resume auto, " if newest_state(self.output_dir) else ""
            raise UserError(
                f"{self.shown()} already holds a run; {way}replace it with --overwrite, or choose another --output_dir"
            )

    def _with_log_folder(self) -> Namespace:
        """Return the configuration with loggers that write into the run's folder, unless it says where."""
        config: Namespace = self.config.clone()
        for logger in _listed(config.trainer.get("logger")) if self.trains else []:
            arguments = logger.get("init_args") if isinstance(logger, Namespace | dict) else None
            if arguments and "save_dir" in arguments and arguments["save_dir"] in _ELSEWHERE:
                arguments["save_dir"] = str(self.output_dir / LOGS)
        return config


def _listed(given: Any) -> list[Any]:
    """Return what a configuration gives, one or several, as a list."""
    return list(given) if isinstance(given, list) else [given] if given else []
