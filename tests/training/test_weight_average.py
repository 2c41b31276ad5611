"""The average of the weights: what it is, where it is used, and that a run with it resumes bit for bit."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from exactness import RUN, Stopped, command, differences, environment, fit, outcome, stop_at
from lightning.pytorch import Callback, Trainer

from butppg_lightning import BUTPPGDataModule, PPGQualityClassifier, StagedUnfreezing
from butppg_lightning.cli import main
from butppg_lightning.errors import UserError
from butppg_lightning.training.frozen_prefix import FrozenPrefixCache
from butppg_lightning.training.stage_plan import Stage
from butppg_lightning.training.weight_average import WeightAverage

HEAD, BLOCK, FIRST = (f"network.{name}.weight" for name in ("head.score", "encoder.blocks.1.fc1", "encoder.embedding"))
AVERAGED = [*RUN, "--trainer.precision=32-true", "--average.decay=0.8"]


class Watch(Callback):
    """Notes the weights after every step, at every validation, and what a checkpoint would hold after it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []
        self.stored: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(weights(pl_module))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(weights(pl_module))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["val_loss"]))
        checkpoint = trainer._checkpoint_connector.dump_checkpoint()
        self.stored.append({key: value.clone() for key, value in checkpoint["state_dict"].items()})


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def run(data: Path, plan: list[Stage], *callbacks: Callback, decay: float | None = 0.8, **options: Any) -> Any:
    torch.manual_seed(0)
    module = PPGQualityClassifier(encoder={"init_args": TINY}, lr=1e-2)
    begin, watch = weights(module), Watch()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        max_epochs=sum(stage.epochs or 0 for stage in plan),
        callbacks=[StagedUnfreezing(plan=plan), *callbacks, WeightAverage(decay), watch],
        enable_checkpointing=False,
        accelerator="cpu",
        precision="32-true",
        **{**quiet, **options},
    )
    trainer.fit(module, datamodule=BUTPPGDataModule(str(data), batch_size=12))
    return module, begin, watch


def average(steps: list[dict[str, torch.Tensor]], key: str, decay: float = 0.8) -> torch.Tensor:
    parts = torch.stack([step[key].double() for step in steps])
    shares = torch.tensor([decay ** (len(steps) - 1 - row) for row in range(len(steps))], dtype=torch.float64)
    return torch.einsum("n,n...->...", shares / shares.sum(), parts).float()


def test_it_is_the_weighted_mean_of_the_steps_since_a_part_was_unfrozen(data_folder: Path) -> None:
    module, begin, watch = run(data_folder, [Stage("head", 2), Stage(1, 2)])
    assert len(watch.steps) == 12
    for epoch, since in enumerate((0, 0, 6, 6)):
        seen, taken = watch.validated[epoch], watch.steps[: 3 * epoch + 3]
        assert torch.allclose(seen[HEAD], average(taken, HEAD), atol=1e-6)
        assert not torch.equal(seen[HEAD], taken[-1][HEAD]), "not the last step's"
        if since:
            assert torch.allclose(seen[BLOCK], average(taken[since:], BLOCK), atol=1e-6)
        else:
            assert torch.equal(seen[BLOCK], begin[BLOCK])
        assert torch.equal(seen[FIRST], begin[FIRST]), "what never trains keeps its bits"
        assert not differences(watch.stored[epoch], seen), "kept is what was validated"
    assert not differences(weights(module), watch.validated[-1]), "and so is what a notebook goes on with"


def test_training_is_as_without_it_and_a_part_frozen_again_goes_on_as_trained(data_folder: Path) -> None:
    plan = [Stage(1, 1), Stage("head", 1), Stage("all", 1)]
    _, _, plain = run(data_folder, plan, decay=None)
    _, _, watch = run(data_folder, plan)
    assert not differences(watch.steps, plain.steps)
    assert watch.losses != plain.losses
    assert torch.equal(watch.validated[1][BLOCK], watch.steps[2][BLOCK])
    assert torch.allclose(watch.validated[2][BLOCK], average(watch.steps[6:], BLOCK), atol=1e-6)


def test_only_optimizer_steps_count(data_folder: Path) -> None:
    _, _, watch = run(data_folder, [Stage("head", 2)], accumulate_grad_batches=2)
    taken = [watch.steps[row] for row in (1, 2, 4, 5)]
    assert torch.allclose(watch.validated[-1][HEAD], average(taken, HEAD), atol=1e-6)


