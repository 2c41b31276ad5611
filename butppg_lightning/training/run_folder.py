"""What a run leaves behind: checkpoints, configuration and history, in one folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from butppg_lightning.console import say
from butppg_lightning.data.features import remove_features
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, require_writable, write_json
from butppg_lightning.training.interruptions import LAST, Requeue, newest_state, remove_foreign_states
from butppg_lightning.training.provenance import DATA_FILES
from butppg_lightning.training.selection import QUALITY, RECONSTRUCTION, EpochFigures, Monitor, Selection
from butppg_lightning.training.staged_unfreezing import stage_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningModule, Trainer

BEST, FINAL = "best_model.pt", "final_model.pt"
CONFIG, HISTORY, TEST_METRICS = "training_config.json", "training_history.json", "test_metrics.json"
SETTINGS = "config.yaml"
CACHE = "cache"
"""Name of the folder in a run's folder that holds stored features while it goes on."""
RUN_FILES = (BEST, FINAL, LAST, CONFIG, HISTORY, TEST_METRICS, SETTINGS)
CUT_OFF = "cut_off"
"""Key of a history and of test metrics that says where a limit ended the run, and which; absent for a whole run."""

# what may differ in a continued run, which is then the one that it became
_LIMITS = ("max_epochs", "max_steps", "max_time")

_SHOWN = ("train_loss", "train_acc", "val_loss", "val_acc", "val_auroc", "val_msm")


@dataclass(frozen=True)
class Record:
    """What a kind of run writes down."""

    monitors: tuple[Monitor, ...]  # what the best epoch is chosen by, as Selection does
    history: dict[str, str]  # history key to metric name, one value per epoch each
    metrics: dict[str, str]  # key in a checkpoint's ``metrics`` to metric name


_QUALITY_METRICS = ("auroc", "auprc", "f1", "mcc", "ece")
FINETUNING = Record(
    monitors=QUALITY,
    history={
        **{name: name for name in ("train_loss", "train_acc", "val_loss", "val_acc")},
        **{f"val_{name}": f"val_{name}" for name in _QUALITY_METRICS},
    },
    metrics={
        **{"loss": "val_loss", "accuracy": "val_acc"},
        **{name: f"val_{name}" for name in ("class_0_acc", "class_1_acc", *_QUALITY_METRICS)},
    },
)
_VALIDATION = {name: name for name in ("val_loss", "val_msm", "val_stft", "val_msm_ppg", "val_msm_ecg")}
PRETRAINING = Record(
    monitors=RECONSTRUCTION,
    history={**{name: f"train_{name}" for name in ("loss", "msm", "stft")}, **_VALIDATION},
    metrics={"train_loss": "train_loss", **_VALIDATION},
)


