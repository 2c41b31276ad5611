"""What is asked besides the main comparison: other devices, few people to train on, one method against another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from people.conditions import conditions_of
from people.figures import compare, primary
from people.held import Held, gather_under, gather_with_few
from people.methods import Question
from people.study import PEOPLE

if TYPE_CHECKING:
    from people.study import Study

Found = dict[str, Any]
_LEVEL = 0.05  # of p, below which a difference counts as shown
ALL = "all"
"""In place of a number of people: as many as a fold trains on."""


def describe_conditions(study: Study, held: Mapping[str, Held]) -> list[Found]:
    """Return the figures of each method under each condition, and what changes within people."""
    rows = []
    for each in held.values():
        before = primary(each) if each.method.conditions else {}
        for condition in conditions_of(study.windows) if each.method.conditions else ():
            found = primary(gather_under(study, condition, each))
            change = compare(found, before)
            pooled = (found["pooled_auroc"], before["pooled_auroc"])
            rows.append({"title": each.title, "condition": condition, **found, "change": change})
            rows[-1]["pooled_change"] = None if None in pooled else pooled[0] - pooled[1]
            rows[-1]["largest_loss"] = change and min(change["differences"].values())
    return rows


def describe_curve(study: Study, held: Mapping[str, Held], described: Mapping[str, Found]) -> dict[str, Found]:
    """Return by method, and by the number of people it was trained on, the figures as means over the draws."""
    curve: dict[str, Found] = {}
    for name, each in held.items():
        if not each.method.curve:
            continue
        found = {str(people): gather_with_few(study, people, each) for people in PEOPLE}
        points = {people: primary(few) for people, few in found.items() if few is not None}
        if points:
            curve[name] = {"title": each.title, "points": {**points, ALL: described[name]}}
    return curve


def describe_questions(
    questions: Iterable[Question], described: Mapping[str, Found], curve: Mapping[str, Found]
) -> list[Found]:
    """Return what each question's pair says, trained on everybody and, where both were, on few people."""
    rows = []
    for question in questions:
        this, than = question.this, question.than
        if not {this, than} <= set(described):
            continue
        pairs = {ALL: (described[this], described[than])}
        if {this, than} <= set(curve):
            own, other = curve[this]["points"], curve[than]["points"]
            pairs = {people: (found, other[people]) for people, found in own.items()}
        for people, (first, second) in pairs.items():
            found = compare(first, second)
            shown = found is not None and found["p_value"] < _LEVEL and found["mean"] > 0
            means = {"this": first["within_mean"], "than": second["within_mean"]}
            rows.append({"title": question.title, "people": people, **means, "difference": found, "shown": shown})
    return rows
