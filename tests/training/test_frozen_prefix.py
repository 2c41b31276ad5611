"""The frozen-prefix cache without the command line, as in a notebook."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EVERY_ENCODER, TINY
from lightning.pytorch import Callback, Trainer

from butppg_lightning import BUTPPGDataModule, PPGQualityClassifier, StagedUnfreezing
from butppg_lightning.errors import UserError
from butppg_lightning.training.frozen_prefix import FrozenPrefixCache
from butppg_lightning.training.stage_plan import Stage

PLAN = [Stage("head", 2), Stage(1, 2)]


class Losses(Callback):
    """Notes every batch's loss, and every validation loss after the check before training."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.train.append(float(outputs["loss"]))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.val.append(float(trainer.callback_metrics["val_loss"]))


def make_trainer(*callbacks: Callback, epochs: int = 4, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options = {"precision": "32-true", "accelerator": "cpu", **options}
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), enable_checkpointing=False, **quiet, **options)


def make_model(encoder: str | dict = "butppg_lightning.PatchTransformer", **options: Any) -> PPGQualityClassifier:
    torch.manual_seed(0)
    spec = {"class_path": encoder, "init_args": {**TINY, "depth": 3}} if isinstance(encoder, str) else encoder
    return PPGQualityClassifier(encoder=spec, lr=1e-2, **options)


def train(data: Path, *before: Callback, cache: FrozenPrefixCache | None = None, **options: Any) -> Losses:
    losses = Losses()
    encoder, plan = options.pop("encoder", "butppg_lightning.PatchTransformer"), options.pop("plan", PLAN)
    after = [cache] if cache is not None else []
    trainer = make_trainer(*before, StagedUnfreezing(plan=plan), *after, losses, **options)
    trainer.fit(make_model(encoder), datamodule=BUTPPGDataModule(str(data), batch_size=8))
    return losses


def off_lines(capsys: pytest.CaptureFixture) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("frozen-prefix cache")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that must stay empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_notebook_gets_its_windows_back_and_no_files(data_folder: Path, elsewhere: Path, capsys) -> None:
    windows = BUTPPGDataModule(str(data_folder), batch_size=8)
    trainer = make_trainer(StagedUnfreezing(plan=PLAN), FrozenPrefixCache(), losses := Losses())
    trainer.fit(make_model(), datamodule=windows)
    assert capsys.readouterr().err.count("in memory, computed") == 4
    for split in ("train", "val"):
        batch = windows.splits[split][torch.arange(3)]
        assert batch["signals"].shape == (3, 5, 1250)
        assert "features" not in batch
    assert list(elsewhere.iterdir()) == []
    assert losses.train == pytest.approx(train(data_folder).train, rel=1e-5)


@pytest.mark.parametrize("encoder", EVERY_ENCODER)
def test_every_encoder_trains_on_features_as_on_windows(encoder: dict, data_folder: Path, capsys) -> None:
    found = train(data_folder, cache=FrozenPrefixCache(), encoder=encoder)
    assert capsys.readouterr().err.count("in memory, computed") == 4
    expected = train(data_folder, encoder=encoder)
    assert found.train == pytest.approx(expected.train, rel=1e-5)
    assert found.val == pytest.approx(expected.val, rel=1e-5)


def test_windows_are_back_after_an_error_too(data_folder: Path) -> None:
    class Crash(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            assert "features" in batch
            raise RuntimeError

    windows = BUTPPGDataModule(str(data_folder), batch_size=8)
    trainer = make_trainer(StagedUnfreezing(plan=PLAN), FrozenPrefixCache(), Crash())
    with pytest.raises(RuntimeError):
        trainer.fit(make_model(), datamodule=windows)
    assert all(dataset.features is None for dataset in windows.splits.values())


def test_the_same_callback_serves_a_second_fit(data_folder: Path, capsys) -> None:
    cache, windows = FrozenPrefixCache(), BUTPPGDataModule(str(data_folder), batch_size=8)
    found = []
    for _ in range(2):
        losses = Losses()
        make_trainer(StagedUnfreezing(plan=PLAN), cache, losses).fit(make_model(), datamodule=windows)
        found.append(losses.train)
    assert found[0] == found[1]
    assert capsys.readouterr().err.count("computed") == 8


def test_weights_changed_between_fits_are_seen(data_folder: Path) -> None:
    cache, windows, model = FrozenPrefixCache(), BUTPPGDataModule(str(data_folder), batch_size=8), make_model()
    plan = [Stage("head", 1)]
    make_trainer(StagedUnfreezing(plan=plan), cache, epochs=1).fit(model, datamodule=windows)
    with torch.no_grad():
        model.network.encoder.blocks[0].fc1.weight.mul_(2)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = []
    for callbacks in ([cache], []):
        model.load_state_dict(state)
        make_trainer(StagedUnfreezing(plan=plan), *callbacks, losses := Losses(), epochs=1).fit(
            model, datamodule=windows
        )
        found.append(losses.train)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_order_of_the_callbacks_does_not_change_the_run(data_folder: Path) -> None:
    """The stage changes at an epoch's start, where the cache looks at what trains."""
    expected = train(data_folder)
    try:
        found = train(data_folder, FrozenPrefixCache())
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert found.train == pytest.approx(expected.train, rel=1e-5)


def test_features_are_let_go_of_where_no_stage_needs_them(data_folder: Path) -> None:
    seen: dict[str, Any] = {}

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            features = trainer.datamodule.splits["train"].features
            if features is not None:
                seen["kept"] = weakref.ref(features.views[0])
            elif batch_idx == 1:
                del batch
                gc.collect()
                seen["in the last stage"] = seen["kept"]()

    train(data_folder, Watch(), cache=FrozenPrefixCache(), plan=[Stage("head", 1), Stage("all")], epochs=2)
    assert seen["in the last stage"] is None


@pytest.mark.parametrize("option", ["budget_gb", "memory_gb", "views"])
def test_negative_numbers_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"cache.{option} is -1"):
        FrozenPrefixCache(**{option: -1})


def test_without_room_or_a_folder_it_is_off(data_folder: Path, elsewhere: Path, capsys) -> None:
    found = train(data_folder, cache=FrozenPrefixCache(memory_gb=1e-9))
    assert all("nor, without a run folder, on disk" in line for line in off_lines(capsys))
    assert found.train == train(data_folder).train
    assert list(elsewhere.iterdir()) == []


def test_views_train_on_stored_variations_of_all_windows(data_folder: Path, capsys) -> None:
    def run(views: int) -> list[float]:
        losses = Losses()
        trainer = make_trainer(StagedUnfreezing(plan=PLAN), FrozenPrefixCache(views=views), losses)
        windows = BUTPPGDataModule(str(data_folder), batch_size=8, seed=0)
        trainer.fit(make_model(augment={"amplitude": 0.5}, channel_dropout={"ECG": 0.5}), datamodule=windows)
        return losses.train

    found = run(2)
    assert capsys.readouterr().err.count("variation") == 4
    assert found == run(2), "reproducible"
    assert found != run(1)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert run(2) == found, "whatever else is drawn"
    torch.set_rng_state(state)
