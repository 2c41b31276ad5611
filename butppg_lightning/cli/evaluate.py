"""`butppg evaluate`: metrics, predictions and a report of a checkpoint on a split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from butppg_lightning.cli.checks import (
    DEFAULT_CHECKPOINT,
    Decision,
    refuse_earlier_results,
    require_at_least,
    require_checkpoint,
    restored,
)
from butppg_lightning.console import print_table, progress_bar, say
from butppg_lightning.files import atomic_write, require_writable, write_json

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence

METRICS, PREDICTIONS, REPORT = RESULTS = ("metrics.json", "predictions.csv", "report.html")


def evaluate(
    *,
    checkpoint: Path = DEFAULT_CHECKPOINT,
    data_dir: Path,
    split: Literal["train", "val", "test"] = "test",
    output_dir: Path,
    batch_size: int = 64,
    overwrite: bool = False,
    **decision: Any,
) -> None:
    """Measure how good a checkpoint is on a split, as metrics.json, predictions.csv and report.html.

    Args:
        checkpoint: best_model.pt of `butppg fit`, an exported model, or shipped: the package's gate.
        data_dir: Folder with train.npz, val.npz or test.npz.
        split: Which of them; labels may be missing.
        output_dir: Folder for metrics.json, predictions.csv and report.html.
        batch_size: Windows per forward pass; on CPUs small ones stay in the cache.
        overwrite: Replace an earlier evaluation in the output folder.
        **decision: Options of Decision.

    Raises:
        UserError: If an option is wrong, the checkpoint or the split cannot be used, or results exist.

    Example:
        butppg evaluate --checkpoint artifacts/but_ppg_finetuned/best_model.pt --data-dir data/but_ppg --output-dir out
    """
    decided = Decision(**decision)
    prior = decided.prior
    require_at_least(1, batch_size=batch_size)
    checkpoint = require_checkpoint(checkpoint)
    refuse_earlier_results(output_dir, RESULTS, overwrite)
    from butppg_lightning.data.dataset import read_split
    from butppg_lightning.evaluation.report.cases import choose_cases, explain_cases
    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.evaluation.report.page import report_html, require_report
    from butppg_lightning.models.prediction import predict

    require_report()
    network, _, known = restored(checkpoint)
    cut, cut_from, remark = decided.made_with(network.calibration)
    served = read_split(data_dir, split, network.channels, labelled=False)
    windows, path = served.windows, data_dir / f"{split}.npz"
    require_writable(output_dir)
    with progress_bar("scoring windows", len(served)) as progress:
        more: Any = {"batch_size": batch_size, "compare": True, "progress": progress}
        predictions = predict(network, served.batches(), prior=prior, **more)
    evidence = Evidence(
        predictions, windows, network, checkpoint=checkpoint, split=path, decision=(cut, cut_from), prior=prior
    )
    evidence.warnings += [f"{remark[0].upper()}{remark[1:]}."] if remark else []
    chosen = choose_cases(windows.labels, evidence.probabilities, cut, windows.subjects)
    evidence.cases = explain_cases(network, served.fetch, chosen)
    page = report_html(evidence, f"{path.name} of {data_dir.resolve().name}")
    assumed = decided.assumed(network.calibration)
    how = {"model": known, "calibrated": network.calibration.fitted, "prior": assumed, "split": split}
    _write(output_dir, evidence, page, how)
    _show(f"{path.name} by {checkpoint}", evidence)
    print(f"Results: {', '.join(str(output_dir / name) for name in RESULTS)}")


def _write(output: Path, evidence: Evidence, page: str, assumed: dict[str, Any]) -> None:
    from butppg_lightning.evaluation.prediction_table import write_predictions
    from butppg_lightning.evaluation.scores import NOT_COMPARED

    _remove(output)  # an earlier evaluation's must not stand beside this one's
    known = {"labels": evidence.labels, "subjects": evidence.subjects, "reasons": evidence.reasons}
    content = {
        **evidence.metrics,
        "threshold": evidence.threshold,
        "threshold_from": evidence.threshold_from,
        **assumed,
        "windows": len(evidence.probabilities),
        "subjects": evidence.subject_count,
        "heart_rate": evidence.heart_rates.figures() if evidence.heart_rates else None,
        **(NOT_COMPARED if evidence.outside is None else evidence.outside.figures()),
        "warnings": evidence.warnings,
        "evaluated": evidence.facts,
    }
    try:
        write_predictions(output / PREDICTIONS, evidence.probabilities, evidence.threshold, **known)
        with atomic_write(output / REPORT) as file:
            file.write(page.encode())
        write_json(output / METRICS, content)
    except BaseException:  # say, a full disk: some of the results would be taken for all
        _remove(output)
        raise


def _remove(output: Path) -> None:
    for name in RESULTS:
        (output / name).unlink(missing_ok=True)


def _show(title: str, evidence: Evidence) -> None:
    from butppg_lightning.evaluation.metrics import metric_rows

    title += f"; good from {evidence.threshold:.4g} on ({evidence.threshold_from})"
    print_table(title, ("metric", "value", "95 % interval"), metric_rows(evidence.metrics))
    for caution in evidence.cautions():
        say(f"note: {caution}")
