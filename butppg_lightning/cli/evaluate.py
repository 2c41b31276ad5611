"""`butppg evaluate`: figures, predictions and a report of a checkpoint on a split."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.cli.cut import check_cut, threshold
from butppg_lightning.cli.parser import OneLineErrors, command_parser, parse
from butppg_lightning.console import print_table, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, require_writable, write_json
from butppg_lightning.models.calibration import OPERATING_POINTS

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

METRICS, PREDICTIONS, REPORT = "metrics.json", "predictions.csv", "report.html"
RESULTS = (METRICS, PREDICTIONS, REPORT)
_SPLITS = ("train", "val", "test")
_GUIDE = ("loss", "accuracy", "class_0_acc", "class_1_acc")  # its test_metrics.json has them first
_PERCENT = ("accuracy", "class_0_acc", "class_1_acc", "majority_accuracy", "balanced_accuracy")


def run(arguments: list[str]) -> None:
    """Evaluate a checkpoint and write the metrics, the predictions and the report.

    Args:
        arguments: The words after ``butppg evaluate``.

    Raises:
        UserError: If an option is wrong, the checkpoint or the split cannot be used, or results exist.
    """
    options = parse(_parser(), arguments)
    path = _check(options)
    from butppg_lightning.evaluation.report.build import report_html
    from butppg_lightning.models.checkpoints.classifier import restore_network
    from butppg_lightning.window import read_windows

    network, _ = restore_network(options.checkpoint)
    remarks: list[str] = []
    cut = threshold(options, network.calibration, remarks)
    windows = read_windows(path, labelled=False)
    channels = network.preprocess.channels
    if not set(channels) & set(windows.channels):
        raise UserError(
            f"{path} has the channels {', '.join(windows.channels)}, but the model wants {', '.join(channels)}"
        )
    require_writable(options.output_dir)
    evidence = _gather(options, path, network, windows, cut, remarks)
    page = report_html(evidence, f"{path.name} of {options.data_dir.resolve().name}")
    _write(options, evidence, network, page)
    for remark in remarks:
        say(f"note: {remark}")
    _show(options, evidence)


def _parser() -> OneLineErrors:
    parser = command_parser(
        "evaluate",
        "Tell how good a checkpoint is on a split: metrics.json, predictions.csv, and report.html, one page with "
        "curves, results by subject and stratum, heart-rate error against coverage, and windows to look at.",
        "butppg evaluate --checkpoint artifacts/but_ppg_finetuned/best_model.pt --data-dir data/but_ppg --split test "
        "--output-dir artifacts/evaluation",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="best_model.pt of `butppg fit`")
    add("--data_dir", type=Path, required=True, help="folder with train.npz, val.npz or test.npz")
    add("--split", choices=_SPLITS, default="test", help="which of them; labels may be missing")
    add("--output_dir", type=Path, required=True, help="folder for metrics.json, predictions.csv and report.html")
    add(
        "--operating_point",
        choices=OPERATING_POINTS,
        help="which of a calibrated checkpoint's thresholds decides (default balanced; 0.5 if it is not calibrated)",
    )
    add("--threshold", type=float, help="from this probability on a window is good, in place of an operating point")
    add(
        "--prior", type=float, help="share of good windows to expect, 0 to 1: shifts a calibrated model's probabilities"
    )
    add("--batch_size", type=int, default=64, help="windows per forward pass; on CPUs small ones stay in the cache")
    add("--overwrite", type=bool, default=False, help="replace an earlier evaluation in the output folder")
    return parser


def _check(options: Any) -> Path:
    from butppg_lightning.evaluation.drawing import require_matplotlib

    output: Path = options.output_dir
    check_cut(options)
    if not options.checkpoint.is_file():
        raise UserError(f"checkpoint {options.checkpoint} not found; give the best_model.pt that `butppg fit` wrote")
    path: Path = options.data_dir / f"{options.split}.npz"
    if not path.is_file():
        raise UserError(f"{path} not found; --data_dir is the folder with train.npz, val.npz or test.npz (--split)")
    existing = [name for name in RESULTS if (output / name).exists()]
    if existing and not options.overwrite:
        raise UserError(f"{output} already holds {existing[0]}; choose another --output_dir or add --overwrite")
    require_matplotlib("the report")
    return path


def _gather(
    options: Any, path: Path, network: QualityNetwork, windows: WindowSet, cut: tuple[float, str], remarks: list[str]
) -> Evidence:
    from butppg_lightning.cli import evaluating
    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.evaluation.report.strata import strata

    served = WindowDataset(windows, network.preprocess.channels)
    probabilities = evaluating.score_split(network, served, options.batch_size, options.prior)
    history, epoch = evaluating.read_history(options.checkpoint)
    decides = None if options.threshold is not None else options.operating_point or "balanced"
    return Evidence(
        probabilities=probabilities,
        threshold=cut[0],
        threshold_from=cut[1],
        metrics=_metrics(windows, probabilities, cut[0]),
        channels=network.preprocess.channels,
        labels=windows.labels,
        subjects=windows.subjects,
        strata=strata(windows),
        heart_rates=evaluating.heart_rates(windows, probabilities),
        history=history,
        best_epoch=epoch,
        cases=evaluating.find_cases(network, served, probabilities, cut[0]),
        points=evaluating.operating_figures(network, options.prior, decides),
        warnings=evaluating.find_warnings(options.checkpoint, path, windows, network)
        + [f"{remark[0].upper()}{remark[1:]}." for remark in remarks],
        facts=evaluating.describe_run(options.checkpoint, path, network, options.prior),
    )


def _metrics(windows: WindowSet, probabilities: Array, cut: float) -> dict[str, Any]:
    """Return the figures, the guide's first; all None without labels."""
    from butppg_lightning.evaluation.bootstrap import bootstrap_intervals
    from butppg_lightning.evaluation.metrics import compute_metrics

    labels = windows.labels
    if labels is None:
        example = np.array([0, 1]), np.array([0.2, 0.8])  # for the keys
        keys = [*compute_metrics(*example), *bootstrap_intervals(*example, resamples=1)]
        figures: dict[str, Any] = dict.fromkeys(keys)
    else:
        figures = {
            **compute_metrics(labels, probabilities, cut),
            **bootstrap_intervals(labels, probabilities, windows.subjects, threshold=cut),
        }
    ordered = {key: figures[key] for key in _GUIDE} | figures
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in ordered.items()
    }


