"""Every shipped recipe, and an encoder of the user's own, through every command that takes a checkpoint."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import ENCODERS, NEEDS, encoder_flags, make_windows
from exactness import Stopped, differences, outcome, stop_at
from torchmetrics.functional.classification import binary_auroc

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.cli import main
from butppg_lightning.cli.configs import shipped_configs
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.models.prediction import predict_windows
from butppg_lightning.window import CHANNELS

OWN = "own_encoder.ConvEncoder"


class Recipe(NamedTuple):
    """A way to fine-tune, shrunk: tiny.yaml, few epochs, but every stage of it."""

    words: list[str]
    encoder: tuple[str, ...] = ()
    pretrain: tuple[str, ...] = ()


def configs(*names: str) -> list[str]:
    return [word for name in names for word in ("--config", f"{name}.yaml")]


def plan(*parts: str | int, lr_divisor: float = 1) -> list[str]:
    stages = [{"trainable": part, "epochs": 1, "lr_divisor": lr_divisor} for part in parts]
    return ["--stages.plan", json.dumps(stages), "--trainer.max_epochs", str(len(parts))]


GUIDE = ["--stages.head_only_epochs", "1", "--trainer.max_epochs", "4"]
FULL = [*GUIDE, "--stages.full_finetune_epochs", "1"]
DEEP = ("--model.encoder.init_args.depth", "8")
RECIPES = {
    "finetune": Recipe([*configs("finetune", "tiny"), *GUIDE]),
    "finetune_full": Recipe([*configs("finetune_full", "tiny"), *FULL]),
    "finetune_recommended": Recipe([*configs("finetune_recommended", "tiny"), "--trainer.max_epochs", "3"]),
    "gradual": Recipe([*configs("finetune", "gradual", "tiny"), *DEEP, *plan("head", 2, 4, 8, "all")], pretrain=DEEP),
    "divided": Recipe([*configs("finetune", "divided", "tiny"), *plan("head", "head", 2, "all", lr_divisor=3)]),
    "quick": Recipe([*configs("finetune", "quick", "tiny"), *FULL]),
    "finetune_rates": Recipe(
        [*configs("finetune_rates"), *plan("head", 2, "all")],
        encoder=("--model.encoder.class_path", "SpectralEncoder"),
        pretrain=("--model.stft_weight", "0"),
    ),
    "gate": Recipe([*configs("gate", "tiny"), "--trainer.max_epochs", "3"]),
    "finetune_ttm": Recipe(
        [*configs("finetune_ttm"), *FULL],
        encoder=("--model.encoder.class_path", "TinyTimeMixer"),
        pretrain=(*configs("pretrain_ttm"), *encoder_flags(ENCODERS["TinyTimeMixer"])),
    ),
    "own encoder": Recipe(
        [*configs("finetune_full"), *FULL], encoder=("--model.encoder.class_path", OWN), pretrain=(*DEEP[:1], "3")
    ),
}
NOT_RECIPES = {
    "pretrain",
    "pretrain_rates",
    "pretrain_ttm",
    "adapt",
    "small",
    "tiny",
}  # they pretrain (below), or are sizes


class Run(NamedTuple):
    """A finished fit."""

    recipe: Recipe
    folder: Path
    data: Path
    pretrained: Path

    @property
    def best(self) -> Path:
        return self.folder / "best_model.pt"

    def fit(self, output: Path, *more: str) -> int:
        words = ["--data.root", str(self.data), "--model.pretrained", str(self.pretrained), "--output_dir", str(output)]
        words += ["--model.lr", "1e-2", "--data.batch_size", "8"]  # a few steps have to separate the classes
        return main(["fit", *self.recipe.words, *self.recipe.encoder, *words, *more])


def test_every_shipped_recipe_is_here() -> None:
    shipped = {path.stem for path in shipped_configs().glob("*.yaml")}
    assert shipped - NOT_RECIPES == RECIPES.keys() - {"own encoder"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate({"train": 36, "val": 60, "test": 18}.items()):
        make_windows(count, seed, subjects=split).save(folder / f"{split}.npz")
    for split in ("train", "val"):
        windows = make_windows(24, 7, subjects=split)
        columns = [CHANNELS.index(name) for name in ("PPG", "ECG")]
        windows.signals, windows.channels = windows.signals[:, columns], ("PPG", "ECG")
        windows.save(folder / f"{split}_windows.npz")
    return folder


@pytest.fixture(scope="module", params=list(RECIPES))
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two-channel pretraining, then the recipe's stages on five channels."""
    recipe: Recipe = RECIPES[request.param]
    if recipe.encoder and recipe.encoder[1] in NEEDS:
        pytest.importorskip(NEEDS[recipe.encoder[1]])
    folder = tmp_path_factory.mktemp("runs")
    size = (*(recipe.encoder or configs("tiny")), *recipe.pretrain)
    words = ["--trainer.max_epochs", "1", "--data.root", str(data), "--output_dir", str(folder / "pretrained")]
    assert main(["pretrain", "--config", "pretrain.yaml", *size, *words]) == 0
    found = Run(recipe, folder / "fit", data, folder / "pretrained" / "best_model.pt")
    assert found.fit(found.folder) == 0
    return found


