"""From the predictions on disk to everything that is told: one dictionary in plain types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.cli.results import fingerprints
from butppg_lightning.cli.results.figures import Held, combine, compare, primary, secondary
from butppg_lightning.cli.results.jobs import read_scores
from butppg_lightning.evaluation.metrics import auroc
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from butppg_lightning.cli.results.definition import Definition, Method
    from butppg_lightning.cli.results.figures import Calibrated
    from butppg_lightning.cli.results.study import Study
    from butppg_lightning.npz import Array


def gather(study: Study, methods: Mapping[str, Method]) -> dict[str, Held]:
    """Return what every method says of held-out windows."""
    windows = study.windows
    labels, subjects = np.asarray(windows.labels), np.asarray(windows.subjects)
    folds = np.zeros(len(windows), dtype=np.int64)
    for number, fold in enumerate(study.folds):
        folds[np.isin(subjects, fold.test)] = number
    found: dict[str, Held] = {}
    for name, method in methods.items():
        if method.kind in ("ensemble", "rank_mean"):
            found[name] = combine(method, found)
            continue
        scores = np.full((len(study.seeds_of(method)), len(windows)), np.nan)
        for seed in study.seeds_of(method):
            for fold in study.folds:
                rows, values = read_scores(study.prediction(method, fold, seed))
                scores[seed, rows] = values
        found[name] = Held(method, labels, subjects, scores, folds)
    return found


def describe(
    study: Study, definition: Definition, held: Mapping[str, Held], calibrated: Mapping[str, Calibrated]
) -> dict[str, Any]:
    """Return the figures of the main comparison."""
    reference = primary(held[definition.reference])
    told = {}
    for name, each in held.items():
        found = primary(each)
        other = name != definition.reference
        told[name] = {
            **_about(each.method),
            **found,
            **secondary(each, calibrated[name]),
            # the reference less the method: "better" says that the reference is
            "reference_less_this": compare(reference, found) if other else None,
        }
    return {"reference": definition.reference, "methods": told, "external": external(study, held)}


def describe_ablation(definition: Definition, held: Mapping[str, Held]) -> dict[str, Any]:
    """Return the figures of an ablation's rows."""
    reference = primary(held[definition.reference])
    told = {}
    for name, each in held.items():
        if each.method.table != "ablation" and name != definition.reference:
            continue  # a member of a combination
        found = primary(each)
        row = {**_about(each.method), **found}
        told[name] = row | {"this_less_reference": compare(found, reference) if name != definition.reference else None}
    return {"reference": definition.reference, "rows": told}


def external(study: Study, held: Mapping[str, Held]) -> dict[str, Any] | None:
    """Return the AUROC on the external windows, by method; None if there are none."""
    if study.external_file is None:
        return None
    windows = read_windows(study.external_file, labelled=True)
    labels = np.asarray(windows.labels)
    scores: dict[str, Array] = {}
    for name, each in held.items():
        method = each.method
        if method.external and method.kind not in ("ensemble", "rank_mean"):
            paths = [study.external_prediction(method, seed) for seed in study.seeds_of(method)]
            scores[name] = np.stack([read_scores(path)[1] for path in paths])
    for name, each in held.items():
        method = each.method
        if method.external and method.kind in ("ensemble", "rank_mean") and set(method.members) <= set(scores):
            everyone = np.zeros(len(labels), dtype=np.int64)  # nobody is known here: ranks within the whole set
            parts = {key: Held(held[key].method, labels, everyone, scores[key], everyone) for key in method.members}
            scores[name] = combine(method, parts).scores
    figures = {}
    for name in held:
        if name in scores:
            values = [value for row in scores[name] if (value := auroc(labels, row)) is not None]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            figures[name] = {
                "title": held[name].method.title,
                "auroc": float(np.mean(values)) if values else None,
                "auroc_sd": spread,
                "seeds": values,
            }
    people = 0 if windows.subjects is None else len(np.unique(windows.subjects))
    return {"windows": len(windows), "good": int(labels.sum()), "subjects": people, "methods": figures}


def protocol(study: Study) -> dict[str, Any]:
    """Return what was done, on which data."""
    labels, subjects = np.asarray(study.windows.labels), np.asarray(study.windows.subjects)
    names = np.unique(subjects).tolist()
    return {
        "windows": {"count": len(labels), "good": int(labels.sum()), "file": study.windows_file.name},
        "subjects": {name: int((subjects == name).sum()) for name in names},
        "good_by_subject": {name: int(labels[subjects == name].sum()) for name in names},
        "folds": [list(fold.test) for fold in study.folds],
        "seeds": study.seeds,
        "self_supervision": "unlabelled windows" if study.unlabelled_file else "the labelled windows, without labels,",
        "digests": study.digests,
    }


def costs(paths: list[Path]) -> dict[str, Any]:
    """Return how many jobs' results there are, how long they took, and whether other code made some of them."""
    notes = [fingerprints.stored(fingerprints.note_of(path)) for path in paths]
    seconds = [float(note.get("seconds", 0)) for note in notes]
    code = fingerprints.code_digest()
    return {
        "jobs": len(notes),
        "seconds_in_all": round(sum(seconds), 1),
        "seconds_of_the_longest": round(max(seconds, default=0.0), 1),
        "by_other_code": sum(note.get("code") != code for note in notes),
    }


def _about(method: Method) -> dict[str, Any]:
    return {
        "title": method.title,
        "kind": method.kind,
        "table": method.table,
        "group": method.group,
        "fit": list(method.fit),
        "encoder": method.encoder if method.kind == "network" else None,
        "channels": None if method.channels is None else list(method.channels),
        "pretrain": list(method.pretrain) if method.kind == "network" else [],
        "adapt": list(method.adapt) if method.kind == "network" else [],
        "members": list(method.members),
    }
