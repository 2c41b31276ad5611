"""Rows about how soon a user has verdicts: reading and scoring recordings."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import runs
from bench import Bench
from long_recordings import RATES, draw_recording, write_csv, write_edf, write_npz
from report import Row

_RATIO_GOAL, _DAY_GOAL, _DAY_MEMORY, _CSV_GOAL, _START_GOAL = 20.0, 8.0, 0.7, 3.0, 3.0
_RECIPES = {"recommended": ("finetune_recommended.yaml", "small.yaml"), "rates": ("finetune_rates.yaml",)}


def scoring(bench: Bench) -> list[Row]:
    """Reading, windowing and scoring against neurokit2's template match of the same windows."""
    count = bench.sizes.scored
    models = {"shipped gate": "shipped", **{f"{recipe} recipe": _model(bench, recipe) for recipe in _RECIPES}}
    recording = _recording(bench, "some.npz", count * 10.0, write_npz)
    words = [
        "scoring",
        "--recording",
        str(recording),
        "--rounds",
        str(bench.sizes.repeats),
        "--models",
        *models.values(),
    ]
    found = runs.answer(runs.script("kernels.py", words, bench.scratch / "scoring"))
    rows = []
    for name, model in models.items():
        ratio = statistics.median(found[model]) / statistics.median(found["neurokit2"])
        note = (
            f"{count} windows of an npz file of five channels, read, resampled, preprocessed, scored in float32 and "
            f"compared with the training range on all cores; neurokit2: ppg_clean and ppg_quality(method="
            f"'templatematch') of their PPG in one process, taking turns (on {found['refused'][-1]:.0f} it raised). "
            f"Medians of {bench.sizes.repeats}, lowest and highest in brackets."
        )
        rows.append(
            Row(
                f"Scoring, {name}",
                f"{_spread(found[model], '.0f')} windows/s",
                f"neurokit2: {_spread(found['neurokit2'], '.0f')}",
                f"{ratio:.1f} x",
                ">= 20 x",
                ratio >= _RATIO_GOAL,
                note if not rows else "",
                {"windows_per_second": found[model], "neurokit2": found["neurokit2"]},
            )
        )
    return rows


def recordings(bench: Bench) -> list[Row]:
    """Whole `butppg score` processes over a day and over a minute, and reading a day's table."""
    day, rows = bench.sizes.hours * 3600.0, list[Row]()
    npz, edf = _recording(bench, "day.npz", day, write_npz), _recording(bench, "day.edf", day, write_edf)
    for what, file, model in (
        ("npz", npz, "shipped"),
        ("EDF", edf, "shipped"),
        ("npz, recommended recipe", npz, _model(bench, "recommended")),
    ):
        seconds, memory = _score(bench, file, model)
        asked = model == "shipped"
        rows.append(
            Row(
                f"{bench.sizes.hours:g} h of five channels, {what}",
                f"{_spread(seconds, '.1f')} s, {memory:.2f} GB",
                goal="<= 8 s, <= 0.7 GB" if asked else "reported",
                reached=statistics.median(seconds) <= _DAY_GOAL and memory <= _DAY_MEMORY if asked else None,
                note=""
                if rows
                else f"`butppg score` from start to end; median, spread, peak of {bench.sizes.repeats}.",
                figures={"seconds": seconds, "gigabytes": memory},
            )
        )
    table = _recording(bench, "day.csv", day, lambda path, channels: write_csv(path, channels, day))
    words = ["reading", "--recording", str(table), "--rounds", str(bench.sizes.repeats)]
    reading = runs.answer(runs.script("kernels.py", words, bench.scratch / "reading"))["reading"]
    note = f"Times and samples of {day * RATES['PPG']:,.0f} rows, {table.stat().st_size / 1e6:.0f} MB."
    reached = statistics.median(reading) <= _CSV_GOAL
    shown = f"{_spread(reading, '.2f')} s"
    rows.append(Row("CSV of a day at 64 Hz, read", shown, "", "", "<= 3 s", reached, note, {"seconds": reading}))
    minute = _recording(bench, "minute.csv", 60.0, lambda path, channels: write_csv(path, channels, 60.0))
    seconds, memory = _score(bench, minute, "shipped")
    reached = statistics.median(seconds) <= _START_GOAL
    figures = {"seconds": seconds, "gigabytes": memory}
    shown = f"{_spread(seconds, '.2f')} s, {memory:.2f} GB"
    rows.append(Row("butppg score of a minute", shown, "", "", "<= 3 s", reached, "From process start.", figures))
    return rows


def _score(bench: Bench, recording: Path, model: str) -> tuple[list[float], float]:
    folder = bench.scratch / "scored"
    words = ["score", "--checkpoint", model, "--input", str(recording), "--output-dir", str(folder), "--overwrite"]
    found = [runs.butppg(words, bench.scratch / "score") for _ in range(bench.sizes.repeats)]
    return [run.seconds for run in found], max(run.peak_bytes for run in found) / 1e9


def _model(bench: Bench, recipe: str) -> str:
    """Return a checkpoint that a recipe trained for one epoch: weights do not move the cost."""
    folder = bench.scratch / f"recipe_{recipe}"
    if not (folder / "best_model.pt").exists():
        configs = [word for config in _RECIPES[recipe] for word in ("--config", config)]
        data = ["--data.root", str(bench.data(bench.sizes.sample)), "--trainer.max_epochs", "1"]
        runs.butppg(["fit", *configs, *data, "--output_dir", str(folder)], bench.scratch / "recipes")
    return str(folder / "best_model.pt")


def _recording(bench: Bench, name: str, seconds: float, write: Callable[[Path, dict[str, np.ndarray]], None]) -> Path:
    path = bench.scratch / name
    if not path.exists():
        write(path, _drawn(seconds))
    return path


@cache
def _drawn(seconds: float) -> dict[str, np.ndarray]:
    return draw_recording(seconds / 3600)


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"
