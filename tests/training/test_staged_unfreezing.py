from pathlib import Path

import pytest
import torch
from conftest import EVERY_ENCODER, TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer

from butppg_lightning import BUTPPGDataModule, PPGQualityClassifier, StagedUnfreezing
from butppg_lightning.errors import UserError
from butppg_lightning.training.stage_plan import Stage, stage_index


class Moves(Callback):
    """Records which parameters each epoch moved, and each epoch's learning rate."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.before = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
        self.rates = [*getattr(self, "rates", []), trainer.optimizers[0].param_groups[0]["lr"]]

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        now = pl_module.network.state_dict()
        moved = {name for name, value in now.items() if not torch.equal(value, self.before[name])}
        self.moved = [*getattr(self, "moved", []), moved]


def run(folder: Path, data: Path, staged: StagedUnfreezing, epochs: int, **model) -> tuple[Moves, object]:
    moves = Moves()
    options = {"encoder": {"init_args": {**TINY, "depth": 3, "dropout": 0.1}}, **model}
    module = PPGQualityClassifier(lr=1e-2, weight_decay=0.1, **options)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        callbacks=[staged, moves],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=BUTPPGDataModule(str(data), batch_size=12))
    return moves, module


def expected(module: PPGQualityClassifier, trainable) -> set[str]:
    names = [name for name, _ in module.network.named_parameters() if name != "encoder.embedding.absent"]
    if trainable == "all":
        return set(names)
    depth = len(module.network.encoder.blocks)
    first = depth if trainable == "head" else depth - trainable
    parts = ["head.", *(f"encoder.blocks.{block}." for block in range(first, depth))]
    parts += [] if trainable == "head" else ["encoder.norm."]
    return {name for name in names if name.startswith(tuple(parts))}


@pytest.mark.parametrize("encoder", EVERY_ENCODER)
def test_the_guides_stages_move_what_they_should(encoder: dict, data_folder: Path, tmp_path: Path) -> None:
    moves, module = run(tmp_path, data_folder, StagedUnfreezing(1, 2, 1), epochs=4, encoder=encoder)
    plan = ["head", 2, 2, "all"]
    assert moves.moved == [expected(module, trainable) for trainable in plan]
    assert moves.rates == pytest.approx([1e-2, 1e-2, 1e-2, 1e-3])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(
        st.builds(
            Stage,
            trainable=st.sampled_from(["head", 1, 2, 3, "all"]),
            epochs=st.integers(1, 2),
            lr_divisor=st.sampled_from([1.0, 10.0]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_plan_moves_what_it_says(data_folder: Path, tmp_path: Path, plan: list[Stage]) -> None:
    epochs = sum(stage.epochs for stage in plan)
    moves, module = run(tmp_path, data_folder, StagedUnfreezing(plan=plan), epochs)
    for epoch in range(epochs):
        stage = plan[stage_index(plan, epoch)]
        assert moves.moved[epoch] == expected(module, stage.trainable)
        assert moves.rates[epoch] == pytest.approx(1e-2 / stage.lr_divisor)


def test_one_epoch_is_one_epoch(data_folder: Path, tmp_path: Path) -> None:
    moves, module = run(tmp_path, data_folder, StagedUnfreezing(), epochs=1)
    assert moves.moved == [expected(module, "head")]


def test_schedule_and_stage_multiply(data_folder: Path, tmp_path: Path) -> None:
    moves, _ = run(tmp_path, data_folder, StagedUnfreezing(1, 1, 2), epochs=4, lr_schedule="linear")
    assert moves.rates == pytest.approx([1e-2, 0.75e-2, 0.5e-3, 0.25e-3])


@pytest.mark.parametrize(
    ("staged", "message"),
    [
        (StagedUnfreezing(unfreeze_last_n=4), "encoder has 3"),
        (StagedUnfreezing(5, 2, 6), "exceed"),
        (StagedUnfreezing(plan=[Stage("head", 3)]), "covers 3"),
    ],
)
def test_impossible_plans_stop_before_training(data_folder: Path, tmp_path: Path, staged, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, data_folder, staged, epochs=10)


def test_another_plan_is_refused_on_resume() -> None:
    first, second = StagedUnfreezing(), StagedUnfreezing()
    first.stages = [Stage("head", 2, name="a")]
    second.stages = [Stage("all", 2, name="b")]
    second._network = torch.nn.Identity()
    with pytest.raises(UserError, match="same plan"):
        second.load_state_dict(first.state_dict())
