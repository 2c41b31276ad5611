"""For whom and when the model works: figures by subject and by stratum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.bootstrap import bootstrap_mean
from butppg_lightning.evaluation.comparison import within_subject_auroc
from butppg_lightning.evaluation.report.canvas import FAINT, GOOD, GRID, INK, PAPER, drawing
from butppg_lightning.evaluation.report.page import Picture, Section, Table
from butppg_lightning.evaluation.report.strata import FEWEST, Group, describe_groups
from butppg_lightning.evaluation.report.words import counted, fraction, percent, span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.evaluation.report.evidence import Evidence

_LINE = 17.0  # points of height per row
_MOST_SUBJECTS = 60


def subject_section(evidence: Evidence) -> Section:
    """Return accuracy and ranking of each subject."""
    section = Section("Subject by subject")
    if evidence.labels is None or evidence.subjects is None:
        section.text.append(f"Undefined: the file has no {'labels' if evidence.labels is None else 'subjects'}.")
        return section
    groups = describe_groups(
        evidence.subjects, evidence.labels, evidence.probabilities, evidence.subjects, evidence.threshold
    )
    groups.sort(key=lambda group: (-group.accuracy, group.name))
    _, mean = within_subject_auroc(evidence.labels, evidence.probabilities, evidence.subjects)
    ranked = [group.auroc for group in groups if group.auroc is not None]
    section.text.append(_within(mean, ranked, len(groups)))
    section.parts.append(_accuracy_picture(groups[:_MOST_SUBJECTS]))
    ranking = [group for group in groups if group.auroc is not None][:_MOST_SUBJECTS]
    if ranking:
        section.parts.append(_ranking_picture(ranking))
    if len(groups) > _MOST_SUBJECTS:
        section.after = f"The picture shows {_MOST_SUBJECTS} of {len(groups)} subjects; the table has all."
    section.parts.append(_table("subject", {"": groups}, with_subjects=False))
    return section


def stratum_section(evidence: Evidence) -> Section | None:
    """Return the figures by stratum, or None where the file supports none."""
    if evidence.labels is None or not evidence.strata:
        return None
    section = Section("When and where it works")
    section.text.append(
        f"The same figures in groups of windows: {', '.join(title.lower() for title in evidence.strata)}. The groups "
        "were not fixed before looking, and many are small: take a difference as a question, not as a finding."
    )
    described = {}
    for title, names in evidence.strata.items():
        groups = describe_groups(names, evidence.labels, evidence.probabilities, evidence.subjects, evidence.threshold)
        section.parts.append(_stratum_picture(title, groups, evidence.metrics["auroc"]))
        described[title] = groups
    section.parts.append(_table("group", described, with_subjects=True))
    return section


def _within(mean: float | None, ranked: Sequence[float], subjects: int) -> str:
    if mean is None:
        return "No subject has both good and poor windows, so ranking within a person is undefined."
    whose = counted(len(ranked), "subject")
    says = f"Within one person's own windows the AUROC is {fraction(mean)} on average over {whose}"
    if len(ranked) >= FEWEST:
        says += f" (95 % interval {span(bootstrap_mean(ranked))})"
    if len(ranked) < subjects:
        says += f"; {subjects - len(ranked)} of {subjects} subjects have windows of one class only"
    return says + ". That is what counts where the model is to choose among the windows of one wearer."


def _accuracy_picture(groups: Sequence[Group]) -> Picture:
    with drawing("subjects", "Accuracy of each subject", 62 + _LINE * len(groups)) as drawn:
        axes = drawn.figure.add_subplot()
        for row, group in enumerate(groups):
            low, high = group.accuracy_interval
            axes.plot([100 * low, 100 * high], [row, row], color=GOOD, linewidth=1.4)
            axes.plot(100 * group.accuracy, row, "o", color=GOOD, markersize=6)
            axes.plot(100 * max(group.good, 1 - group.good), row, "|", color=INK, markersize=10, mew=1.6)
        axes.set(xlim=(-2, 102), xlabel="windows called right (%)")
        _rows(axes, [group.name for group in groups])
    worst, best = min(group.accuracy for group in groups), max(group.accuracy for group in groups)
    beaten = sum(group.accuracy > max(group.good, 1 - group.good) for group in groups)
    says = (
        f"Dot: accuracy with its 95 % interval; upright mark: what that subject's commoner answer would get. Accuracy "
        f"runs from {percent(worst, 0)} to {percent(best, 0)}; it beats the commoner answer in "
        f"{beaten} of {len(groups)} subjects."
    )
    return Picture(drawn.svg, says, "Accuracy")


def _ranking_picture(known: Sequence[Group]) -> Picture:
    with drawing("ranking", "AUROC of each subject", 62 + _LINE * len(known)) as drawn:
        axes = drawn.figure.add_subplot()
        _auroc_rows(axes, known)
    above = sum((group.auroc or 0) > 0.5 for group in known)
    says = (
        f"Ranking among each subject's own windows, with 95 % intervals over windows. {above} of {len(known)} lie "
        f"above 0.5, which is guessing.{_hollow(known)}"
    )
    return Picture(drawn.svg, says, "AUROC")


def _stratum_picture(title: str, groups: Sequence[Group], overall: float | None) -> Picture:
    with drawing(f"stratum-{title.lower()}", f"AUROC by {title.lower()}", 62 + _LINE * 1.25 * len(groups)) as drawn:
        axes = drawn.figure.add_subplot()
        if overall is not None:
            axes.axvline(overall, color=FAINT, linewidth=1, zorder=1)
        _auroc_rows(axes, groups)
    known = [group for group in groups if group.auroc is not None]
    if not known:
        return Picture(drawn.svg, "No group has good and poor windows: ranking is undefined in all.", title)
    sure = [group for group in known if group.auroc_interval is not None]
    says = f"Fewer than two groups have {FEWEST} good and {FEWEST} poor windows: too few to compare."
    if len(sure) > 1:
        best = max(sure, key=lambda group: group.auroc or 0)
        worst = min(sure, key=lambda group: group.auroc or 0)
        says = f"Ranks best in “{best.name}” ({fraction(best.auroc, 2)}), worst in “{worst.name}” "
        says += (
            f"({fraction(worst.auroc, 2)}); their intervals {'overlap' if _overlap(best, worst) else 'do not overlap'}."
        )
    return Picture(drawn.svg, f"{says} The upright line is AUROC over all windows.{_hollow(known)}", title)


def _hollow(groups: Sequence[Group]) -> str:
    if all(group.auroc_interval is not None for group in groups):
        return ""
    return f" Hollow: fewer than {FEWEST} good or poor windows, or too few for an interval."


def _overlap(one: Group, other: Group) -> bool:
    (low, high), (floor, top) = one.auroc_interval or (0, 1), other.auroc_interval or (0, 1)
    return low <= top and floor <= high


def _auroc_rows(axes: Any, groups: Sequence[Group]) -> None:
    axes.axvline(0.5, color=FAINT, linewidth=1, linestyle="--", zorder=1)
    for row, group in enumerate(groups):
        if group.auroc is None:
            axes.text(0.01, row, "one class only", color=FAINT, va="center", fontsize=9.5)
            continue
        if group.auroc_interval is not None:
            axes.plot(group.auroc_interval, [row, row], color=GOOD, linewidth=1.4)
        sure = group.auroc_interval is not None
        axes.plot(group.auroc, row, "o", color=GOOD, markersize=6, markerfacecolor=GOOD if sure else PAPER)
    axes.set(xlim=(-0.02, 1.02), xlabel="AUROC")
    _rows(axes, [group.name for group in groups])


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(np.arange(len(names)), [name if len(name) <= 18 else name[:17] + "…" for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.hlines(np.arange(len(names)), *axes.get_xlim(), color=GRID, linewidth=0.6, zorder=0)


def _table(kind: str, described: Mapping[str, Sequence[Group]], *, with_subjects: bool) -> Table:
    columns = (
        kind,
        "windows (subjects)" if with_subjects else "windows",
        "good",
        "called right",
        "AUROC",
        "95 % interval",
    )
    rows: list[tuple[str, ...]] = []
    for title, groups in described.items():
        rows += [(title,)] if title else []
        for group in groups:
            people = f" ({group.subjects})" if with_subjects and group.subjects is not None else ""
            rows.append(
                (
                    group.name,
                    f"{group.windows:,}{people}",
                    percent(group.good, 0),
                    percent(group.accuracy, 0),
                    "-" if group.auroc is None else fraction(group.auroc, 2),
                    span(group.auroc_interval, 2),
                )
            )
    says = f"A dash: one class only. No interval: fewer than {FEWEST} windows of a class, or too few to tell. "
    says += (
        f"Intervals are over subjects where a group has {FEWEST} or more, else over windows (then too narrow)."
        if with_subjects
        else "Intervals are over the subject's windows."
    )
    return Table(columns, rows, says)
