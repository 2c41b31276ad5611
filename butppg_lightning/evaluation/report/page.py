"""The report as one HTML page: evidence and pictures, put into words by ``report.html.jinja2``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.bootstrap import FEWEST_SUBJECTS, bootstrap_mean
from butppg_lightning.evaluation.drawing import GOOD, POOR
from butppg_lightning.evaluation.report import pictures
from butppg_lightning.evaluation.report.cases import KINDS, Case
from butppg_lightning.evaluation.report.groups import FEWEST, describe_groups
from butppg_lightning.extras import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.evaluation.report.groups import Group
    from butppg_lightning.npz import Array

_MOST_SUBJECTS = 60


def require_report() -> None:
    """Raise a UserError if matplotlib or jinja2 is missing."""
    require("matplotlib.figure", "the report", "evaluation")
    require("jinja2", "the report", "evaluation")


def report_html(evidence: Evidence, name: str) -> str:
    """Return the report as one HTML page: no scripts, nothing loaded from elsewhere; ``name`` is the windows'."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "span": span, "count": counted, "svg": Markup}
    page = environment.get_template("report.html.jinja2").render(
        evidence=evidence,
        metrics=evidence.metrics,
        name=name,
        windows=len(evidence.probabilities),
        good_share=None if evidence.labels is None else float(evidence.labels.mean()),
        few_people=evidence.subject_count is not None and evidence.subject_count < FEWEST_SUBJECTS,
        fewest=FEWEST,
        kinds=KINDS,
        pictures=pictures,
        shares=shares,
        spread=np.percentile(evidence.probabilities, [10, 90]).tolist(),
        **_groups(evidence),
        cases=[_case(number, case, evidence) for number, case in enumerate(evidence.cases)],
        training=_training(evidence),
    )
    # a percent sign stays with its number
    return re.sub(r"(?<=\d) %", "\u00a0%", page) + "\n"


def shares(labels: Array, called: Array) -> dict[str, float | None]:
    """Return sensitivity, specificity and precision (0..1, None where nothing is counted), and what share is kept."""
    hits = int((called & (labels == 1)).sum())
    rest = int((~called & (labels == 0)).sum())
    good, poor, kept = int(labels.sum()), int((labels == 0).sum()), int(called.sum())
    return {
        "sensitivity": hits / good if good else None,
        "specificity": rest / poor if poor else None,
        "precision": hits / kept if kept else None,
        "kept": kept / len(labels),
    }


def _groups(evidence: Evidence) -> dict[str, Any]:
    labels = evidence.labels

    def described(names: Array | None) -> list[Group]:
        if labels is None or names is None:
            return []
        return describe_groups(names, labels, evidence.probabilities, evidence.subjects, evidence.threshold)

    subjects = sorted(described(evidence.subjects), key=lambda group: (-group.accuracy, group.name))
    areas = [group.auroc for group in subjects if group.auroc is not None]
    return {
        "subjects": subjects,
        "most_subjects": _MOST_SUBJECTS,
        "within": float(np.mean(areas)) if areas else None,
        "within_interval": bootstrap_mean(areas) if len(areas) >= FEWEST else None,
        "strata": {} if labels is None else {title: described(names) for title, names in evidence.strata.items()},
    }


def _case(number: int, case: Case, evidence: Evidence) -> dict[str, Any]:
    """Return a window's picture and what is said of it: its strongest channels and second."""
    size = np.abs(case.pushes)
    share = size.sum(axis=1) / (size.sum() or 1)
    lane, second = np.unravel_index(size.argmax(), size.shape)
    first = [(evidence.channels[row], float(share[row])) for row in np.argsort(-share)[:2] if share[row] >= 0.05]
    moved = float(size.max()) >= pictures.LEAST_PUSH / 4
    return {
        "case": case,
        "svg": pictures.case_picture(number, case, evidence.channels),
        "strongest": [f"{name} ({100 * part:.0f} %)" for name, part in first] if moved else [],
        "second": int(second) + 1,
        "channel": evidence.channels[int(lane)],
        "push": float(case.pushes[lane, second]),
        "all_against": moved and bool((case.support[case.usable] <= pictures.LEAST_PUSH / 20).all()),
    }


def _training(evidence: Evidence) -> dict[str, Any] | None:
    train, held_out, quality = (_history(evidence, key) for key in ("train_loss", "val_loss", "val_auroc"))
    if not train.size:
        return None
    stages, best = [str(stage) for stage in evidence.history.get("stage", [])], evidence.best_epoch
    lowest = int(np.nanargmin(held_out)) if np.isfinite(held_out).any() else None
    highest = int(np.nanargmax(quality)) if np.isfinite(quality).any() else None
    rose = lowest is not None and held_out[-1] > 1.1 * held_out[lowest]
    curves, area = {"train": (train, POOR), "validation": (held_out, GOOD)}, {"AUROC": (quality, GOOD)}
    return {
        "epochs": len(train),
        "kinds": [f"{stages.count(kind)} of {pictures.STAGES.get(kind, kind)}" for kind in dict.fromkeys(stages)],
        "loss_svg": pictures.training_picture("loss", curves, stages, best),
        "auroc_svg": None if highest is None else pictures.training_picture("AUROC", area, stages, best),
        "val_loss": held_out,
        "val_auroc": quality,
        "lowest": lowest,
        "highest": highest,
        "overfits": rose and train[-1] < train[min(lowest or 0, len(train) - 1)],
        "own_auroc": np.nan if best is None or best >= len(quality) else quality[best],
    }


def _history(evidence: Evidence, key: str) -> Array:
    """Return a column of the history as floats, NaN where it holds none."""
    values = evidence.history.get(key, [])
    return np.array([float(value) if isinstance(value, (int, float)) else np.nan for value in values])


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share of 0..1 as text."""
    return "undefined" if share is None else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Return a number as text, a true minus in front of a negative one.

    Examples:
        >>> number(0.8389), number(0.84, 1, "+"), number(None)
        ('0.839', '+0.8', 'undefined')
    """
    return "undefined" if value is None else f"{value:{sign}.{digits}f}".replace("-", "\u2212")


def span(edges: Sequence[float] | None, digits: int = 3) -> str:
    """Return an interval as text; empty if there is none."""
    return "" if edges is None else " to ".join(number(edge, digits) for edge in edges)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
