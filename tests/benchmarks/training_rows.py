"""Rows about whole training runs."""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path

import numpy as np
import runs
from bench import Bench, minutes
from report import Row
from runs import Run
from windows import held_out

_LARGE_GOAL, _PLAIN_GOAL, _BASELINE_GOAL, _SMALL_GOAL = 300.0, 8.0, 4.0, 15.0
_MEDIUM_GOAL, _FIRST_GOAL, _AVX2_GOAL = 5.0, 3.0, 360.0
_PLAIN = ("--cache.enabled", "false", "--trainer.precision", "32-true")
_MEMORY_GOAL, _SLOPE_GOAL = 1.2, 1.0
_CACHE = "frozen-prefix cache"
_SECONDS = re.compile(r", (computed|taken from an earlier run) in .*")
_AUGMENTATION = (
    *("--model.augment.amplitude", "0.2"),
    *("--model.channel_dropout.ECG", "0.5", "--model.channel_dropout.ACC", "0.3"),
)


def large(bench: Bench) -> list[Row]:
    """The whole process on 10,000 windows and 30 epochs."""
    sizes, run = bench.sizes, bench.large
    first, second = slice(0, sizes.head), slice(sizes.head, None)
    parts = sum(epoch["train"] for epoch in run.epochs), sum(epoch["prepare"] for epoch in run.epochs)
    check = sum(epoch["validation"] for epoch in run.epochs)
    other = run.seconds - sum(parts) - check
    precision = next(
        (line for line in run.log.splitlines() if line.startswith("precision:")), "precision: as configured"
    )
    note = (
        f"butppg fit --config finetune.yaml, default encoder, random start; val and test {held_out(sizes.windows):,} "
        f"windows each; {precision}. Training steps {parts[0]:.0f} s (an epoch {run.median('train', first):.2f} s in "
        f"stage 1, {run.median('train', second):.2f} s in stage 2), cache at stage starts after the first "
        f"{parts[1]:.0f} s, validation {check:.1f} s, all else (imports, checks, first cache, checkpoints, test) "
        f"{other:.0f} s."
    )
    return [
        Row(
            f"{sizes.windows:,} windows, {sizes.head} + {sizes.partial} epochs",
            minutes(run.seconds),
            "guide: 2 h on a GPU",
            f"{7200 / run.seconds:.0f} x",
            "< 5 min",
            run.seconds < _LARGE_GOAL,
            note,
            {"seconds": run.seconds, "epochs": run.epochs},
        )
    ]


def plain(bench: Bench) -> list[Row]:
    """The same with the cache off, in fp32."""
    sizes = bench.sizes
    seconds = bench.scaled(bench.fit("plain", bench.data(sizes.sample), *_PLAIN, *bench.stages(2, 4)))
    note = (
        f"--cache.enabled false --trainer.precision 32-true, timed for 2 + 2 epochs on {sizes.sample:,} windows and "
        f"scaled: {sizes.windows / sizes.sample:g} x windows, {sizes.head} and {sizes.partial} epochs; start and end "
        "are not scaled, which favours this side."
    )
    return [_against(bench, "our plain loop", seconds, _PLAIN_GOAL, note)]


def medium(bench: Bench) -> list[Row]:
    """A smaller run, whole, against the plain loop, whole, taking turns."""
    data, words = bench.data(bench.sizes.medium), bench.stages(2, 10)
    sides: dict[str, tuple[str, ...]] = {"ours": (), "plain": _PLAIN}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(bench.sizes.repeats):
        for name, more in sides.items():
            found[name].append(bench.fit(f"medium_{name}_{number}", data, *words, *more).seconds)
            bench.forget(f"medium_{name}_{number}")
    ours, theirs = (statistics.median(seconds) for seconds in found.values())
    ratio = theirs / ours
    note = "Whole processes, nothing scaled, in turns; medians of " + "; ".join(
        f"{name} {len(seconds)}: {min(seconds):.1f} to {max(seconds):.1f} s" for name, seconds in found.items()
    )
    what = f"{bench.sizes.medium:,} windows, 2 + 8 epochs, against our plain loop"
    reached = ratio >= _MEDIUM_GOAL
    return [Row(what, minutes(ours), minutes(theirs), f"{ratio:.1f} x", ">= 5 x", reached, f"{note}.", dict(found))]


