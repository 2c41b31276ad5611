"""`butppg calibrate`, and what test, predict and score make of a calibrated checkpoint."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, logits_of, make_windows

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.cli import main
from butppg_lightning.models.calibration import Calibration
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.models.prediction import predict_windows

pytest.importorskip("matplotlib")
TRUE_TEMPERATURE, TRUE_BIAS = 0.5, -0.7


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained classifier with logits of mean 0 and spread 1."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("run") / "best_model.pt"
    classifier = PPGQualityClassifier(encoder={"init_args": TINY})
    score = classifier.network.head.score
    logits = logits_of(classifier.network, make_windows(100).signals)
    score.weight.data /= logits.std()
    score.bias.data -= logits.mean() / logits.std()
    content = {"state_dict": classifier.state_dict(), "hyper_parameters": dict(classifier.hparams)}
    torch.save({**content, "pytorch-lightning_version": "2.6.6"}, path)
    return path


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits whose labels follow the model's own logits by a known temperature and bias."""
    path = tmp_path_factory.mktemp("data")
    network, _ = restore_network(model)
    for seed, (split, count) in enumerate({"val": 300, "test": 90}.items()):
        windows = make_windows(count, seed, subjects=split)
        logits = logits_of(network, windows.signals).double().numpy()
        chance = 1 / (1 + np.exp(-(logits / TRUE_TEMPERATURE + TRUE_BIAS)))
        windows.labels = (np.random.default_rng(100 + seed).random(count) < chance).astype(np.int64)
        windows.save(path / f"{split}.npz")
    return path


