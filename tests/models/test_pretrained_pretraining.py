"""`butppg pretrain --model.pretrained`: a pretraining goes on where another ended, or says in one line why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, make_windows
from exactness import Stopped, differences, outcome, stop_at

from butppg_lightning import MaskedPretrainer, PPGQualityClassifier
from butppg_lightning.cli import main
from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.errors import UserError
from butppg_lightning.models.pretrained import read_pretraining
from butppg_lightning.window import CHANNELS

DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
FLAGS = [
    "--config=pretrain.yaml",
    "--config=tiny.yaml",
    *(f"--model.{key}={value}" for key, value in DECODER.items()),
    "--data.batch_size=8",
    "--trainer.precision=32-true",
]
ADAPT = [*FLAGS, "--config=adapt.yaml", "--trainer.max_epochs=3"]


def pretrain(output: Path, data: Path, *flags: str) -> int:
    return main(["pretrain", *flags, f"--data.root={data}", f"--output_dir={output}"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unlabelled five-channel windows."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for seed, (split, count) in enumerate({"train": 32, "val": 8}.items()):
        windows = make_windows(count, seed, subjects=split)
        windows.labels = None
        windows.save(folder / f"{split}_windows.npz")
    return folder


@pytest.fixture(scope="module")
def earlier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier") / "run"
    options = ["--model.preprocess.ppg_band=[0.5, 10]", "--model.encoder.init_args.dropout=0.1"]
    assert pretrain(folder, data, *FLAGS, *options, "--trainer.max_epochs=1") == 0
    return folder / "best_model.pt"


def spoilt(earlier: Path, path: Path, **changes: Any) -> Path:
    """Write the earlier checkpoint with other hyperparameters."""
    content = torch.load(earlier, weights_only=True)
    content["hyper_parameters"] |= changes
    torch.save(content, path)
    return path


def test_a_fresh_run_begins_with_every_weight_of_the_earlier_one(earlier: Path) -> None:
    stored = torch.load(earlier, weights_only=True)
    torch.manual_seed(7)
    module = MaskedPretrainer(**DECODER, pretrained=str(earlier), amplitude=0.5, mask_ratio=0.6)
    module.configure_model()
    state = module.state_dict()
    assert state.keys() == stored["state_dict"].keys()
    assert all(torch.equal(value, stored["state_dict"][key]) for key, value in state.items())
    assert module.network.preprocess.options["ppg_band"] == [0.5, 10.0], "the encoder knows signals filtered its way"
    assert module.hparams["encoder"]["init_args"]["dropout"] == 0.1
    assert module.hparams["mask_ratio"] == 0.6
    assert "pretrained" not in module.hparams, "a checkpoint loads where the earlier one is not"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoder": {"init_args": {"width": 64}}}, "encoder width 64"),
        ({"encoder": {"init_args": {"depth": 3}}}, "encoder depth 3"),
        ({"decoder_width": 32}, "decoder"),
        ({"decoder_depth": 2}, r"decoder\.blocks\.1"),
        ({"channels": 5}, "trained on PPG, ECG"),
        ({"channels": ["ECG", "PPG"]}, "trained on PPG, ECG"),
        ({"channels": ["PPG", "ACC_X"]}, "trained on PPG, ECG"),
        ({"preprocess": {"ppg": 3}}, "no option 'ppg'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_line(options: dict, said: str, earlier: Path) -> None:
    with pytest.raises(UserError, match=said) as error:
        MaskedPretrainer(**{**DECODER, **options}, pretrained=str(earlier)).configure_model()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--model.encoder.init_args.width=64", "encoder width 64"),
        ("--model.pretrained=nowhere.pt", "nowhere.pt not found"),
        ("--data.use_channels=[ACC_X]", "none is in common"),
    ],
)
def test_the_command_says_so_too(flag: str, said: str, earlier: Path, data: Path, tmp_path: Path, capsys) -> None:
    assert pretrain(tmp_path / "run", data, *ADAPT, f"--model.pretrained={earlier}", flag) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("butppg: ")
    assert said in line
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_classifiers_checkpoint_is_one_line(data: Path, tmp_path: Path, capsys) -> None:
    model = PPGQualityClassifier(encoder={"init_args": TINY}, finetune_channels=2)
    path = tmp_path / "classifier.pt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    assert pretrain(tmp_path / "run", data, *ADAPT, f"--model.pretrained={path}") == 2
    assert "no checkpoint of `butppg pretrain`" in capsys.readouterr().err.splitlines()[-1]


def test_bare_encoder_weights_are_one_line(pretrained: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint of `butppg pretrain`"):
        read_pretraining(pretrained, ("PPG", "ECG"))


def test_weights_of_a_diverged_run_are_refused(earlier: Path, tmp_path: Path) -> None:
    content = torch.load(earlier, weights_only=True)
    content["state_dict"]["network.encoder.norm.weight"][3] = torch.nan
    torch.save(content, tmp_path / "diverged.pt")
    with pytest.raises(UserError, match=r"encoder\.norm\.weight does not hold finite"):
        MaskedPretrainer(**DECODER, pretrained=str(tmp_path / "diverged.pt")).configure_model()


def test_a_strangers_class_is_not_imported(earlier: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    path = spoilt(earlier, tmp_path / "m.pt", encoder={"class_path": "stranger.Encoder", "init_args": {}})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="not ours"):
        MaskedPretrainer(**DECODER, pretrained=str(path)).configure_model()


@pytest.mark.parametrize(
    "change", [{"channels": {}}, {"preprocess": {"nothing": 1}}, {"encoder": {"width": 3}}], ids=str
)
def test_a_strangers_options_are_refused_in_one_line(change: dict, earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        MaskedPretrainer(**DECODER, pretrained=str(spoilt(earlier, tmp_path / "m.pt", **change))).configure_model()
    assert "\n" not in str(error.value)


def test_a_resumed_run_does_not_want_the_earlier_one_any_more(earlier: Path, data: Path, tmp_path: Path) -> None:
    for name in ("whole", "run"):
        (tmp_path / f"{name}.pt").write_bytes(earlier.read_bytes())
    flags = [*ADAPT, "--save_every_n_steps=1"]
    assert pretrain(tmp_path / "whole", data, *flags, f"--model.pretrained={tmp_path / 'whole.pt'}") == 0
    same_command = [*flags, f"--model.pretrained={tmp_path / 'run.pt'}"]
    with pytest.raises(Stopped):
        pretrain(tmp_path / "run", data, *same_command, *stop_at("batch", 1, 2))
    (tmp_path / "run.pt").unlink()
    assert pretrain(tmp_path / "run", data, *same_command, "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


def test_another_start_than_the_runs_own_contradicts_it(earlier: Path, data: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(Stopped):
        pretrain(tmp_path / "run", data, *ADAPT, f"--model.pretrained={earlier}", *stop_at("epoch", 1, 0))
    other = tmp_path / "other.pt"
    other.write_bytes(earlier.read_bytes())
    assert pretrain(tmp_path / "run", data, *ADAPT, f"--model.pretrained={other}", "--resume=auto") == 2
    assert "--model.pretrained contradicts" in capsys.readouterr().err.splitlines()[-1]


def test_channels_that_are_not_used_are_as_if_not_recorded(data: Path, tmp_path: Path, monkeypatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    step = MaskedPretrainer.training_step
    monkeypatch.setattr(
        MaskedPretrainer, "training_step", lambda self, *args: seen.append(args[0]) or step(self, *args)
    )
    assert pretrain(tmp_path / "run", data, *FLAGS, "--data.use_channels=[PPG]", "--trainer.max_epochs=1") == 0
    assert seen
    for batch in seen:
        assert batch["present"].tolist() == [[True, False]] * len(batch["signals"])
        assert bool((batch["signals"][:, 1] == 0).all())
        assert bool((batch["signals"][:, 0] != 0).any())


def test_what_is_used_is_part_of_a_sets_fingerprint() -> None:
    windows = make_windows(3)
    prints = {WindowDataset(windows, CHANNELS, used).fingerprint() for used in (None, ("PPG",), ("PPG", "ECG"))}
    assert len(prints) == 3
