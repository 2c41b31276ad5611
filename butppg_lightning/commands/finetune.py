"""`butppg fit`, `validate`, `test` and `predict`."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from butppg_lightning.callbacks.run_folder import BEST, LAST, TEST_METRICS
from butppg_lightning.commands.training import TrainingCLI
from butppg_lightning.console import print_table
from butppg_lightning.data.finetune import BUTPPGDataModule
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, require_writable, write_json
from butppg_lightning.tasks.classifier import PPGQualityClassifier
from butppg_lightning.window import CHANNELS, channel_names


def fit(arguments: list[str]) -> None:
    """Fine-tune, then write the final model, test the best one and write its metrics."""
    cli = _build("fit", arguments)
    if cli.model.load_report is not None and cli.trainer.is_global_zero:
        print(cli.model.load_report)
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
    cli.trainer.strategy.barrier()
    if not cli.datamodule.has("test"):
        if cli.trainer.is_global_zero:
            print(f"no test.npz in {cli.datamodule.root}: no {TEST_METRICS} is written")
            print(f"Results: {folder}")
        return
    selected_on_test = cli.datamodule.selected_on_test
    metrics = _test(cli, folder / BEST)
    if cli.trainer.is_global_zero:
        write_json(folder / TEST_METRICS, {**metrics, "selected_on_test": selected_on_test})
        _show(metrics, f"Test figures of {folder / BEST}")
        print(f"Results: {folder}")


def validate(arguments: list[str]) -> None:
    """Print the validation figures of a checkpoint."""
    cli = _build("validate", arguments)
    _need_checkpoint(cli)
    cli.trainer.validate(
        cli.model, datamodule=cli.datamodule, ckpt_path=str(cli.checkpoint), verbose=False, weights_only=True
    )
    figures = {name.removeprefix("val_"): float(value) for name, value in cli.trainer.callback_metrics.items()}
    if cli.trainer.is_global_zero:
        _show({"accuracy" if name == "acc" else name: value for name, value in figures.items()}, "Validation figures")


def test(arguments: list[str]) -> None:
    """Print the test figures of a checkpoint; the run's own files stay as they are."""
    cli = _build("test", arguments)
    _need_checkpoint(cli)
    if cli.config.subsets:
        _test_subsets(cli, [_subset(words) for words in cli.config.subsets])
        return
    metrics = _test(cli, cli.checkpoint)
    if cli.trainer.is_global_zero:
        _show(metrics, f"Test figures of {cli.checkpoint}")


def predict(arguments: list[str]) -> None:
    """Write predictions.csv: window, subject, label, probability."""
    cli = _build("predict", arguments)
    _need_checkpoint(cli)
    require_writable(cli.output_dir)
    if cli.trainer.world_size > 1:
        raise UserError("predict writes one file from one process; add --trainer.devices 1")
    batches = cli.trainer.predict(
        cli.model, datamodule=cli.datamodule, ckpt_path=str(cli.checkpoint), weights_only=True
    )
    windows = cli.datamodule.splits["predict"].windows
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["window", "subject", "label", "probability"])
    count = sum(len(batch["index"]) for batch in batches or [])
    for batch in batches or []:
        for row, probability in zip(batch["index"].tolist(), batch["probability"].tolist(), strict=True):
            subject = "" if windows.subjects is None else windows.subjects[row]
            table.writerow([row, subject, windows.labels[row], f"{probability:.6f}"])
    path = cli.output_dir / "predictions.csv"
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
    print(f"{path}: {count} windows of {cli.datamodule.predict_split}.npz")


def _build(command: str, arguments: list[str]) -> Any:
    return TrainingCLI(command, PPGQualityClassifier, BUTPPGDataModule, arguments)


def _need_checkpoint(cli: TrainingCLI) -> None:
    if cli.checkpoint is None:
        raise UserError(f"name the model: --ckpt_path {cli.output_dir / BEST}")


def _test(cli: Any, checkpoint: Path) -> dict[str, Any]:
    cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=str(checkpoint), verbose=False, weights_only=True)
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
    rows = []
    for names in subsets:
        cli.datamodule.use_channels = names
        metrics = _test(cli, cli.checkpoint)
        shown = [("undefined" if metrics[key] is None else f"{metrics[key]:.4f}") for key in ("auroc", "auprc", "mcc")]
        interval = metrics["auroc_ci95"]
        shown[0] += f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        rows.append((" ".join(names), *shown, f"{metrics['accuracy']:.2f} %"))
    if cli.trainer.is_global_zero:
        majority = f"{metrics['majority_accuracy']:.2f} %"
        title = f"Test figures of {cli.checkpoint} by channels (a constant answer scores {majority} accuracy)"
        print_table(title, ("channels used", "auroc", "auprc", "mcc", "accuracy"), rows)


def _show(metrics: dict[str, Any], title: str) -> None:
    rows = []
    units = {"accuracy", "class_0_acc", "class_1_acc", "majority_accuracy"}
    for key, value in metrics.items():
        if key.endswith("_ci95"):
            continue
        shown = "undefined" if value is None or value != value else f"{value:.2f} %" if key in units else f"{value:.4f}"
        interval = metrics.get(f"{key}_ci95")
        rows.append((key, shown, f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""))
    print_table(title, ("figure", "value", "95 % interval"), rows)
