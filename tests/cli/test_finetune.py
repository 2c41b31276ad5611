"""The whole path through the command line: what a run leaves behind, and what trains when."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, encoder_flags, make_windows

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.cli import main
from butppg_lightning.models.calibration import Calibration
from butppg_lightning.models.encoder import PatchTransformer, init_args_of
from butppg_lightning.training.run_folder import RUN_FILES

CURVE = {"threshold": [1.0, 0.4, 0.0], "sensitivity": [0.0, 0.9, 1.0], "false_positive_rate": [0.0, 0.1, 1.0]}
TINY_FLAGS = encoder_flags()


def fit(output: Path, data: Path, *flags: str) -> int:
    base = ["fit", "--config", "finetune.yaml", "--data.root", str(data), "--output_dir", str(output)]
    return main([*base, "--data.batch_size", "12", *flags])


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def run(data_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stages from a pretrained encoder: 2 epochs head, 2 epochs last block, 1 epoch everything."""
    output = tmp_path_factory.mktemp("runs") / "run"
    stages = ["--stages.head_only_epochs=2", "--stages.unfreeze_last_n=1", "--stages.full_finetune_epochs=1"]
    assert fit(output, data_folder, "--model.pretrained", str(pretrained), *stages, "--trainer.max_epochs=5") == 0
    return output


