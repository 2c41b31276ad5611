"""A classifier as a folder for a model hub: saved, loaded offline, described, and never trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, make_windows

from butppg_lightning import PatchTransformer, PPGQualityClassifier
from butppg_lightning.errors import UserError
from butppg_lightning.models.calibration import Calibration

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")
CURVE = {"threshold": [0.9, 0.3, 0.1], "sensitivity": [0.1, 0.8, 1.0], "false_positive_rate": [0.0, 0.2, 1.0]}
FIGURES = {"accuracy": 81.25, "auroc": 0.875, "auroc_ci95": [0.7, 0.9], "f1": 0.5, "threshold": 0.3}


class OwnEncoder(PatchTransformer):
    """Stands for a user's own class."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def checkpoint(tmp_path: Path, data_folder: Path) -> Path:
    """A run's folder: a best model, calibrated, with its figures on test."""
    torch.manual_seed(6)
    classifier = PPGQualityClassifier(encoder={"init_args": TINY}, channel_dropout={"ECG": 0.5})
    path = tmp_path / "run" / "best_model.pt"
    path.parent.mkdir()
    content = {
        "state_dict": classifier.state_dict(),
        "hyper_parameters": dict(classifier.hparams),
        "pytorch-lightning_version": "2.6.6",
        "calibration": Calibration(2.0, 0.1, 0.2, CURVE, f"val.npz of {data_folder}, 15 windows").state(),
        "epoch": 7,
        "metrics": {"auroc": 0.8},
        "config": {"data": {"root": str(data_folder)}, "versions": {"torch": "2.13.0"}},
    }
    torch.save(content, path)
    (path.parent / "test_metrics.json").write_text(json.dumps(FIGURES))
    return path


def refused(message: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_comes_back_the_same(checkpoint: Path, tmp_path: Path) -> None:
    model = PPGQualityClassifier.load_from_checkpoint(checkpoint)
    model.save_pretrained(tmp_path / "gate")
    assert sorted(path.name for path in (tmp_path / "gate").iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
    ]
    loaded = PPGQualityClassifier.from_pretrained(tmp_path / "gate")
    signals = make_windows(4).signals
    assert torch.equal(loaded.predict_probabilities(signals), model.predict_probabilities(signals))
    assert loaded.threshold() == model.threshold() == 0.3
    assert dict(loaded.hparams) == dict(model.hparams)
    assert not loaded.training
    loaded.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "SHA256SUMS"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "gate" / name).read_bytes()


def test_the_card_tells_what_is_known(checkpoint: Path, data_folder: Path, tmp_path: Path) -> None:
    newer = data_folder / "val.npz"
    os.utime(checkpoint, (newer.stat().st_mtime + 10,) * 2)
    PPGQualityClassifier.load_from_checkpoint(checkpoint).save_pretrained(tmp_path / "gate", licence="CC-BY-4.0")
    text = (tmp_path / "gate" / "README.md").read_text()
    for part in (
        "| AUROC | 0.875 | 0.700 to 0.900 |",
        "| accuracy | 81.2 % |",
        "| test | 18 | 6 | 4 |",
        "| balanced | 0.3000 | 80.0 % | 80.0 % |",
        "18 windows of 4 subjects",
        "ACC_X, ACC_Y, ACC_Z were never withheld",
        'from_pretrained("gate")',
        "no medical device",
        "CC-BY-4.0",
    ):
        assert part in text, part
    assert str(data_folder) not in text
    card = hub.ModelCard.load(tmp_path / "gate" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "accuracy": 0.8125,
        "roc_auc": 0.875,
        "f1": 0.5,
    }


