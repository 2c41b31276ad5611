"""Other optimizers and schedules of torch: what keeps the promises is taken, the rest refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from exactness import Stopped, differences, fit, outcome, stop_at

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.errors import UserError
from butppg_lightning.training.optimizers import build_optimizer, parameter_groups
from butppg_lightning.training.schedules import StagedLR, schedule_table

SIZE = ["--config", "tiny.yaml", "--model.lr", "1e-2", "--trainer.max_epochs", "4", "--data.batch_size", "8"]
STAGES = ["--stages.head_only_epochs", "1", "--stages.unfreeze_last_n", "1", "--stages.full_finetune_epochs", "1"]
SGD = {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}
STEPS = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3, "gamma": 0.5}}
CPU = torch.device("cpu")


def groups(**options: Any) -> list[dict[str, Any]]:
    network = PPGQualityClassifier(encoder={"init_args": TINY}).network
    return parameter_groups(network.named_parameters(), **{"lr": 1e-2, "weight_decay": 0.01, **options})


@pytest.mark.parametrize("spec", [SGD, {"class_path": "NAdam"}, {"class_path": "torch.optim.RMSprop"}])
def test_a_run_with_it_goes_through_all_stages_and_resumes_bit_for_bit(
    spec: dict[str, Any], data_folder: Path, tmp_path: Path
) -> None:
    named = [*SIZE, *STAGES, "--model.optimizer", json.dumps(spec), "--model.lr_schedule", json.dumps(STEPS)]
    assert fit(tmp_path / "whole", data_folder, *named) == 0
    with pytest.raises(Stopped):
        fit(tmp_path / "cut", data_folder, *named, *stop_at("batch", epoch=2, batch=1), "--save_every_n_steps", "1")
    assert fit(tmp_path / "cut", data_folder, *named, "--save_every_n_steps", "1", "--resume", "auto") == 0
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "cut")) == []
    stages = json.loads((tmp_path / "whole" / "training_history.json").read_text())["stage"]
    assert stages == ["stage1_head_only", "stage2_partial", "stage2_partial", "stage3_full"]


def test_it_can_be_said_in_yaml(data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "model:\n  optimizer:\n    class_path: torch.optim.SGD\n    init_args: {momentum: 0.9, nesterov: true}\n"
        "  lr_schedule:\n    class_path: torch.optim.lr_scheduler.CosineAnnealingLR\n    init_args: {T_max: 20}\n"
    )
    assert fit(tmp_path / "run", data_folder, *SIZE, *STAGES, "--config", str(tmp_path / "own.yaml")) == 0
    stored = torch.load(tmp_path / "run" / "best_model.pt", weights_only=True)
    assert stored["optimizer_states"][0]["param_groups"][0]["nesterov"] is True
    assert stored["hyper_parameters"]["optimizer"]["class_path"] == "torch.optim.SGD"
    assert PPGQualityClassifier.load_from_checkpoint(tmp_path / "run" / "best_model.pt").hparams["optimizer"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"class_path": "torch.optim.LBFGS"}, "evaluates the loss several times"),
        ({"class_path": "torch.optim.SparseAdam"}, "sparse"),
        ({"class_path": "torch.optim.Muon"}, "matrices only"),
        ({"class_path": "torch.optim.AdaW"}, "the nearest is Adam"),
        ({"class_path": "os.system"}, "choose one of torch.optim"),
        ({"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}, "say --model.lr instead"),
        ({"class_path": "torch.optim.SGD", "init_args": {"weight_decay": 0.1}}, "say --model.weight_decay instead"),
        ({"class_path": "torch.optim.SGD", "init_args": {"momentums": 0.1}}, "momentums"),
        ({"class_path": "torch.optim.Rprop"}, "knows no weight decay"),
        ({"optim": "SGD"}, "expected class_path"),
    ],
)
def test_what_cannot_serve_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_optimizer(spec, groups(), CPU)


def test_adamw_by_name_is_the_default() -> None:
    named, default = (build_optimizer(spec, groups(), CPU) for spec in ({"class_path": "torch.optim.AdamW"}, None))
    assert type(named) is type(default)
    assert [group["lr"] for group in named.param_groups] == [group["lr"] for group in default.param_groups]


@pytest.mark.parametrize(
    "spec",
    [
        STEPS,
        {"class_path": "ExponentialLR", "init_args": {"gamma": 0.9}},
        {"class_path": "torch.optim.lr_scheduler.OneCycleLR"},
        {"class_path": "PolynomialLR", "init_args": {"total_iters": 10, "power": 2.0}},
        {"class_path": "CosineAnnealingWarmRestarts", "init_args": {"T_0": 4}},
        {"class_path": "CyclicLR", "init_args": {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 3}},
    ],
)
def test_a_schedule_of_torch_is_a_function_of_the_step(spec: dict[str, Any]) -> None:
    """The rate is base × table × stage at every step, wherever a run is taken up again."""
    table = schedule_table(spec, 20)
    assert len(table) == 21
    assert len({round(value, 12) for value in table}) > 1
    optimizer = build_optimizer(None, groups(), CPU)
    schedule = StagedLR(optimizer, spec, 20)
    schedule.set_stage_factor(0.1)
    for step in range(20):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * table[step] * 0.1)
        if step == 11:
            again = StagedLR(build_optimizer(None, groups(), CPU), spec, 20)
            again.load_state_dict(schedule.state_dict())
            assert again.factor(12) == table[12]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, "waits for a validation figure"),
        ({"class_path": "torch.optim.lr_scheduler.LambdaLR"}, "cannot be written in YAML"),
        ({"class_path": "torch.optim.lr_scheduler.SequentialLR"}, "made of other schedulers"),
        ({"class_path": "StepLRs"}, "the nearest is StepLR"),
        ({"class_path": "StepLR"}, "does not take"),
        ({"class_path": "ExponentialLR", "init_args": {"gamma": -1}}, "below 0"),
    ],
)
def test_a_schedule_that_needs_more_than_the_step_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        schedule_table(spec, 10)


def test_warm_up_belongs_to_named_schedules() -> None:
    with pytest.raises(UserError, match="set it to 0"):
        StagedLR(build_optimizer(None, groups(), CPU), STEPS, 10, warmup=0.1)
