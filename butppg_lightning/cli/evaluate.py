"""`butppg evaluate`: metrics, predictions and a report of a checkpoint on a split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.cli.cut import check_cut, threshold
from butppg_lightning.cli.parser import OneLineErrors, command_parser, parse
from butppg_lightning.console import print_table, progress_bar, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, require_writable, write_json
from butppg_lightning.models.calibration import OPERATING_POINTS, Calibration

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.models.network import QualityNetwork

METRICS, PREDICTIONS, REPORT = "metrics.json", "predictions.csv", "report.html"
RESULTS = (METRICS, PREDICTIONS, REPORT)
_SPLITS = ("train", "val", "test")


def run(arguments: list[str]) -> None:
    """Evaluate a checkpoint and write the metrics, the predictions and the report.

    Args:
        arguments: What follows ``butppg evaluate``.

    Raises:
        UserError: If an option is wrong, the checkpoint or the split cannot be used, or results exist.
    """
    options = parse(_parser(), arguments)
    path = _check(options)
    from butppg_lightning.evaluation.report.page import report_html
    from butppg_lightning.models.checkpoints import restore_network

    network, _ = restore_network(options.checkpoint)
    remarks: list[str] = []
    cut = threshold(options, network.calibration, remarks)
    evidence = _evidence(options, path, network, cut)
    evidence.warnings += [f"{remark[0].upper()}{remark[1:]}." for remark in remarks]
    page = report_html(evidence, f"{path.name} of {options.data_dir.resolve().name}")
    _write(options, evidence, network.calibration, page)
    _show(options, evidence)


def _parser() -> OneLineErrors:
    parser = command_parser(
        "evaluate",
        "Measure how good a checkpoint is on a split: metrics.json, predictions.csv, and report.html, one page with "
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
    """Return the split's file."""
    from butppg_lightning.evaluation.report.page import require_report

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
    require_report()
    return path


def _evidence(options: Any, path: Path, network: QualityNetwork, cut: tuple[float, str]) -> Evidence:
    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.evaluation.report.cases import choose_cases, explain_cases
    from butppg_lightning.evaluation.report.evidence import add_run, gather_evidence
    from butppg_lightning.models.prediction import predict
    from butppg_lightning.window import read_windows

    windows, channels = read_windows(path, labelled=False), network.preprocess.channels
    if not set(channels) & set(windows.channels):
        raise UserError(
            f"{path} has the channels {', '.join(windows.channels)}, but the model wants {', '.join(channels)}"
        )
    require_writable(options.output_dir)
    served = WindowDataset(windows, channels)
    batches = (
        served.fetch(np.arange(start, min(start + options.batch_size, len(served))))
        for start in range(0, len(served), options.batch_size)
    )
    with progress_bar("scoring windows", len(served)) as progress:
        predictions = predict(network, batches, batch_size=options.batch_size, prior=options.prior, progress=progress)
    evidence = gather_evidence(predictions, windows, *cut)
    add_run(evidence, options.checkpoint, path, network, windows, options.prior)
    chosen = choose_cases(windows.labels, evidence.probabilities, cut[0], windows.subjects)
    evidence.cases = explain_cases(network, served.fetch, chosen)
    if network.calibration.curve is not None:
        evidence.points = [network.calibration.point(name, options.prior) for name in OPERATING_POINTS]
        evidence.chosen = None if options.threshold is not None else options.operating_point or "balanced"
    return evidence


def _write(options: Any, evidence: Evidence, calibration: Calibration, page: str) -> None:
    from butppg_lightning.evaluation.prediction_table import write_predictions

    rates = evidence.heart_rates
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
    write_predictions(
        output / PREDICTIONS,
        evidence.probabilities,
        evidence.threshold,
        labels=evidence.labels,
        subjects=evidence.subjects,
        reasons=evidence.reasons,
    )
    with atomic_write(output / REPORT) as file:
        file.write(page.encode())
    write_json(output / METRICS, content)


def _show(options: Any, evidence: Evidence) -> None:
    from butppg_lightning.evaluation.metrics import metric_rows
    from butppg_lightning.evaluation.report.evidence import cautions

    cut = f"good from {evidence.threshold:.4g} on ({evidence.threshold_from})"
    title = f"{options.split}.npz by {options.checkpoint}; {cut}"
    print_table(title, ("metric", "value", "95 % interval"), metric_rows(evidence.metrics))
    for caution in cautions(evidence):
        say(f"note: {caution}")
    output = options.output_dir
    print(f"Results: {output / METRICS}, {output / PREDICTIONS}, {output / REPORT}")
