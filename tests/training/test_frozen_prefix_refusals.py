"""Where the frozen-prefix cache keeps out: encoders that are more than their parts, foreign modules and loaders."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_windows
from lightning.pytorch import LightningModule
from lightning.pytorch.demos.boring_classes import BoringModel
from test_frozen_prefix import make_model, make_trainer, off_lines, train
from torch import Tensor
from torch.utils.data import DataLoader

from butppg_lightning import BUTPPGDataModule, PatchTransformer, StagedUnfreezing
from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.training.frozen_prefix import FrozenPrefixCache
from butppg_lightning.training.stage_plan import Stage
from butppg_lightning.window import CHANNELS


class LateMask(PatchTransformer):
    """Looks at what is present once more, after its blocks."""

    def forward(self, inputs: Tensor, present: Tensor | None = None, *, start: int | None = None) -> Tensor:
        tokens = super().forward(inputs, present, start=start)
        return tokens if present is None else tokens * present.float().mean(1)[:, None, None]


class Skip(PatchTransformer):
    """Hands the first tokens past all blocks."""

    def forward(self, inputs: Tensor, present: Tensor | None = None, *, start: int | None = None) -> Tensor:
        if start is not None:
            return super().forward(inputs, start=start)
        tokens = first = self.embed(inputs, present)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens + first)


class Slight(PatchTransformer):
    """Adds a little to every token on the way from windows, and nothing half-way."""

    def forward(self, inputs: Tensor, present: Tensor | None = None, *, start: int | None = None) -> Tensor:
        tokens = super().forward(inputs, present, start=start)
        return tokens if start is not None else tokens + 0.03


class Shared(PatchTransformer):
    """More than its parts in name only."""

    def forward(self, inputs: Tensor, present: Tensor | None = None, *, start: int | None = None) -> Tensor:
        return super().forward(inputs, present, start=start)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["Skip", "Slight"])
def test_an_encoder_that_does_more_than_its_parts_has_no_cache(name: str, precision: str, data_folder: Path, capsys):
    options = {"encoder": f"test_frozen_prefix_refusals.{name}", "precision": precision}
    found = train(data_folder, cache=FrozenPrefixCache(), **options)
    said = [line for line in capsys.readouterr().err.splitlines() if "frozen-prefix" in line]
    assert said == [f"frozen-prefix cache off: {name}.forward does more than embed, blocks and norm"]
    assert found.train == train(data_folder, **options).train


def test_an_encoder_of_the_users_own_is_cached(data_folder: Path, capsys) -> None:
    found = train(data_folder, cache=FrozenPrefixCache(), encoder="test_frozen_prefix_refusals.Shared")
    assert capsys.readouterr().err.count("computed") == 4
    expected = train(data_folder, encoder="test_frozen_prefix_refusals.Shared")
    assert (found.train, found.val) == (pytest.approx(expected.train, rel=1e-5), pytest.approx(expected.val, rel=1e-5))


def test_what_an_encoder_does_with_absent_channels_counts_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first windows have every channel; only later ones show that the forward pass is more than its parts."""
    folder = tmp_path_factory.mktemp("absent")
    for seed, (split, count) in enumerate({"train": 24, "val": 12}.items()):
        windows = make_windows(count, seed, subjects=split)
        windows.present = torch.ones(count, 5, dtype=torch.bool).numpy()
        windows.present[4::3, 0] = False
        windows.signals = windows.signals * windows.present[..., None]
        windows.save(folder / f"{split}.npz")
    options = {"encoder": "test_frozen_prefix_refusals.LateMask", "epochs": 2, "plan": [Stage("head")]}
    found, expected = train(folder, cache=FrozenPrefixCache(), **options), train(folder, **options)
    assert found.train == pytest.approx(expected.train, rel=1e-5)


def test_foreign_modules_train_without_it(capsys) -> None:
    class Staged(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Module()
            self.encoder.blocks, self.encoder.norm = torch.nn.ModuleList([torch.nn.Identity()]), torch.nn.Identity()
            self.head = self.layer

    make_trainer(FrozenPrefixCache(), epochs=1, limit_train_batches=1, limit_val_batches=1).fit(Staged())
    assert off_lines(capsys) == ["frozen-prefix cache off: Staged is no PPGQualityClassifier"]


def test_loaders_of_the_users_own_train_without_it(capsys) -> None:
    dataset = WindowDataset(make_windows(16), CHANNELS)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, sampler=[torch.arange(8), torch.arange(8, 16)])
    trainer = make_trainer(StagedUnfreezing(plan=[Stage("head")]), FrozenPrefixCache(), epochs=1)
    trainer.fit(make_model(), loader, loader)
    assert off_lines(capsys) == ["frozen-prefix cache off: the windows do not come from a BUTPPGDataModule"]


def test_several_machines_train_without_it(data_folder: Path, capsys) -> None:
    windows = BUTPPGDataModule(str(data_folder))
    trainer: Any = SimpleNamespace(datamodule=windows, num_nodes=2, overfit_batches=0.0, current_epoch=0)
    model: LightningModule = make_model()
    cache = FrozenPrefixCache()
    for hook in (cache.on_sanity_check_start, cache.on_train_start, cache.on_train_epoch_start):
        hook(trainer, model)
    assert off_lines(capsys) == ["frozen-prefix cache off: the run is on several machines, which need not share a disk"]


def test_switched_off_it_says_and_does_nothing(data_folder: Path, capsys) -> None:
    found = train(data_folder, cache=FrozenPrefixCache(enabled=False))
    assert off_lines(capsys) == []
    assert found.train == train(data_folder).train
