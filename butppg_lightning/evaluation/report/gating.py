"""The reason to gate at all: the heart rate read from what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.bootstrap import window_weights
from butppg_lightning.evaluation.report.canvas import ACCENT, FAINT, GOOD, INK, drawing
from butppg_lightning.evaluation.report.heart_rate import SHARES, TOLERANCE, HeartRates, coverage_curves
from butppg_lightning.evaluation.report.page import Picture, Section, Table
from butppg_lightning.evaluation.report.words import counted, percent

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.npz import Array

_FEWEST = 0.1  # share kept down to which the curves are drawn
_RESAMPLES = 400
_SHARES = np.linspace(_FEWEST, 1, 46)


def gating_section(evidence: Evidence) -> Section | None:
    """Return how the pulse rate's error falls as fewer windows are kept, or None without reference rates."""
    rates = evidence.heart_rates
    if rates is None:
        return None
    section = Section("What gating buys: heart rate")
    section.text.append(
        f"The pulse rate is read from each window's PPG by one fixed rule (spectral peak between 0.6 and 3.5 Hz that "
        f"the autocorrelation supports) and compared with the reference, in {counted(len(rates.errors), 'window')}. "
        "From right to left, the windows the model trusts least are dropped first."
    )
    if rates.left_out:
        section.after = (
            f"Left out: {counted(rates.left_out, 'window')} without a reference rate or without a moving PPG."
        )
    bands = _bands(evidence, rates)
    figures = rates.figures()
    section.parts += [
        _picture(evidence, rates, "mean", bands),
        _picture(evidence, rates, "within", bands),
        _table(figures),
    ]
    return section


def _picture(evidence: Evidence, rates: HeartRates, figure: str, bands: dict[str, Array]) -> Picture:
    mean = figure == "mean"
    column, scale = (1, 1.0) if mean else (2, 100.0)
    ordered, ideal = coverage_curves(rates.errors), coverage_curves(np.sort(rates.errors))
    least = max(0, int(np.ceil(_FEWEST * len(rates.errors))) - 1)
    with drawing(f"heart-rate-{figure}", "Heart-rate error against the share of windows kept", 290) as drawn:
        axes = drawn.figure.add_subplot()
        axes.fill_between(100 * _SHARES, *(scale * bands[figure]), color=GOOD, alpha=0.2, linewidth=0)
        axes.axhline(scale * ordered[column][-1], color=FAINT, linewidth=1.2, linestyle="--", label="random order")
        axes.plot(
            100 * ideal[0][least:], scale * ideal[column][least:], color=ACCENT, linewidth=1.4, label="ideal order"
        )
        axes.plot(100 * ordered[0][least:], scale * ordered[column][least:], color=GOOD, label="by probability")
        kept = float((rates.probabilities >= evidence.threshold).mean())
        if kept >= _FEWEST:
            row = max(1, round(kept * len(rates.errors))) - 1
            axes.plot(
                100 * kept, scale * ordered[column][row], "o", markersize=9, markerfacecolor="none",
                markeredgecolor=INK, mew=1.8, zorder=5,
            )  # fmt: skip
        axes.set(xlim=(100 * _FEWEST - 2, 102), xlabel="windows kept (%)")
        axes.set_ylabel("mean absolute error (bpm)" if mean else f"within {TOLERANCE:g} bpm (%)")
        axes.set_ylim(*((0, None) if mean else (None, 102)))
        axes.grid(True)
        axes.set_axisbelow(True)
        handles, names = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], names[::-1], loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=3, handlelength=1.4,
            handletextpad=0.4, columnspacing=0.9, borderaxespad=0,
        )  # fmt: skip
    says, heading = _words(evidence, rates, mean)
    return Picture(drawn.svg, says, heading)


def _words(evidence: Evidence, rates: HeartRates, mean: bool) -> tuple[str, str]:
    half, errors = rates.kept(0.5), rates.errors
    kept = errors[rates.probabilities >= evidence.threshold]
    if mean:
        says = (
            f"Keeping all windows, the rate is off by {errors.mean():.1f} beats per minute on average; keeping the "
            f"better half, by {errors[:half].mean():.1f}. "
        )
        says += (
            f"The threshold (ring) keeps {percent(len(kept) / len(errors), 0)}, with an error of {kept.mean():.1f}."
            if len(kept)
            else "At the threshold no window is kept."
        )
        return says, "Mean error"
    right, right_half = (errors <= TOLERANCE).mean(), (errors[:half] <= TOLERANCE).mean()
    return (
        f"{percent(right, 0)} of all rates are within {TOLERANCE:g} beats per minute, {percent(right_half, 0)} in the "
        "better half. The green line knows the errors and cannot be beaten; the dashed one drops windows blindly.",
        f"Within {TOLERANCE:g} bpm",
    )


def _bands(evidence: Evidence, rates: HeartRates) -> dict[str, Array]:
    """Return 95 % bands ``[2, len(_SHARES)]`` of both curves over resamples of the subjects."""
    people = None if evidence.subjects is None else evidence.subjects[rates.rows]
    right = (rates.errors <= TOLERANCE).astype(np.float64)
    curves: dict[str, list[Array]] = {"mean": [], "within": []}
    for weights in np.concatenate(list(window_weights(len(rates.errors), people, resamples=_RESAMPLES))):
        kept = np.cumsum(weights)
        at = np.searchsorted(kept / kept[-1], _SHARES - 1e-12).clip(max=len(kept) - 1)
        for name, values in (("mean", rates.errors), ("within", right)):
            curves[name].append(np.cumsum(weights * values)[at] / kept[at])
    return {name: np.percentile(found, (2.5, 97.5), axis=0) for name, found in curves.items()}


def _table(figures: dict[str, Any]) -> Table:
    rows = []
    for number, share in enumerate(SHARES):
        if round(10 * share) not in (10, 8, 6, 4, 2, 1):
            continue
        own, ideal = figures["by_probability"][number], figures["ideal"][number]
        rows.append(
            (
                percent(share, 0),
                f"{own['mean_error_bpm']:.1f}",
                f"{own['median_error_bpm']:.1f}",
                percent(own["within_tolerance"], 0),
                percent(ideal["within_tolerance"], 0),
            )
        )
    tolerance = f"within {figures['tolerance_bpm']:g} bpm"
    blind = percent(figures["random"]["within_tolerance"], 0)
    says = f"Errors in beats per minute. Last column: within the tolerance in the ideal order; in random order {blind}."
    columns = ("kept", "mean error", "median error", tolerance, "in ideal order")
    return Table(columns, rows, says)
