"""Side inputs are computed once per run where everything trains; the run stays the same bit for bit."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from exactness import Stopped, command, differences, environment, outcome, stop_at

from butppg_lightning.cli import main
from butppg_lightning.models.indices.signal_indices import SignalIndices

RATES = [
    "--config=finetune_rates.yaml",
    "--model.encoder.init_args.width=8",
    "--model.encoder.init_args.depth=1",
    "--trainer.precision=32-true",
    "--trainer.max_epochs=3",
    "--data.batch_size=8",
    "--select=best",
    "--save_every_n_steps=1",
]
VARIED = ["--model.channel_dropout={PPG: 0.3, ACC: 0.5}", "--model.augment={stretch: 0.1, shift: 0.5, noise: 0.1}"]
CASES = {
    "channels lost, waveforms varied": VARIED,
    "loader workers, limited batches": ["--data.num_workers=1", "--trainer.limit_train_batches=2"],
    "everything, then the head, little memory": [
        "--stages.plan=[{trainable: all, epochs: 1}, {trainable: head}]",
        "--model.channel_dropout={ACC: 0}",
        "--cache.memory_gb=0",
    ],
}
SINGLE_AXES = [
    "--model.indices=[rates, acc]",
    "--model.channel_dropout={ACC_X: 0.5}",
    "--model.preprocess.mounting=recorded",
]


@pytest.fixture(scope="module")
def data(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The splits without the one for testing."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        (folder / f"{split}.npz").symlink_to(data_folder / f"{split}.npz")
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """For how many windows side inputs were computed, here and not in a loader's workers."""
    counted: Counter = Counter()
    original = SignalIndices.forward

    def forward(self: SignalIndices, signals: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        counted["windows"] += len(signals) * ("rates" in self.groups)  # the training range has other indices
        return original(self, signals, present)

    monkeypatch.setattr(SignalIndices, "forward", forward)
    return counted


def fit(output: Path, data: Path, *flags: str) -> int:
    return main(["fit", *RATES, f"--data.root={data}", f"--output_dir={output}", *flags])


def same(one: Path, other: Path) -> bool:
    first, second = (outcome(path) for path in (one, other))
    assert len(set(first["training_history"]["train_loss"])) == 3, "something trained"
    return differences(first, second) == []


@pytest.mark.parametrize("case", CASES)
def test_the_run_stays_the_same(case: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(tmp_path / "off", data, *CASES[case], "--cache.enabled=false") == 0
    capsys.readouterr()
    assert fit(tmp_path / "on", data, *CASES[case]) == 0
    off = "frozen-prefix cache off: the input projection trains, so that nothing but the side inputs stays the same"
    assert capsys.readouterr().err.count(off) == 1
    if "head" not in case:
        assert same(tmp_path / "on", tmp_path / "off")
        return
    # a frozen prefix is computed in other batches, which rounds otherwise
    losses = [outcome(tmp_path / name)["training_history"]["train_loss"] for name in ("on", "off")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_each_window_is_computed_once(computed: Counter, data: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "on", data, *VARIED, "--calibrate=false") == 0
    once = computed.pop("windows")
    assert fit(tmp_path / "off", data, *VARIED, "--calibrate=false", "--cache.enabled=false") == 0
    train, val = 36, 15
    assert once in range(train + val, train + val + 5), "and two or three to compare the encoder with its parts"
    assert computed["windows"] >= 3 * (train + val)


def test_the_next_run_takes_them(data: Path, tmp_path: Path, capsys) -> None:
    shared = ["--cache.memory_gb=0", f"--cache.folder={tmp_path / 'shared'}"]
    assert fit(tmp_path / "alone", data) == 0
    for name, taken, words in (("first", 0, []), ("next", 2, []), ("other", 0, ["--model.preprocess.clip=5"])):
        capsys.readouterr()
        assert fit(tmp_path / name, data, *shared, *words) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "side inputs of" in line]
        assert sum("mapped from disk, taken from an earlier run" in line for line in said) == taken, said
        assert len(said) == 2
        assert words or same(tmp_path / name, tmp_path / "alone")


def test_resumed_is_uninterrupted(data: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "whole", data, *VARIED) == 0
    with pytest.raises(Stopped):
        fit(tmp_path / "run", data, *VARIED, *stop_at("batch", 1, 2))
    assert fit(tmp_path / "run", data, *VARIED, "--resume=auto") == 0
    assert same(tmp_path / "run", tmp_path / "whole")


def test_where_single_axes_are_lost_they_are_computed_anew(data: Path, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "off", data, *SINGLE_AXES, "--cache.enabled=false") == 0
    capsys.readouterr()
    assert fit(tmp_path / "on", data, *SINGLE_AXES) == 0
    off = "frozen-prefix cache off for train's side inputs: channel_dropout takes single axes of ACC away"
    assert capsys.readouterr().err.count(off) == 1
    assert same(tmp_path / "on", tmp_path / "off")


@pytest.mark.slow
def test_two_processes_do_with_it_what_they_do_without(data: Path, tmp_path: Path) -> None:
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", *VARIED]
    for name, enabled in {"on": "true", "off": "false"}.items():
        words = ["fit", *RATES, f"--data.root={data}", f"--output_dir={tmp_path / name}", *two]
        words.append(f"--cache.enabled={enabled}")
        done = subprocess.run(
            command(*words), env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
    assert same(tmp_path / "on", tmp_path / "off")
