"""`butppg evaluate`: figures, predictions and the report, also of files that lack half of what it tells."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, logits_of, make_windows

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.cli import main
from butppg_lightning.evaluation.calibration import fit_calibration
from butppg_lightning.evaluation.metrics import auroc
from butppg_lightning.models.calibration import CHECKPOINT_KEY
from butppg_lightning.window import WindowSet

pytest.importorskip("matplotlib")
RESULTS = ["metrics.json", "predictions.csv", "report.html"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def draw() -> WindowSet:
    windows = make_windows(48)
    assert windows.labels is not None
    windows.subjects = np.array([f"<p{index % 3}>" for index in range(48)])  # to be escaped
    windows.labels[windows.subjects == "<p2>"] = 1  # a subject of one class
    rates = np.random.default_rng(0).uniform(0.9, 2.0, (48, 1))  # those of make_windows
    windows.hr_ref = (60 * rates[:, 0]).astype(np.float32)
    windows.extras = {
        "motion": np.array(["0", "1", "2;3"] * 16),
        "age": np.linspace(20, 70, 48),
    }
    return windows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated checkpoint, a history beside it, and splits in `data`."""
    folder, windows = tmp_path_factory.mktemp("run"), draw()
    torch.manual_seed(3)
    model = PPGQualityClassifier(encoder={"init_args": TINY})
    torch.nn.init.normal_(model.network.head.score.weight, std=2.0)
    logits = logits_of(model.network, windows.signals).double().numpy()
    # labels that follow the model, so that there is something to calibrate
    windows.labels = np.where(windows.subjects == "<p2>", 1, (logits > np.median(logits)) ^ (np.arange(48) % 5 == 0))
    windows.labels = windows.labels.astype(np.int64)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "epoch": 1}
    torch.save({**content, "pytorch-lightning_version": "2.6.6"}, folder / "plain.pt")
    calibration = fit_calibration(windows.labels, logits, "these very windows").state()
    content = {**content, CHECKPOINT_KEY: calibration, "pytorch-lightning_version": "2.6.6"}
    torch.save(content, folder / "best_model.pt")
    history = {
        "train_loss": [0.7, 0.6, 0.5],
        "val_loss": [0.7, 0.65, None],
        "val_auroc": [0.5, 0.6, None],
        "stage": ["stage1_head_only", "stage2_partial", "stage2_partial"],
    }
    (folder / "training_history.json").write_text(json.dumps(history))
    (folder / "test_metrics.json").write_text('{"selected_on_test": true}')
    (folder / "data").mkdir()
    windows.save(folder / "data" / "test.npz")
    windows.take(np.arange(9)).save(folder / "data" / "train.npz")
    return folder


def evaluate(run: Path, output: Path, *words: str, checkpoint: str = "best_model.pt", data: Path | None = None) -> int:
    place = ["--checkpoint", str(run / checkpoint), "--data-dir", str(data or run / "data")]
    return main(["evaluate", *place, "--output-dir", str(output), *words])


@pytest.fixture(scope="module")
def output(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "new"
    before = digests(run)
    words = ["evaluate", "--checkpoint", str(run / "best_model.pt"), "--data-dir", str(run / "data")]
    words += ["--output-dir", str(folder)]
    code = f"import sys; from butppg_lightning.cli import main; code = main({words}); print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit(code)"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"  # it starts fast
    assert digests(run) == before  # no file of the run is touched
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], code: int, message: str) -> None:
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("butppg: ")
    assert message in lines[0]