def without_bf16(bench: Bench) -> list[Row]:
    """The large run on a CPU without AVX-512, imitated."""
    imitated = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    words = ("--trainer.precision", "32-true", *bench.stages(2, 4))
    seconds = bench.scaled(bench.fit("avx2", bench.data(bench.sizes.sample), *words, **imitated))
    note = f"{' '.join(f'{key}={value}' for key, value in imitated.items())}, fp32; timed and scaled as the plain loop."
    what = f"{bench.sizes.windows:,} windows, AVX2 only"
    return [Row(what, minutes(seconds), "", "", "<= 6 min", seconds <= _AVX2_GOAL, note, {"seconds": seconds})]


def lightning(bench: Bench) -> list[Row]:
    """The same work by Lightning's BackboneFinetuning."""
    sizes = bench.sizes
    note = (
        f"Encoder frozen for {sizes.head} epochs, then all of it trains, as BackboneFinetuning does; Trainer defaults, "
        f"same encoder, preprocessing, batches and clipping; timed for 2 + 2 epochs on {sizes.sample:,} windows and "
        "scaled as the plain loop."
    )
    return [
        _against(bench, "BackboneFinetuning", bench.baseline("32-true"), _BASELINE_GOAL, note),
        _against(bench, "BackboneFinetuning, bf16-mixed", bench.baseline("bf16-mixed"), None, ""),
    ]


def small(bench: Bench) -> list[Row]:
    """The whole process on 100 windows."""
    sizes = bench.sizes
    data = bench.data(sizes.small)
    words = bench.stages(sizes.head, sizes.epochs)
    found = [bench.fit(f"small_{number}", data, *words) for number in range(sizes.repeats)]
    seconds = [run.seconds for run in found]
    middle = statistics.median(seconds)
    note = f"Whole process with imports, median of {len(seconds)}: {', '.join(f'{one:.1f}' for one in seconds)} s."
    what = f"{sizes.small} windows, {sizes.head} + {sizes.partial} epochs"
    ratio = f"{300 / middle:.0f} x"
    row = Row(what, minutes(middle), "guide: 5 min on a GPU", ratio, "< 15 s", middle < _SMALL_GOAL, note)
    row.figures = {"seconds": seconds}
    starts = [run.epochs[0]["first"] - run.begin for run in found]
    start = statistics.median(starts)
    note = f"From the process's start; {min(starts):.2f} to {max(starts):.2f} s."
    figures = {"seconds": starts}
    return [
        row,
        Row("To its first training step", f"{start:.2f} s", "", "", "<= 3 s", start <= _FIRST_GOAL, note, figures),
    ]


def augmented(bench: Bench) -> list[Row]:
    """The recommended recipe, augmentation on: on the fly, and from stored variations."""
    sizes = bench.sizes
    data = bench.scratch / "mock"
    runs.butppg(["mock", "--output", str(data), "--samples", str(sizes.augmented), "--seed", "0"], data / "log")
    rows: list[Row] = []
    about = (
        f"{sizes.augmented:,} synthetic windows (all splits), finetune.yaml and quick.yaml (3 stages), amplitude 0.2, "
        "channel dropout ECG 0.5 and ACC 0.3. "
    )
    for views in (0, *sizes.views):
        name = f"augmented_{views}"
        run = bench.fit(name, data, "--config", "quick.yaml", *_AUGMENTATION, "--cache.views", str(views))
        metrics = bench.test_metrics(name)
        score, interval = metrics["auroc"], metrics.get("auroc_ci95")
        shown = "undefined" if score is None else f"{score:.3f}"
        between = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        first = float(rows[0].figures["seconds"]) if rows else run.seconds
        rows.append(
            Row(
                f"Augmented, {f'cache.views {views}' if views else 'on the fly'}",
                f"{minutes(run.seconds)}, AUROC {shown}",
                "" if not rows else f"on the fly: {minutes(first)}",
                "" if not rows else f"{first / run.seconds:.2f} x",
                "reported",
                None,
                f"{about if not rows else ''}Test AUROC {shown}{between}. {cache_state(run)}",
                {"seconds": run.seconds, "auroc": score, "auroc_ci95": interval},
            )
        )
    return rows


