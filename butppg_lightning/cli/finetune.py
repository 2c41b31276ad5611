"""`butppg fit`, `validate`, `test` and `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.cli import LightningArgumentParser

from butppg_lightning.cli.training import TrainingCLI
from butppg_lightning.console import print_table, say
from butppg_lightning.data.finetune import BUTPPGDataModule
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.calibration import describe, fit_calibration, too_few, write_calibration
from butppg_lightning.evaluation.metrics import metric_rows
from butppg_lightning.evaluation.prediction_table import ppg_reasons, write_predictions
from butppg_lightning.files import require_writable, write_json
from butppg_lightning.models.calibration import Calibration, stored_calibration
from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.tasks.classifier import PPGQualityClassifier
from butppg_lightning.training.run_folder import BEST, LAST, TEST_METRICS
from butppg_lightning.window import CHANNELS, channel_names


class FinetuneCLI(TrainingCLI):
    """Parses a command of the classifier: what every training command has, and calibration."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the calibration's options."""
        super().add_arguments_to_parser(parser)
        if self.command == "fit":
            parser.add_argument(
                "--calibrate", type=bool, default=True, help="Calibrate best_model.pt on val.npz after the training."
            )
            parser.add_argument(
                "--test", type=bool, default=True, help="Test best_model.pt on test.npz after the training."
            )
            return
        parser.add_argument(
            "--prior", type=float | None, default=None, help="Share of good windows to expect: shifts probabilities."
        )
        parser.add_argument(
            "--operating_point",
            type=Literal["balanced", "precision", "sensitivity"] | None,
            default=None,
            help="Which of a calibrated checkpoint's thresholds decides; null for balanced (0.5 if not calibrated).",
        )


def fit(arguments: list[str]) -> None:
    """Fine-tune, then write the final model, calibrate and test the best one and write its metrics."""
    cli = _build("fit", arguments)
    data = cli.datamodule
    if cli.config.select == "best" and not cli.config.test and data.has("test") and not data.has("val"):
        raise UserError(f"--test false, but {data.root} has no val.npz: test.npz would choose the best model")
    waits = cli.config.get("stages.patience") is not None
    waits = waits or any(stage.get("patience") is not None for stage in cli.config.get("stages.plan") or [])
    if waits and cli.config.select == "last" and not data.has("val"):
        raise UserError(f"stages.patience waits for better validation metrics, but {data.root} has no val.npz; drop it")
    cli.train()
    if not cli.config.trainer.fast_dev_run:
        finish(cli)


def finish(cli: TrainingCLI) -> None:
    """Write what a finished run leaves behind; doing it twice changes nothing."""
    folder = cli.output_dir
    if not (folder / LAST).is_file():
        raise UserError("no epoch was completed, so there is no model; see trainer.limit_train_batches and max_time")
    if cli.trainer.is_global_zero:
        cli.run_folder.finish()
        cli.stage_record.print_summary(cli.run_folder.history)
    cli.trainer.strategy.barrier()
    calibration = _calibrate(cli, folder / BEST)
    if not cli.config.test or not cli.datamodule.has("test"):
        if cli.trainer.is_global_zero:
            why = f"no test.npz in {cli.datamodule.root}" if cli.config.test else "not tested (--test false)"
            print(f"{why}: no {TEST_METRICS} is written")
            print(f"Results: {folder}")
        return
    selected_on_test = cli.datamodule.selected_on_test
    metrics = _test(cli, folder / BEST)
    if cli.trainer.is_global_zero:
        told_of = {"operating_point": "balanced", "calibrated_on": calibration.source} if calibration.fitted else {}
        write_json(folder / TEST_METRICS, {**metrics, **told_of, "selected_on_test": selected_on_test})
        _show(metrics, f"Test metrics of {folder / BEST}; {_cut(cli)}")
        print(f"Results: {folder}")


