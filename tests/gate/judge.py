"""The gate's figures on people, devices and labels that it never saw, beside neurokit2's on the same windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from people.baselines import NeurokitQuality
from people.comparison import auroc, interval, within_subject_auroc
from people.data_set import first_records

from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.evaluation.bootstrap import bootstrap_intervals
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.models.prediction import predict
from butppg_lightning.window import WindowSet, read_windows
from gate.recorded import CLEAN, read_recorded

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

_RHYTHM, _OF_RHYTHM = "MIMIC PERform AF", "mimic_perform_af/windows.npz"
_REFERENCE = "neurokit2 templatematch"


@dataclass(frozen=True, eq=False)
class Judged:
    """N labelled windows that the gate was not trained on.

    Attributes:
        name: In the tables.
        windows: With labels and subjects.
        gate: ``[N]`` probability of good.
        reference: ``[N]`` of neurokit2, higher for better.
        distance: ``[N]``, above 1 for windows unlike those of training; NaN without a usable PPG.
    """

    name: str
    windows: WindowSet
    gate: Array
    reference: Array
    distance: Array


def judge(checkpoint: Path, data: Path, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that a card's ``figures`` take, for each set that is there below ``data``; PPG alone is given.

    Every set is scored once, by the finished gate; nothing may be chosen by what comes out. Scores stay in ``work``.
    """
    network, _ = restore_network(checkpoint)
    threshold, rows = network.calibration.threshold("balanced"), []
    for name, windows in _sets(data, work).items():
        batches = WindowDataset(windows, network.channels, ["PPG"]).batches()
        found, reference = predict(network, batches, compare=True), NeurokitQuality("templatematch").score(windows)
        outside = found.outside(threshold)
        assert outside is not None
        judged = Judged(name, windows, found.probabilities, reference, outside.distances)
        np.savez(work / f"{name.replace(' ', '_')}.npz", gate=judged.gate, reference=reference, far=judged.distance)
        labelled = _labelled(judged)
        rows += _ranking(labelled) + _errors(labelled, threshold)
        if name == _RHYTHM:
            rows += _rhythm(judged, read_recorded(data, [_OF_RHYTHM]).agreement >= CLEAN, threshold)
    return {"figures": rows}


def _sets(data: Path, work: Path) -> dict[str, WindowSet]:
    paths = {"SPC 2015": "spc2015_dev/windows.npz", "BAMI-1": "bami1/windows.npz", _RHYTHM: _OF_RHYTHM}
    found = {name: read_windows(data / path, labelled=False) for name, path in paths.items() if (data / path).is_file()}
    if (release := data / "but_ppg_release_sample").is_dir():
        found["BUT PPG v1 sample"] = read_windows(first_records(release, work / "but_ppg", 1), labelled=True)
    return {
        name: windows if windows.labels is not None else replace(windows, labels=windows.extras["labels_hr"])
        for name, windows in found.items()
    }


def _labelled(judged: Judged) -> Judged:
    """Return the windows with a label; of those with known rhythm, sinus rhythm alone."""
    rows, name = np.asarray(judged.windows.labels) >= 0, judged.name
    if name == _RHYTHM:
        rows, name = rows & (judged.windows.extras["rhythm"] == "SR"), f"{name}, sinus rhythm"
    parts = (part[rows] for part in (judged.gate, judged.reference, judged.distance))
    return Judged(name, judged.windows.take(rows), *parts)


def _ranking(judged: Judged) -> list[dict[str, Any]]:
    labels, subjects = np.asarray(judged.windows.labels), np.asarray(judged.windows.subjects)
    rows = []
    for method, scores in (("", judged.gate), (f", {_REFERENCE}", judged.reference)):
        within, mean = within_subject_auroc(labels, scores, subjects)
        known = [value for value in within.values() if value is not None]
        if mean is not None and len(known) > 1:
            rows.append(_row(judged, f"AUROC within a person{method}", mean, interval(known)))
        pooled = bootstrap_intervals(labels, scores, subjects)["auroc_ci95"]
        rows.append(_row(judged, f"AUROC{method}", auroc(labels, scores), pooled))
    return rows


def _errors(judged: Judged, threshold: float) -> list[dict[str, Any]]:
    """Return what the verdicts are worth, and whether the windows that are unlike training are those that go wrong."""
    usable = np.isfinite(judged.distance)
    wrong = ((judged.gate >= threshold) != (np.asarray(judged.windows.labels) == 1))[usable]
    distance = judged.distance[usable]
    inside = distance <= 1
    rows = [_row(judged, "share of right verdicts", 1 - wrong.mean()), _row(judged, "share inside", inside.mean())]
    if inside.any():
        rows.append(_row(judged, "share of right verdicts inside", 1 - wrong[inside].mean()))
    if (separates := auroc(wrong.astype(int), distance)) is not None:
        rows.append(_row(judged, "AUROC of distance for wrong verdicts", separates))
    return rows


def _rhythm(judged: Judged, clean: Array, threshold: float) -> list[dict[str, Any]]:
    """Return the shares of clean windows that are called poor, of the reference at the gate's share of sinus rhythm."""
    rhythm, rows = judged.windows.extras["rhythm"], []
    normal = clean & (rhythm == "SR")
    share = float((judged.gate[normal] < threshold).mean())
    edges = (
        ("", judged.gate, threshold),
        (f", {_REFERENCE}", judged.reference, np.quantile(judged.reference[normal], share)),
    )
    for method, scores, edge in edges:
        for name in ("SR", "AF"):
            rows_of = clean & (rhythm == name)
            part = replace(judged, name=f"{judged.name}, clean {name}", windows=judged.windows.take(rows_of))
            rows.append(_row(part, f"share called poor{method}", float((scores[rows_of] < edge).mean())))
    return rows


def _row(judged: Judged, metric: str, value: Any, ci95: list[float] | None = None) -> dict[str, Any]:
    people = len(np.unique(np.asarray(judged.windows.subjects)))
    counts = {"people": people, "windows": len(judged.windows)}
    return {"set": judged.name, "channels": "PPG", **counts, "metric": metric, "value": float(value), "interval": ci95}
