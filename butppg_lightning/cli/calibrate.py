"""`butppg calibrate`: probabilities that mean what they say, and thresholds that keep a promise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.cli.parser import OneLineErrors, command_parser, parse
from butppg_lightning.console import print_table, progress_bar, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import require_writable
from butppg_lightning.models.calibration import OPERATING_POINTS, Calibration, stored_calibration

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

_FINEST = 5e-7  # `predict` writes six decimals: 0.000000 and 1.000000 are closer to the ends than this
_CLIPPED = "{count} probabilities are 0 or 1 to six decimals; taken as {finest:g} away from it"
_METHODS = ("platt", "temperature")
_SPLITS = ("train", "val", "test")
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


def run(arguments: list[str]) -> None:
    """Fit a calibration, show it, draw it and put it into a checkpoint.

    Args:
        arguments: The words after ``butppg calibrate``.

    Raises:
        UserError: If an option is wrong, a file cannot be used, or results exist.
    """
    options = parse(_parser(), arguments)
    target, picture = _check(options)
    from butppg_lightning.evaluation.calibration import fit_calibration, too_few, write_calibration
    from butppg_lightning.models.checkpoints.torch_file import read_checkpoint

    content = read_checkpoint(options.checkpoint)
    before = stored_calibration(content, options.checkpoint)
    if options.predictions is not None:
        _require_classifier(options.checkpoint, content)
        labels, logits, source = _from_predictions(options.predictions, options.checkpoint, before)
    else:
        labels, logits, source = _from_windows(options)
    if few := too_few(labels):
        say(f"note: {few}: temperature and thresholds are uncertain")
    after = fit_calibration(
        labels,
        logits,
        source,
        bias=options.method == "platt",
        precision=options.precision,
        sensitivity=options.sensitivity,
    )
    _draw(picture, labels, logits, before, after)
    write_calibration(options.checkpoint, target, after)
    _show(labels, logits, before, after)
    print(f"Results: {target}, {picture}")


def _parser() -> OneLineErrors:
    parser = command_parser(
        "calibrate",
        "Fit temperature, bias and operating thresholds on windows the model was not trained on, and store them in "
        "the checkpoint, where test, predict, evaluate and score find them.",
        "butppg calibrate --checkpoint artifacts/but_ppg_finetuned/best_model.pt --data-dir data/but_ppg --overwrite",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="best_model.pt of `butppg fit`")
    add("--data_dir", type=Path, help="folder with the labelled split")
    add("--split", choices=_SPLITS, default="val", help="the split of --data_dir; not one the model was trained on")
    add("--predictions", type=Path, help="in place of --data_dir: a CSV with label, and probability or logit")
    add("--method", choices=_METHODS, default="platt", help="platt fits temperature and bias, temperature no bias")
    add("--precision", type=float, default=0.95, help="share of good windows among those called good, to promise")
    add("--sensitivity", type=float, default=0.9, help="share of the good windows to keep, to promise")
    add("--output", type=Path, help="checkpoint to write; default: --checkpoint itself, which needs --overwrite")
    add("--batch_size", type=int, default=64, help="windows per forward pass")
    add("--overwrite", type=bool, default=False, help="replace the checkpoint and the diagram")
    return parser


def _check(options: Any) -> tuple[Path, Path]:
    from butppg_lightning.evaluation.drawing import require_matplotlib

    if not options.checkpoint.is_file():
        raise UserError(f"checkpoint {options.checkpoint} not found; give the best_model.pt that `butppg fit` wrote")
    if (options.data_dir is None) == (options.predictions is None):
        raise UserError("give either --data_dir DIR (with --split) or --predictions P.csv to calibrate on")
    for key in ("precision", "sensitivity"):
        if not 0 < getattr(options, key) < 1:
            raise UserError(f"--{key} is {getattr(options, key):g}; expected a share between 0 and 1, such as 0.9")
    if options.batch_size < 1:
        raise UserError(f"--batch_size is {options.batch_size}; expected 1 or more")
    target: Path = options.output or options.checkpoint
    picture = target.with_name(f"{target.stem}_reliability.png")
    existing = [path for path in (target, picture) if path.exists()]
    if existing and not options.overwrite:
        raise UserError(f"{existing[0]} is there already; add --overwrite to replace it, or name another --output")
    require_matplotlib("the reliability diagram")
    require_writable(target.parent)
    return target, picture


def _require_classifier(path: Path, content: dict[str, Any]) -> None:
    options = content.get("hyper_parameters")
    if not isinstance(options, dict) or "head" not in options or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} is no fine-tuned classifier; give the best_model.pt that `butppg fit` wrote")


def _from_predictions(path: Path, checkpoint: Path, before: Calibration) -> tuple[Array, Array, str]:
    from butppg_lightning.evaluation.prediction_table import read_predictions

    labels, values, kind = read_predictions(path)
    source = f"{path}, {_counted(labels)}"
    if kind == "logit":
        say(f"note: the logits of {path} are taken as the uncalibrated network's")
        return labels, values, source
    if clipped := int(((values < _FINEST) | (values > 1 - _FINEST)).sum()):
        say("note: " + _CLIPPED.format(count=clipped, finest=_FINEST))
    inside = np.clip(values, _FINEST, 1 - _FINEST)
    logits = np.log(inside) - np.log1p(-inside)
    if before.fitted:
        say(f"note: {checkpoint} is calibrated; the probabilities of {path} are taken as calibrated by it, no --prior")
        return labels, (logits - before.bias) * before.temperature, source
    say(f"note: {checkpoint} is not calibrated; the probabilities of {path} are taken as an uncalibrated model's")
    return labels, logits, source


def _from_windows(options: Any) -> tuple[Array, Array, str]:
    import torch

    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.models.checkpoints.classifier import restore_network
    from butppg_lightning.window import read_windows

    path = options.data_dir / f"{options.split}.npz"
    if not path.is_file():
        raise UserError(f"{path} not found; --data_dir is the folder with train.npz, val.npz or test.npz (--split)")
    if options.split != "val":
        flattered = {"train": "the model was trained on it", "test": "figures on it will flatter"}[options.split]
        say(f"note: calibrated on {path.name}: {flattered}")
    windows = read_windows(path, labelled=True)
    network, _ = restore_network(options.checkpoint)
    channels = network.preprocess.channels
    if not set(channels) & set(windows.channels):
        raise UserError(
            f"{path} has the channels {', '.join(windows.channels)}, but the model wants {', '.join(channels)}"
        )
    network = network.to("cuda" if torch.cuda.is_available() else "cpu")
    served, found = WindowDataset(windows, channels), []
    with progress_bar(f"windows of {path.name}", len(windows)) as progress:
        for start in range(0, len(windows), options.batch_size):
            rows = np.arange(start, min(start + options.batch_size, len(windows)))
            batch = served.fetch(rows)
            found.append(network.score_logits(batch["signals"], batch["present"], options.batch_size).numpy())
            progress(len(rows))
    labels = np.asarray(windows.labels)
    return labels, np.concatenate(found).astype(np.float64), f"{path}, {_counted(labels)}"


def _counted(labels: Array) -> str:
    return f"{len(labels)} windows ({int(labels.sum())} good)"


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
