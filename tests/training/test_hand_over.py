"""Stages that end early, the best weights at a boundary, and what must not move while frozen."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY
from exactness import RUN, Stopped, differences, fit, outcome, stop_at
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, EarlyStopping, StochasticWeightAveraging

from butppg_lightning import BUTPPGDataModule, PPGQualityClassifier, StagedUnfreezing
from butppg_lightning.errors import UserError

# a rate of nearly nothing: no validation figure improves after a stage's first epoch
STALLED = [*RUN, "--model.lr=1e-12", "--stages.patience=1", "--trainer.max_epochs=9", "--stages.head_only_epochs=4"]


def history(folder: Path) -> list[str]:
    return json.loads((folder / "training_history.json").read_text())["stage"]


def test_a_stage_that_stalls_hands_over_and_the_last_one_ends_the_run(data_folder: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "run", data_folder, *STALLED) == 0
    assert history(tmp_path / "run") == ["stage1_head_only"] * 2 + ["stage2_partial"] * 2 + ["stage3_full"] * 2
    assert torch.load(tmp_path / "run" / "final_model.pt", weights_only=True)["epoch"] == 5
    assert (tmp_path / "run" / "test_metrics.json").exists()


@pytest.mark.parametrize("point", [("batch", 3, 5), ("epoch", 4, 0), ("fit_end", 0, 0)], ids=lambda point: point[0])
def test_early_ends_survive_a_resume(point: tuple, data_folder: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "whole", data_folder, *STALLED) == 0
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *STALLED, *stop_at(*point))
    assert fit(tmp_path / "run", data_folder, *STALLED, "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


@pytest.mark.parametrize("point", [None, ("epoch", 2, 0), ("batch", 3, 2)], ids=["whole", "boundary", "middle"])
def test_a_stage_can_begin_from_the_best_weights(point, data_folder: Path, tmp_path: Path) -> None:
    flags = [*RUN, "--stages.restore_best=true", "--model.lr=3e-2"]
    assert fit(tmp_path / "whole", data_folder, *flags) == 0
    plain = outcome(tmp_path / "whole")["training_history"]["train_loss"]
    assert fit(tmp_path / "last", data_folder, *RUN, "--model.lr=3e-2") == 0
    assert outcome(tmp_path / "last")["training_history"]["train_loss"][2] != plain[2], "stage 2 began elsewhere"
    if point is not None:
        with pytest.raises(Stopped):
            fit(tmp_path / "run", data_folder, *flags, *stop_at(*point))
        assert fit(tmp_path / "run", data_folder, *flags, "--resume=auto") == 0
        assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


def small_trainer(folder: Path, *callbacks: Callback, epochs: int) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        default_root_dir=folder, max_epochs=epochs, callbacks=list(callbacks), enable_checkpointing=False, **quiet
    )


def test_newly_unfrozen_parameters_start_with_fresh_moments(data_folder: Path, tmp_path: Path) -> None:
    class Steps(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            names = {parameter: name for name, parameter in pl_module.network.named_parameters()}
            state = trainer.optimizers[0].state
            self.taken = [*getattr(self, "taken", []), {names[p]: int(s["step"]) for p, s in state.items()}]

    steps = Steps()
    module = PPGQualityClassifier(encoder={"init_args": TINY}, lr=1e-3)
    trainer = small_trainer(tmp_path, StagedUnfreezing(1, 1, 1), steps, epochs=3)
    trainer.fit(module, datamodule=BUTPPGDataModule(str(data_folder), batch_size=12))
    head, block, first = "head.score.weight", "encoder.blocks.1.fc1.weight", "encoder.blocks.0.fc1.weight"
    assert [taken.get(head) for taken in steps.taken] == [3, 6, 9]
    assert [taken.get(block) for taken in steps.taken] == [None, 3, 6]
    assert [taken.get(first) for taken in steps.taken] == [None, None, 3]


def test_running_statistics_and_dropout_of_frozen_parts_stand_still(data_folder: Path, tmp_path: Path) -> None:
    class Normed(torch.nn.Module):
        def __init__(self, block: torch.nn.Module) -> None:
            super().__init__()
            self.block, self.norm, self.drop = block, torch.nn.BatchNorm1d(TINY["width"]), torch.nn.Dropout(0.5)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.block(tokens) + self.drop(self.norm(tokens.transpose(1, 2)).transpose(1, 2))

    class Statistics(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            means = [block.norm.running_mean.clone() for block in pl_module.network.encoder.blocks]
            self.means = [*getattr(self, "means", []), means]

    module = PPGQualityClassifier(encoder={"init_args": TINY}, lr=1e-3)
    blocks = module.network.encoder.blocks
    module.network.encoder.blocks = torch.nn.ModuleList(Normed(block) for block in blocks)
    watched = Statistics()
    trainer = small_trainer(tmp_path, StagedUnfreezing(1, 1, 1), watched, epochs=3)
    trainer.fit(module, datamodule=BUTPPGDataModule(str(data_folder), batch_size=12))
    moved = [[bool(mean.any()) for mean in means] for means in watched.means]
    assert moved == [[False, False], [False, True], [True, True]]


def test_a_module_whose_schedule_would_undo_the_division_is_refused(data_folder: Path, tmp_path: Path) -> None:
    class Plain(PPGQualityClassifier):
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters())
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)}

    trainer = small_trainer(tmp_path, StagedUnfreezing(1, 1, 1), epochs=3)
    with pytest.raises(UserError, match="StagedLR"):
        trainer.fit(Plain(encoder={"init_args": TINY}), datamodule=BUTPPGDataModule(str(data_folder)))


def test_sharded_strategies_are_refused(data_folder: Path, tmp_path: Path) -> None:
    from lightning.pytorch.strategies import FSDPStrategy

    trainer = small_trainer(tmp_path, epochs=3)
    trainer.strategy.__class__ = FSDPStrategy  # a real one needs a GPU to be built
    with pytest.raises(UserError, match=r"strategy ddp"):
        StagedUnfreezing().setup(trainer, PPGQualityClassifier(encoder={"init_args": TINY}), "fit")


@pytest.mark.parametrize("callback", [EarlyStopping("val_loss"), StochasticWeightAveraging(1e-3), BackboneFinetuning()])
def test_callbacks_that_would_interfere_are_refused(callback: Callback, data_folder: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, StagedUnfreezing(1, 1, 1), callback, epochs=3)
    module = PPGQualityClassifier(encoder={"init_args": TINY})
    module.backbone = module.network.encoder
    with pytest.raises(UserError, match="does not go with stages"):
        trainer.fit(module, datamodule=BUTPPGDataModule(str(data_folder)))


def test_saves_that_could_not_be_resumed_exactly_are_refused(data_folder: Path, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "run", data_folder, *RUN, "--trainer.val_check_interval=3") == 2
    assert "not be resumed exactly" in capsys.readouterr().err
