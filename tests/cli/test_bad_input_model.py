"""A checkpoint that is missing, damaged, hostile or contradicted ends in one line; nothing in it is executed."""

import contextlib
import pickle
import sys
from pathlib import Path

import pytest
import torch
from test_bad_input import Bomb, Refused, read_folder, refused, refused_fit, run_folder, write_checkpoint

from butppg_lightning.cli import main

# ruff: noqa: F401, F811 - the imported fixtures are used by the name of an argument


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--model.lr=1", ["--model.lr is 1.0", "2e-05", "drop"]),
        ("--model.encoder.init_args.width=64", ["--model.encoder.init_args.width is 64", "32", "drop"]),
        ("--model.finetune_channels=2", ["--model.finetune_channels is ['PPG', 'ECG']", "ACC_X", "drop"]),
        ("--model.head=mlp", ["--model.head is mlp", "linear", "drop"]),
        ("--model.pretrained=other.pt", ["--model.pretrained contradicts", "drop"]),
        ("--model.pretrain_channels=2", ["--model.pretrain_channels contradicts", "drop"]),
    ],
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_flags_that_contradict_the_checkpoint(
    command: str, flag: str, expected: list[str], refused: Refused, run_folder: Path, data_folder: Path
) -> None:
    before = read_folder(run_folder)
    checkpoint = run_folder / "last.ckpt"
    line = refused(command, "--data.root", data_folder, "--output_dir", run_folder, "--ckpt_path", checkpoint, flag)
    assert all(words in line for words in [*expected, str(checkpoint)]), line
    assert read_folder(run_folder) == before


def test_flags_that_agree_with_the_checkpoint_are_fine(run_folder: Path, data_folder: Path) -> None:
    flags = ["--model.finetune_channels=5", "--model.lr=2e-5", "--model.encoder.init_args.width=32"]
    place = ["--data.root", str(data_folder), "--ckpt_path", str(run_folder / "best_model.pt")]
    assert main(["test", *place, *flags, "--trainer.accelerator=cpu"]) == 0


def test_a_checkpoint_too_old_to_state_polarity_took_it_as_recorded(
    refused: Refused, run_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    content, path = torch.load(run_folder / "best_model.pt", weights_only=True), tmp_path / "old.pt"
    del content["hyper_parameters"]["preprocess"]["polarity"], content["hyper_parameters"]["preprocess"]["mounting"]
    torch.save(content, path)
    words = ["test", "--data.root", str(data_folder), "--ckpt_path", str(path), "--output_dir", str(tmp_path / "out")]
    line = refused(*words, "--model.preprocess.polarity=canonical")
    assert "--model.preprocess.polarity is canonical, but" in line
    assert "was made with recorded" in line
    assert main([*words, "--model.preprocess.polarity=recorded", "--trainer.accelerator=cpu"]) == 0


def test_another_plan_than_the_resumed_one(refused: Refused, run_folder: Path, data_folder: Path) -> None:
    before = read_folder(run_folder)
    flags = ["--stages.plan=[{trainable: all}]", "--trainer.max_epochs=2", "--resume=auto"]
    line = refused("fit", "--data.root", data_folder, "--output_dir", run_folder, *flags)
    assert "trained with the stages stage1_head_only (1 epochs" in line
    assert "stage1_full (2 epochs" in line
    assert read_folder(run_folder) == before


@pytest.mark.parametrize("way", ["torch", "pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "command",
    ["fit --model.pretrained {}", "fit --resume {}", "test --ckpt_path {}", "predict --ckpt_path {}", "inspect {}"],
)
def test_a_pickle_bomb_does_not_go_off(command: str, way: str, refused: Refused, tmp_path: Path) -> None:
    marker, path = tmp_path / "pwned", tmp_path / "bomb.pt"
    write = torch.save if way == "torch" else lambda content, path: path.write_bytes(pickle.dumps(content))
    write({"state_dict": {"a": Bomb(marker)}}, path)
    assert "could run code" in refused(*command.format(path).split(), *_output(command, tmp_path))
    assert not marker.exists()
    with contextlib.suppress(RuntimeError):  # a bare pickle goes off before torch misses its magic number
        torch.load(path, weights_only=False)
    assert marker.exists(), "a careless reader would have set it off"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not a torch checkpoint, or is damaged"),
        (b"just text\n", "is not a torch checkpoint, or is damaged"),
        ([torch.zeros(2)], "holds a list, not a checkpoint"),
        ({"epoch": 3}, "holds no weights; its keys are epoch"),
        ({"state_dict": {"conv.weight": torch.zeros(2, 2)}}, "matches the encoder (it has conv.weight ...)"),
    ],
    ids=["empty", "text", "list", "no weights", "no matching key"],
)
def test_files_that_are_no_encoder(content: object, expected: str, refused_fit: Refused, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    line = refused_fit("--model.pretrained", path)
    assert str(path) in line
    assert expected in line


def test_half_a_checkpoint(refused_fit: Refused, pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "half.pt").write_bytes(pretrained.read_bytes()[:5000])
    assert "half.pt is not a torch checkpoint, or is damaged" in refused_fit("--model.pretrained", tmp_path / "half.pt")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("norm.weight", torch.full((32,), torch.nan), "norm.weight does not hold finite real numbers"),
        ("embedding.weight", torch.zeros(32, 2, 50).to_sparse(), "embedding.weight does not hold finite real numbers"),
        ("embedding.weight", torch.zeros(32, 2, 25), "embedding.weight of shape [32, 2, 25], the model [32, 2, 50]"),
        ("embedding.weight", torch.zeros(32, 3, 50), "names 2 channels, but"),
        ("embedding.absent", torch.zeros(1, 32), "embedding.absent of shape [1, 32], the model [2, 32]"),
        ("blocks.0.fc1.weight", torch.zeros(2), "blocks.0.fc1.weight of shape [2], the model [128, 32]"),
    ],
)
def test_weights_that_do_not_fit(
    key: str, value: torch.Tensor, expected: str, refused_fit: Refused, pretrained: Path, tmp_path: Path
) -> None:
    content = torch.load(pretrained, weights_only=True)
    content["encoder_state_dict"][key] = value
    torch.save(content, tmp_path / "model.pt")
    line = refused_fit("--model.pretrained", tmp_path / "model.pt")
    assert str(tmp_path / "model.pt") in line
    assert expected in line


