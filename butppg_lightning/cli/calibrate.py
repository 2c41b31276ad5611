"""`butppg calibrate`: probabilities that mean what they say, and thresholds that keep a promise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from butppg_lightning.cli.checks import DEFAULT_CHECKPOINT, require_at_least, require_checkpoint, restored
from butppg_lightning.console import print_table, progress_bar, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import refuse_existing, require_writable
from butppg_lightning.models.calibration import OPERATING_POINTS, Calibration, stored_calibration
from butppg_lightning.shipped import SUMS, WEIGHTS

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

_FINEST = 5e-7  # `predict` writes six decimals: 0.000000 and 1.000000 are closer to the ends than this
_FIGURES = {
    "log loss": "loss",
    "Brier score": "brier",
    "ECE (equal mass)": "ece",
    "  if perfectly calibrated": "ece_if_calibrated",
    "ECE, debiased": "ece_debiased",
    "calibration slope (ideal 1)": "calibration_slope",
    "calibration intercept (ideal 0)": "calibration_intercept",
    "AUROC (never changed)": "auroc",
}


def calibrate(
    *,
    checkpoint: Path = DEFAULT_CHECKPOINT,
    data_dir: Path | None = None,
    split: Literal["train", "val", "test"] = "val",
    predictions: Path | None = None,
    method: Literal["platt", "temperature"] = "platt",
    precision: float = 0.95,
    sensitivity: float = 0.9,
    output: Path | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
) -> None:
    """Fit temperature, bias and thresholds on windows the model was not trained on, and store them in the checkpoint.

    Args:
        checkpoint: best_model.pt of `butppg fit`, an exported model, or shipped: the package's gate.
        data_dir: Folder with the labelled split.
        split: The split of --data_dir; not one the model was trained on.
        predictions: In place of --data_dir: a CSV with label, and probability or logit.
        method: platt fits temperature and bias, temperature no bias.
        precision: Share of good windows among those called good, to promise.
        sensitivity: Share of the good windows to keep, to promise.
        output: What to write, of the same kind (.safetensors for an exported model); default: --checkpoint itself,
            which needs --overwrite and must not be the package's gate.
        batch_size: Windows per forward pass.
        overwrite: Replace the checkpoint and the diagram.

    Raises:
        UserError: If an option is wrong, a file cannot be used, or results exist.

    Example:
        butppg calibrate --checkpoint artifacts/but_ppg_finetuned/best_model.pt --data-dir data/but_ppg --overwrite
    """
    _check(data_dir, predictions, batch_size, precision=precision, sensitivity=sensitivity)
    checkpoint = require_checkpoint(checkpoint)
    target, picture = _targets(checkpoint, output, overwrite)
    from butppg_lightning.evaluation.calibration import fit_calibration, too_few, write_calibration
    from butppg_lightning.extras import require
    from butppg_lightning.models.checkpoints import read_stored, require_classifier

    require("matplotlib.figure", "the reliability diagram", "evaluation")
    require_writable(target.parent)
    content = read_stored(checkpoint)
    before = stored_calibration(content, checkpoint)
    if predictions is not None:
        require_classifier(checkpoint, content)
        labels, logits, source = _from_predictions(predictions, checkpoint, before)
    elif data_dir is not None:
        labels, logits, source = _from_windows(checkpoint, data_dir, split, batch_size)
    if few := too_few(labels):
        say(f"note: {few}: temperature and thresholds are uncertain")
    promised = {"precision": precision, "sensitivity": sensitivity}
    after = fit_calibration(labels, logits, source, bias=method == "platt", **promised)
    _draw(picture, labels, logits, before, after)
    write_calibration(checkpoint, target, after)
    _show(labels, logits, before, after)
    print(f"Results: {target}, {picture}")


def _targets(checkpoint: Path, output: Path | None, overwrite: bool) -> tuple[Path, Path]:
    """Return the model to write and the picture; an exported folder, whose card states thresholds, is left as it is."""
    target, suffix = output or checkpoint, Path(WEIGHTS).suffix
    if (target.parent / SUMS).is_file():
        raise UserError(f"{target.parent} is left as it was exported; name --output, for example mine.safetensors")
    if target.suffix != checkpoint.suffix and suffix in (target.suffix, checkpoint.suffix):
        raise UserError(f"--output {target} is of another kind than {checkpoint}; end its name in {checkpoint.suffix}")
    picture = target.with_name(f"{target.stem}_reliability.png")
    description = [target.with_suffix(".json")] if target.suffix == suffix else []
    refuse_existing((target, *description, picture), overwrite)
    return target, picture


def _check(data_dir: Path | None, predictions: Path | None, batch_size: int, **shares: float) -> None:
    if (data_dir is None) == (predictions is None):
        raise UserError("give either --data_dir DIR (with --split) or --predictions P.csv to calibrate on")
    for name, share in shares.items():
        if not 0 < share < 1:
            raise UserError(f"--{name} is {share:g}; expected a share between 0 and 1, such as 0.9")
    require_at_least(1, batch_size=batch_size)


def _from_predictions(path: Path, checkpoint: Path, before: Calibration) -> tuple[Array, Array, str]:
    from butppg_lightning.evaluation.calibration import counted
    from butppg_lightning.evaluation.prediction_table import read_predictions

    labels, values, kind = read_predictions(path)
    source = f"{path}, {counted(labels)}"
    if kind == "logit":
        say(f"note: the logits of {path} are taken as the uncalibrated network's")
        return labels, values, source
    if clipped := int(((values < _FINEST) | (values > 1 - _FINEST)).sum()):
        say(f"note: {clipped} probabilities are 0 or 1 to six decimals; taken as {_FINEST:g} away from it")
    inside = np.clip(values, _FINEST, 1 - _FINEST)
    logits = np.log(inside) - np.log1p(-inside)
    known, taken = "is not calibrated", "an uncalibrated model's"
    if before.fitted:
        known, taken = "is calibrated", "calibrated by it, no --prior"
        logits = (logits - before.bias) * before.temperature
    say(f"note: {checkpoint} {known}; the probabilities of {path} are taken as {taken}")
    return labels, logits, source


def _from_windows(checkpoint: Path, data_dir: Path, split: str, batch_size: int) -> tuple[Array, Array, str]:
    from butppg_lightning.data.dataset import read_split
    from butppg_lightning.evaluation.calibration import counted
    from butppg_lightning.models.prediction import predict

    if split != "val":
        reason = {"train": "the model was trained on it", "test": "metrics on it will flatter"}[split]
        say(f"note: calibrated on {split}.npz: {reason}")
    network, *_ = restored(checkpoint)
    windows = read_split(data_dir, split, network.preprocess.channels, labelled=True)
    with progress_bar(f"windows of {split}.npz", len(windows)) as progress:
        predictions = predict(network, windows.batches(), batch_size=batch_size, progress=progress)
    labels = np.asarray(windows.windows.labels)
    return labels, predictions.logits.astype(np.float64), f"{data_dir / split}.npz, {counted(labels)}"


def _probabilities(calibration: Calibration, logits: Array) -> Array:
    import torch

    return calibration.probabilities(torch.from_numpy(logits)).double().numpy()


def _draw(picture: Path, labels: Array, logits: Array, before: Calibration, after: Calibration) -> None:
    from butppg_lightning.evaluation.reliability import Panel, draw_reliability

    titles = ("before (calibrated earlier)" if before.fitted else "before (uncalibrated)", "after, on the same windows")
    panels = []
    for title, calibration in zip(titles, (before, after), strict=True):
        cuts = {name: calibration.point(name).threshold for name in OPERATING_POINTS} if calibration.curve else None
        panels.append(Panel(title, labels, _probabilities(calibration, logits), cuts))
    draw_reliability(picture, panels)


def _show(labels: Array, logits: Array, before: Calibration, after: Calibration) -> None:
    from butppg_lightning.evaluation.metrics import compute_metrics

    figures = [compute_metrics(labels, _probabilities(calibration, logits)) for calibration in (before, after)]
    cells = [
        (title, *("undefined" if found[key] is None else f"{found[key]:.4f}" for found in figures))
        for title, key in _FIGURES.items()
    ]
    cells += [
        ("temperature", f"{before.temperature:.4g}", f"{after.temperature:.4g}"),
        ("bias", f"{before.bias:+.4g}", f"{after.bias:+.4g}"),
    ]
    print_table(f"Calibration on {after.source}; both columns on these same windows", ("", "before", "after"), cells)
    rows = []
    for name in OPERATING_POINTS:
        point = after.point(name)
        earlier = before.point(name).threshold if before.curve else 0.5
        shares = (point.sensitivity, 1 - point.false_positive_rate, point.precision)
        rows.append((name, f"{earlier:.4f}", f"{point.threshold:.4f}", *(f"{share:.1%}" for share in shares)))
        if point.remark:
            say(f"note: {point.remark}")
    columns = ("operating point", "threshold before", "threshold", "sensitivity", "specificity", "precision")
    print_table(f"Thresholds where {after.prior:.1%} of the windows are good (--prior shifts them)", columns, rows)
