"""What a run leaves behind where it does not save every epoch, as a sweep's trials do not."""

from pathlib import Path

import pytest
import torch
from exactness import RUN, Stopped, differences, fit, outcome, stop_at
from lightning.pytorch import Callback, LightningModule, Trainer

from butppg_lightning.models.checkpoints import read_checkpoint

FLAGS = [*RUN, "--save_every_n_steps=null", "--trainer.precision=32-true"]
SPARSE = [*FLAGS, "--save_every_epoch=false"]


class Looks(Callback):
    """Notes which checkpoints there are after each epoch, when all callbacks have had their turn."""

    seen: list[set[str]] = []  # noqa: RUF012

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        Looks.seen.append({path.name for path in folder.iterdir() if path.suffix in (".pt", ".ckpt")})


@pytest.mark.parametrize("select", ["best", "last"])
def test_it_ends_as_one_that_saves_every_epoch(select: str, data_folder: Path, tmp_path: Path) -> None:
    Looks.seen = []
    watched = "--trainer.callbacks+=test_run_folder.Looks"
    assert fit(tmp_path / "whole", data_folder, *FLAGS, f"--select={select}") == 0
    assert fit(tmp_path / "sparse", data_folder, *SPARSE, f"--select={select}", watched) == 0
    whole, sparse = (outcome(tmp_path / name) for name in ("whole", "sparse"))
    assert not differences(whole, sparse)
    kept = {"best_model.pt", "last.ckpt"} if select == "best" else set()
    assert all(names == kept for names in Looks.seen[1:])
    epochs = len(whole["training_history"]["train_loss"])
    assert read_checkpoint(tmp_path / "sparse" / "last.ckpt")["epoch"] == epochs - 1


@pytest.mark.parametrize("select", ["best", "last"])
def test_it_can_be_gone_on_with(select: str, data_folder: Path, tmp_path: Path) -> None:
    words = ["--model.lr_schedule=constant", "--model.warmup=0", f"--select={select}"]
    for name, flags in (("every", FLAGS), ("sparse", SPARSE)):
        assert fit(tmp_path / name, data_folder, *flags, *words) == 0
        assert fit(tmp_path / name, data_folder, *flags, *words, "--trainer.max_epochs=8", "--resume=auto") == 0
    assert not differences(outcome(tmp_path / "every"), outcome(tmp_path / "sparse"))


def test_an_interrupted_one_starts_afresh(data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *SPARSE, "--select=last", *stop_at("epoch", epoch=2))
    assert not list((tmp_path / "run").glob("*.ckpt"))
    assert not list((tmp_path / "run").glob("*.pt"))
    assert fit(tmp_path / "run", data_folder, *SPARSE, "--select=last", "--resume=auto", "--overwrite=true") == 0
    assert torch.load(tmp_path / "run" / "best_model.pt", weights_only=True)["epoch"] >= 2