def _write(options: Any, evidence: Evidence, network: QualityNetwork, page: str) -> None:
    rates, calibration = evidence.heart_rates, network.calibration
    content = {
        **evidence.metrics,
        "threshold": evidence.threshold,
        "threshold_from": evidence.threshold_from,
        "calibrated": calibration.fitted,
        "prior": options.prior if options.prior is not None else calibration.prior,
        "split": options.split,
        "windows": len(evidence.probabilities),
        "subjects": evidence.subject_count,
        "heart_rate": rates.figures() if rates else None,
        "warnings": evidence.warnings,
        "evaluated": evidence.facts,
    }
    output: Path = options.output_dir
    for name in RESULTS:
        (output / name).unlink(missing_ok=True)  # an earlier evaluation's must not stand beside this one's
    with atomic_write(output / PREDICTIONS) as file:
        file.write(_table(evidence).encode())
    with atomic_write(output / REPORT) as file:
        file.write(page.encode())
    write_json(output / METRICS, content)


def _table(evidence: Evidence) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["window", "subject", "label", "probability", "verdict"])
    for row, (probability, good) in enumerate(zip(evidence.probabilities, evidence.called, strict=True)):
        subject = "" if evidence.subjects is None else evidence.subjects[row]
        label = "" if evidence.labels is None else evidence.labels[row]
        table.writerow([row, subject, label, f"{probability:.6f}", "good" if good else "poor"])
    return text.getvalue()


def _show(options: Any, evidence: Evidence) -> None:
    from butppg_lightning.evaluation.report.headline import cautions

    rows = []
    for key, value in evidence.metrics.items():
        if key.endswith("_ci95"):
            continue
        shown = "undefined" if value is None else f"{value:.2f} %" if key in _PERCENT else f"{value:.4f}"
        interval = evidence.metrics.get(f"{key}_ci95")
        digits = 1 if key in _PERCENT else 3
        rows.append((key, shown, f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else ""))
    cut = f"good from {evidence.threshold:.4g} on ({evidence.threshold_from})"
    print_table(f"{options.split}.npz by {options.checkpoint}; {cut}", ("figure", "value", "95 % interval"), rows)
    for caution in cautions(evidence):
        say(f"note: {caution}")
    output = options.output_dir
    print(f"Results: {output / METRICS}, {output / PREDICTIONS}, {output / REPORT}")
