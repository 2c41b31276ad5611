"""The labelled splits of BUT PPG (or of anything in the same form)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from butppg_lightning.console import suggestion
from butppg_lightning.data.module import WindowDataModule
from butppg_lightning.data.overlap import refuse_shared_subjects, refuse_shared_windows, window_digests
from butppg_lightning.errors import UserError
from butppg_lightning.window import WindowSet, read_windows

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Split = Literal["train", "val", "test"]


class BUTPPGDataModule(WindowDataModule):
    """Serves ``train.npz``, ``val.npz`` (optional) and ``test.npz`` (optional) of a folder.

    Without ``val.npz`` the model is selected on ``test.npz``, as the guide does: with a warning, and
    ``selected_on_test`` is True. A fit that selects nothing (``--select last``) then does without validation.

    Args:
        root: Folder with the npz files (keys signals [N, C, 1250] and labels [N] in {0 poor, 1 good}).
        batch_size: Windows per batch and process.
        num_workers: Loader processes; 0 is fastest for data in memory.
        predict_split: The split that `predict` scores.
        allow_overlap: Accept the same subject or window in two splits, which makes every figure look better than it is.
        seed: Seed of the shuffle; None for the one of seed_everything.
        use_channels: Use these channels only, as if the others had not been recorded; null for all.

    Raises:
        UserError: If a number is impossible; in ``setup`` if a file is missing or breaks the window contract.
    """

    def __init__(
        self,
        root: str = "data/but_ppg",
        batch_size: int = 32,
        num_workers: int = 0,
        predict_split: Split = "test",
        allow_overlap: bool = False,
        seed: int | None = None,
        use_channels: list[str] | None = None,
    ) -> None:
        super().__init__(root, batch_size, num_workers, seed, use_channels, allow_overlap)
        self.predict_split = predict_split
        self.selected_on_test = False
        self._mock = suggestion("mock --output", self.root, "--samples", "1000")

    def has(self, split: Split) -> bool:
        """Return whether the folder holds a split."""
        return (self.root / f"{split}.npz").is_file()

    def setup(self, stage: str) -> None:
        """Read and check the splits that ``stage`` (fit, validate, test or predict) needs, or say what is wrong."""
        self.require_root(self._mock)
        if stage == "fit":
            splits = {"train": self._read("train")}
            self._check_classes(splits["train"])
            if self.has("val") or self.needs_validation:
                held_out = self._validation_split()
                splits[held_out] = self._read(held_out)
            self._check_overlap(splits)
            for name, windows in splits.items():
                self.splits["train" if name == "train" else "val"] = self.serve(windows)
        elif stage == "validate":
            self.splits["val"] = self.serve(self._read(self._validation_split()))
        elif stage == "test":
            self.splits["test"] = self.serve(self._read("test"))
        else:
            self.splits["predict"] = self.serve(self._read(self.predict_split))

    def test_dataloader(self) -> DataLoader[Any]:
        """Return batches of the test split, in order."""
        return self.loader("test", shuffle=False)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return batches of ``predict_split``, in order."""
        return self.loader("predict", shuffle=False)

    def _read(self, split: str) -> WindowSet:
        path = self.root / f"{split}.npz"
        if not path.is_file():
            found = ", ".join(sorted(item.name for item in self.root.glob("*.npz"))) or "no npz file"
            raise UserError(f"{path} not found (the folder holds {found}); make synthetic data with: {self._mock}")
        return read_windows(path, labelled=True)

    def _validation_split(self) -> str:
        if self.has("val"):
            return "val"
        if not self.has("test"):
            raise UserError(
                f"{self.root} has neither val.npz nor test.npz, so no best model can be chosen; "
                "split by subject with: butppg prepare splits --source W.npz --output DIR"
            )
        if not self.selected_on_test:
            rank_zero_warn(
                f"{self.root} has no val.npz: the best model is selected on test.npz, so the test figures will flatter"
            )
        self.selected_on_test = True
        return "test"

    def _check_classes(self, train: WindowSet) -> None:
        classes = np.unique(train.labels)  # type: ignore[arg-type]
        if classes.size < 2:
            raise UserError(
                f"{self.root / 'train.npz'} holds only class {classes[0]} in {len(train)} windows; "
                "a classifier needs both 0 (poor) and 1 (good)"
            )

    def _check_overlap(self, splits: dict[str, WindowSet]) -> None:
        if self.allow_overlap:
            return
        test = {"test": self._read("test")} if self.has("test") and "test" not in splits else {}
        named = {f"{split}.npz": windows for split, windows in {**splits, **test}.items()}
        place, insist = str(self.root), "--data.allow_overlap true"
        people = {name: windows.subjects for name, windows in named.items() if windows.subjects is not None}
        refuse_shared_subjects(people, place, insist)
        refuse_shared_windows({name: window_digests(windows) for name, windows in named.items()}, place, insist)