def test_it_inflates_and_leaves_a_whole_run(run: Run) -> None:
    names = {"best_model.pt", "final_model.pt", "training_config.json", "training_history.json", "test_metrics.json"}
    assert names <= {path.name for path in run.folder.iterdir()}
    stages = json.loads((run.folder / "training_history.json").read_text())["stage"]
    trained = torch.load(run.best, weights_only=True)["state_dict"]["network.encoder.embedding.weight"]
    pretrained = torch.load(run.pretrained, weights_only=True)["encoder_state_dict"]["embedding.weight"]
    assert (pretrained.shape[1], trained.shape[1]) == (2, 5)
    if not {"stage3_full", "stage3_last_2", "stage5_full"} & set(stages):
        assert torch.equal(trained[:, [3, 4]], pretrained), "frozen: copied bit for bit"


def test_all_figures_agree(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """test, evaluate, predict and the notebook's way give the same numbers to the last digit."""
    named = ["--data.root", str(run.data), *run.recipe.encoder]
    assert main(["test", *named, "--ckpt_path", str(run.best)]) == 0
    assert main(["validate", *named, "--ckpt_path", str(run.best)]) == 0
    words = ["--output-dir", str(tmp_path), "--data-dir", str(run.data), *run.recipe.encoder]
    assert main(["evaluate", "--checkpoint", str(run.best), *words]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000
    evaluated = json.loads((tmp_path / "metrics.json").read_text())
    tested = json.loads((run.folder / "test_metrics.json").read_text())
    for key in ("loss", "auroc", "auprc", "accuracy", "mcc", "ece", "auroc_ci95"):
        assert evaluated[key] == pytest.approx(tested[key], abs=1e-6), key
    assert main(["predict", *named, "--ckpt_path", str(run.best), "--output_dir", str(tmp_path / "predicted")]) == 0
    assert (tmp_path / "predicted" / "predictions.csv").read_text() == (tmp_path / "predictions.csv").read_text()
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    windows = np.load(run.data / "test.npz")["signals"]
    model = PPGQualityClassifier.load_from_checkpoint(run.best, **own(run))
    probabilities = model.predict_probabilities(windows).numpy()
    assert np.allclose([float(row["probability"]) for row in rows], probabilities, atol=1e-6)


def test_no_verdict_depends_on_how_a_device_is_built_or_worn(run: Run) -> None:
    """The PPG turned over, of another gain and offset; the accelerometer permuted, mirrored, rotated."""
    stored = np.load(run.data / "val.npz")
    signals, labels = stored["signals"].astype(np.float32), stored["labels"]
    model = PPGQualityClassifier.load_from_checkpoint(run.best, **own(run))
    ppg, acc = CHANNELS.index("PPG"), [row for row, name in enumerate(CHANNELS) if name.startswith("ACC")]

    def auroc(windows: np.ndarray) -> float:
        return float(binary_auroc(model.predict_probabilities(windows), torch.from_numpy(labels)))

    def changed(rows: int | list[int], value: np.ndarray) -> np.ndarray:
        other = signals.copy()
        other[:, rows] = value
        return other

    recorded = signals[:, ppg]
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(len(signals), 3, 3)))[0].astype(np.float32)
    before = auroc(signals)
    for name, windows in {
        "turned over": changed(ppg, -recorded),
        "gain and offset": changed(ppg, 200 - 31 * recorded),
        "permuted": changed(acc, signals[:, acc][:, [2, 0, 1]]),
        "mirrored": changed(acc, signals[:, acc] * np.float32([[-1], [1], [-1]])),
        "rotated": changed(acc, axes @ signals[:, acc]),
    }.items():
        assert auroc(windows) == pytest.approx(before, abs=0.002), name