@pytest.fixture(scope="module")
def calibrated(model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("calibrated") / "model.pt"
    assert calibrate(model, "--data-dir", str(folder), "--output", str(output)) == 0
    return output


def calibrate(checkpoint: Path, *words: str) -> int:
    return main(["calibrate", "--checkpoint", str(checkpoint), *words])


def run(command: str, checkpoint: Path, folder: Path, output: Path, *words: str) -> int:
    common = ["--config", "finetune.yaml", "--data.root", str(folder), "--trainer.precision", "32-true"]
    return main([command, *common, "--ckpt_path", str(checkpoint), "--output_dir", str(output), *words])


def predictions(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def refused(capsys: pytest.CaptureFixture[str], code: int, message: str) -> None:
    printed = capsys.readouterr().err.splitlines()
    told = [line for line in printed if line.startswith("butppg: ")]
    assert code == 2
    assert len(told) == 1
    assert told[0] == printed[-1]
    assert message in told[0]


def test_the_calibration_is_found_and_stored(model: Path, calibrated: Path, folder: Path) -> None:
    stored = Calibration.from_state(load(calibrated)["calibration"])
    assert stored.temperature == pytest.approx(TRUE_TEMPERATURE, rel=0.3)
    assert stored.bias == pytest.approx(TRUE_BIAS, abs=0.3)
    assert stored.source.endswith(f"val.npz, 300 windows ({round(300 * stored.prior)} good)")
    before, after = load(model), load(calibrated)
    assert set(after) - set(before) == {"calibration"}
    assert all(torch.equal(value, after["state_dict"][key]) for key, value in before["state_dict"].items())
    assert (calibrated.parent / "model_reliability.png").read_bytes().startswith(b"\x89PNG")
    signals = make_windows(5).signals
    plain, network = logits_of(restore_network(model)[0], signals), restore_network(calibrated)[0]
    wanted = (plain / stored.temperature + stored.bias).sigmoid()
    assert np.allclose(predict_windows(network, signals, precision="32-true").probabilities, wanted, atol=1e-6)
    loaded = PPGQualityClassifier.load_from_checkpoint(calibrated)
    assert torch.allclose(loaded.predict_probabilities(signals), wanted, atol=1e-6)


def test_before_and_after_are_printed(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-dir", str(folder), "--output", str(tmp_path / "m.pt"), "--precision", "0.999"]
    assert calibrate(model, *words) == 0
    printed = capsys.readouterr()
    rows = {line.split("│")[1].strip(): line.split("│")[2:4] for line in printed.out.splitlines() if "│" in line}
    for title in ("log loss", "Brier score", "ECE (equal mass)", "ECE, debiased"):
        before, after = map(float, rows[title])
        assert after < before, title
    assert float(rows["if perfectly calibrated"][1]) > 0.01
    assert {"balanced", "precision", "sensitivity"} <= set(rows)


def test_in_place_needs_overwrite_and_leaves_other_names_alone(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, last = tmp_path / "best_model.pt", tmp_path / "last.ckpt"
    best.write_bytes(model.read_bytes())
    last.hardlink_to(best)
    refused(capsys, calibrate(best, "--data-dir", str(folder)), "add --overwrite")
    assert best.read_bytes() == model.read_bytes()
    assert calibrate(best, "--data-dir", str(folder), "--overwrite", "--method", "temperature") == 0
    assert load(best)["calibration"]["bias"] == 0
    assert last.read_bytes() == model.read_bytes(), "a second name of the old file is no calibrated one"


def test_predictions_say_the_same_as_windows(
    model: Path, calibrated: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = load(calibrated)["calibration"]
    for checkpoint, taken in ((model, "is not calibrated; the"), (calibrated, "are taken as calibrated by it")):
        output = tmp_path / checkpoint.stem
        assert run("predict", checkpoint, folder, output, "--data.predict_split", "val") == 0
        capsys.readouterr()
        words = ["--predictions", str(output / "predictions.csv"), "--output", str(output / "again.pt")]
        assert calibrate(checkpoint, *words) == 0
        assert taken in capsys.readouterr().err
        found = load(output / "again.pt")["calibration"]
        for key in ("temperature", "bias", "prior"):
            assert found[key] == pytest.approx(wanted[key], abs=1e-3), (checkpoint, key)
        assert found["curve"]["sensitivity"] == pytest.approx(wanted["curve"]["sensitivity"], abs=0.02)


def test_logits_and_saturated_probabilities(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 30, 300)
    labels = (generator.random(300) < 1 / (1 + np.exp(-logits / 10))).astype(int)
    table = tmp_path / "p.csv"
    table.write_text("\ufefflabel,logit\n" + "".join(f"{a},{b}\n" for a, b in zip(labels, logits, strict=True)))
    assert calibrate(model, "--predictions", str(table), "--output", str(tmp_path / "a.pt")) == 0
    assert load(tmp_path / "a.pt")["calibration"]["temperature"] == pytest.approx(10, rel=0.25)
    rows = (f"{a},{1 / (1 + np.exp(-b)):.6f}\n" for a, b in zip(labels, logits, strict=True))
    table.write_text("label,probability\n" + "".join(rows))
    capsys.readouterr()
    assert calibrate(model, "--predictions", str(table), "--output", str(tmp_path / "b.pt")) == 0
    assert "probabilities are 0 or 1 to six decimals" in capsys.readouterr().err
    assert load(tmp_path / "b.pt")["calibration"]["temperature"] > 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none"),
        ("label,score\n1,0.3\n", "has the columns label, score; expected label, and probability or logit"),
        ("label,probability\n", "holds no predictions"),
        ("label,probability\n1,0.4\n2,0.4\n", "line 3: label is '2'"),
        ("label,probability\n1,0.4\n,0.4\n", "line 3: label is ''"),
        ("label,probability\n1,1.4\n", "line 2: probability is '1.4'; expected a number from 0 to 1"),
        ("label,probability\n1\n", "line 2: probability is None"),
        ("label,logit\n1,nan\n", "line 2: logit is 'nan'"),
        ("label,logit\n1,0.4\n1,0.1\n", "both classes; there are 2 good and 0 poor"),
        ("label,logit\n1,0.4\n0,0.4\n", "all the same"),
        ("label,logit\n1,-3\n0,4\n1,-1\n0,2\n", "good windows below poor ones"),
        ("label,logit\n\xff\x00", "cannot be read as CSV"),
    ],
)
def test_wrong_predictions(model: Path, tmp_path: Path, text: str, message: str, capsys: Any) -> None:
    (tmp_path / "p.csv").write_bytes(text.encode("latin-1"))
    words = ["--predictions", str(tmp_path / "p.csv"), "--output", str(tmp_path / "m.pt")]
    refused(capsys, calibrate(model, *words), message)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --data_dir"),
        (["--data-dir", "D", "--predictions", "p.csv"], "give either --data_dir"),
        (["--data-dir", "D", "--precision", "1"], "--precision is 1"),
        (["--data-dir", "D", "--sensitivity", "90"], "--sensitivity is 90"),
        (["--data-dir", "D", "--batch-size", "0"], "--batch_size is 0"),
        (["--data-dir", "D", "--split", "all"], "split"),
        (["--data-dir", "D", "--split", "train"], "train.npz not found"),
        (["--predictions", "gone.csv"], "gone.csv cannot be read as CSV: No such file"),
    ],
)
def test_wrong_options(model: Path, folder: Path, tmp_path: Path, words: list[str], message: str, capsys: Any) -> None:
    given = [str(folder) if word == "D" else word for word in words]
    refused(capsys, calibrate(model, *given, "--output", str(tmp_path / "m.pt")), message)
    assert not list(tmp_path.iterdir())


def test_what_is_no_classifier(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.csv").write_text("label,logit\n1,3\n0,4\n")
    words = ["--predictions", str(tmp_path / "p.csv"), "--output", str(tmp_path / "m.pt")]
    refused(capsys, calibrate(pretrained, *words), "is no fine-tuned classifier")


def test_calibrating_needs_matplotlib(model: Path, folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code = calibrate(model, "--data-dir", str(folder), "--output", str(tmp_path / "m.pt"))
    refused(capsys, code, "pip install 'butppg-lightning[")


@pytest.mark.parametrize(
    "words", [[], ["--operating-point=precision"], ["--operating-point=sensitivity", "--prior=0.6"]]
)
def test_predict_cuts_at_the_stored_threshold(calibrated: Path, folder: Path, tmp_path: Path, words: list[str]) -> None:
    assert run("predict", calibrated, folder, tmp_path, *words) == 0
    stored = Calibration.from_state(load(calibrated)["calibration"])
    named = dict(word.removeprefix("--").split("=") for word in words)
    prior = float(named["prior"]) if "prior" in named else None
    threshold = stored.point(named.get("operating-point", "balanced"), prior).threshold
    logits = logits_of(restore_network(calibrated)[0], np.load(folder / "test.npz")["signals"])
    wanted = stored.probabilities(logits, prior).numpy()
    rows = predictions(tmp_path)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], wanted, atol=2e-5)
    clear = np.abs(wanted - threshold) > 1e-4
    verdicts = np.array([row["verdict"] == "good" for row in rows])
    assert (verdicts == (wanted >= threshold))[clear].all()
    assert 0 < verdicts.sum() < len(rows)


def test_test_uses_the_threshold_of_the_checkpoint(
    model: Path, calibrated: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {}
    for name, checkpoint, words in (
        ("plain", model, []),
        ("balanced", calibrated, []),
        ("precision", calibrated, ["--operating-point", "precision"]),
    ):
        assert run("test", checkpoint, folder, tmp_path, *words) == 0
        printed = capsys.readouterr().out
        rows = (line.split("│")[1:3] for line in printed.splitlines() if "│" in line)
        figures[name] = {key.strip(): float(value.strip(" %") if "und" not in value else "nan") for key, value in rows}
        assert ("not calibrated" in printed) == (name == "plain")
        assert (f"operating point '{name}'" in printed) == (name != "plain")
    assert figures["plain"]["threshold"] == 0.5
    assert figures["plain"]["auroc"] == figures["balanced"]["auroc"]
    assert figures["balanced"]["brier"] < figures["plain"]["brier"]
    assert figures["precision"]["class_0_acc"] > figures["balanced"]["class_0_acc"]
    assert run("validate", calibrated, folder, tmp_path, "--operating-point", "sensitivity") == 0
    assert "operating point 'sensitivity'" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["test", "predict", "validate"])
@pytest.mark.parametrize("words", [["--prior", "0.3"], ["--operating-point", "precision"]])
def test_an_uncalibrated_checkpoint_has_no_points(
    command: str, words: list[str], model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, run(command, model, folder, tmp_path, *words), "not calibrated")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "night.npz"
    signals = make_windows(30, 9).signals
    named = dict(zip(("ACC_X", "ACC_Y", "ACC_Z", "PPG", "ECG"), signals.transpose(1, 0, 2).reshape(5, -1), strict=True))
    np.savez(path, **named, fs=125)
    return path


def score(checkpoint: Path, recording: Path, output: Path, *words: str) -> int:
    common = ["--checkpoint", str(checkpoint), "--input", str(recording), "--output-dir", str(output)]
    return main(["score", *common, "--acc-unit", "g", *words])


def test_score_uses_the_threshold_of_the_checkpoint(
    model: Path, calibrated: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = Calibration.from_state(load(calibrated)["calibration"])
    wanted = {
        "plain": (model, [], 0.5, "default: the checkpoint is not calibrated"),
        "stored": (calibrated, [], stored.point().threshold, "operating point 'balanced' of the checkpoint"),
        "prior": (
            calibrated,
            ["--prior", "0.8", "--operating-point", "sensitivity"],
            stored.point("sensitivity", 0.8).threshold,
            "operating point 'sensitivity' of the checkpoint",
        ),
        "given": (calibrated, ["--threshold", "0.3"], 0.3, "--threshold"),
    }
    medians = {}
    for name, (checkpoint, words, threshold, told) in wanted.items():
        assert score(checkpoint, recording, tmp_path / name, *words) == 0
        assert told in " ".join(capsys.readouterr().out.split())
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["threshold"] == pytest.approx(threshold)
        assert (summary["threshold_from"], summary["calibrated"]) == (told, checkpoint == calibrated)
        assert summary["prior"] == {"plain": None, "prior": 0.8}.get(name, stored.prior)
        with (tmp_path / name / "scores.csv").open() as file:
            for row in csv.DictReader(file):
                if abs(float(row["probability"]) - threshold) > 1e-4:
                    assert (row["verdict"] == "good") == (float(row["probability"]) >= threshold)
        medians[name] = summary["median_probability"]
    assert medians["stored"] == medians["given"] < medians["prior"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prior", "0.3"], "not calibrated"),
        (["--operating-point", "balanced"], "not calibrated"),
        (["--prior", "0.3", "--threshold", "0.4"], "not calibrated"),
        (["--prior", "1.3"], "--prior is 1.3"),
        (["--threshold", "0.4", "--operating-point", "balanced"], "give one"),
        (["--operating-point", "best"], "operating_point"),
    ],
)
def test_score_refuses(
    model: Path, recording: Path, tmp_path: Path, words: list[str], message: str, capsys: Any
) -> None:
    refused(capsys, score(model, recording, tmp_path / "out", *words), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("state", [[1], {"temperature": 0.0}, {"temperature": float("nan")}, {"rogue": 1}])
def test_a_damaged_calibration_is_refused_by_all(
    state: Any, model: Path, folder: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spoilt.pt"
    torch.save({**load(model), "calibration": state}, path)
    refused(capsys, score(path, recording, tmp_path / "out"), "spoilt.pt: the stored calibration is damaged")
    refused(capsys, run("test", path, folder, tmp_path / "out"), "the stored calibration is damaged")
    refused(capsys, run("predict", path, folder, tmp_path / "out", "--prior=0.3"), "calibration is damaged")
    words = ["--data-dir", str(folder), "--output", str(tmp_path / "m.pt")]
    refused(capsys, calibrate(path, *words), "spoilt.pt: the stored calibration is damaged")
