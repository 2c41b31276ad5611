"""The learning rate of every step of whole runs, resumed ones too, against a closed form."""

import math
from pathlib import Path

import pytest
from exactness import RUN, Stopped, fit, stop_at
from lightning.pytorch import Callback

STEPS = 5  # optimizer steps an epoch: 9 batches of 4 windows, accumulation 2
TOTAL = 6 * STEPS
RATES: list[dict[str, float]] = []


class Record(Callback):
    """Keeps the rate of each group at each optimizer step, under the group's name."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        del RATES[trainer.global_step :]  # a resumed run repeats the steps since its last save
        RATES.append({group["name"]: group["lr"] for group in optimizer.param_groups})


def one_cycle(step: int) -> float:
    rise = 9
    if step <= rise:
        return 1 + (1 / 25 - 1) * 0.5 * (1 + math.cos(math.pi * step / rise))
    return 1 / 250_000 + (1 - 1 / 250_000) * 0.5 * (1 + math.cos(math.pi * (step - rise) / (TOTAL - 1 - rise)))


WARM = {
    "constant": lambda step: 1.0,
    "linear": lambda step: 1 - (step - 3) / (TOTAL - 3),
    "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * (step - 3) / (TOTAL - 3))),
}


def closed_form(schedule: str, step: int) -> float:
    stage = 1.0 if step < 4 * STEPS else 0.1
    if schedule == "one_cycle":
        return 1e-3 * stage * one_cycle(step)
    return 1e-3 * stage * ((step + 1) / 3 if step < 3 else WARM[schedule](step))


@pytest.mark.parametrize("schedule", [*WARM, "one_cycle"])
@pytest.mark.parametrize("stop", [None, ("batch", 3, 6), ("epoch", 4, 0)], ids=["whole", "middle", "boundary"])
def test_rate_is_schedule_times_stage_times_depth(schedule: str, stop, data_folder: Path, tmp_path: Path) -> None:
    RATES.clear()
    flags = [*RUN, f"--model.lr_schedule={schedule}", "--model.head_lr_multiplier=10", "--model.layer_decay=0.5"]
    flags += ["--model.warmup=0"] if schedule == "one_cycle" else []
    record = ["--trainer.callbacks+=test_learning_rate.Record"]
    if stop is not None:
        with pytest.raises(Stopped):
            fit(tmp_path / "run", data_folder, *flags, *record, *stop_at(*stop))
    assert fit(tmp_path / "run", data_folder, *flags, *record, "--resume=auto") == 0
    assert len(RATES) == TOTAL
    for step, rates in enumerate(RATES):
        for name, rate in rates.items():
            multiplier = float(name.removeprefix("lr_x").partition("_")[0])
            assert multiplier in (10, 1, 0.5, 0.25)
            assert rate == pytest.approx(multiplier * closed_form(schedule, step), rel=1e-6), (step, name)