def test_weights_that_are_no_run_cannot_be_continued(refused: Refused, pretrained: Path, tmp_path: Path) -> None:
    for words in (["fit", "--resume"], ["test", "--ckpt_path"]):
        line = refused(*words, pretrained, "--output_dir", tmp_path / "run")
        assert f"{pretrained} is not a checkpoint of a run" in line
        assert "--model.pretrained" in line


@pytest.mark.parametrize(
    ("command", "lost", "expected"),
    [
        (
            "test",
            ("state_dict", "network.head.score.weight"),
            "does not fit the model it describes (network.head.score",
        ),
        ("fit", ("optimizer_states",), "is not a checkpoint of a run (no optimizer_states)"),
    ],
)
def test_checkpoints_that_lost_a_part(
    command: str,
    lost: tuple[str, ...],
    expected: str,
    refused: Refused,
    run_folder: Path,
    data_folder: Path,
    tmp_path: Path,
) -> None:
    content = torch.load(run_folder / "last.ckpt", weights_only=True)
    (content if len(lost) == 1 else content[lost[0]]).pop(lost[-1])
    torch.save(content, tmp_path / "lost.ckpt")
    place = ["--data.root", data_folder, "--output_dir", tmp_path / "run"]
    assert expected in refused(command, *place, "--ckpt_path", tmp_path / "lost.ckpt")


@pytest.mark.parametrize("option", ["--model.pretrained", "--ckpt_path"])
def test_an_encoder_class_that_only_the_file_names(
    option: str, refused: Refused, data_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "strangers_module.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "strangers_module", raising=False)
    path = write_checkpoint(tmp_path / "model.pt", "strangers_module.Encoder")
    words = ["fit", "--data.root", data_folder, "--output_dir", tmp_path / "run", option, path]
    line = refused(*words)
    assert "strangers_module.Encoder, which is not ours" in line
    assert "--model.encoder.class_path strangers_module.Encoder" in line
    assert not marker.exists()
    named = refused(*words, "--model.encoder.class_path", "strangers_module.Encoder")
    assert "cannot be imported" in named
    assert marker.exists(), "named by the user, it is imported"


def _output(command: str, tmp_path: Path) -> list[str]:
    return [] if command.startswith("inspect") else ["--output_dir", str(tmp_path / "run")]