def memory(bench: Bench) -> list[Row]:
    """Peak memory of the large run."""
    peak = _peak(bench.large) / 1e9
    what = f"Peak memory, {bench.sizes.windows:,} windows"
    note = "RSS less pages of files (RssAnon + RssShmem), looked at ten times a second over the whole process."
    reached = peak < _MEMORY_GOAL
    return [
        Row(what, f"{peak:.2f} GB", "guide: 4 GB on CPU", f"1/{4 / peak:.1f}", "< 1.2 GB", reached, note, {"gb": peak})
    ]


def growth(bench: Bench) -> list[Row]:
    """How time and memory grow with the number of windows."""
    imports = statistics.median(
        runs.butppg(["fit", "--config", "finetune.yaml", "--print_config"], bench.scratch / "imports").seconds
        for _ in range(bench.sizes.repeats)
    )
    found: dict[int, Run] = {}
    for windows in bench.sizes.growth:
        found[windows] = bench.fit(f"growth_{windows}", bench.data(windows), *bench.stages(1, 2))
        bench.forget(f"growth_{windows}")
    seconds = [run.seconds - imports for run in found.values()]
    if min(seconds) <= 0:
        raise RuntimeError(f"the smallest run took no longer than its imports ({imports:.1f} s)")
    slope = float(np.polyfit(np.log(list(found)), np.log(seconds), 1)[0])
    steps = np.diff(np.log(seconds)) / np.diff(np.log(list(found)))
    peaks = " / ".join(f"{_peak(run) / 1e9:.2f}" for run in found.values())
    sizes = " / ".join(f"{windows:,}" for windows in found)
    note = (
        f"1 + 1 epochs; process time less that of --print_config ({imports:.1f} s): "
        f"{' / '.join(minutes(one) for one in seconds)} at {sizes} windows; slope from each size to the next "
        f"{', '.join(f'{step:.2f}' for step in steps)}. Default cache options: {cache_state(list(found.values())[-1])}"
    )
    figures = {"windows": list(found), "seconds": seconds, "peak_bytes": [run.peak_bytes for run in found.values()]}
    reached = slope <= _SLOPE_GOAL
    return [
        Row(
            f"Growth to {max(found):,} windows",
            f"slope {slope:.2f}",
            "linear",
            f"{slope:.2f}",
            "<= 1.0",
            reached,
            note,
            figures,
        ),
        Row("Its peak memory", f"{peaks} GB", f"at {sizes}", "", "flat once on disk", None),
    ]


def help_pages(bench: Bench) -> list[Row]:
    """What it takes to show a help page."""
    rows = []
    for words, goal in ((["--help"], 0.7), (["mock", "--help"], None)):
        seconds = [runs.process([_command(), *words], bench.scratch / "help").seconds for _ in range(5)]
        middle = statistics.median(seconds)
        reached = middle < goal if goal else None
        shown = f"< {goal:g} s" if goal else "reported"
        note = "Median of 5 processes." if goal else ""
        figures = {"seconds": seconds}
        rows.append(Row(f"butppg {' '.join(words)}", f"{middle:.2f} s", "", "", shown, reached, note, figures))
    return rows


def cache_state(run: Run) -> str:
    """Return what the run said about its cache, each line once."""
    said = [line.removeprefix(_CACHE) for line in run.log.splitlines() if line.startswith(_CACHE)]
    lines = [_SECONDS.sub("", line).lstrip(": ") for line in said if not line.endswith("...")]
    return f"The cache said: {'; '.join(dict.fromkeys(lines))}."


def _against(bench: Bench, baseline: str, seconds: float, goal: float | None, note: str) -> Row:
    ratio = seconds / bench.large.seconds
    return Row(
        f"against {baseline}",
        minutes(bench.large.seconds),
        minutes(seconds),
        f"{ratio:.1f} x",
        f">= {goal:g} x" if goal else "reported",
        ratio >= goal if goal else None,
        note,
        {"ours": bench.large.seconds, "theirs": seconds},
    )


def _peak(run: Run) -> int:
    if not run.peak_bytes:
        raise RuntimeError("peak memory is read from /proc, which this system does not have")
    return run.peak_bytes


def _command() -> str:
    return str(Path(sys.executable).with_name("butppg"))