def test_run_folder_is_complete(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == set(RUN_FILES)


def test_history_has_an_entry_per_epoch_and_the_guides_names(run: Path) -> None:
    history = json.loads((run / "training_history.json").read_text())
    assert {"train_loss", "train_acc", "val_loss", "val_acc", "stage"} <= set(history)
    assert {len(values) for values in history.values()} == {5}
    assert history["stage"] == ["stage1_head_only"] * 2 + ["stage2_partial"] * 2 + ["stage3_full"]
    assert all(0 <= value <= 100 for value in history["train_acc"] + history["val_acc"])
    assert max(history["train_acc"]) > 1, "percent, not fractions"


def test_test_metrics_have_the_guides_keys_in_percent(run: Path) -> None:
    metrics = json.loads((run / "test_metrics.json").read_text())
    assert {"loss", "accuracy", "class_0_acc", "class_1_acc", "auroc", "auprc", "f1", "mcc", "ece"} <= set(metrics)
    assert metrics["selected_on_test"] is False
    assert 1 < metrics["accuracy"] <= 100
    low, high = metrics["auroc_ci95"]
    assert 0 <= low <= high <= 1


def test_checkpoints_carry_the_guides_keys_and_lightnings(run: Path) -> None:
    history = json.loads((run / "training_history.json").read_text())
    final, best = load(run / "final_model.pt"), load(run / "best_model.pt")
    for checkpoint in (final, best):
        assert {"epoch", "model_state_dict", "optimizer_state_dict", "metrics", "config"} <= set(checkpoint)
        epoch = checkpoint["epoch"]
        assert checkpoint["metrics"]["accuracy"] == pytest.approx(history["val_acc"][epoch])
        assert checkpoint["metrics"]["loss"] == pytest.approx(history["val_loss"][epoch])
    assert final["epoch"] == 4
    assert best["epoch"] == history["val_auroc"].index(max(history["val_auroc"]))
    assert final["config"]["model"]["pretrained"].endswith("best_model.pt")


def test_tensors_are_stored_once(run: Path) -> None:
    checkpoint = load(run / "final_model.pt")
    tensors = sum(value.numel() * value.element_size() for value in checkpoint["state_dict"].values())
    moments = sum(
        value.numel() * value.element_size()
        for state in checkpoint["optimizer_states"][0]["state"].values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    assert (run / "final_model.pt").stat().st_size < 1.2 * (tensors + moments) + 100_000


def test_final_holds_the_last_weights_and_best_the_best(run: Path) -> None:
    final, last, best = (load(run / name) for name in ("final_model.pt", "last.ckpt", "best_model.pt"))
    assert all(torch.equal(value, last["state_dict"][key]) for key, value in final["state_dict"].items())
    if best["epoch"] != final["epoch"]:
        key = "network.head.score.weight"
        assert not torch.equal(best["state_dict"][key], final["state_dict"][key])


def test_a_notebook_loads_it(run: Path) -> None:
    model = PPGQualityClassifier.load_from_checkpoint(run / "best_model.pt", weights_only=True)
    assert model.predict_probabilities(make_windows(3).signals).shape == (3,)


def test_it_serves_as_pretrained_again(run: Path, data_folder: Path, tmp_path: Path, capsys) -> None:
    assert (
        fit(
            tmp_path / "again",
            data_folder,
            "--model.pretrained",
            str(run / "best_model.pt"),
            *["--trainer.max_epochs=1"],
        )
        == 0
    )
    assert "0 missing" in capsys.readouterr().out


def test_test_and_predict_leave_the_run_alone(run: Path, data_folder: Path, tmp_path: Path, capsys) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    common = ["--config", "finetune.yaml", "--data.root", str(data_folder), "--ckpt_path", str(run / "best_model.pt")]
    assert main(["test", *common, "--output_dir", str(run)]) == 0
    stored = json.loads(before["test_metrics.json"])
    assert f"{stored['auroc']:.4f}" in capsys.readouterr().out
    assert main(["validate", *common]) == 0
    assert main(["predict", *common, "--output_dir", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert lines[0] == "window,subject,label,probability,verdict,reason"
    assert len(lines) == 19
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_inspect_describes_everything(run: Path, data_folder: Path, capsys) -> None:
    for path, words in {
        run / "best_model.pt": ["PatchTransformer", "patch_size", "auroc", "stage"],
        run: ["final_model.pt", "selected_on_test"],
        data_folder / "train.npz": ["36", "ACC_X", "good"],
    }.items():
        assert main(["inspect", str(path)]) == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in words), path


def test_a_run_that_exported_its_model_is_still_a_run(run: Path, tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    assert (
        main(["export", "--checkpoint", str(copy / "best_model.pt"), "--output", str(copy / "model.safetensors")]) == 0
    )
    capsys.readouterr()
    assert main(["inspect", str(copy)]) == 0
    assert "selected_on_test" in capsys.readouterr().out


def test_inspect_shows_nothing_that_is_empty(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["inspect", str(run / "best_model.pt")]) == 0
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if len(row) == 2]
    assert all(value for _, value in rows)
    assert {"head", "calibration", "epoch"} <= {key for key, _ in rows}
    assert not {"indices", "encoder_channels", "pretrained"} & {key for key, _ in rows}
    content = torch.load(run / "best_model.pt", weights_only=True)
    content["hyper_parameters"] |= {"head": "attention", "indices": ["rhythm"], "encoder_channels": ["PPG"]}
    content["calibration"] = Calibration(2.0, 0.5, 0.3, CURVE, "val.npz, 60 windows").state()
    torch.save(content, tmp_path / "other.pt")
    assert main(["inspect", str(tmp_path / "other.pt")]) == 0
    printed = capsys.readouterr().out
    for part in ("attention", "[rhythm]", "[PPG]", "temperature 2, bias +0.5; thresholds: balanced 0.4", "60 windows"):
        assert part in printed, part


def test_resuming_a_finished_run_only_writes_its_last_files(run: Path, data_folder: Path, pretrained: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for name in ("final_model.pt", "test_metrics.json", "training_history.json"):
        (run / name).unlink()
    stages = ["--stages.head_only_epochs=2", "--stages.unfreeze_last_n=1", "--stages.full_finetune_epochs=1"]
    assert fit(run, data_folder, *stages, "--trainer.max_epochs=5", "--resume=auto") == 0
    for name in ("final_model.pt", "test_metrics.json", "training_history.json", "training_config.json"):
        assert (run / name).read_bytes() == before[name], name


@pytest.fixture(scope="module")
def twelve_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    encoder = PatchTransformer(("PPG", "ECG"), **{**TINY, "depth": 12})
    path = tmp_path_factory.mktemp("deep") / "best_model.pt"
    spec = {"class_path": "butppg_lightning.PatchTransformer", "init_args": init_args_of(encoder)}
    torch.save({"encoder_state_dict": encoder.state_dict(), "hyper_parameters": {"encoder": spec}}, path)
    return path


def test_stages_change_exactly_their_part_of_a_saved_checkpoint(
    twelve_blocks: Path, data_folder: Path, tmp_path: Path
) -> None:
    flags = ["--model.pretrained", str(twelve_blocks), "--model.lr=1e-3"]
    assert fit(tmp_path / "one", data_folder, *flags, "--stages.head_only_epochs=2", "--trainer.max_epochs=2") == 0
    assert fit(tmp_path / "two", data_folder, *flags, "--stages.head_only_epochs=2", "--trainer.max_epochs=4") == 0
    start = load(twelve_blocks)["encoder_state_dict"]
    one, two = (load(tmp_path / name / "final_model.pt")["model_state_dict"] for name in ("one", "two"))
    for key, value in start.items():
        if not key.startswith("embedding."):
            assert torch.equal(one[f"encoder.{key}"], value), f"stage 1 moved {key}"
    for row, channel in ((3, 0), (4, 1)):
        assert torch.equal(one["encoder.embedding.weight"][:, row], start["embedding.weight"][:, channel])
    changed = {key for key in one if not torch.equal(one[key], two[key])}
    stage2 = ("encoder.blocks.10.", "encoder.blocks.11.", "encoder.norm.", "head.")
    assert changed == {key for key in one if key.startswith(stage2)}


def test_one_epoch_runs_one_epoch_and_leaves_a_whole_folder(data_folder: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "run", data_folder, *TINY_FLAGS, "--trainer.max_epochs", "1") == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == set(RUN_FILES)
    history = json.loads((tmp_path / "run" / "training_history.json").read_text())
    assert history["stage"] == ["stage1_head_only"]


def test_one_class_in_validation_selects_on_loss(data_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.npz").write_bytes((data_folder / f"{split}.npz").read_bytes())
    poor = make_windows(12, 5, "val")
    poor.take(poor.labels == 0).save(tmp_path / "val.npz")
    with pytest.warns(UserWarning, match="chosen by val_loss"):
        assert fit(tmp_path / "run", tmp_path, *TINY_FLAGS, "--trainer.max_epochs=2") == 0
    history = json.loads((tmp_path / "run" / "training_history.json").read_text())
    assert history["val_auroc"] == [None, None]
    best = load(tmp_path / "run" / "best_model.pt")["epoch"]
    assert history["val_loss"][best] == min(history["val_loss"])


def test_no_test_split_writes_no_metrics_and_says_so(data_folder: Path, tmp_path: Path, capsys) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.npz").write_bytes((data_folder / f"{split}.npz").read_bytes())
    assert fit(tmp_path / "run", tmp_path, *TINY_FLAGS, "--trainer.max_epochs=1") == 0
    assert "no test.npz" in capsys.readouterr().out
    assert not (tmp_path / "run" / "test_metrics.json").exists()
    assert (tmp_path / "run" / "final_model.pt").exists()


def test_selection_on_test_is_marked(data_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.npz").write_bytes((data_folder / f"{split}.npz").read_bytes())
    with pytest.warns(UserWarning, match=r"no val\.npz"):
        assert fit(tmp_path / "run", tmp_path, *TINY_FLAGS, "--trainer.max_epochs=1") == 0
    assert json.loads((tmp_path / "run" / "test_metrics.json").read_text())["selected_on_test"] is True


def test_overwriting_replaces_the_run_and_nothing_else(data_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "best_model.pt").write_text("old")
    (run / "my_notes.txt").write_text("mine")
    assert fit(run, data_folder, *TINY_FLAGS, "--trainer.max_epochs=1", "--overwrite") == 0
    assert load(run / "best_model.pt")["epoch"] == 0
    assert (run / "my_notes.txt").read_text() == "mine"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_is_repeatable(precision: str, data_folder: Path, tmp_path: Path) -> None:
    flags = [*TINY_FLAGS, "--trainer.max_epochs=2", "--stages.head_only_epochs=1", f"--trainer.precision={precision}"]
    for name in ("a", "b"):
        assert fit(tmp_path / name, data_folder, *flags, "--model.channel_dropout.ECG=0.5") == 0
    one, two = (load(tmp_path / name / "final_model.pt")["state_dict"] for name in ("a", "b"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert math.isfinite(sum(float(value.float().sum()) for value in one.values()))


def test_a_runs_own_settings_repeat_it(data_folder: Path, pretrained: Path, tmp_path: Path) -> None:
    flags = ["--model.pretrained", str(pretrained), "--model.lr=1e-3", "--stages.head_only_epochs=1"]
    assert fit(tmp_path / "one", data_folder, *flags, "--trainer.max_epochs=2") == 0
    again = ["fit", "--config", str(tmp_path / "one" / "config.yaml"), "--output_dir", str(tmp_path / "two")]
    assert main(again) == 0
    one, two = (load(tmp_path / name / "final_model.pt")["state_dict"] for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_resumed_run_leaves_the_settings_it_was_started_with(run: Path, data_folder: Path, pretrained: Path) -> None:
    before = (run / "config.yaml").read_bytes()
    (run / "config.yaml").unlink()
    stages = ["--stages.head_only_epochs=2", "--stages.unfreeze_last_n=1", "--stages.full_finetune_epochs=1"]
    assert fit(run, data_folder, *stages, "--trainer.max_epochs=5", "--resume=auto") == 0
    assert (run / "config.yaml").read_bytes() == before
    assert str(pretrained) in before.decode()
