"""From evidence to the finished page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from butppg_lightning.evaluation.drawing import require_matplotlib
from butppg_lightning.evaluation.report.gallery import gallery_section
from butppg_lightning.evaluation.report.gating import gating_section
from butppg_lightning.evaluation.report.headline import cautions, headline, tiles
from butppg_lightning.evaluation.report.history import training_section
from butppg_lightning.evaluation.report.page import render
from butppg_lightning.evaluation.report.people import stratum_section, subject_section
from butppg_lightning.evaluation.report.ranking import ranking_section, verdict_section
from butppg_lightning.evaluation.report.trust import reliability_section
from butppg_lightning.evaluation.report.words import counted, percent

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence

_SECTIONS = (
    ranking_section,
    verdict_section,
    reliability_section,
    gating_section,
    subject_section,
    stratum_section,
    gallery_section,
    training_section,
)


def report_html(evidence: Evidence, name: str) -> str:
    """Return the report as one HTML page: no scripts, nothing loaded from elsewhere.

    Args:
        evidence: What to tell.
        name: Of the windows, for the title.

    Raises:
        UserError: If matplotlib is missing.
    """
    require_matplotlib("the report")
    people = evidence.subject_count
    subtitle = counted(len(evidence.probabilities), "window")
    subtitle += "" if people is None else f" of {counted(people, 'subject')}"
    if evidence.labels is not None:
        subtitle += f", {percent(float(evidence.labels.mean()))} of them labelled good"
    sections = [section for make in _SECTIONS if (section := make(evidence)) is not None]
    return render(
        f"PPG quality on {name}",
        subtitle,
        headline(evidence),
        tiles(evidence),
        cautions(evidence),
        sections,
        evidence.facts,
    )