def validate(arguments: list[str]) -> None:
    """Print the validation figures of a checkpoint."""
    cli = _build("validate", arguments)
    _need_checkpoint(cli)
    with cli.memory_told():
        cli.trainer.validate(
            cli.model, datamodule=cli.datamodule, ckpt_path=str(cli.checkpoint), verbose=False, weights_only=True
        )
    figures = {name.removeprefix("val_"): float(value) for name, value in cli.trainer.callback_metrics.items()}
    if cli.trainer.is_global_zero:
        _show(
            {"accuracy" if name == "acc" else name: value for name, value in figures.items()},
            f"Validation metrics of {cli.checkpoint}; {_cut(cli)}",
        )


def test(arguments: list[str]) -> None:
    """Print the test figures of a checkpoint; the run's own files stay as they are."""
    cli = _build("test", arguments)
    _need_checkpoint(cli)
    if cli.config.subsets:
        _test_subsets(cli, [_subset(words) for words in cli.config.subsets])
        return
    metrics = _test(cli, cli.checkpoint)
    if cli.trainer.is_global_zero:
        _show(metrics, f"Test metrics of {cli.checkpoint}; {_cut(cli)}")


def predict(arguments: list[str]) -> None:
    """Write predictions.csv: window, subject, label, probability, verdict, reason."""
    cli = _build("predict", arguments)
    _need_checkpoint(cli)
    require_writable(cli.output_dir)
    if cli.trainer.world_size > 1:
        raise UserError("predict writes one file from one process; add --trainer.devices 1")
    with cli.memory_told():
        batches = cli.trainer.predict(
            cli.model, datamodule=cli.datamodule, ckpt_path=str(cli.checkpoint), weights_only=True
        )
    windows = cli.datamodule.splits["predict"].windows
    if not batches:
        raise UserError("nothing was predicted; see trainer.limit_predict_batches")
    rows, probabilities, faults = (
        np.concatenate([batch[key] for batch in batches]) for key in ("index", "probability", "faults")
    )
    path, subjects = cli.output_dir / "predictions.csv", windows.subjects
    write_predictions(
        path,
        probabilities,
        cli.model.threshold(),
        labels=windows.labels[rows],
        subjects=None if subjects is None else subjects[rows],
        reasons=ppg_reasons(cli.model.channels, faults),
        rows=rows,
    )
    print(f"{path}: {len(rows)} windows of {cli.datamodule.predict_split}.npz; {_cut(cli)}")


def _build(command: str, arguments: list[str]) -> Any:
    return FinetuneCLI(command, PPGQualityClassifier, BUTPPGDataModule, arguments)


def _need_checkpoint(cli: Any) -> None:
    """Refuse to go on without a checkpoint, or with a cut that it does not offer; then tell the model of the cut."""
    if cli.checkpoint is None:
        raise UserError(f"name the model: --ckpt_path {cli.output_dir / BEST}")
    prior, point = cli.config.prior, cli.config.operating_point
    if prior is not None or point is not None:
        stored_calibration(read_checkpoint(cli.checkpoint), cli.checkpoint).point(point or "balanced", prior)
    cli.model.prior, cli.model.operating_point = prior, point or "balanced"


def _cut(cli: Any) -> str:
    """Return in words where probabilities are cut; the checkpoint has been loaded by then."""
    calibration, model = cli.model.network.calibration, cli.model
    if calibration.curve is None:
        return "good from 0.5 on (the checkpoint is not calibrated)"
    point = calibration.point(model.operating_point, model.prior)
    assumed = "" if model.prior is None else f", prior {model.prior:g}"
    return f"good from {point.threshold:.4g} on (calibrated, operating point '{point.name}'{assumed})"


