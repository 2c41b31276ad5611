"""The first lines of a report: what is achieved against always giving the commoner answer, and what to beware."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.evaluation.comparison import FEWEST_SUBJECTS
from butppg_lightning.evaluation.report.evidence import FEW_SUBJECTS
from butppg_lightning.evaluation.report.page import Tile
from butppg_lightning.evaluation.report.words import counted, fraction, percent, signed, span

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence


def headline(evidence: Evidence) -> list[str]:
    """Return the sentences that open the report, the most important one first."""
    if evidence.labels is None:
        kept = percent(float(evidence.called.mean()))
        return [
            f"{kept} of the {counted(len(evidence.probabilities), 'window')} are called good.",
            "The file has no labels, so nothing can be said of how often that is right.",
        ]
    metrics = evidence.metrics
    if not evidence.both_classes:
        only = "good" if evidence.labels[0] == 1 else "poor"
        return [
            f"Every labelled window is {only}: how well good is told from poor cannot be measured here.",
            f"{percent(metrics['accuracy'] / 100)} of them are called {only}. Ranking, precision-recall and balanced "
            "figures are undefined with a single class.",
        ]
    pairs, chance = 100 * metrics["auroc"], metrics["auroc_ci95"]
    says = (
        f"In {pairs:.0f} of 100 pairs of a good and a poor window, the good one gets the higher probability; "
        "guessing would get 50."
    )
    people = evidence.subject_count
    if people is not None and people < FEWEST_SUBJECTS:
        says = (
            f"In {pairs:.0f} of 100 pairs the good window gets the higher probability (guessing: 50), as measured "
            f"on {counted(people, 'subject')} only."
        )
    elif chance is not None and chance[0] <= 0.5:
        says = (
            f"Good windows are not shown to rank above poor ones: {pairs:.0f} of 100 pairs are in order, chance is 50."
        )
    return [says, _against_majority(evidence)]


def _against_majority(evidence: Evidence) -> str:
    metrics, margin = evidence.metrics, evidence.metrics["accuracy_above_majority_ci95"]
    labels = np.asarray(evidence.labels)
    commoner = "good" if labels.mean() > 0.5 else "poor"
    accuracy, majority = metrics["accuracy"], metrics["majority_accuracy"]
    if len(set(evidence.called.tolist())) == 1:
        only = "good" if evidence.called[0] else "poor"
        says = f"At the threshold {evidence.threshold:.3g} every window is called {only}"
        if only == commoner:
            return f"{says}, the commoner answer: right for {accuracy:.1f} %, without any help of the model."
        return f"{says}: right for {accuracy:.1f} %, where always answering “{commoner}” is for {majority:.1f} %."
    says = (
        f"At the threshold {evidence.threshold:.3g}, {accuracy:.1f} % of the windows are called right. "
        f"Always answering “{commoner}” would get {majority:.1f} %"
    )
    if margin is None:
        return says + "."
    people = evidence.subject_count
    if people is not None and people < FEWEST_SUBJECTS:
        return f"{says}: a difference of {signed(accuracy - majority)} points, of which so few people prove nothing."
    says += f": a difference of {signed(accuracy - majority)} points (95 % interval {span(margin, 1)})"
    if margin[0] > 0:
        return says + ", more than the choice of subjects explains."
    if margin[1] < 0:
        return (
            says + ". The threshold gives up accuracy to treat both classes alike: the balanced accuracy is "
            f"{metrics['balanced_accuracy']:.1f} %, where a constant answer gets 50 %."
        )
    return (
        says + ", which these windows cannot tell from none. Where one class is common, balanced accuracy says "
        f"more: {metrics['balanced_accuracy']:.1f} %, where a constant answer gets 50 %."
    )


def tiles(evidence: Evidence) -> list[Tile]:
    """Return the figures in large type; none without labels."""
    metrics = evidence.metrics
    if evidence.labels is None:
        return []
    if not evidence.both_classes:
        return [Tile("accuracy", f"{metrics['accuracy']:.1f} %", "single class: undefined otherwise")]
    return [
        Tile("AUROC", fraction(metrics["auroc"]), span(metrics["auroc_ci95"])),
        Tile(
            "AUPRC", fraction(metrics["auprc"]), f"{span(metrics['auprc_ci95'])}; chance {evidence.labels.mean():.3f}"
        ),
        Tile(
            "accuracy",
            f"{metrics['accuracy']:.1f} %",
            f"{span(metrics['accuracy_ci95'], 1)}; constant answer {metrics['majority_accuracy']:.1f}",
        ),
        Tile(
            "balanced accuracy",
            f"{metrics['balanced_accuracy']:.1f} %",
            f"{span(metrics['balanced_accuracy_ci95'], 1)}; constant answer 50",
        ),
        Tile("MCC", fraction(metrics["mcc"]), f"{span(metrics['mcc_ci95'])}; constant answer 0"),
        Tile(
            "ECE", fraction(metrics["ece"]), f"{span(metrics['ece_ci95'])}; perfect {metrics['ece_if_calibrated']:.3f}"
        ),
    ]


def cautions(evidence: Evidence) -> list[str]:
    """Return what limits the figures, in whole sentences."""
    found = []
    people = evidence.subject_count
    if evidence.labels is not None and people is None:
        found.append(
            "The file names no subjects. The intervals take windows as independent, which windows of one person are "
            "not: they are too narrow."
        )
    elif evidence.labels is not None and people == 1:
        found.append("All windows are of one subject: the intervals say nothing about other people.")
    elif evidence.labels is not None and people is not None and people < FEW_SUBJECTS:
        found.append(
            f"There are only {counted(people, 'subject')}. Intervals draw these same {people} people again and again, "
            "so they are too narrow: other people may give quite different figures."
        )
    if evidence.both_classes and len(set(evidence.called.tolist())) == 1:
        only = "good" if evidence.called[0] else "poor"
        found.append(
            f"At this threshold every window is called {only}. Accuracy is then the share of {only} windows and says "
            "nothing about the model; look at the ROC curve, and calibrate the checkpoint to get a better threshold."
        )
    if evidence.labels is not None and evidence.subjects is not None and evidence.both_classes and people:
        single = sum(
            len(set(evidence.labels[evidence.subjects == name].tolist())) < 2 for name in set(evidence.subjects)
        )
        if single:
            found.append(
                f"{counted(single, 'subject')} of {people} {'has' if single == 1 else 'have'} windows of one class "
                "only: nobody can say how well the model ranks within them."
            )
    return found + evidence.warnings
