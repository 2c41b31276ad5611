"""With the frozen-prefix cache a run is the same run: every epoch's losses and the best epoch, in every arrangement."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encoder_flags
from exactness import fit

from butppg_lightning.cli import main
from butppg_lightning.models.encoder import TransformerBlock
from butppg_lightning.window import read_windows

ENCODER = {"patch_size": 125, "width": 16, "depth": 4, "heads": 2}
SMALL = [
    *encoder_flags(ENCODER),
    "--model.lr=3e-3",
    "--trainer.precision=32-true",
    "--stages.head_only_epochs=2",
    "--trainer.max_epochs=4",
]
GRADUAL = "--stages.plan=[{trainable: 1, epochs: 2}, {trainable: 2, epochs: 1}, {trainable: all}]"
CASES = {
    "the guide's plan": [],
    "three stages, encoder dropout, two workers": [
        "--stages.full_finetune_epochs=1",
        "--model.encoder.init_args.dropout=0.3",
        "--data.num_workers=2",
    ],
    "gradual, best weights at each boundary": [GRADUAL, "--stages.restore_best=true"],
    "everything, then the head": ["--stages.plan=[{trainable: all, epochs: 1}, {trainable: head}]"],
    "a shallower stage later": ["--stages.plan=[{trainable: 3, epochs: 2}, {trainable: 1}]"],
    "every block, validation inside an epoch": [
        "--stages.unfreeze_last_n=4",
        "--trainer.limit_train_batches=6",
        "--trainer.val_check_interval=0.5",
    ],
    "attention head, limited batches": [
        "--model.head=attention",
        "--trainer.limit_train_batches=3",
        "--trainer.limit_val_batches=1",
    ],
    "mlp head with dropout, limited shares": [
        "--model.head=mlp",
        "--model.head_dropout=0.3",
        "--trainer.limit_train_batches=0.5",
        "--trainer.limit_val_batches=0.6",
    ],
    "no check before training, accumulation, schedule": [
        "--trainer.num_sanity_val_steps=0",
        "--trainer.accumulate_grad_batches=3",
        "--model.lr_schedule=cosine",
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic windows: 220 to train (a whole chunk of features and a part; 6 batches and a part), 40 to validate."""
    folder = tmp_path_factory.mktemp("mock")
    assert main(["mock", "--output", str(folder), "--samples", "300"]) == 0
    (folder / "test.npz").unlink()
    return folder


def figures(folder: Path) -> dict:
    history = json.loads((folder / "training_history.json").read_text())
    best = torch.load(folder / "best_model.pt", weights_only=True)["epoch"]
    return {"history": history, "best": best}


def assert_same_run(one: Path, other: Path) -> None:
    first, second = figures(one), figures(other)
    assert first["best"] == second["best"]
    assert first["history"]["stage"] == second["history"]["stage"]
    for key in ("train_loss", "val_loss"):
        assert first["history"][key] == pytest.approx(second["history"][key], rel=1e-5, abs=0), key
    assert len(set(first["history"]["train_loss"])) == len(first["history"]["stage"]), "something trained"


def assert_cache_changes_nothing(folder: Path, data: Path, flags: list[str], capsys: pytest.CaptureFixture) -> str:
    assert fit(folder / "off", data, *SMALL, *flags, "--cache.enabled=false") == 0
    assert "frozen-prefix" not in capsys.readouterr().err
    assert fit(folder / "on", data, *SMALL, *flags) == 0
    said = capsys.readouterr().err
    for split in ("train", "val"):
        assert f"{split} windows" in said, "the cache was off"
    assert_same_run(folder / "on", folder / "off")
    return said


