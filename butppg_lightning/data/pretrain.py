"""Unlabelled windows for pretraining."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.console import suggestion
from butppg_lightning.data.module import WindowDataModule
from butppg_lightning.data.overlap import refuse_shared_subjects
from butppg_lightning.data.store import STORE_SUFFIX, read_store
from butppg_lightning.errors import UserError
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet


class PretrainDataModule(WindowDataModule):
    """Serves ``train_windows`` and, if they are there, ``val_windows`` of a folder, each an npz file or a store.

    A store (``train_windows.store/``) may be larger than memory. It is shuffled as a whole each epoch, dealt out to
    the ranks and resumed by the same sampler as an npz file: the same windows come in the same order.

    Args:
        root: Folder with the npz files (key signals [N, C, 1250]) or stores.
        batch_size: Windows per batch and process.
        num_workers: Loader processes; 0 is fastest for data in memory.
        seed: Seed of the shuffle; None for the one of seed_everything.
        verify_checksums: Whether stores are checked against their checksums before training, which reads all of
            them once; sizes and headers always are.
        use_channels: Use these channels only, as if the others had not been recorded; null for all.
        allow_overlap: Accept the same subject in both splits, which makes the validation error look better than it is.

    Raises:
        UserError: If a number is impossible; in ``setup`` if a file is missing or breaks the window contract.
    """

    def __init__(
        self,
        root: str = "data/vitaldb_windows",
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int | None = None,
        verify_checksums: bool = True,
        use_channels: list[str] | None = None,
        allow_overlap: bool = False,
    ) -> None:
        super().__init__(root, batch_size, num_workers, seed, use_channels, allow_overlap)
        self.verify_checksums = verify_checksums

    def setup(self, stage: str) -> None:
        """Read and check the files, whatever ``stage`` is; a UserError says what is missing, malformed or shared."""
        mock = suggestion("mock --output", self.root, "--layout", "vitaldb", "--samples", "2000")
        self.require_root(mock)
        people: dict[str, Array] = {}
        for split in ("train", "val"):
            windows = self._read(f"{split}_windows")
            if windows is not None:
                names = getattr(windows, "subject_names", windows.subjects)  # a store knows who is in it
                people |= {} if names is None else {f"{split}_windows": np.asarray(names)}
                self.splits[split] = self.serve(windows)
            elif split == "train":
                raise UserError(
                    f"{self.root / 'train_windows.npz'} not found, nor train_windows{STORE_SUFFIX}; "
                    f"make synthetic data with: {mock}"
                )
        if not self.allow_overlap:
            refuse_shared_subjects(people, str(self.root), "--data.allow_overlap true")

    def _read(self, name: str) -> WindowSet | None:
        file, store = self.root / f"{name}.npz", self.root / f"{name}{STORE_SUFFIX}"
        if file.exists() and store.exists():
            raise UserError(f"{self.root} holds both {file.name} and {store.name}; move one of them away")
        if store.exists():
            return read_store(store, verify=self.verify_checksums)
        return read_windows(file, labelled=False) if file.exists() else None
