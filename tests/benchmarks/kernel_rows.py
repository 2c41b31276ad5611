"""Rows about single steps, against a bound of the machine or a baseline."""

from __future__ import annotations

import statistics

from bench import Bench
from report import Row

_STAGE2_GOAL, _RATE_GOAL, _PRETRAINING_GOAL = 0.6, 0.55, 3.0
_ALL = ("--stages.plan", "[{trainable: all}]")


def rates(bench: Bench) -> list[Row]:
    """How much of the machine's matrix-product rate training reaches, by real epochs: stage 2, and all in training."""
    alone = bench.kernel("products")
    epochs = {"stage 2": bench.large.epochs[bench.sizes.head :]}
    for kind, precision in (("bf16", "bf16-mixed"), ("fp32", "32-true")):
        words = ("--trainer.precision", precision, "--trainer.max_epochs", str(bench.sizes.repeats))
        data = bench.data(bench.sizes.sample)
        epochs[f"fit, {kind}"] = bench.fit(f"all_{kind}", data, *_ALL, *words).epochs[1:]
        epochs[f"pretrain, {kind}"] = bench.pretrain(f"pretrain_{kind}", *words).epochs[1:]
    rows = []
    for name, found in epochs.items():
        goal = _STAGE2_GOAL if name == "stage 2" else _RATE_GOAL
        steps = [epoch["train"] / epoch["steps"] for epoch in found]
        step, work = statistics.median(steps), alone[name]
        share = work["seconds"] / step
        note = (
            f"A step (batch 32, with Lightning's loop and the data) {1e3 * step:.0f} ms, {1e3 * min(steps):.0f} to "
            f"{1e3 * max(steps):.0f} over {len(steps)} epochs; its {work['products']:.0f} products alone (best of "
            f"{bench.sizes.rounds} rounds) {1e3 * work['seconds']:.0f} ms."
        )
        rate, peak = (f"{work['flops'] / seconds / 1e9:.0f} GFLOP/s" for seconds in (step, work["seconds"]))
        what = "Stage 2" if name == "stage 2" else f"Everything trains, {name}"
        figures = {"steps": steps, **work}
        rows.append(Row(what, rate, f"peak: {peak}", f"{share:.0%}", f">= {goal:.0%}", share >= goal, note, figures))
    return rows


def pretraining(bench: Bench) -> list[Row]:
    """Masked pretraining against encoding all patches in fp32."""
    found = bench.kernel("pretraining")
    ratio = found["ours"] / found["reference"]
    note = (
        "MaskedPretrainer's training steps with AdamW at batch 32, default sizes, taking turns; the reference replaces "
        "hidden patches by a mask token before the encoder, as BERT and SimMIM do."
    )
    return [
        Row(
            "Pretraining",
            f"{found['ours']:.0f} windows/s",
            f"all patches, fp32: {found['reference']:.0f}",
            f"{ratio:.1f} x",
            ">= 3 x",
            ratio >= _PRETRAINING_GOAL,
            note,
            found,
        )
    ]
