"""`butppg fit`, `validate`, `test` and `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from butppg_lightning.cli.messages import resources_reported
from butppg_lightning.cli.training import TrainingCLI
from butppg_lightning.console import print_table, quoted, say
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.calibration import counted, describe, fit_calibration, too_few, write_calibration
from butppg_lightning.evaluation.metrics import metric_rows
from butppg_lightning.evaluation.prediction_table import ppg_reasons, write_predictions
from butppg_lightning.files import require_writable, write_json
from butppg_lightning.models.calibration import Calibration, stored_calibration
from butppg_lightning.models.checkpoints import read_checkpoint, read_stored
from butppg_lightning.shipped import SHIPPED, SUFFIX
from butppg_lightning.training.run_folder import BEST, CUT_OFF, TEST_METRICS
from butppg_lightning.window import CHANNELS, channel_names


def fit(arguments: list[str]) -> None:
    """Fine-tune, then write the final model, calibrate and test the best one and write its metrics."""
    cli = TrainingCLI("fit", arguments)
    data, best = cli.datamodule, cli.config.select == "best"
    if best and not cli.config.test and data.has("test") and not data.has("val"):
        raise UserError(f"--test false, but {data.root} has no val.npz: test.npz would choose the best model")
    stages = [cli.config.stages, *(cli.config.stages.plan or [])]
    if not best and not data.has("val") and any(stage.get("patience") is not None for stage in stages):
        raise UserError(f"stages.patience waits for better validation metrics, but {data.root} has no val.npz; drop it")
    with cli.claimed():
        cli.train()
        if not cli.config.trainer.fast_dev_run:
            _finish(cli)


def validate(arguments: list[str]) -> None:
    """Print the validation metrics of a checkpoint."""
    cli = TrainingCLI("validate", arguments)
    _need_checkpoint(cli)
    _measure(cli, "validate", cli.checkpoint)
    metrics = {name.removeprefix("val_"): float(value) for name, value in cli.trainer.callback_metrics.items()}
    metrics = {"accuracy" if name == "acc" else name: value for name, value in metrics.items()}
    _show(cli, metrics, f"Validation metrics of {cli.checkpoint}")


def test(arguments: list[str]) -> None:
    """Print the test metrics of a checkpoint; the run's own files stay as they are."""
    cli = TrainingCLI("test", arguments)
    _need_checkpoint(cli)
    if cli.config.subsets:
        _test_subsets(cli)
    else:
        _show(cli, _test(cli, cli.checkpoint), f"Test metrics of {cli.checkpoint}")


def predict(arguments: list[str]) -> None:
    """Write predictions.csv: window, subject, label, probability, verdict, reason."""
    cli = TrainingCLI("predict", arguments)
    _need_checkpoint(cli)
    require_writable(cli.output_dir)
    if cli.trainer.world_size > 1:
        raise UserError("predict writes one file from one process; add --trainer.devices 1")
    batches = _measure(cli, "predict", cli.checkpoint)
    if not batches:
        raise UserError("nothing was predicted; see trainer.limit_predict_batches")
    rows, probabilities, faults = (
        np.concatenate([batch[key] for batch in batches]) for key in ("index", "probability", "faults")
    )
    path, windows = cli.output_dir / "predictions.csv", cli.datamodule.splits["predict"].windows
    write_predictions(
        path,
        probabilities,
        cli.model.threshold(),
        labels=windows.labels[rows],
        subjects=None if windows.subjects is None else windows.subjects[rows],
        reasons=ppg_reasons(cli.model.channels, faults),
        rows=rows,
    )
    print(f"{path}: {len(rows)} windows of {cli.datamodule.predict_split}.npz; {_cut(cli)}")


def _finish(cli: Any) -> None:
    """Write what a finished run leaves behind; doing it twice changes nothing."""
    folder, data = cli.output_dir, cli.datamodule
    cli.require_epoch()
    if cli.trainer.is_global_zero:
        cli.run_folder.finish(cli.cut_off)
        cli.stage_record.print_summary(cli.run_folder.history)
    cli.trainer.strategy.barrier()
    calibration = _calibrate(cli, folder / BEST)
    selected_on_test = data.selected_on_test
    metrics = _test(cli, folder / BEST) if cli.config.test and data.has("test") else None
    if not cli.trainer.is_global_zero:
        return
    if metrics is None:
        why = f"no test.npz in {data.root}" if cli.config.test else "not tested (--test false)"
        print(f"{why}: no {TEST_METRICS} is written")
    else:
        cut = {"operating_point": "balanced", "calibrated_on": calibration.source} if calibration.fitted else {}
        ended = {CUT_OFF: cli.cut_off} if cli.cut_off else {}
        write_json(folder / TEST_METRICS, {**metrics, **cut, "selected_on_test": selected_on_test, **ended})
        _show(cli, metrics, f"Test metrics of {cli.shown(BEST)}")
    print(f"Results: {cli.shown()}")
    cli.report_cut()


