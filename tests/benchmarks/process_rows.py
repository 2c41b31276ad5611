"""Rows about several runs: a sweep, and one run on several processes."""

from __future__ import annotations

import statistics

import runs
from bench import Bench, minutes
from report import Row
from runs import Run

_SWEEP_GOAL, _PROCESSES_GOAL = 3.0, 0.9
_PARTS = {
    "Stage 2": "[{trainable: head, epochs: 1}, {trainable: 2, epochs: 3}]",
    "Everything": "[{trainable: head, epochs: 1}, {trainable: all, epochs: 3}]",
    "Everything, indices": "[{trainable: head, epochs: 1}, {trainable: all, epochs: 3}]",
}
_TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "16")
_SPACE = "{model.lr: {low: 1.0e-5, high: 3.0e-3, log: true}, model.indices_lr_multiplier: {low: 1, high: 30}}"


def sweep(bench: Bench) -> list[Row]:
    """A sweep of head-only trials on one pretrained encoder: of one trial, and of many."""
    sizes, folder = bench.sizes, bench.scratch / "sweep"
    pairs = folder / "pairs"
    runs.butppg(["mock", "--layout", "vitaldb", "--output", str(pairs), "--samples", "64"], folder / "mock")
    words = ["--data.root", str(pairs), "--output_dir", str(folder / "pretrained"), "--trainer.max_epochs", "1"]
    runs.butppg(["pretrain", "--config", "pretrain.yaml", *words], folder / "log")
    plan = folder / "search.yaml"
    plan.write_text(f"base: finetune_recommended.yaml\nparameters: {_SPACE}\nsampler: random\n")
    fixed = ["--model.pretrained", str(folder / "pretrained" / "best_model.pt")]
    fixed += ["--data.root", str(bench.data(sizes.sample))]

    def run(name: str, trials: int) -> Run:
        words = ["--config", str(plan), "--output_dir", str(folder / name), "--trials", str(trials), *fixed]
        return runs.butppg(["sweep", *words], folder / f"{name}_log")

    one = statistics.median(run(f"one_{number}", 1).seconds for number in range(sizes.repeats))
    found = [run(f"many_{number}", sizes.trials).seconds for number in range(sizes.repeats)]
    many = statistics.median(found)
    note = (
        f"butppg sweep, finetune_recommended.yaml (30 epochs of the head, rhythm indices), {sizes.sample:,} windows, a "
        f"pretrained default encoder; whole processes with imports, medians of {sizes.repeats} ({min(found):.1f} to "
        f"{max(found):.1f} s). A further trial takes {(many - one) / max(sizes.trials - 1, 1):.1f} s."
    )
    return [
        Row(
            f"Sweep of {sizes.trials} head-only trials",
            minutes(many),
            f"1 trial: {minutes(one)}",
            f"{many / one:.1f} x",
            f"<= {_SWEEP_GOAL:g} x",
            many <= _SWEEP_GOAL * one,
            note,
            {"one": one, "seconds": found},
        )
    ]


def processes(bench: Bench) -> list[Row]:
    """Two processes over gloo with a thread each against one with two threads: windows a second of training steps."""
    sizes, rows = bench.sizes, []
    for name, plan in _PARTS.items():
        words = [f"--stages.plan={plan}", "--trainer.max_epochs=4", "--trainer.accelerator=cpu", "--test=false"]
        words += ["--model.indices", "[ppg,rhythm]"] if "indices" in name else []
        seconds: dict[str, list[Run]] = {"one": [], "two": []}
        for number in range(sizes.repeats):  # in turn, so that whatever else the machine does hits both alike
            for which, more in (("one", ()), ("two", _TWO)):
                label = f"processes_{name.split()[0]}_{len(name)}_{which}_{number}"
                seconds[which].append(bench.fit(label, bench.data(sizes.sample), *words, *more))
        rates = {
            which: [sizes.sample / run.median("train", slice(2, None)) for run in found]
            for which, found in seconds.items()
        }
        ratios = sorted(two / one for one, two in zip(rates["one"], rates["two"], strict=True))
        middle = statistics.median(ratios)
        whole = {which: statistics.median(run.seconds for run in found) for which, found in seconds.items()}
        rows.append(
            Row(
                f"{name}, two processes",
                f"{statistics.median(rates['two']):.0f} windows/s",
                f"one: {statistics.median(rates['one']):.0f}",
                f"{middle:.2f} x",
                f">= {_PROCESSES_GOAL:g} x",
                middle >= _PROCESSES_GOAL,
                f"Global batches of 32, median of {len(ratios)} pairs ({ratios[0]:.2f} to {ratios[-1]:.2f}). Whole "
                f"processes, with all else that a run does: {minutes(whole['two'])} against {minutes(whole['one'])}.",
                {"rates": rates, "seconds": whole},
            )
        )
    return rows