def test_it_can_be_calibrated(run: Run, tmp_path: Path) -> None:
    words = ["--data-dir", str(run.data), "--split", "train", "--output", str(tmp_path / "calibrated.pt")]
    assert main(["calibrate", "--checkpoint", str(run.best), *words, *run.recipe.encoder]) == 0
    content = torch.load(tmp_path / "calibrated.pt", weights_only=True)
    assert content["calibration"]["temperature"] > 0


def test_it_scores_a_recording(run: Run, tmp_path: Path) -> None:
    signals = np.concatenate(list(make_windows(6, 5).signals), axis=1)
    rates = {f"fs_{name}": 125 for name in CHANNELS}
    np.savez(tmp_path / "recording.npz", **dict(zip(CHANNELS, signals, strict=True)), **rates)
    words = ["--input", str(tmp_path / "recording.npz"), "--output-dir", str(tmp_path / "out"), *run.recipe.encoder]
    assert main(["score", "--checkpoint", str(run.best), *words]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert len(rows) == 6
    assert {row["verdict"] for row in rows} <= {"good", "poor"}
    assert [float(row["distance"]) > 1 for row in rows] == [row["outside"] != "" for row in rows]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["share_outside"] == np.mean([row["outside"] != "" for row in rows])


def test_it_is_described(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for path in (run.folder, run.best):
        assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert (run.recipe.encoder[1].rpartition(".")[2] if run.recipe.encoder else "PatchTransformer") in printed


def test_it_goes_to_safetensors_and_comes_back(run: Run, tmp_path: Path) -> None:
    signals = make_windows(5, 3).signals
    target = tmp_path / "model.safetensors"
    assert main(["export", "--checkpoint", str(run.best), "--output", str(target), *run.recipe.encoder]) == 0
    model = PPGQualityClassifier.load_from_checkpoint(run.best, **own(run))
    model.save_pretrained(tmp_path / "hub")
    wanted = model.predict_probabilities(signals)
    assert model.network.training_range is not None, "whatever the encoder, with indices and without"
    for source in (target, tmp_path / "hub"):
        again = PPGQualityClassifier.from_pretrained(source, **own(run))
        assert torch.equal(again.predict_probabilities(signals), wanted), source
        assert again.network.training_range == model.network.training_range


def test_it_goes_to_onnx(run: Run, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    other = ("finetune", "finetune_recommended", "finetune_rates", "gate", "finetune_ttm", "own encoder")
    if request.node.callspec.params["run"] not in other:
        pytest.skip("the same kind of network as finetune.yaml's")
    runtime = pytest.importorskip("onnxruntime")
    target = tmp_path / "model.onnx"
    assert main(["export", "--checkpoint", str(run.best), "--output", str(target), *run.recipe.encoder]) == 0
    windows = make_windows(5, 3).signals
    session = runtime.InferenceSession(str(target))
    inputs = {"signals": windows, "present": np.ones(windows.shape[:2], dtype=bool)}
    (probability,) = session.run(["probability"], inputs)
    network, _ = restore_network(run.best)
    assert np.abs(probability - predict_windows(network, windows).probabilities).max() < 1e-4


def test_it_resumes_bit_for_bit(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run.fit(tmp_path / "run", *stop_at("batch", epoch=1, batch=0))
    assert run.fit(tmp_path / "run", "--resume", "auto") == 0
    assert differences(outcome(run.folder), outcome(tmp_path / "run")) == []


def test_a_fine_tuned_checkpoint_serves_as_pretrained(run: Run, tmp_path: Path) -> None:
    again = run._replace(pretrained=run.best)
    assert again.fit(tmp_path / "again") == 0


def test_an_encoder_that_only_the_file_names_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = PPGQualityClassifier(encoder={"class_path": OWN})
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    content["hyper_parameters"]["encoder"]["class_path"] = "stranger_of_the_file.Encoder"
    torch.save({**content, "pytorch-lightning_version": "2.6.6"}, tmp_path / "model.pt")
    words = ["--checkpoint", str(tmp_path / "model.pt"), "--output-dir", str(tmp_path / "out")]
    assert main(["evaluate", *words, "--data-dir", str(data)]) == 2
    assert "which is not ours" in capsys.readouterr().err


def own(run: Run) -> dict[str, dict[str, str]]:
    return {"encoder": {"class_path": run.recipe.encoder[1]}} if run.recipe.encoder else {}