def test_figures_of_another_threshold_or_of_other_weights_are_not_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = checkpoint.with_name("test_metrics.json")
    figures.write_text(json.dumps({**FIGURES, "threshold": 0.5}))
    model = PPGQualityClassifier.load_from_checkpoint(checkpoint)
    model.save_pretrained(tmp_path / "gate")
    assert "another threshold" in capsys.readouterr().err
    text = (tmp_path / "gate" / "README.md").read_text()
    assert "0.875" not in text
    assert "| AUROC | 0.800 |" in text, "the validation figures are left"
    model.save_pretrained(tmp_path / "gate", test_metrics=figures)
    assert "0.875" in (tmp_path / "gate" / "README.md").read_text()
    refused("cannot be read", model.save_pretrained, tmp_path / "gate", test_metrics=tmp_path / "none.json")
    model.network.head.score.bias.data += 1
    refused("has other weights than this model", model.save_pretrained, tmp_path / "gate")
    model.origin = None
    model.save_pretrained(tmp_path / "gate")
    assert "No metrics on test windows" in (tmp_path / "gate" / "README.md").read_text()


def test_a_card_that_was_edited_stays(checkpoint: Path, tmp_path: Path) -> None:
    card = tmp_path / "gate" / "README.md"
    card.parent.mkdir()
    card.write_text("my own words")
    PPGQualityClassifier.load_from_checkpoint(checkpoint).save_pretrained(card.parent)
    assert card.read_text() == "my own words"


def test_a_strangers_folder_runs_nothing(checkpoint: Path, tmp_path: Path) -> None:
    PPGQualityClassifier.load_from_checkpoint(checkpoint).save_pretrained(tmp_path / "gate")
    (tmp_path / "gate" / "SHA256SUMS").unlink()  # a stranger would write what fits
    path = tmp_path / "gate" / "config.json"
    content = json.loads(path.read_text())
    options = content["hyper_parameters"]

    def written(**values: Any) -> Path:
        path.write_text(json.dumps({**content, "hyper_parameters": {**options, **values}}))
        return path.parent

    load = PPGQualityClassifier.from_pretrained
    named = {"class_path": f"{__name__}.OwnEncoder", "init_args": options["encoder"]["init_args"]}
    refused("could run a stranger's code", load, written(encoder=named))
    signals = make_windows(3).signals
    trusted = load(tmp_path / "gate", encoder=named)
    assert isinstance(trusted.network.encoder, OwnEncoder)
    wanted = PPGQualityClassifier.load_from_checkpoint(checkpoint).predict_probabilities(signals)
    assert torch.equal(trusted.predict_probabilities(signals), wanted)
    refused("knows no hyperparameter 'callbacks'", load, written(callbacks=["os.system"]))
    refused("knows no hyperparameter 'pretrained'", load, written(pretrained="/etc/passwd"))
    refused("channel_dropout|do not fit", load, written(channel_dropout="often"))
    (tmp_path / "gate" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "gate" / "pytorch_model.bin")
    refused(r"model\.safetensors not found", load, tmp_path / "gate")


@pytest.mark.parametrize(
    "name", ["./nowhere", "/no/where", "a/b/c", "nobody/nothing", "not a name", "gone.safetensors"]
)
def test_an_unknown_name_is_one_line(name: str) -> None:
    refused(r"is no folder|not found", PPGQualityClassifier.from_pretrained, name)


def test_a_model_is_pushed_through_the_mixin(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Repository:
        repo_id = "ann/gate"

    def upload(self: Any, **options: Any) -> str:
        seen.update(options, files=sorted(path.name for path in Path(options["folder_path"]).iterdir()))
        seen["title"] = (Path(options["folder_path"]) / "README.md").read_text()
        return "https://hub/commit"

    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.create_repo", lambda *_, **__: Repository)
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.upload_folder", upload)
    model = PPGQualityClassifier.load_from_checkpoint(checkpoint)
    assert model.push_to_hub("ann/gate", private=True) == "https://hub/commit"
    assert seen["files"] == ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]
    assert "# ann/gate" in seen["title"]

    def offline(*_: Any, **__: Any) -> None:
        raise hub.errors.OfflineModeIsEnabled("offline mode is enabled")

    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.create_repo", offline)
    refused("could not be uploaded: offline", model.push_to_hub, "ann/gate")


def test_a_mistyped_option_is_no_option_of_the_hub() -> None:
    with pytest.raises(TypeError, match="revison"):
        PPGQualityClassifier.from_pretrained("shipped", revison="main")