def predictions(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_metrics_and_predictions_tell_the_same(output: Path, run: Path) -> None:
    told, rows = metrics(output), predictions(output)
    assert sorted(path.name for path in output.iterdir()) == RESULTS
    assert list(told)[:4] == ["loss", "accuracy", "class_0_acc", "class_1_acc"]
    assert list(rows[0]) == ["window", "subject", "label", "probability", "verdict", "reason"]
    assert [int(row["window"]) for row in rows] == list(range(48))
    good = np.array([row["verdict"] == "good" for row in rows])
    labels = np.array([int(row["label"]) for row in rows])
    probabilities = np.array([float(row["probability"]) for row in rows])
    assert told["accuracy"] == pytest.approx(100 * (good == labels).mean())
    assert told["auroc"] == pytest.approx(auroc(labels, probabilities), abs=1e-3)  # six decimals may tie
    np.testing.assert_array_equal(good, probabilities >= round(told["threshold"], 6))
    assert told["threshold_from"].startswith("operating point 'balanced'")
    assert told["auroc_ci95"][0] <= told["auroc"] <= told["auroc_ci95"][1]
    assert told["accuracy_ci95"][0] <= told["accuracy"] <= told["accuracy_ci95"][1]
    assert told["heart_rate"]["windows"] + told["heart_rate"]["left_out"] == 48
    assert told["heart_rate"]["ideal"][5]["mean_error_bpm"] <= told["heart_rate"]["by_probability"][5]["mean_error_bpm"]
    assert any("chosen on the test split" in text for text in told["warnings"])
    assert any("3 of the subjects are in train.npz" in text for text in told["warnings"])


def test_the_report_needs_nothing_else_and_says_what_it_shows(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert not re.search(r"<script|https?:|src=|@import|xlink", page)
    assert re.findall(r'(?:href="|url\()([^#][^")]*)', page) == ["data:,"]
    assert "<p2>" not in page
    for told in (
        "only 3 subjects", "1 subject of 3 has windows of one class", "Always answering", "Confusion matrix",
        "Reliability", "Subject by subject", "Motion", "Age", "within 5 beats per minute", "Rightly called good",
        "Wrongly called poor", "How it was trained", "last blocks", "this checkpoint", "operating point",
    ):  # fmt: skip
        assert told in page, told
    pictures = re.findall(r"<figure>(.*?)</figure>", page, flags=re.DOTALL)
    assert len(pictures) >= 17
    for picture in pictures:
        assert picture.count("<svg") == 1
        assert len(re.search(r"<figcaption>(.*)</figcaption>", picture, flags=re.DOTALL)[1]) > 20
    used = re.findall(r'(?:url\(|href=")#([\w-]+)', page)
    made = re.findall(r' id="([\w-]+)"', page)
    assert len(made) == len(set(made))
    assert set(used) <= set(made)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
def test_the_report_in_a_browser(output: Path, tmp_path: Path) -> None:
    shutil.copy(output / "report.html", tmp_path)
    (tmp_path / "phone.html").write_text(
        """<body><iframe src="report.html" style="width:360px;height:9000px;border:0"></iframe><script>
        console.warn("the log is read");
        onload = () => {
          const page = document.querySelector("iframe").contentDocument;
          const boxes = [...page.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect());
          const texts = [...page.querySelectorAll("figure svg text")].map(text => text.getBoundingClientRect());
          const broken = [...page.images].filter(image => !image.naturalWidth).length;
          document.body.dataset.found = JSON.stringify({
            boxes: boxes.map(box => [box.width, box.height, box.right]), broken,
            width: page.documentElement.clientWidth,
            scroll: page.documentElement.scrollWidth, right: Math.max(...texts.map(text => text.right)),
            left: Math.min(...texts.map(text => text.left)), smallest: Math.min(...texts.map(text => text.height)),
          });
        };</script></body>"""
    )
    words = [
        CHROMIUM, "--headless", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files",
        "--virtual-time-budget=5000", "--enable-logging=stderr", "--window-size=800,1000",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'phone.html'}",
    ]  # fmt: skip
    words += ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    told = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(told) == 1, told
    assert "the log is read" in told[0]
    attribute = re.search(r'data-found="([^"]*)"', done.stdout)
    assert attribute is not None, "the page's script did not run"
    found = json.loads(attribute[1].replace("&quot;", '"'))
    assert found["width"] == 360
    assert found["scroll"] <= 360
    assert found["broken"] == 0
    assert len(found["boxes"]) >= 17
    for width, height, right in found["boxes"]:
        assert width > 250
        assert height > 50
        assert right <= 360
    assert found["left"] >= 0
    assert found["right"] <= 360
    assert found["smallest"] >= 9  # pixels of a line of text


def test_without_labels_subjects_or_rates(run: Path, tmp_path: Path) -> None:
    windows = make_windows(9)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "val.npz", signals=windows.signals[:, 3:4], channels=["PPG"])
    words = ["--split", "val", "--threshold", "0.3"]
    assert evaluate(run, tmp_path / "out", *words, checkpoint="plain.pt", data=tmp_path / "data") == 0
    told, rows = metrics(tmp_path / "out"), predictions(tmp_path / "out")
    assert set(told) >= {"loss", "accuracy", "auroc", "auroc_ci95"}
    assert {told[key] for key in ("loss", "accuracy", "auroc", "auroc_ci95", "heart_rate", "subjects")} == {None}
    assert (told["threshold"], told["threshold_from"], told["calibrated"]) == (0.3, "--threshold", False)
    assert {(row["label"], row["subject"]) for row in rows} == {("", "")}
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("The file has no labels", "Undefined", "ran without", "not calibrated", "without a label"):
        assert text in page, text
    assert "nan" not in re.sub(r"[\w-]*nan\w+", "", page)


