"""Rows about single steps, against a bound of the machine or a baseline."""

from __future__ import annotations

from bench import Bench
from report import Row

_TRAIN_BATCH = 32
_STAGE1_GOAL, _RATE_GOAL, _PRETRAINING_GOAL = 50.0, 0.6, 3.0


def stage1(bench: Bench) -> list[Row]:
    """What a window costs in an epoch of stage 1, against running the encoder."""
    sizes = bench.sizes
    ours = bench.large.median("train", slice(0, sizes.head)) / sizes.windows
    plain = bench.kernel("forward")
    share = plain["fp32"] / ours
    note = (
        f"Median training epoch of the large run's stage 1; the encoder's forward pass at batch 128 in eval mode, fp32 "
        f"(in the automatic precision {1e3 * plain['bf16']:.2f} ms, of which ours is 1/{plain['bf16'] / ours:.0f})."
    )
    return [
        Row(
            "Stage 1, a window and epoch",
            f"{1e6 * ours:.0f} us",
            f"forward: {1e3 * plain['fp32']:.2f} ms",
            f"1/{share:.0f}",
            "<= 1/50",
            share >= _STAGE1_GOAL,
            note,
            {"seconds": ours, **plain},
        )
    ]


def stage2(bench: Bench) -> list[Row]:
    """How much of the machine's matrix-product rate training reaches in stage 2."""
    sizes = bench.sizes
    alone = bench.kernel("products")
    seconds = bench.large.median("train", slice(sizes.head, None))
    work = alone["flops"] / _TRAIN_BATCH * sizes.windows
    rate, peak = work / seconds, alone["flops"] / alone["seconds"]
    note = (
        f"{alone['flops'] / _TRAIN_BATCH / 1e6:.0f} MFLOP a window, forward and backward of the last 2 blocks, norm "
        f"and head: each of the {alone['products']:.0f} matrix products of a step at batch 32 counted as it runs, then "
        f"timed alone (best of {sizes.rounds} rounds) for the peak. Median training epoch of the large run's stage 2: "
        f"{1e3 * seconds / sizes.windows:.2f} ms a window."
    )
    return [
        Row(
            "Stage 2, arithmetic rate",
            f"{rate / 1e9:.0f} GFLOP/s",
            f"peak: {peak / 1e9:.0f} GFLOP/s",
            f"{rate / peak:.0%}",
            ">= 60 %",
            rate / peak >= _RATE_GOAL,
            note,
            {"rate": rate, "peak": peak, **alone},
        )
    ]


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
