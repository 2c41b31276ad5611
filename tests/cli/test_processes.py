"""Several processes: ranks never diverge, and they do what one process does. Runs of their own, over gloo."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import EVERY_ENCODER, TINY
from exactness import RUN, command, differences, environment, fit, outcome, stop_at

TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.precision=32-true"]
# nothing random but the shuffle, so that one process can do the same
PLAIN = [
    f"--model.encoder={json.dumps({'init_args': TINY})}",
    "--model.lr=1e-3",
    "--stages.head_only_epochs=2",
    "--stages.unfreeze_last_n=1",
    "--stages.full_finetune_epochs=2",
    "--trainer.max_epochs=6",
]


def run(output: Path, data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    words = ["fit", "--config", "finetune.yaml", "--data.root", str(data), "--output_dir", str(output), *TWO, *flags]
    return subprocess.run(command(*words), env=environment(), capture_output=True, text=True, timeout=240, check=False)


def watched(folder: Path, data: Path, *flags: str) -> Path:
    watch = ["--trainer.callbacks+=exactness.CompareRanks", f"--trainer.callbacks.folder={folder}"]
    done = run(folder / "run", data, *PLAIN, *flags, "--data.batch_size=4", *watch)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def two(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return watched(tmp_path_factory.mktemp("two"), data_folder)


def reports(folder: Path) -> list[dict]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_ranks_are_equal_bit_for_bit_at_every_epochs_end(two: Path) -> None:
    first, second = reports(two)
    assert len(first["digests"]) == 6
    assert first["digests"] == second["digests"]
    assert len(set(first["digests"])) == 6, "something trained in every epoch"


def test_gradients_are_the_mean_over_ranks_right_after_each_boundary(two: Path) -> None:
    for report in reports(two):
        assert set(report["gaps"]) == {"stage1_head_only", "stage2_partial", "stage3_full"}
        assert max(report["gaps"].values()) < 1e-4


def test_tables_are_not_sent_at_every_step(two: Path) -> None:
    for report in reports(two):
        assert 0 < report["sent"] < 1000, "what was fitted, not the filters' matrices of 6 MB each"


@pytest.mark.slow
@pytest.mark.parametrize("encoder", EVERY_ENCODER[1:])
def test_both_hold_for_every_encoder(encoder: dict, data_folder: Path, tmp_path: Path) -> None:
    sizes = {key: 0.0 if "dropout" in key else value for key, value in encoder["init_args"].items()}
    folder = watched(tmp_path, data_folder, f"--model.encoder={json.dumps({**encoder, 'init_args': sizes})}")
    test_ranks_are_equal_bit_for_bit_at_every_epochs_end(folder)
    test_gradients_are_the_mean_over_ranks_right_after_each_boundary(folder)


def test_two_processes_do_what_one_does(two: Path, data_folder: Path, tmp_path: Path) -> None:
    # The same global batches, summed in another order: each fp32 sum rounds differently (about 1e-7), and AdamW divides
    # by the gradient's own size, so 5e-6 after 30 steps of 1e-3. The bias of attention's keys is left out: softmax does
    # not see it, its true gradient is 0, and AdamW turns the rounding noise there into steps of full size.
    assert fit(tmp_path / "one", data_folder, *PLAIN, "--data.batch_size=8", "--trainer.precision=32-true") == 0
    one = torch.load(tmp_path / "one" / "final_model.pt", weights_only=True)["state_dict"]
    both = torch.load(two / "run" / "final_model.pt", weights_only=True)["state_dict"]
    for key, value in one.items():
        kept = torch.ones(len(value), dtype=torch.bool) if value.ndim else ...
        if key.endswith("qkv.bias"):
            kept[len(value) // 3 : 2 * len(value) // 3] = False
        assert torch.allclose(both[key][kept].float(), value[kept].float(), rtol=0, atol=5e-6), key
    histories = [json.loads((path / "training_history.json").read_text()) for path in (tmp_path / "one", two / "run")]
    for key in ("train_loss", "val_loss", "train_acc", "val_acc"):
        assert histories[0][key] == pytest.approx(histories[1][key], rel=1e-5), key


def test_only_one_process_speaks(two: Path, data_folder: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "run", tmp_path / "nowhere", *PLAIN)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("point", [("batch", 3, 4), ("epoch", 4, 0)], ids=["middle", "boundary"])
def test_two_processes_resume_bit_for_bit(point: tuple, data_folder: Path, tmp_path: Path) -> None:
    flags = [*RUN, "--data.batch_size=2"]
    assert run(tmp_path / "whole", data_folder, *flags).returncode == 0
    assert run(tmp_path / "run", data_folder, *flags, *stop_at(*point)).returncode != 0
    resumed = run(tmp_path / "run", data_folder, *flags, "--resume=auto")
    assert resumed.returncode == 0, resumed.stderr
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


@pytest.mark.slow
def test_another_number_of_processes_is_refused(two: Path, data_folder: Path, tmp_path: Path, capsys) -> None:
    checkpoint = str(two / "run" / "last.ckpt")
    flags = [*PLAIN, "--data.batch_size=8", "--trainer.precision=32-true", "--trainer.max_epochs=6"]
    stopped = run(tmp_path / "run", data_folder, *PLAIN, "--data.batch_size=4", *stop_at("epoch", 3, 0))
    assert stopped.returncode != 0
    assert fit(tmp_path / "run", data_folder, *flags, "--resume=auto") == 2
    assert "2 processes" in capsys.readouterr().err
    assert Path(checkpoint).is_file()