class RunFolder(EpochFigures, Checkpoint):
    """Keeps a run's folder up to date after every epoch.

    ``last.ckpt`` is the state after the last epoch, ``best_model.pt`` after the best one; both are ordinary
    Lightning checkpoints with the guide's keys (epoch, model_state_dict, optimizer_state_dict, metrics, config)
    beside Lightning's. They share storage: the best one is a second name of the same file.

    Args:
        folder: The run's folder.
        config: The resolved configuration in plain types, for training_config.json and the checkpoints.
        record: What to write down.
        overwrite: Remove an earlier run's files first.
        select: What ``best_model.pt`` is: the best epoch by the monitors, or the last one, whatever its figures.
        every_n_steps: Also write ``last.ckpt`` every so many optimizer steps; None for at epochs' ends only.
        every_epoch: Write ``last.ckpt`` after every epoch; else at the end only, and an interrupted run starts afresh.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        record: Record,
        overwrite: bool = False,
        every_n_steps: int | None = None,
        select: Literal["best", "last"] = "best",
        every_epoch: bool = True,
    ) -> None:
        super().__init__()
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"save_every_n_steps is {every_n_steps}; expected at least 1")
        self.folder, self.config, self.record = folder, dict(config), record
        self.best_path = folder / BEST
        self.overwrite, self.every_n_steps, self.select = overwrite, every_n_steps, select
        self.every_epoch = every_epoch
        self._step = 0
        self._cut = self._stopping = False  # within an epoch; at the end of the step
        self._requeue = Requeue()
        self.history: dict[str, list[Any]] = {}
        self.best = Selection(record.monitors)
        self._latest: dict[str, float | None] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prove that the folder can be written, and that some epoch will be validated; else a UserError says so."""
        if stage != "fit":
            return
        every, epochs = trainer.check_val_every_n_epoch or 1, trainer.max_epochs or 0
        if self.select == "best" and every > epochs >= 1:
            raise UserError(
                f"trainer.check_val_every_n_epoch is {every}, but trainer.max_epochs {epochs}: no epoch would be "
                "validated, so none could be chosen; validate more often, or take the last epoch with --select last"
            )
        if trainer.is_global_zero:
            require_writable(self.folder)

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the best epoch so far, in plain types."""
        return {"config": self.config, "history": self.history, "best": self.best.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the stored history."""
        limits = {key: value for key, value in self.config.get("trainer", {}).items() if key in _LIMITS}
        self.config.clear()  # the same object: others write into it
        self.config.update(state_dict["config"])
        self.config["trainer"] = {**self.config.get("trainer", {}), **limits}
        self.history = {key: list(values) for key, values in state_dict["history"].items()}
        self.best.load_state_dict(state_dict["best"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove an earlier run's features; the check before training stores the first of this one's."""
        if self.overwrite and trainer.is_global_zero:
            remove_features(self.folder / CACHE)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace an earlier run only now, when data, model and optimizer have passed their checks."""
        self._step = trainer.global_step
        self._refuse_early_validation(trainer)
        if trainer.is_global_zero:
            for name in RUN_FILES:
                # a killed process leaves what it was writing under a temporary name
                for half in self.folder.glob(f".{name}.*"):
                    shutil.rmtree(half) if half.is_dir() else half.unlink()
                # what stands for the end of a run goes from one that goes on, too
                if self.overwrite or name in (FINAL, TEST_METRICS):
                    (self.folder / name).unlink(missing_ok=True)
            if self.overwrite:
                remove_foreign_states(self.folder)
            # a resumed run keeps the words it was started with (they name the pretrained encoder)
            write_json(self.folder / CONFIG, self.config)
        self._requeue.defer(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write ``last.ckpt`` between epochs' ends, right after an optimizer step (gradients are not stored)."""
        stepped = trainer.global_step != self._step
        self._step = trainer.global_step
        last = batch_idx + 1 >= trainer.num_training_batches
        if trainer.should_stop and not stepped and not last:
            trainer.should_stop, self._stopping = False, True
        elif self._stopping:
            trainer.should_stop = True
        # the epoch's last batch is followed by validation and by the save at the epoch's end
        if last or not stepped:
            return
        loop = trainer.fit_loop
        self._cut = 0 <= loop.max_steps <= self._step or (trainer.should_stop and loop._can_stop_early)
        every = self.every_n_steps is not None and self._step % self.every_n_steps == 0
        if self._cut or every or self._requeue.due:
            trainer.save_checkpoint(self.folder / LAST)
            self._requeue.now()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Extend the history and write the checkpoints; an epoch that a limit cut off is gone on with, not counted."""
        if self._cut:
            return
        self._latest = self.take_figures(trainer)
        best = self._is_best(trainer)
        self._validated = False
        for key, name in self.record.history.items():
            self.history.setdefault(key, []).append(self._latest.get(name))
        if (stage := stage_name(trainer)) is not None:
            self.history.setdefault("stage", []).append(stage)
        saves = self.every_epoch or _is_last_epoch(trainer) or (best and self.select == "best")
        if saves:  # the best one first: a crash between the two is then made good by running the epoch again
            trainer.save_checkpoint(self.folder / (BEST if best else LAST))
        if trainer.is_global_zero:
            if saves and best:
                same_file(self.best_path, self.folder / LAST)
            write_json(self.folder / HISTORY, self.history)
            remove_foreign_states(self.folder)
            pl_module.print(self._line(trainer, best))
        self._requeue.now()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the guide's keys; tensors are shared with Lightning's own entries and stored once."""
        network = {key.removeprefix("network."): value for key, value in checkpoint["state_dict"].items()}
        checkpoint["model_state_dict"] = network
        if checkpoint.get("optimizer_states"):
            checkpoint["optimizer_state_dict"] = checkpoint["optimizer_states"][0]
        checkpoint["metrics"] = {key: self._latest.get(name) for key, name in self.record.metrics.items()}
        checkpoint["config"] = self.config
        checkpoint["stage"] = stage_name(trainer)

    @property
    def epochs(self) -> int:
        """How many epochs are behind."""
        return len(next(iter(self.history.values()), []))

    def finish(self, cut_off: str = "") -> None:
        """Write what a finished run has besides: final_model.pt, the whole history, and the settings for --config.

        One that was ``cut_off`` has no final model, and its history says so.
        """
        if not self.best_path.is_file():
            kept = "validated" if self.every_epoch else "kept"
            say(f"warning: the run ended before any epoch was {kept}: {BEST} is the last epoch's")
            same_file(self.folder / LAST, self.best_path)
        if not cut_off:
            same_file(self.folder / LAST, self.folder / FINAL)
        write_json(self.folder / HISTORY, {**self.history, **({CUT_OFF: cut_off} if cut_off else {})})
        settings = {key: value for key, value in self.config.items() if key not in ("versions", DATA_FILES)}
        with atomic_write(self.folder / SETTINGS) as file:
            yaml.safe_dump(settings, file, sort_keys=False, allow_unicode=True, encoding="utf-8")

    def _refuse_early_validation(self, trainer: Trainer) -> None:
        batches, every = trainer.num_training_batches, trainer.val_check_batch
        if self.select == "best" and trainer.enable_validation and (every is None or batches % every):
            raise UserError(
                "trainer.val_check_interval leads to a validation before the epoch's end, whose weights are kept: the "
                f"best could not be chosen by its own figures; take one that divides the {batches} batches, or "
                "--select last"
            )

    def _is_best(self, trainer: Trainer) -> bool:
        if self.select == "last":
            self.best.epoch = trainer.current_epoch
            return True
        # epochs are compared by validation figures, where the run has validation
        if trainer.enable_validation and not self._validated:
            return False
        first = self.best.monitor is None
        best = self.best.update(self._latest, trainer.current_epoch)
        if first and self.best.monitor not in (None, self.record.monitors[0]):
            rank_zero_warn(
                f"{self.record.monitors[0][0]} is undefined here (no validation data, or a single class in it): "
                f"the best model is chosen by {self.best.monitor[0]}"
            )
        return best

    def _line(self, trainer: Trainer, best: bool) -> str:
        shown = [
            f"{key} {value:.2f} %" if key.endswith("acc") else f"{key} {value:.4f}"
            for key in _SHOWN
            if (value := self._latest.get(key)) is not None
        ]
        stage = self.history["stage"][-1] + "  " if "stage" in self.history else ""
        mark = "  (best so far)" if best and self.select == "best" else ""
        return f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {stage}{'  '.join(shown)}{mark}"


def holds_run(folder: Path) -> bool:
    """Return whether ``folder`` holds any file of a run."""
    return any((folder / name).exists() for name in RUN_FILES) or newest_state(folder) is not None


def same_file(source: Path, target: Path) -> None:
    """Give ``source`` the second name ``target`` in one step, or copy it where the file system has no links."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        temporary = Path(folder) / target.name
        try:
            os.link(source, temporary)
        except OSError:
            try:
                shutil.copyfile(source, temporary)
            except OSError as error:
                reason = f"{error.strerror}; free space or choose another folder"
                raise UserError(f"cannot write {target}: {reason}") from error
        temporary.replace(target)


def _is_last_epoch(trainer: Trainer) -> bool:
    """Return whether the run ends with the epoch that has just been trained; all other callbacks have had their say."""
    planned = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
    return planned or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
