"""Who stays exact: our StagedUnfreezing, Lightning's BackboneFinetuning and finetuning-scheduler, in the same runs.

Each tool freezes the encoder for two epochs, then trains everything, on the same module, data, batches and optimizer,
without any randomness but the shuffle. Three questions: does a run resumed in the middle of an epoch, or at the stage
boundary, end with the weights of the uninterrupted one, and do two processes hold the same weights at the end?

Run: python tests/benchmarks/compare_staging.py (needs the extra `dev`; a few minutes on 2 cores).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = ("butppg_lightning", "BackboneFinetuning", "finetuning-scheduler")
EPOCHS, BOUNDARY = 5, 2
POINTS = {"middle of an epoch after the boundary": (3, 4), "the boundary itself": (BOUNDARY, 0)}


def worker(tool: str, folder: Path, devices: int, stop: tuple[int, int] | None, resume: bool) -> None:
    """Train once in this process (or as one of two) and save this rank's last weights."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint

    from butppg_lightning import BUTPPGDataModule, PatchTransformer
    from butppg_lightning.models.heads import LinearHead
    from butppg_lightning.window import CHANNELS

    class Task(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.channels = CHANNELS
            self.encoder = PatchTransformer(CHANNELS, patch_size=50, width=32, depth=2, heads=2)
            self.head = LinearHead(32)

        @property
        def backbone(self) -> torch.nn.Module:
            return self.encoder

        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            logits = self.head(self.encoder(batch["signals"] / 100, batch["present"]))
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"].float())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            # the tools want to be given what trains at first; ours takes everything
            wanted = self.parameters() if tool == "butppg_lightning" else self.head.parameters()
            return torch.optim.AdamW(wanted, lr=1e-3)

    class Stop(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Task, batch: dict, batch_idx: int) -> None:
            if (trainer.current_epoch, batch_idx) == stop:
                os._exit(9)

    seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    saves = [
        ModelCheckpoint(folder, "step", every_n_train_steps=1, save_top_k=1, enable_version_counter=False),
        ModelCheckpoint(folder, "epoch", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False),
    ]
    at_boundary = stop is not None and stop[1] == 0
    saves = saves[1:] if at_boundary or (resume and not (folder / "step.ckpt").exists()) else saves[:1]
    strategy = "auto" if devices == 1 else ("ddp" if tool == "butppg_lightning" else "ddp_find_unused_parameters_true")
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_epochs=EPOCHS,
        callbacks=[*staging(tool, folder), *saves, Stop()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    task = Task()
    data = BUTPPGDataModule(str(folder.parent / "data"), batch_size=4)
    checkpoint = next((str(save) for save in (folder / "step.ckpt", folder / "epoch.ckpt") if save.exists()), None)
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint if resume else None, weights_only=False)
    torch.save(task.state_dict(), folder / f"rank{trainer.global_rank}.pt")


def staging(tool: str, folder: Path) -> list:
    """Return the tool's callbacks for: head alone for two epochs, then everything."""
    if tool == "butppg_lightning":
        from butppg_lightning import StagedUnfreezing
        from butppg_lightning.training.stage_plan import Stage

        return [StagedUnfreezing(plan=[Stage("head", BOUNDARY), Stage("all")])]
    if tool == "BackboneFinetuning":
        from lightning.pytorch.callbacks import BackboneFinetuning

        # the factor is kept at 1, so that the rate is the same for all tools
        return [BackboneFinetuning(BOUNDARY, lambda epoch: 1.0, backbone_initial_ratio_lr=1.0, should_align=False)]
    from finetuning_scheduler import FinetuningScheduler

    schedule = folder / "schedule.yaml"
    phases = {0: ("head", BOUNDARY), 1: ("encoder", EPOCHS)}
    lines = (f"{n}:\n  params: ['{p}\\..*']\n  max_transition_epoch: {end}\n" for n, (p, end) in phases.items())
    schedule.write_text("".join(lines))
    return [
        FinetuningScheduler(
            ft_schedule=str(schedule), epoch_transitions_only=True, base_max_lr=1e-3, restore_best=False
        )
    ]


def launch(tool: str, folder: Path, *flags: str) -> int:
    """Run a worker in a process of its own; return its exit code."""
    folder.mkdir(exist_ok=True)
    words = [sys.executable, str(Path(__file__).resolve()), "--tool", tool, "--folder", str(folder), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # in the run's own folder: one of the tools leaves files where it is started
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    return done.returncode


def gap(one: Path, other: Path) -> str:
    """Return how far two saved sets of weights are apart, in words."""
    import torch

    if not one.exists() or not other.exists():
        return "failed: " + _last_line((other if one.exists() else one).parent / "log.txt")
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    far = max(float((first[key].float() - second[key].float()).abs().max()) for key in first)
    return "passes" if far == 0 else f"off by {far:.1g}"


def compare(tool: str, root: Path) -> list[str]:
    """Answer the three questions for one tool."""
    name = tool.replace("-", "_")
    whole = root / f"{name}_whole"
    launch(tool, whole)
    answers = []
    for number, stop in enumerate(POINTS.values()):
        folder = root / f"{name}_{number}"
        launch(tool, folder, "--stop", f"{stop[0]},{stop[1]}")
        launch(tool, folder, "--resume")
        answers.append(gap(whole / "rank0.pt", folder / "rank0.pt"))
    both = root / f"{name}_two"
    launch(tool, both, "--devices", "2")
    return [*answers, gap(both / "rank0.pt", both / "rank1.pt")]


def main() -> None:
    """Compare the tools and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", choices=TOOLS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--stop", type=lambda text: tuple(int(part) for part in text.split(",")))
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    if options.tool:
        worker(options.tool, options.folder, options.devices, options.stop, options.resume)
        return
    from importlib.metadata import version

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from conftest import make_windows

    from butppg_lightning.console import print_table

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for seed, (split, count) in enumerate({"train": 36, "val": 12}.items()):
            make_windows(count, seed, subjects=split).save(root / "data" / f"{split}.npz")
        rows = [(tool, *compare(tool, root)) for tool in TOOLS]
    packages = ", ".join(f"{name} {version(name)}" for name in ("lightning", "finetuning-scheduler", "torch"))
    print_table(f"Staged unfreezing, who is exact ({packages})", ("tool", *POINTS, "two processes agree"), rows)


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
    return lines[-1][:60] if lines else "no output"


if __name__ == "__main__":
    main()
