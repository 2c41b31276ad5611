import pytest
from hypothesis import given
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.training.stage_plan import GUIDE_NAMES, Stage, check_plan, complete_plan, guide_plan, stage_index


@given(
    epochs=st.integers(1, 60),
    head=st.integers(0, 20),
    full=st.integers(0, 20),
)
def test_guide_plan_fills_the_run_exactly(epochs: int, head: int, full: int) -> None:
    if full and head + full > epochs:
        with pytest.raises(UserError, match="exceed"):
            guide_plan(epochs, head, 2, full)
        return
    plan = guide_plan(epochs, head, 2, full)
    assert sum(stage.epochs for stage in plan) == epochs
    names = [plan[stage_index(plan, epoch)].name for epoch in range(epochs)]
    first = min(head, epochs)
    assert names == [GUIDE_NAMES[0]] * first + [GUIDE_NAMES[1]] * (epochs - first - full) + [GUIDE_NAMES[2]] * full


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), epochs=st.integers(1, 60))
def test_general_plan_covers_every_epoch(lengths: list[int], epochs: int) -> None:
    stages = [Stage("head", length) for length in lengths] + [Stage("all")]
    plan = complete_plan(stages, epochs)
    assert sum(stage.epochs for stage in plan) == epochs
    assert all(stage.name for stage in plan)


def test_the_general_form_expresses_the_guide() -> None:
    general = [
        Stage("head", 5, name=GUIDE_NAMES[0]),
        Stage(2, name=GUIDE_NAMES[1]),
        Stage("all", 10, 10, name=GUIDE_NAMES[2]),
    ]
    assert complete_plan(general, 40) == guide_plan(40, 5, 2, 10)


@pytest.mark.parametrize(
    "stages",
    [[], [Stage("head", 3)], [Stage("head"), Stage("all")]],
    ids=["empty", "shorter than the run", "two open ends"],
)
def test_incomplete_plans_are_refused(stages: list[Stage]) -> None:
    with pytest.raises(UserError):
        complete_plan(stages, 10)


@pytest.mark.parametrize("stage", [Stage(13), Stage(0), Stage("tail"), Stage("head", -1), Stage("head", 1, 0.0)])
def test_impossible_stages_are_refused(stage: Stage) -> None:
    with pytest.raises(UserError):
        check_plan([stage], depth=12)


@pytest.mark.parametrize("numbers", [(0, 5, 2, 0), (10, -1, 2, 0), (10, 5, 2, -1), (10, 5, 2, 6)])
def test_impossible_numbers_are_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(UserError):
        guide_plan(*numbers)
