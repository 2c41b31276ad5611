"""Unlabelled windows for pretraining."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from butppg_lightning.data.module import WindowDataModule
from butppg_lightning.errors import UserError
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class PretrainDataModule(WindowDataModule):
    """Serves ``train_windows.npz`` and, if it is there, ``val_windows.npz`` of a folder.

    Args:
        root: Folder with the npz files (key signals [N, C, 1250]).
        batch_size: Windows per batch and process.
        num_workers: Loader processes; 0 is fastest for data in memory.
        seed: Seed of the shuffle; None for the one of seed_everything.

    Raises:
        UserError: If a number is impossible; in ``setup`` if a file is missing or breaks the window contract.
    """

    def __init__(
        self,
        root: str = "data/vitaldb_windows",
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(root, batch_size, num_workers, seed)

    def setup(self, stage: str) -> None:
        """Read and check the files.

        Args:
            stage: fit or validate.

        Raises:
            UserError: If train_windows.npz is missing, or a file is malformed.
        """
        mock = f"butppg mock --output {self.root} --layout vitaldb --samples 2000"
        self.require_root(mock)
        for split in ("train", "val"):
            path = self.root / f"{split}_windows.npz"
            if path.is_file():
                self.splits[split] = self.serve(read_windows(path, labelled=False))
            elif split == "train":
                raise UserError(f"{path} not found; make synthetic data with: {mock}")

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches of the training windows."""
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return batches of the validation windows, in order; none without a validation file."""
        return self.loader("val", shuffle=False) if "val" in self.splits else []
