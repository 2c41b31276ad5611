import math

import pytest
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.training.optimizers import parameter_groups
from butppg_lightning.training.schedules import SCHEDULES, StagedLR, schedule_factor

CLOSED_FORMS = {
    "constant": lambda step: min(1, (step + 1) / 10),
    "linear": lambda step: (step + 1) / 10 if step < 10 else 1 - (step - 10) / 90,
    "cosine": lambda step: (step + 1) / 10 if step < 10 else 0.5 * (1 + math.cos(math.pi * (step - 10) / 90)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_rate_is_schedule_times_stage(name: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [parameter], "lr": 0.3}])
    schedule = StagedLR(optimizer, name, total_steps=100, warmup=0.1)
    for step in range(100):
        factor = 0.1 if step >= 40 else 1.0
        if step in (0, 40):
            schedule.set_stage_factor(factor)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * factor * CLOSED_FORMS[name](step))
        optimizer.step()
        schedule.step()


def test_one_cycle_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([parameter], lr=1), max_lr=1.0, total_steps=100, pct_start=31 / 100
    )
    for step in range(100):
        assert schedule_factor("one_cycle", step, 100, 30) == pytest.approx(reference.get_last_lr()[0], rel=1e-6)
        if step < 99:
            reference.optimizer.step()
            reference.step()


def test_state_survives_a_restart() -> None:
    def make() -> StagedLR:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return StagedLR(optimizer, "cosine", 50, 0.1)

    first = make()
    first.set_stage_factor(0.1)
    for _ in range(20):
        first.optimizer.step()
        first.step()
    second = make()
    second.load_state_dict(first.state_dict())
    for schedule in (first, second):
        schedule.optimizer.step()
        schedule.step()
    assert first.get_last_lr() == second.get_last_lr()


@pytest.mark.parametrize("name", ["plateau", "step"])
def test_unknown_schedules_are_refused(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match="choose"):
        StagedLR(optimizer, name, 10)


def test_all_schedules_stay_between_zero_and_one() -> None:
    for name in SCHEDULES:
        for step in range(120):
            assert 0 <= schedule_factor(name, step, 100, 7) <= 1


def test_groups_hold_every_parameter_once_with_its_rate() -> None:
    names = ["encoder.embedding.weight", "encoder.blocks.0.fc1.weight", "encoder.blocks.1.fc1.weight"]
    named = [(name, torch.nn.Parameter(torch.zeros(2, 2))) for name in [*names, "head.score.weight"]]
    named += [("encoder.norm.bias", torch.nn.Parameter(torch.zeros(2)))]
    groups = parameter_groups(named, lr=1.0, weight_decay=0.1, depth=2, head_lr_multiplier=5, layer_decay=0.5)
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert [rate[id(parameter)] for _, parameter in named] == [
        (0.25, 0.1),
        (0.5, 0.1),
        (1.0, 0.1),
        (5.0, 0.1),
        (1.0, 0.0),
    ]
    assert sum(len(group["params"]) for group in groups) == len(named)
