from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_windows
from hypothesis import given
from hypothesis import strategies as st

from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.data.finetune import BUTPPGDataModule
from butppg_lightning.data.module import EpochBatches
from butppg_lightning.data.pretrain import PretrainDataModule
from butppg_lightning.errors import UserError
from butppg_lightning.window import CHANNELS


@given(
    count=st.integers(1, 70),
    batch=st.integers(1, 20),
    ranks=st.integers(1, 4),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_batches_cover_the_epoch(count: int, batch: int, ranks: int, shuffle: bool, epoch: int) -> None:
    samplers = [
        EpochBatches(range(count), batch, seed=1, shuffle=shuffle, num_replicas=ranks, rank=rank)
        for rank in range(ranks)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    per_rank = [[rows.tolist() for rows in sampler] for sampler in samplers]
    assert all(len(batches) == len(sampler) for batches, sampler in zip(per_rank, samplers, strict=True))
    rows = sorted(row for batches in per_rank for rows in batches for row in rows)
    if shuffle and ranks <= count:
        assert set(rows) == set(range(count))
        assert len(rows) == count + -count % ranks
        sizes = {tuple(len(rows) for rows in batches) for batches in per_rank}
        assert len(sizes) == 1, "every rank takes the same steps"
    elif not shuffle:
        assert rows == list(range(count))


def test_global_batches_do_not_depend_on_the_number_of_ranks() -> None:
    def global_batches(ranks: int) -> list[list[int]]:
        parts = [
            list(EpochBatches(range(48), 12 // ranks, seed=3, shuffle=True, num_replicas=ranks, rank=rank))
            for rank in range(ranks)
        ]
        return [sorted(torch.cat(rows).tolist()) for rows in zip(*parts, strict=True)]

    assert global_batches(1) == global_batches(2) == global_batches(3)


def test_epochs_differ_and_repeat() -> None:
    sampler = EpochBatches(range(40), 8, seed=0, shuffle=True)
    first = torch.cat(list(sampler))
    sampler.set_epoch(1)
    second = torch.cat(list(sampler))
    sampler.set_epoch(0)
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat(list(sampler)))


def test_channels_come_by_name_and_missing_ones_are_absent() -> None:
    windows = make_windows(6)
    windows.signals = windows.signals[:, [3, 0]]
    windows.channels = ("PPG", "ACC_X")
    batch = WindowDataset(windows, CHANNELS)[[5, 2]]
    assert batch["present"].tolist() == [[True, False, False, True, False]] * 2
    assert np.array_equal(batch["signals"][:, 3], windows.signals[[5, 2], 0])
    assert np.array_equal(batch["signals"][:, 0], windows.signals[[5, 2], 1])
    assert batch["signals"][:, [1, 2, 4]].abs().max() == 0
    assert batch["labels"].tolist() == windows.labels[[5, 2]].tolist()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i2", "u2", "u1"])
def test_every_dtype_serves_the_same_values(dtype: str) -> None:
    windows = make_windows(3)
    windows.signals = np.abs(windows.signals).astype(dtype)
    batch = WindowDataset(windows, CHANNELS)[[0, 1, 2]]
    assert np.allclose(batch["signals"].double().numpy(), windows.signals.astype(np.float64))


def loaded(folder: Path, **options) -> BUTPPGDataModule:
    data = BUTPPGDataModule(str(folder), batch_size=8, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_serve_whole_splits(data_folder: Path, workers: int) -> None:
    data = loaded(data_folder, num_workers=workers)
    rows = torch.cat([batch["index"] for batch in data.train_dataloader()])
    assert sorted(rows.tolist()) == list(range(36))
    assert [len(batch["labels"]) for batch in data.val_dataloader()] == [8, 7]


def test_without_val_the_test_split_is_used_and_said_so(data_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.npz").write_bytes((data_folder / f"{split}.npz").read_bytes())
    with pytest.warns(UserWarning, match=r"no val\.npz"):
        data = loaded(tmp_path)
    assert data.selected_on_test
    assert len(data.splits["val"]) == 18


def test_the_same_subject_in_two_splits_is_an_error(data_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.npz").write_bytes((data_folder / f"{split}.npz").read_bytes())
    make_windows(6, subjects="train").save(tmp_path / "test.npz")
    with pytest.raises(UserError, match=r"both train\.npz and test\.npz"):
        loaded(tmp_path)
    assert loaded(tmp_path, allow_overlap=True).train is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_window_in_two_splits_is_refused(tmp_path: Path, dtype: type) -> None:
    train, val = make_windows(12, 0, subjects="a"), make_windows(8, 1, subjects="b")
    train.signals[2] = val.signals[2] = 0.5  # a dead sensor: alike, and no copy
    train.save(tmp_path / "train.npz")
    val.save(tmp_path / "val.npz")
    assert loaded(tmp_path).train is not None
    val.signals[5] = train.signals[7]
    val.signals = val.signals.astype(dtype)
    val.save(tmp_path / "val.npz")
    with pytest.raises(UserError, match=r"1 windows of train.npz are in val.npz too, first number 7 there and 5 here"):
        loaded(tmp_path)
    assert loaded(tmp_path, allow_overlap=True).train is not None


def test_pretraining_needs_no_validation(tmp_path: Path) -> None:
    windows = make_windows(10)
    windows.labels = None
    windows.save(tmp_path / "train_windows.npz")
    data = PretrainDataModule(str(tmp_path), batch_size=4)
    data.setup("fit")
    assert len(data.train_dataloader()) == 3
    assert data.val_dataloader() == []


def test_pretraining_refuses_a_subject_in_both_splits(tmp_path: Path) -> None:
    for split, subjects in {"train": "a", "val": "b"}.items():
        make_windows(8, subjects=subjects).save(tmp_path / f"{split}_windows.npz")
    PretrainDataModule(str(tmp_path)).setup("fit")
    make_windows(8, 1, subjects="a").save(tmp_path / "val_windows.npz")
    with pytest.raises(UserError, match="subjects in both train_windows and val_windows: 4, first a0"):
        PretrainDataModule(str(tmp_path)).setup("fit")
    PretrainDataModule(str(tmp_path), allow_overlap=True).setup("fit")