def test_a_single_class_leaves_ranking_undefined(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    windows = draw().take(np.arange(12))
    windows.labels = np.zeros(12, dtype=np.int64)
    windows.subjects = None
    (tmp_path / "data").mkdir()
    windows.save(tmp_path / "data" / "test.npz")
    assert evaluate(run, tmp_path / "out", "--prior", "0.9", data=tmp_path / "data") == 0
    assert re.search(r"auroc .*undefined", capsys.readouterr().out)
    told = metrics(tmp_path / "out")
    assert (told["auroc"], told["class_1_acc"], told["balanced_accuracy"]) == (None, None, None)
    assert told["accuracy"] == told["class_0_acc"]
    assert told["prior"] == 0.9
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Every labelled window is poor" in page
    assert "names no subjects" in page


def test_an_earlier_evaluation_is_kept_unless_told_otherwise(
    run: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(output, tmp_path / "out")
    before = digests(tmp_path / "out")
    code = evaluate(run, tmp_path / "out", "--operating-point", "sensitivity")
    refused(capsys, code, "already holds metrics.json; choose another --output_dir or add --overwrite")
    assert digests(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "1.2"], "--threshold is 1.2; expected 0 to 1"),
        (["--prior", "1"], "expected the share of good windows"),
        (["--batch-size", "0"], "--batch_size is 0; it must be 1 or more"),
        (["--threshold", "0.4", "--operating-point", "precision"], "both say where to cut"),
        (["--split", "val"], "val.npz not found"),
        (["--split", "all"], "--split"),
        (["--treshold", "0.4"], "the nearest is --threshold"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, evaluate(run, tmp_path, *words), message)
    assert not list(tmp_path.iterdir())


def test_what_only_a_calibrated_checkpoint_has(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = evaluate(run, tmp_path, "--operating-point", "precision", checkpoint="plain.pt")
    refused(capsys, code, "the checkpoint is not calibrated")
    missing = evaluate(run, tmp_path, checkpoint="none.pt")
    refused(capsys, missing, "none.pt not found; give the best_model.pt")


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({"head": "probe", "indices": ["rhythm", "acc", "ecg"], "encoder_channels": ["PPG", "ECG"]}, 5),
        ({"head": "probe", "indices": ["rhythm", "ppg", "acc", "ecg", "amplitude"]}, 4),
        ({"head": "attention", "encoder_channels": ["PPG"]}, 5),
        ({"head": "mlp", "finetune_channels": ["PPG"], "indices": ["ppg"]}, 5),
        ({"head": "linear", "finetune_channels": ["ACC_X", "ACC_Y", "ACC_Z"]}, 5),
    ],
)
def test_every_kind_of_model(run: Path, tmp_path: Path, options: dict[str, Any], channels: int) -> None:
    """Side inputs, channels that do not enter the encoder, every head, absent channels: one forward pass serves all."""
    torch.manual_seed(1)
    model = PPGQualityClassifier(encoder={"init_args": TINY}, **options)
    torch.nn.init.normal_(model.network.head.score.weight, std=2.0)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "epoch": 1}
    torch.save({**content, "pytorch-lightning_version": "2.6.6"}, tmp_path / "model.pt")
    windows = draw()
    windows.present = np.ones(windows.signals.shape[:2], dtype=bool)
    windows.present[::3, 3], windows.present[1::4, :3] = False, False  # PPG, acceleration
    windows.signals *= windows.present[..., None]
    windows.signals[1, 3] = 7
    if channels < 5:
        windows.signals, windows.channels = windows.signals[:, :channels], windows.channels[:channels]
        windows.present = windows.present[:, :channels]
    (tmp_path / "data").mkdir()
    windows.save(tmp_path / "data" / "test.npz")
    assert evaluate(tmp_path, tmp_path / "out", checkpoint="model.pt") == 0
    page, rows = (tmp_path / "out" / "report.html").read_text(), predictions(tmp_path / "out")
    assert "which spoke for" in page or "No single second" in page
    assert "in the raw window by the straight line" in page
    reasons = [row["reason"] for row in rows]
    if "PPG" in model.channels:
        assert reasons[:4] == ["PPG absent", "PPG flat", "", "PPG absent"]
        assert [row["verdict"] == "no_ppg" for row in rows] == [bool(reason) for reason in reasons]
        assert "17 windows have no usable PPG" in page
    else:
        assert set(reasons) == {""}
        assert {row["verdict"] for row in rows} <= {"good", "poor"}
        assert "no usable PPG" not in page


@pytest.mark.parametrize("missing", ["matplotlib.figure", "jinja2"])
def test_without_what_the_report_is_made_with(
    missing: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    refused(capsys, evaluate(run, tmp_path), "pip install 'butppg-lightning[evaluation]'")