def _calibrate(cli: Any, best: Path) -> Calibration:
    """Fit a calibration on the validation predictions of the best model and store it in its file, once.

    ``last.ckpt`` may be another name of that file: it is replaced, not written into, so that the run's state stays as
    it is and a resumed run calibrates the same weights the same way.
    """
    calibration = stored_calibration(read_checkpoint(best), best)
    data = cli.datamodule
    if calibration.fitted or not cli.config.calibrate:
        return calibration
    why = "there is no val.npz (butppg calibrate takes out-of-fold predictions: --predictions FILE)"
    if data.has("val"):
        why = too_few(data.splits["val"].windows.labels)
    if not why:
        cli.model.predictions.clear()
        _measure(cli, "validate", best)
        labels, logits, _ = cli.model.predictions.gather()
        why = too_few(labels)  # limit_val_batches
    if not why:
        source = f"val.npz of {data.root}, {counted(labels)}"
        source += ", which selected the model" if cli.config.select == "best" else ""
        try:
            calibration = fit_calibration(labels, logits, source)
        except UserError as error:
            why = str(error)
    if why and cli.trainer.is_global_zero:
        print(f"{BEST} is left uncalibrated: {why}")
    elif cli.trainer.is_global_zero:
        write_calibration(best, best, calibration)
        print(f"Calibrated {cli.shown(BEST)} on val.npz: {describe(calibration)}")
    cli.trainer.strategy.barrier()
    return calibration


def _need_checkpoint(cli: Any) -> None:
    """Refuse to go on without a checkpoint, or with an operating point or prior that it does not offer; set them."""
    if cli.checkpoint is None:
        raise UserError(f"name the model: --ckpt_path {quoted(cli.shown(BEST))}, or --ckpt_path {SHIPPED}")
    prior, point = cli.config.prior, cli.config.operating_point
    if prior is not None or point is not None:
        stored_calibration(read_stored(cli.checkpoint), cli.checkpoint).point(point or "balanced", prior)
    cli.model.prior, cli.model.operating_point = prior, point or "balanced"


def _cut(cli: Any) -> str:
    """Return in words from which probability on a window is good; the checkpoint has been loaded by then."""
    calibration, model = cli.model.network.calibration, cli.model
    if calibration.curve is None:
        return "good from 0.5 on (the checkpoint is not calibrated)"
    point = calibration.point(model.operating_point, model.prior)
    assumed = "" if model.prior is None else f", prior {model.prior:g}"
    return f"good from {point.threshold:.4g} on (calibrated, operating point '{point.name}'{assumed})"


def _measure(cli: Any, verb: str, checkpoint: Path | None) -> Any:
    quiet = {} if verb == "predict" else {"verbose": False}
    # an exported model is loaded already
    path = None if checkpoint is not None and checkpoint.suffix == SUFFIX else str(checkpoint)
    with resources_reported(cli.config, cli.stage_record):
        return getattr(cli.trainer, verb)(
            cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True, **quiet
        )


def _test(cli: Any, checkpoint: Path | None) -> dict[str, Any]:
    _measure(cli, "test", checkpoint)
    metrics: dict[str, Any] | None = getattr(cli.model, "test_metrics", None)
    if metrics is None:
        raise UserError("nothing was tested; see trainer.limit_test_batches")
    return metrics


def _test_subsets(cli: Any) -> None:
    known = {"ALL": CHANNELS, "ACC": CHANNELS[:3]}
    asked = [names.upper().split("+") for names in cli.config.subsets]
    subsets = [channel_names([one for name in names for one in known.get(name, (name,))]) for names in asked]
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


def _show(cli: Any, metrics: dict[str, Any], title: str) -> None:
    if not cli.trainer.is_global_zero:
        return
    rows = metric_rows(metrics)
    columns = ("metric", "value", "95 % interval")[: 3 if any(interval for *_, interval in rows) else 2]
    print_table(f"{title}; {_cut(cli)}", columns, [row[: len(columns)] for row in rows])