def _calibrate(cli: Any, best: Path) -> Calibration:
    """Fit a calibration on the validation predictions of the best model and store it in its file, once.

    ``last.ckpt`` may be another name of that file: it is replaced, not written into, so that the run's state stays as
    it is and a resumed run calibrates the same weights the same way.
    """
    stored = stored_calibration(read_checkpoint(best), best)
    data = cli.datamodule
    if stored.fitted or not cli.config.calibrate:
        return stored
    if not data.has("val"):
        return _uncalibrated(
            cli, "there is no val.npz (`butppg calibrate --predictions` takes out-of-fold predictions)"
        )
    if few := too_few(data.splits["val"].windows.labels):
        return _uncalibrated(cli, few)
    cli.model.predictions.clear()
    with cli.memory_told():
        cli.trainer.validate(cli.model, datamodule=data, ckpt_path=str(best), verbose=False, weights_only=True)
    labels, logits, _ = cli.model.predictions.gather()
    if few := too_few(labels):  # limit_val_batches
        return _uncalibrated(cli, few)
    source = f"val.npz of {data.root}, {len(labels)} windows ({int(np.sum(labels))} good)"
    source += ", which selected the model" if cli.config.select == "best" else ""
    try:
        calibration = fit_calibration(labels, logits, source)
    except UserError as error:
        return _uncalibrated(cli, str(error))
    if cli.trainer.is_global_zero:
        write_calibration(best, best, calibration)
        print(f"Calibrated {best} on val.npz: {describe(calibration)}")
    cli.trainer.strategy.barrier()
    return calibration


def _uncalibrated(cli: Any, why: str) -> Calibration:
    if cli.trainer.is_global_zero:
        print(f"{BEST} is left uncalibrated: {why}")
    return Calibration()


def _test(cli: Any, checkpoint: Path) -> dict[str, Any]:
    with cli.memory_told():
        cli.trainer.test(
            cli.model, datamodule=cli.datamodule, ckpt_path=str(checkpoint), verbose=False, weights_only=True
        )
    metrics: dict[str, Any] | None = getattr(cli.model, "test_metrics", None)
    if metrics is None:
        raise UserError("nothing was tested; see trainer.limit_test_batches")
    return metrics


def _subset(words: str) -> tuple[str, ...]:
    names: list[str] = []
    for word in words.upper().split("+"):
        names += {"ALL": CHANNELS, "ACC": CHANNELS[:3]}.get(word, (word,))
    return channel_names(names)


def _test_subsets(cli: Any, subsets: list[tuple[str, ...]]) -> None:
    used = cli.model.network.used_channels
    tested: dict[tuple[str, ...], dict[str, Any]] = {}
    rows = []
    for names in subsets:
        read = tuple(name for name in used if name in names)
        if not read:
            raise UserError(f"--subsets {'+'.join(names)} leaves the model nothing: it uses {', '.join(used)}")
        if read not in tested:
            cli.datamodule.use_channels = names
            tested[read] = _test(cli, cli.checkpoint)
        metrics = tested[read]
        shown = [("undefined" if metrics[key] is None else f"{metrics[key]:.4f}") for key in ("auroc", "auprc", "mcc")]
        interval = metrics["auroc_ci95"]
        shown[0] += f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        rows.append((" ".join(names), *shown, f"{metrics['accuracy']:.2f} %"))
    if not cli.trainer.is_global_zero:
        return
    if len(tested) < len(subsets):
        say(f"note: the model uses {', '.join(used)} only; sets that agree in these channels have equal rows")
    majority = f"{metrics['majority_accuracy']:.2f} %"
    title = f"Test metrics of {cli.checkpoint} by channels (a constant answer scores {majority} accuracy)"
    print_table(title, ("channels used", "auroc", "auprc", "mcc", "accuracy"), rows)


def _show(metrics: dict[str, Any], title: str) -> None:
    rows = metric_rows(metrics)
    if any(interval for *_, interval in rows):
        print_table(title, ("metric", "value", "95 % interval"), rows)
    else:
        print_table(title, ("metric", "value"), [row[:2] for row in rows])
