"""Safetensors with JSON: bit for bit the same model, and no trust in what a stranger wrote."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, make_windows

import butppg_lightning
from butppg_lightning import PPGQualityClassifier
from butppg_lightning.cli import main
from butppg_lightning.errors import UserError
from butppg_lightning.models.calibration import Calibration
from butppg_lightning.models.checkpoints import read_portable, restore_network
from butppg_lightning.models.prediction import predict_windows

safetensors = pytest.importorskip("safetensors.torch")
CURVE = {"threshold": [0.9, 0.3, 0.1], "sensitivity": [0.1, 0.8, 1.0], "false_positive_rate": [0.0, 0.2, 1.0]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    classifier = PPGQualityClassifier(
        encoder={"init_args": TINY}, head="mlp", indices=["ppg"], channel_dropout={"ECG": 0.5}
    )
    path = tmp_path_factory.mktemp("run") / "best_model.pt"
    calibration = Calibration(1 / 3, 0.1, 0.2, CURVE, "val.npz of /home/ann/but_ppg, 9 windows")
    content = {
        "state_dict": classifier.state_dict(),
        "hyper_parameters": dict(classifier.hparams),
        "calibration": calibration.state(),
        "metrics": {"auroc": 0.75},
        "config": {"data": {"root": "/home/ann/but_ppg"}, "seed_everything": 4},
    }
    torch.save(content, path)
    return path


@pytest.fixture
def weights(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    assert main(["export", "--checkpoint", str(checkpoint), "--output", str(path)]) == 0
    return path


def change(weights: Path, **values: Any) -> None:
    path = weights.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_model_comes_back_bit_for_bit(checkpoint: Path, weights: Path) -> None:
    (before, options), (after, again) = restore_network(checkpoint), restore_network(weights)
    assert {**options, "preprocess": before.preprocess.options} == again
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    signals = make_windows(4).signals
    one, other = (predict_windows(network, signals, prior=0.5).probabilities for network in (before, after))
    assert np.array_equal(one, other)
    assert after.calibration.source == "val.npz of but_ppg, 9 windows"
    assert "/home" not in weights.with_suffix(".json").read_text()


def test_the_json_may_be_called_config(weights: Path) -> None:
    weights.with_suffix(".json").rename(weights.with_name("config.json"))
    assert read_portable(weights)["metrics"] == {"auroc": 0.75}


def test_a_pair_is_exported_like_a_checkpoint(weights: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    assert main(["export", "--checkpoint", str(weights), "--output", str(again)]) == 0
    assert again.read_bytes() == weights.read_bytes()
    assert read_portable(again)["training"] == read_portable(weights)["training"]


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_a_truncated_file_is_one_line(weights: Path, keep: int) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(UserError, match="no safetensors file, or is damaged"):
        restore_network(weights)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[]", "does not describe a model"),
        ('{"format": NaN}', "NaN"),
        ('{"format": 1e999}', "1e999"),
        ('{"format": ' + "9" * 5000 + "}", "out of range"),
        ("\ud800", "is damaged"),
    ],
)
def test_damaged_json_is_one_line(weights: Path, text: str, message: str) -> None:
    weights.with_suffix(".json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=message) as caught:
        restore_network(weights)
    assert "\n" not in str(caught.value)


def test_values_that_do_not_fit_are_one_line(weights: Path) -> None:
    content = json.loads(weights.with_suffix(".json").read_text())
    options = content["hyper_parameters"]
    foreign = {**options, "encoder": {"class_path": "os.path.join", "init_args": {}}}
    wide = {**options, "encoder": {**options["encoder"], "init_args": {**TINY, "width": 10**9}}}
    for values, message in (
        ({"format_version": 2}, "format_version 2"),
        ({"weights_sha256": "0" * 64}, "another SHA-256"),
        ({"hyper_parameters": []}, "hyper_parameters.encoder is missing"),
        ({"hyper_parameters": {**options, "head": []}}, "hyper_parameters.head"),
        ({"hyper_parameters": {**options, "finetune_channels": ["PPG"]}}, "another shape|declares"),
        ({"hyper_parameters": foreign}, "which is not ours"),
        ({"hyper_parameters": wide}, "declares an encoder of width"),
        ({"calibration": {"temperature": -1}}, "calibration is damaged"),
    ):
        change(weights, **{**content, **values})
        with pytest.raises(UserError, match=message) as caught:
            restore_network(weights)
        assert "\n" not in str(caught.value)


def test_a_lost_half_is_named(weights: Path) -> None:
    weights.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"no model\.json or config\.json beside it"):
        restore_network(weights)


def test_score_takes_a_pair(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import numpy as np

    ppg = make_windows(3).signals[:, 3].reshape(-1)
    np.savez(tmp_path / "recording.npz", PPG=ppg, fs=np.int64(125))
    words = ["score", "--checkpoint", str(weights), "--input", str(tmp_path / "recording.npz")]
    assert main([*words, "--output-dir", str(tmp_path / "scores")]) == 0
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["calibrated"] is True


def test_optional_packages_are_imported_on_use() -> None:
    package = Path(butppg_lightning.__file__).parent
    optional = {"onnx", "onnxruntime", "onnxscript", "safetensors", "huggingface_hub"}
    for path in (package / "tasks" / "hub.py", *(package / "models" / "export").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & optional, path
