"""What tests of exactness share: a run with everything random switched on, and its comparison with another."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import TINY
from lightning.pytorch import Callback

from butppg_lightning import StagedUnfreezing
from butppg_lightning.cli import main

EPOCHS = 6
RUN = [
    f"--model.encoder={json.dumps({'init_args': {**TINY, 'dropout': 0.1}})}",
    "--model.head=attention",
    "--model.head_dropout=0.1",
    "--model.lr=1e-3",
    "--model.lr_schedule=cosine",
    "--model.warmup=3",
    "--model.channel_dropout.ECG=0.5",
    "--model.channel_dropout.ACC=0.3",
    "--stages.head_only_epochs=2",
    "--stages.unfreeze_last_n=1",
    "--stages.full_finetune_epochs=2",
    f"--trainer.max_epochs={EPOCHS}",
    "--trainer.accumulate_grad_batches=2",
    "--data.batch_size=4",
    "--save_every_n_steps=2",
]


class Stopped(RuntimeError):
    """Stands for a crash."""


class StopAt(Callback):
    """Crashes at a point of a run: (hook, epoch, batch)."""

    def __init__(self, hook: str, epoch: int = 0, batch: int = 0) -> None:
        self.point = (hook, epoch, batch)

    def _crash(self, *point: Any) -> None:
        if point == self.point:
            raise Stopped

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._crash("epoch", trainer.current_epoch, 0)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._crash("batch", trainer.current_epoch, batch_idx)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not trainer.sanity_checking:
            self._crash("validation", trainer.current_epoch, batch_idx)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._crash("fit_end", 0, 0)


def fit(output: Path, data: Path, *flags: str) -> int:
    return main(["fit", "--config", "finetune.yaml", "--data.root", str(data), "--output_dir", str(output), *flags])


def stop_at(hook: str, epoch: int = 0, batch: int = 0) -> list[str]:
    """Return the flags that add the crash to a run."""
    return [
        "--trainer.callbacks+=exactness.StopAt",
        f"--trainer.callbacks.hook={hook}",
        f"--trainer.callbacks.epoch={epoch}",
        f"--trainer.callbacks.batch={batch}",
    ]


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything of a finished run that must not depend on interruptions."""
    files = [folder / f"{name}.json" for name in ("training_history", "test_metrics")]
    found: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in files if path.exists()}
    for name in ("best_model.pt", "final_model.pt", "last.ckpt"):
        checkpoint = torch.load(folder / name, weights_only=True)
        keys = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "metrics", "stage")
        found[name] = {key: checkpoint[key] for key in keys}
        found[name]["random"] = checkpoint["callbacks"]["ExactResume"]
        found[name]["training_range"] = checkpoint.get("training_range")  # pretraining has none
    return found


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the paths at which two nested structures differ in any bit."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [path]
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return [f"{path}: other keys"]
        return [place for key in one for place in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} entries"]
        return [
            place
            for row, pair in enumerate(zip(one, other, strict=True))
            for place in differences(*pair, f"{path}/{row}")
        ]
    return [] if one == other or (one != one and other != other) else [f"{path}: {one} and {other}"]


def command(*words: str) -> list[str]:
    """Return the command line of a `butppg` process of its own."""
    return [sys.executable, "-m", "butppg_lightning", *words]


def environment() -> dict[str, str]:
    """Return the environment of such a process: one thread each, and the classes of this file importable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}


class CompareRanks(Callback):
    """Writes, per rank, a digest of all parameters at every epoch's end, and how far each stage's first averaged
    gradient is from the mean of the ranks' own gradients.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.digests: list[str] = []
        self.gaps: dict[str, float] = {}
        self.batch: Any = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        stage = next(callback for callback in trainer.callbacks if isinstance(callback, StagedUnfreezing)).stage.name
        self.stage = stage
        self.own = None
        if stage not in self.gaps:
            means = copy.deepcopy(pl_module.train_metrics)
            loss = pl_module.training_step(batch, batch_idx)
            pl_module.train_metrics = means
            trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
            self.own = torch.autograd.grad(loss, trained, allow_unused=True)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.own is None:
            return
        trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        gap = 0.0
        for parameter, own in zip(trained, self.own, strict=True):
            mean = torch.zeros_like(parameter) if own is None else own.clone()
            torch.distributed.all_reduce(mean)
            mean /= trainer.world_size
            gap = max(gap, float((parameter.grad - mean).abs().max() / mean.abs().max().clamp(min=1e-12)))
            if own is not None and trainer.world_size > 1:
                assert parameter.grad is not None
        self.gaps[self.stage] = gap

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        content = b"".join(value.numpy().tobytes() for value in pl_module.state_dict().values())
        self.digests.append(hashlib.sha256(content).hexdigest())
        sent = getattr(trainer.strategy.model, "modules_buffers", ())  # by DDP, before every forward pass
        report = {"digests": self.digests, "gaps": self.gaps, "sent": sum(buffer.nbytes for buffer in sent)}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(report))