def test_stored_features_of_the_frozen_part_stay_valid(data_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    plan = [Stage("head", 2), Stage(1, 2)]
    _, _, plain = run(data_folder, plan)
    capsys.readouterr()
    _, _, cached = run(data_folder, plan, FrozenPrefixCache())
    assert capsys.readouterr().err.count("computed") == 4, "train and val, once a stage"
    assert cached.losses == pytest.approx(plain.losses, rel=1e-4)


@pytest.fixture(scope="module")
def uninterrupted(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("averaged") / "run"
    assert fit(folder, data_folder, *AVERAGED) == 0
    return folder, outcome(folder)


@pytest.mark.parametrize("point", [("batch", 2, 5), ("validation", 4, 1)], ids=["middle", "during validation"])
def test_resumed_is_uninterrupted(point: tuple, uninterrupted: tuple, data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *AVERAGED, *stop_at(*point))
    assert fit(tmp_path / "run", data_folder, *AVERAGED, "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), uninterrupted[1]) == []
    both = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path / "run", uninterrupted[0])]
    assert differences(*(content["callbacks"]["WeightAverage"] for content in both)) == []


def test_restored_best_weights_begin_a_new_average(data_folder: Path, tmp_path: Path) -> None:
    flags = [*AVERAGED, "--stages.restore_best=true", "--model.lr=3e-2", "--stages.full_finetune_epochs=0"]
    flags += ["--trainer.max_epochs=3"]
    assert fit(tmp_path / "whole", data_folder, *flags) == 0
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *flags, *stop_at("epoch", 2, 0))
    assert fit(tmp_path / "run", data_folder, *flags, "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []
    content = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)
    steps = content["callbacks"]["WeightAverage"]["steps"]
    assert steps[HEAD.replace("weight", "bias")] == steps[BLOCK] == 5, "the head's earlier steps are forgotten"


def test_a_run_leaves_the_average_and_keeps_the_weights_apart(
    uninterrupted: tuple, data_folder: Path, tmp_path: Path, capsys
) -> None:
    folder, found = uninterrupted
    content = torch.load(folder / "final_model.pt", weights_only=True)
    own = content["callbacks"]["WeightAverage"]
    assert set(own["weights"]) == {key for key in content["state_dict"] if "preprocess" not in key}
    assert not torch.equal(own["weights"][FIRST], content["state_dict"][FIRST])
    assert torch.equal(content["state_dict"][FIRST], content["model_state_dict"][FIRST.removeprefix("network.")])
    assert own["steps"][FIRST] == 2 * 5
    # best_model.pt gives the figures that were written down for it, whoever loads it
    words = [f"--data.root={data_folder}", f"--output_dir={tmp_path}", f"--ckpt_path={folder / 'best_model.pt'}"]
    assert main(["validate", *words, "--trainer.precision=32-true"]) == 0
    best = torch.load(folder / "best_model.pt", weights_only=True)
    assert f"{best['metrics']['loss']:.4f}" in capsys.readouterr().out
    assert found["training_history"]["val_loss"][best["epoch"]] == pytest.approx(best["metrics"]["loss"])
    assert main(["test", *words, "--trainer.precision=32-true"]) == 0
    assert f"{found['test_metrics']['loss']:.4f}" in capsys.readouterr().out


def test_switched_off_in_a_resumed_run_it_goes_on_from_the_weights(
    uninterrupted: tuple, data_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data_folder, *AVERAGED, *stop_at("epoch", 4, 0))
    assert fit(tmp_path / "run", data_folder, *RUN, "--trainer.precision=32-true", "--resume=auto") == 0
    found = torch.load(tmp_path / "run" / "final_model.pt", weights_only=True)
    assert "WeightAverage" not in found["callbacks"]
    wanted = torch.load(uninterrupted[0] / "last.ckpt", weights_only=True)["callbacks"]["WeightAverage"]["weights"]
    assert differences({key: found["state_dict"][key] for key in wanted}, wanted) == []


@pytest.mark.slow
def test_ranks_agree_on_it_and_resume_bit_for_bit(data_folder: Path, tmp_path: Path) -> None:
    def two(name: str, *flags: str) -> int:
        words = ["fit", "--config=finetune.yaml", f"--data.root={data_folder}", f"--output_dir={tmp_path / name}"]
        words += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", *AVERAGED]
        words += ["--data.batch_size=2", *flags]
        return subprocess.run(command(*words), env=environment(), capture_output=True, check=False).returncode

    watch = ["--trainer.callbacks+=exactness.CompareRanks", f"--trainer.callbacks.folder={tmp_path}"]
    assert two("watched", *watch) == 0
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["digests"] == second["digests"]
    assert two("whole") == 0
    assert two("run", *stop_at("epoch", 4, 0)) != 0
    assert two("run", "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_an_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match="above 0 and below 1, or null"):
        WeightAverage(decay)


def test_an_average_of_half_precision_is_refused(data_folder: Path, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "run", data_folder, *RUN, "--average.decay=0.9", "--trainer.precision=bf16-true") == 2
    assert "precision bf16-true is not offered: filters and scaling compute in float32" in capsys.readouterr().err
    assert fit(tmp_path / "other", data_folder, *RUN, "--average.decay=2") == 2
    assert "average.decay is 2.0" in capsys.readouterr().err
