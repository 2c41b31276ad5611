"""A finished run goes on for more epochs: its last stage is lengthened, and what is no longer exact is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exactness import RUN, differences, fit, outcome
from hypothesis import given
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.training.stage_plan import Stage, follows, stage_index
from butppg_lightning.training.staged_unfreezing import StagedUnfreezing

FLAGS = [*RUN, "--trainer.precision=32-true", "--stages.head_only_epochs=1", "--stages.full_finetune_epochs=0"]
CONSTANT = ["--model.lr_schedule=constant", "--model.warmup=0"]


def epochs(count: int) -> str:
    return f"--trainer.max_epochs={count}"


@pytest.mark.parametrize(
    "plan",
    [
        ["--stages.unfreeze_last_n=1"],
        ["--stages.head_only_epochs=4"],  # ended within the first stage, and goes on through it
        ["--stages.head_only_epochs=5", '--stages.plan=[{"trainable": "head", "epochs": 1}, {"trainable": "all"}]'][1:],
    ],
    ids=["stages", "within a stage", "list"],
)
def test_it_ends_as_a_run_begun_with_that_number(plan: list[str], data_folder: Path, tmp_path: Path, capsys) -> None:
    words = [*FLAGS[: -2 if "plan" in plan[0] else None], *CONSTANT, *plan]
    words = [word for word in words if "plan" not in plan[0] or "stages." not in word or "plan" in word]
    assert fit(tmp_path / "whole", data_folder, *words, epochs(5)) == 0
    assert fit(tmp_path / "run", data_folder, *words, epochs(2)) == 0
    capsys.readouterr()
    assert fit(tmp_path / "run", data_folder, *words, epochs(5), "--resume=auto") == 0
    said = capsys.readouterr().err
    assert "max_epochs was 2, is 5 (the learning rate does not depend on that)" in said
    assert "not exactly" not in said
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []
    for name in ("training_config.json", "config.yaml"):
        assert "max_epochs" in (tmp_path / "run" / name).read_text()
    assert json.loads((tmp_path / "run" / "training_config.json").read_text())["trainer"]["max_epochs"] == 5


def test_the_last_stage_is_lengthened_and_the_schedule_too(data_folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = [*FLAGS, "--stages.full_finetune_epochs=1"]
    assert fit(tmp_path / "run", data_folder, *words, epochs(3)) == 0
    capsys.readouterr()
    assert fit(tmp_path / "run", data_folder, *words, epochs(5), f"--ckpt_path={tmp_path / 'run' / 'last.ckpt'}") == 0
    said = capsys.readouterr().err
    assert "stage3_full goes on for 2 more epochs, to 3; a run begun with trainer.max_epochs 5 would have had" in said
    assert "not exactly: trainer.max_epochs was 3, is 5; the learning rate is from here on" in said
    history = json.loads((tmp_path / "run" / "training_history.json").read_text())
    assert history["stage"] == ["stage1_head_only", "stage2_partial", *["stage3_full"] * 3]
    before = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["callbacks"]["StagedUnfreezing"]
    assert [stage["epochs"] for stage in before["plan"]] == [1, 1, 3]
    # and once more, although its plan is no longer what the options alone would give
    assert fit(tmp_path / "run", data_folder, *words, epochs(5), "--resume=auto") == 0
    assert fit(tmp_path / "run", data_folder, *words, epochs(6), "--resume=auto") == 0
    assert "Epoch 6/6  stage3_full" in capsys.readouterr().out


def test_fewer_epochs_and_other_stages_stay_refused(data_folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = [*FLAGS, "--resume=auto"]
    assert fit(tmp_path / "run", data_folder, *words, epochs(3)) == 0
    capsys.readouterr()
    assert fit(tmp_path / "run", data_folder, *words, epochs(2)) == 2
    assert "is of a run of 3 epochs, --trainer.max_epochs is 2; give 3 or more" in capsys.readouterr().err
    assert fit(tmp_path / "run", data_folder, *words, epochs(5), "--stages.head_only_epochs=2") == 2
    assert "resume with the same plan" in capsys.readouterr().err


STAGES = st.lists(
    st.builds(
        Stage,
        st.sampled_from(["head", 1, 2, "all"]),
        st.integers(1, 4),
        st.sampled_from([1.0, 10.0]),
        name=st.sampled_from("abc"),
    ),
    min_size=1,
    max_size=4,
)


@given(STAGES, STAGES, st.integers(0, 12))
def test_plans_agree_where_every_epoch_trains_the_same(plan: list[Stage], other: list[Stage], count: int) -> None:
    def trained(stages: list[Stage], epoch: int) -> tuple:
        stage = stages[stage_index(stages, epoch)]
        return stage_index(stages, epoch), stage.trainable, stage.lr_divisor, stage.name

    same = all(trained(plan, epoch) == trained(other, epoch) for epoch in range(count))
    assert follows(plan, other, count) == same


@given(STAGES, st.integers(1, 5))
def test_any_plan_is_lengthened_at_its_end_only(plan: list[Stage], more: int) -> None:
    total = sum(stage.epochs for stage in plan)
    longer = [*plan[:-1], Stage(plan[-1].trainable, plan[-1].epochs + more, plan[-1].lr_divisor, name=plan[-1].name)]
    resumed = StagedUnfreezing(plan=longer)
    resumed._depth, resumed._resumed, resumed.stages = 2, total - 1, longer
    assert resumed._lengthened(plan, total) == longer
    resumed.stages, resumed.plan = plan, plan
    with pytest.raises(UserError, match="same plan"):
        resumed._lengthened(longer, total + more)
