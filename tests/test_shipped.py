"""The gate in the package: whole, found by name in every command, and refused when damaged. Not how good it is."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import TINY, make_windows, save_classifier
from safetensors.numpy import load_file

from butppg_lightning import PPGQualityClassifier, shipped
from butppg_lightning.cli import main
from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.models.prediction import predict_windows
from butppg_lightning.shipped import GATE, locate
from butppg_lightning.window import CHANNELS

FILES = {"README.md", "SHA256SUMS", "config.json", "examples.safetensors", "model.safetensors"}
FIGURE = {"set": "bami1", "channels": "PPG", "people": 25, "windows": 5571, "metric": "AUROC"}
ABOUT = {
    "name": "mine",
    "version": "7",
    "trained_on": "two nights",
    "config": "finetune_rates.yaml",
    "never_shown": ["Children."],
    "failures": ["Cold hands."],
    "sources": [{"name": "BIDMC", "licence": "ODC-By", "attribution": "Pimentel et al. 2016"}],
}


def recording(folder: Path) -> Path:
    signals = np.concatenate(list(make_windows(4, 5).signals), axis=1)
    np.savez(
        folder / "night.npz", **dict(zip(CHANNELS, signals, strict=True)), **{f"fs_{name}": 125 for name in CHANNELS}
    )
    return folder / "night.npz"


def test_it_is_small_whole_and_holds_no_pickle() -> None:
    assert {path.name for path in GATE.iterdir()} == FILES
    assert sum(path.stat().st_size for path in GATE.iterdir()) < 3e6
    content = json.loads((GATE / "config.json").read_text())
    assert set(content["operating_points"]) == {"balanced", "precision", "sensitivity"}
    assert 0 < content["calibration"]["prior"] < 1
    assert content["training_range"]["names"]
    assert content["about"]["version"]
    assert content["about"]["trained_on"]


def test_it_gives_the_probabilities_that_were_stored_with_it() -> None:
    examples = load_file(GATE / "examples.safetensors")
    windows = examples["signals"], examples["present"]
    network, _ = restore_network(locate("shipped"))
    assert np.abs(predict_windows(network, *windows).probabilities - examples["probabilities"]).max() < 1e-3
    model = PPGQualityClassifier.from_pretrained("shipped")
    assert np.abs(model.predict_probabilities(*windows).numpy() - examples["probabilities"]).max() < 1e-3
    assert np.ptp(examples["probabilities"]) > 0.01, "a constant would agree with anything"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "examples.safetensors", "SHA256SUMS"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_one_is_refused_in_one_line(
    name: str, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(GATE, tmp_path / "gate")
    monkeypatch.setattr(shipped, "GATE", copy)
    assert locate("shipped").is_file()
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).unlink()
    if harm != "gone":
        (copy / name).write_bytes(content if harm == "flipped" else content[:20])
    words = ["--input", str(recording(tmp_path)), "--output-dir", str(tmp_path / "out")]
    assert main(["score", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "install butppg-lightning again" in line
    with pytest.raises(UserError, match="install butppg-lightning again"):
        PPGQualityClassifier.from_pretrained("shipped")
    assert not (tmp_path / "out").exists()


def test_one_command_scores_a_recording_without_lightning(tmp_path: Path) -> None:
    code = "import sys; from butppg_lightning.cli import main; assert main(sys.argv[1:]) == 0; "
    code += "assert not {'lightning', 'torchmetrics', 'sklearn'} & set(sys.modules)"
    night = recording(tmp_path).rename(tmp_path / "2024.01.05.npz")  # not the same folder as the next night's
    words = [sys.executable, "-c", code, "score", "--input", str(night)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((GATE / "config.json").read_text())
    summary = json.loads((tmp_path / "2024.01.05_quality" / "summary.json").read_text())
    assert summary["checkpoint"] == "shipped"
    assert summary["model"] == {
        **{key: content["about"][key] for key in ("name", "version", "trained_on")},
        "calibrated_on": content["calibration"]["source"],
        "weights_sha256": content["weights_sha256"],
    }
    assert f"'shipped' {content['about']['version']}, trained on {content['about']['trained_on']}" in done.stderr
    assert (tmp_path / "2024.01.05_quality" / "timeline.png").is_file()


def test_every_command_knows_its_name(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = ["--data-dir", str(data_folder)], str(tmp_path / "evaluated")
    assert main(["evaluate", *data, "--output-dir", out]) == 0
    evaluated = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert evaluated["model"]["name"] == "shipped"
    assert 0 <= evaluated["share_outside"] <= 1
    assert "never shown in training" in (tmp_path / "evaluated" / "report.html").read_text()
    for verb in ("test", "validate", "predict"):
        words = ["--data.root", str(data_folder), "--ckpt_path", "shipped", "--output_dir", str(tmp_path)]
        assert main([verb, *words]) == 0
    assert (tmp_path / "predictions.csv").read_text() == (tmp_path / "evaluated" / "predictions.csv").read_text()
    assert main(["inspect", "shipped"]) == 0
    assert "training range" in capsys.readouterr().out
    assert main(["calibrate", *data, "--overwrite"]) == 2
    assert "is left as it was exported" in capsys.readouterr().err
    mine = tmp_path / "mine.safetensors"
    assert main(["calibrate", *data, "--split", "train", "--output", str(mine)]) == 0
    assert main(["calibrate", *data, "--split", "train", "--output", str(tmp_path / "mine.safetensors")]) == 2
    assert "exists" in capsys.readouterr().err
    (before, _), (after, _) = restore_network(locate("shipped")), restore_network(mine)
    assert "36 windows" in after.calibration.source
    assert after.training_range == before.training_range
    capsys.readouterr()
    assert main(["evaluate", *data, "--output-dir", str(tmp_path / "recalibrated"), "--checkpoint", str(mine)]) == 0
    assert f"calibrated on {after.calibration.source}" in capsys.readouterr().err
    assert main(["export", "--checkpoint", "shipped", "--output", str(tmp_path / "copy")]) == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (GATE / name).read_bytes(), name


def test_a_file_of_that_name_is_not_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("shipped").parent == GATE
    assert capsys.readouterr().err == ""
    path = save_classifier(tmp_path / "shipped")
    assert locate("shipped").parent == GATE
    assert "give its absolute path" in capsys.readouterr().err
    assert locate(path) == path


def test_its_encoder_is_fine_tuned(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((GATE / "config.json").read_text())["about"]["config"]
    words = ["fit", "--config", config, "--data.root", str(data_folder), "--output_dir", str(tmp_path)]
    words += ["--model.pretrained", "shipped", "--trainer.max_epochs", "1", "--test", "false"]
    assert main(words) == 0
    trained, gate = restore_network(tmp_path / "best_model.pt")[0], restore_network(locate("shipped"))[0]
    assert type(trained.encoder) is type(gate.encoder)
    assert "trained on" in capsys.readouterr().out
    assert main([*words, "--overwrite", "--model.encoder.init_args.width", "7"]) == 2
    assert f"take --config {config}, which fits it" in capsys.readouterr().err


def export(folder: Path, *about: Any) -> int:
    files = [folder / f"about{number}.yaml" for number in range(len(about))]
    for path, content in zip(files, about, strict=True):
        path.write_text(yaml.safe_dump(content))
    checkpoint = save_classifier(folder / "best_model.pt")
    words = ["--checkpoint", str(checkpoint), "--output", str(folder / "mine"), "--about", *map(str, files)]
    return main(["export", *words])


def test_a_folder_says_what_its_makers_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"figures": [{**FIGURE, "value": 0.8125, "interval": [0.75, 0.875]}]}
    assert export(tmp_path, ABOUT, figures) == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == FILES
    card = (tmp_path / "mine" / "README.md").read_text()
    for part in (
        "# mine",
        "Trained on two nights.",
        "| BIDMC | ODC-By | Pimentel et al. 2016 |",
        "Never shown in training: Children.",
        "- Cold hands.",
        "| bami1 | PPG | 25 | 5571 | AUROC | 0.812 | 0.750 to 0.875 |",
        "butppg calibrate --checkpoint FOLDER",
        "--config finetune_rates.yaml --model.pretrained FOLDER",
    ):
        assert part in card, part
    words = ["--input", str(recording(tmp_path)), "--output-dir", str(tmp_path / "out")]
    assert main(["score", "--checkpoint", str(tmp_path / "mine"), *words]) == 0
    assert "model 'mine' 7, trained on two nights" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert "distance" not in rows[0], "a checkpoint without a training range says nothing"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["share_outside"] is None
    again = PPGQualityClassifier.from_pretrained(tmp_path / "mine")
    again.save_pretrained(tmp_path / "mine")
    assert not (tmp_path / "mine" / "examples.safetensors").exists()
    assert (tmp_path / "mine" / "README.md").read_text() == card
    assert locate(tmp_path / "mine").is_file()
    assert again.hparams["encoder"]["init_args"]["width"] == TINY["width"]


@pytest.mark.parametrize(
    "about",
    [
        ["version"],
        {"versoin": "7"},
        {"version": 7},
        {"version": "7\nrm -rf"},
        {"failures": "Cold hands."},
        {"sources": [{"name": "BIDMC"}]},
        {"figures": [FIGURE]},
        {"figures": [{**FIGURE, "value": "high", "interval": None}]},
        {"figures": [{**FIGURE, "value": 0.8, "interval": [0.7]}]},
        {"figures": [{**FIGURE, "value": 0.8, "interval": 0.7}]},
        {"figures": [{**FIGURE, "value": float("nan"), "interval": None}]},
        {"figures": [{**FIGURE, "people": date(2024, 1, 1), "value": 0.8, "interval": None}]},
    ],
)
def test_what_they_say_has_a_form(about: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path, about) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "about0.yaml" in line
    assert not (tmp_path / "mine" / "model.safetensors").exists()


class Library:
    """Stands for huggingface_hub, which sets up its logging when the function is first asked for."""

    errors = SimpleNamespace(EntryNotFoundError=KeyError)

    @property
    def hf_hub_download(self) -> Any:
        logging.getLogger("huggingface_hub").setLevel(logging.WARNING)

        def get(name: str, file: str) -> str:
            logging.getLogger("huggingface_hub.utils").warning("retrying")
            raise OSError("no connection")

        return get


def test_the_hubs_own_warnings_do_not_stand_beside_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "require", lambda name: Library())
    logger, said = logging.getLogger("huggingface_hub"), []
    handler = logging.Handler()
    handler.emit = said.append
    logger.addHandler(handler)
    try:
        with pytest.raises(UserError, match="the hub did not give it: no connection"):
            shipped.download("ann/gate", ["model.safetensors"])
    finally:
        logger.removeHandler(handler)
    assert said == []