@pytest.mark.parametrize("case", CASES)
def test_the_losses_stay(case: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = assert_cache_changes_nothing(tmp_path, data, CASES[case], capsys)
    everything = any("all" in flag or "full" in flag for flag in CASES[case])
    assert said.count(" off") == everything, said


@pytest.mark.filterwarnings("ignore:.*has no val.npz")
def test_without_a_validation_split(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for source, target in {"train": "train", "val": "test"}.items():
        (folder / f"{target}.npz").symlink_to(data / f"{source}.npz")
    assert_cache_changes_nothing(tmp_path, folder, [], capsys)


def test_with_absent_channels_weights_and_soft_labels(data: Path, tmp_path: Path, capsys) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        windows = read_windows(data / f"{split}.npz", labelled=True)
        windows.present = generator.random(windows.signals.shape[:2]) > 0.3
        windows.signals = windows.signals * windows.present[..., None]
        windows.weights = generator.uniform(0.5, 2, len(windows))
        windows.soft_labels = np.clip(windows.labels * 0.8 + 0.1, 0, 1)
        windows.save(tmp_path / "data" / f"{split}.npz")
    assert_cache_changes_nothing(tmp_path, tmp_path / "data", ["--model.head=attention"], capsys)


def test_from_a_pretrained_encoder(data: Path, pretrained: Path, tmp_path: Path, capsys) -> None:
    small = [flag for flag in SMALL if "encoder" not in flag]
    flags = [f"--model.pretrained={pretrained}", "--stages.unfreeze_last_n=1"]
    for name, enabled in {"on": "true", "off": "false"}.items():
        assert fit(tmp_path / name, data, *small, *flags, f"--cache.enabled={enabled}") == 0
    assert "train windows" in capsys.readouterr().err
    assert_same_run(tmp_path / "on", tmp_path / "off")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How many windows went through each block, by the block's place in its encoder."""
    counted: Counter = Counter()
    order: dict[int, int] = {}
    original = TransformerBlock.forward

    def forward(self: TransformerBlock, tokens: torch.Tensor) -> torch.Tensor:
        counted[order.setdefault(id(self), len(order))] += len(tokens)
        return original(self, tokens)

    monkeypatch.setattr(TransformerBlock, "forward", forward)
    return counted


TRAIN, WINDOWS = 220, 260
CHECKED = range(13)  # a few windows show that the encoder is the sum of its parts


def test_a_frozen_block_sees_each_window_once(passes: Counter, data: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "run", data, *SMALL, "--data.num_workers=2") == 0
    assert passes[0] - WINDOWS in CHECKED, "train and val, once for both stages"
    assert passes[3] - 3 * WINDOWS in CHECKED, "stored once for stage 1, then trained in stage 2"


def test_a_gradual_plan_starts_from_the_deepest_common_part(passes: Counter, data: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "run", data, *SMALL, GRADUAL) == 0
    assert passes[0] - 2 * WINDOWS in CHECKED, "once for the first two stages; the third trains everything"


def test_without_the_cache_every_epoch_pays(passes: Counter, data: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "run", data, *SMALL, "--cache.enabled=false") == 0
    assert passes[0] >= 4 * WINDOWS


def test_limited_runs_store_only_what_they_use(passes: Counter, data: Path, tmp_path: Path) -> None:
    flags = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=2"]
    assert fit(tmp_path / "run", data, *SMALL, *flags) == 0
    assert passes[0] - 3 * 32 <= max(CHECKED)


def test_random_variation_switches_it_off_for_train_only(
    passes: Counter, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--model.augment.amplitude=0.2", "--model.channel_dropout.ECG=0.5"]
    assert fit(tmp_path / "run", data, *SMALL, *flags) == 0
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if " off" in line] == [
        "frozen-prefix cache off for train: its windows are varied at random for every batch "
        "(--cache.views K stores K variations of each)"
    ] * 2, "one line a stage"
    assert "val windows" in said
    assert passes[0] - 4 * TRAIN - (WINDOWS - TRAIN) in CHECKED
    assert fit(tmp_path / "off", data, *SMALL, *flags, "--cache.enabled=false") == 0
    assert_same_run(tmp_path / "run", tmp_path / "off")


@pytest.mark.parametrize("flag", ["--model.augment.noise=0.1", "--model.augment.amplitude=0.5"])
def test_every_kind_of_variation_does(flag: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(tmp_path / "run", data, *SMALL, flag, "--trainer.max_epochs=1") == 0
    assert "cache off for train" in capsys.readouterr().err


def test_no_cache_where_the_input_projection_trains(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(tmp_path / "run", data, *SMALL, "--stages.plan=[{trainable: all}]") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "frozen-prefix" in line]
    assert said == ["frozen-prefix cache off: the input projection trains, so that nothing stays the same"]
    assert not (tmp_path / "run" / "cache").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_overfitting_a_few_batches_has_no_cache(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(tmp_path / "run", data, *SMALL, "--trainer.overfit_batches=2") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "frozen-prefix" in line]
    assert said == ["frozen-prefix cache off: overfit_batches replaces the sampler"]


@pytest.mark.parametrize("flag", ["--cache.budget_gb=-1", "--cache.memory_gb=-0.5", "--cache.views=-2"])
def test_negative_numbers_are_refused(flag: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(tmp_path / "run", data, *SMALL, flag) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("butppg: ")]
    assert len(said) == 1
    assert f"{flag.removeprefix('--').replace('=', ' is ')}" in said[0]


def test_a_trial_run_leaves_nothing(data: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "run", data, *SMALL, "--trainer.fast_dev_run=true") == 0
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
