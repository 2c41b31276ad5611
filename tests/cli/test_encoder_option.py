"""What is said of the encoder reaches the model, in whatever spelling and from however many places."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from butppg_lightning.cli import main, training
from butppg_lightning.cli.configs import merge_encoder
from butppg_lightning.errors import UserError

OURS = "butppg_lightning.PatchTransformer"
SPEC = {"class_path": OURS, "init_args": {"width": 24, "heads": 2}}
TINY = {"patch_size": 50, "width": 32, "depth": 2, "heads": 2}  # of tiny.yaml
DEFAULT = {"patch_size": 25, "width": 192, "depth": 12, "heads": 3}
OWN = {"class_path": "other.Encoder", "init_args": {"size": 1}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, encoder in {"spec": SPEC, "bare": OURS, "own": OWN, "null": None}.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"model": {"encoder": encoder, "lr": 1e-3}}))
        Path(f"{name}.json").write_text(json.dumps({"model": {"encoder": encoder}}))
    return tmp_path


def built(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Any]:
    """Return the encoder's specification of the model that a command builds, and its configuration."""
    found: list[Any] = []

    def note(cli: Any) -> None:
        found.append(cli)
        raise UserError("enough")

    monkeypatch.setattr(training.TrainingCLI, "train", note)
    assert main([command, *words, "--output_dir", "run"]) == 2
    return dict(found[0].model.hparams["encoder"]), found[0].config


@pytest.mark.parametrize("command", ["fit", "pretrain"])
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--config", "spec.yaml"], {**DEFAULT, **SPEC["init_args"]}),
        (["--config=spec.json"], {**DEFAULT, **SPEC["init_args"]}),
        (["--config", "tiny.yaml", "--config", "spec.yaml"], {**TINY, **SPEC["init_args"]}),
        (["--config", "spec.yaml", "-c", "tiny.yaml"], TINY),
        (["--config", "bare.yaml", "--config", "tiny.yaml"], TINY),
        (["--config", "tiny.yaml", "--model.encoder", json.dumps(SPEC)], {**TINY, **SPEC["init_args"]}),
        (["--config", "spec.yaml", f"--model.encoder={json.dumps(SPEC)}"], {**DEFAULT, **SPEC["init_args"]}),
        (["--config", "tiny.yaml", "--model.encoder", OURS], TINY),
        (["--config", "tiny.yaml", "--model.encoder", "PatchTransformer"], TINY),
        (["--config", "spec.yaml", "--model.encoder.class_path", OURS, "--model.encoder.init-args.depth", "3"],
         {**DEFAULT, **SPEC["init_args"], "depth": 3}),
        (["--config", "spec.yaml", "--model.encoder.init_args", "{depth: 3}"],
         {**DEFAULT, **SPEC["init_args"], "depth": 3}),
        (["--config", "spec.yaml", "--model.encoder", "null", "--model.encoder.init_args.depth=1"],
         {**DEFAULT, "depth": 1}),
        (["--config", "spec.yaml", "--config", "null.yaml", "--config", "tiny.yaml"], TINY),
    ],
)  # fmt: skip
def test_every_spelling_builds_it(
    command: str, typed: list[str], expected: dict[str, int], folder: Path, data_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    spec, _ = built(command, [*typed, "--data.root", str(data_folder)], monkeypatch)
    assert spec["class_path"] == OURS
    assert {key: spec["init_args"][key] for key in DEFAULT} == expected


def test_the_rest_of_the_config_is_kept(folder: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text(f"model: {{encoder: {OURS}, lr: 1e-3, augment: {{shift: 0.5}}}}\nselect: last\n")
    words = ["--config", "tiny.yaml", "--config", "mine.yaml", "--data.root", str(data_folder)]
    _, config = built("fit", words, monkeypatch)
    assert (config.model.lr, config.select, dict(config.model.augment)) == (1e-3, "last", {"shift": 0.5})


@pytest.mark.parametrize("command", ["fit", "pretrain"])
def test_a_printed_config_can_be_given_again(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [command, "--config", "spec.yaml", "--model.encoder.init_args.depth", "3"]
    assert main([*words, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["model"]["encoder"] == {**SPEC, "init_args": {**SPEC["init_args"], "depth": 3}}
    Path("printed.yaml").write_text(printed)
    assert main([command, "--config", "printed.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == printed


def test_another_class_takes_other_arguments(folder: Path) -> None:
    merged = merge_encoder(["--config", "spec.yaml", "--config", "own.yaml", "--model.encoder.init_args.size", "2"])
    assert json.loads(merged[-1]) == {"class_path": "other.Encoder", "init_args": {"size": 2}}
    assert merged[-2] == "--model.encoder"


def test_a_class_of_the_working_directory_is_found(
    folder: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my_encoders.py").write_text(
        "from butppg_lightning import PatchTransformer\nclass Mine(PatchTransformer):\n    pass\n"
    )
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(folder))])
    words = ["--config", "tiny.yaml", "--model.encoder.class_path", "my_encoders.Mine", "--data.root", str(data_folder)]
    spec, _ = built("fit", [*words, "--model.encoder.init_args", "{width: 16, depth: 1, heads: 2}"], monkeypatch)
    assert spec["class_path"] == "my_encoders.Mine"
    assert spec["init_args"]["width"] == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [("encoder: 3", "mine.yaml: model.encoder: expected dict, got 3"), ("encoder: [1]", "expected dict, got [1]")],
)
def test_what_is_no_encoder_is_refused(
    text: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(f"model: {{{text}}}")
    assert main(["fit", "--config", "mine.yaml"]) == 2
    assert message in capsys.readouterr().err


def test_mistakes_in_a_config_with_an_encoder_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(f"model: {{encoder: {OURS}, lr: fast}}")
    assert main(["fit", "--config", "mine.yaml"]) == 2
    assert "butppg: --model.lr: expected float, got fast\n" in capsys.readouterr().err
