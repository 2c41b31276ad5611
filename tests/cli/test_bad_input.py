"""A user's mistake in a command, a config, a checkpoint or a plan ends in one line and leaves earlier results alone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY

from butppg_lightning.cli import main
from butppg_lightning.models.encoder import PatchTransformer, init_args_of

INFORMATION = ("precision: ", "no --model.pretrained: ", "warning: this run continues ")
Refused = Callable[..., str]


def read_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail; returns its one line."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code = main([str(word) for word in words])
        told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(INFORMATION)]
        assert len(told) == 1, told
        assert told[0].startswith("butppg: ")
        assert code == 2
        return told[0].removeprefix("butppg: ")

    return run


@pytest.fixture
def refused_fit(refused: Refused, data_folder: Path, pretrained: Path, tmp_path: Path) -> Refused:
    """Runs `fit --overwrite` into a folder of earlier results, which must survive; later flags win."""
    output = tmp_path / "earlier"
    output.mkdir()
    (output / "best_model.pt").write_bytes(b"earlier weights")
    (output / "training_history.json").write_text("[1, 2, 3]")

    def run(*flags: object) -> str:
        before = read_folder(output)
        base = ["fit", "--config", "finetune.yaml", "--config", "tiny.yaml", "--data.root", data_folder]
        base += ["--model.pretrained", pretrained, "--output_dir", output, "--overwrite"]
        line = refused(*base, *flags)
        assert read_folder(output) == before
        return line

    return run


@pytest.fixture(scope="module")
def run_folder(data_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch."""
    output = tmp_path_factory.mktemp("runs") / "run"
    words = ["fit", "--config", "finetune.yaml", "--data.root", data_folder, "--output_dir", output]
    words += ["--model.pretrained", pretrained, "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    assert main([str(word) for word in words]) == 0
    return output


class Bomb:
    """Makes a folder when unpickled by a careless reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def write_checkpoint(path: Path, class_path: str = "butppg_lightning.PatchTransformer") -> Path:
    encoder = PatchTransformer(("PPG", "ECG"), **TINY)
    spec = {"class_path": class_path, "init_args": init_args_of(encoder)}
    content = {"state_dict": encoder.state_dict(), "hyper_parameters": {"encoder": spec}}
    content |= {
        "pytorch-lightning_version": "2.6.6",
        "optimizer_states": [],
        "encoder_state_dict": encoder.state_dict(),
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fiit", "unknown command 'fiit'; the nearest is fit"),
        ("polish", "unknown command 'polish'; `butppg --help` lists them"),
        ("fit --model.learning_rate 1", "unknown option --model.learning_rate; the nearest is --model.lr"),
        ("fit --data.batchsize 4", "unknown option --data.batchsize; the nearest is --data.batch_size"),
        ("fit --batch_size 4", "unknown option --batch_size; the nearest is --data.batch_size"),
        ("fit --batch-size=4", "unknown option --batch_size; the nearest is --data.batch_size"),
        ("fit --trainer.max_epoch 4", "the nearest is --trainer.max_epochs"),  # no abbreviations
        ("prepare splits --val_sh 0.2 --source a.npz --output b", "the nearest is --val_share"),
        ("fit --model.lr fast", "--model.lr: expected float, got fast"),
        ("fit --trainer.max_epochs 1.5", "--trainer.max_epochs: expected int, got 1.5"),
        (
            "fit --model.head round",
            "--model.head: expected one of linear, mlp, attention, probe, rate, monotone, got round",
        ),
        ("fit --overwrite maybe", "--overwrite: expected bool, got maybe"),
        ("fit --model.encoder.init_args.width=[", "--model.encoder.init_args.width is [; expected"),
        ("fit --model.encoder=round", "--model.encoder: expected dict, got round"),
        ("fit --stages.plan=[{trainable:heart}]", "--stages.plan: "),
        ("fit --config", "--config: expected one argument"),
        ("fit --config nowhere.yaml", "config nowhere.yaml not found"),
        ("fit --output_dir=", "--output_dir is empty"),
        ("fit --model.pretrained=", "--model.pretrained is empty"),
        ("fit --seed_everything -1", "--seed_everything is -1; expected 0 to"),
        ("fit --resume auto --ckpt_path last.ckpt", "--resume auto and --ckpt_path last.ckpt both name a start"),
        ("fit --resume nowhere.ckpt", "checkpoint nowhere.ckpt not found; --resume auto"),
        ("test --ckpt_path nowhere.pt", "checkpoint nowhere.pt not found; `butppg fit`"),
        ("test", "name the model: --ckpt_path"),
        ("inspect nowhere.pt", "nowhere.pt does not exist"),
        ("prepare windows", "cannot prepare 'windows'; choose but-ppg, splits, vitaldb-splits"),
    ],
)
def test_words_that_make_no_command(words: str, expected: str, refused: Refused, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*words.split(" "))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model:\n  learning_rate: 1\n", "unknown option --model.learning_rate; the nearest is --model.lr"),
        ("data:\n  batchsize: 1\n", "unknown option --data.batchsize; the nearest is --data.batch_size"),
        ("modle:\n  lr: 1\n", "unknown option --modle.lr; the nearest is --model.lr"),
        ("model:\n  lr: fast\n", "--model.lr: expected float, got fast"),
        ("model: 3\n", "model is 3; expected keys below it"),
        ("model: [\n  lr: 1\n", "c.yaml is not valid YAML, line 3: expected"),
        ("model:\n\tlr: 1\n", "c.yaml is not valid YAML, line 2: found character"),
        ("!!python/object/apply:os.mkdir ['pwned']\n", "c.yaml is not valid YAML, line 1: could not determine"),
        ("- model\n", "c.yaml holds no keys"),
        ("", "c.yaml holds no keys"),
    ],
)
def test_configs_that_make_no_sense(text: str, expected: str, refused: Refused, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    assert expected in refused("fit", "--config", "c.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--data.batch_size=0", ["data.batch_size is 0", "at least 1"]),
        ("--data.num_workers=-1", ["data.num_workers is -1", "at least 0"]),
        ("--model.pretrained=nowhere.pt", ["checkpoint nowhere.pt not found", "butppg pretrain"]),
        ("--model.finetune_channels=[PPG,EKG]", ["unknown channel names ['EKG']", "ACC_X", "ECG"]),
        ("--model.finetune_channels=3", ["3 channels have no standard names", "[PPG, ECG]"]),
        ("--model.finetune_channels=[PPG,PPG]", ["a channel is named twice"]),
        ("--model.finetune_channels=[ACC_X]", ["no channel in common", "PPG", "ACC_X"]),
        ("--model.pretrain_channels=[ECG,PPG]", ["pretrain_channels", "['ECG', 'PPG']", "['PPG', 'ECG']", "drop"]),
        ("--model.encoder.init_args.width=64", ["width 64", "best_model.pt has width 32", "drop"]),
        ("--model.encoder.init_args.depth=3", ["depth 3", "best_model.pt has depth 2", "drop"]),
        ("--model.encoder.init_args.widht=64", ["has no argument 'widht'", "the nearest is width"]),
        ("--model.encoder={class_path: torch.nn.Linear}", ["torch.nn.Linear", "PatchTransformer", "drop"]),
        ("--model.encoder={init_args: 3}", ["init_args 3", "expected"]),
        ("--model.head_dropout=2", ["dropout", "between 0 and 1", "2"]),
        ("--model.inflation.noise=-1", ["noise is -1", "at least 0"]),
        ("--model.preprocess.ppg_band=[8, 1]", ["ppg_band is [8, 1]", "low < high"]),
        ("--trainer.max_epochs=0", ["trainer.max_epochs is 0", "at least 1"]),
        ("--trainer.max_epochs=-3", ["max_epochs", "-3"]),
        ("--trainer.accelerator=abacus", ["abacus", "cpu"]),
        ("--trainer.precision=64", ["trainer.precision 64 is not offered", "32-true, bf16-mixed or 16-mixed"]),
        ("--trainer.precision=64-true", ["64-true is not offered", "float32"]),
        ("--trainer.precision=16-true", ["16-true is not offered", "float32"]),
        ("--trainer.precision=bf16-true", ["bf16-true is not offered", "float32"]),
        ("--trainer.accumulate_grad_batches=0", ["accumulate_grad_batches", "below 1"]),
        ("--stages.head_only_epochs=-1", ["stages.head_only_epochs is -1", "at least 0"]),
        ("--stages.unfreeze_last_n=3", ["last 3 blocks", "the encoder has 2", "stages.unfreeze_last_n to 1 to 2"]),
        ("--stages.unfreeze_last_n=0", ["last 0 blocks", "stages.unfreeze_last_n to 1 to 2"]),
        ("--stages.plan=[{trainable: 3}]", ["stage 1 of stages.plan", "last 3 blocks", "the encoder has 2"]),
        ("--stages.plan=[{trainable: heart}]", ["stages.plan", "head, all or int", "heart"]),
        ("--stages.plan=[]", ["stages.plan is empty", "at least one"]),
        (
            "--stages.full_finetune_epochs=26",
            ["head_only_epochs 5", "full_finetune_epochs 26", "exceed", "30", "raise"],
        ),
    ],
)
def test_impossible_values_leave_earlier_results_alone(flag: str, expected: list[str], refused_fit: Refused) -> None:
    line = refused_fit(flag)
    assert all(words in line for words in expected), line


def test_an_encoder_argument_nobody_knows(refused: Refused, data_folder: Path, tmp_path: Path) -> None:
    flag = "--model.encoder.init_args.widht=64"
    line = refused("fit", "--data.root", data_folder, "--output_dir", tmp_path / "run", flag)
    assert "no argument 'widht'; the nearest is width" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file", "file/below", pytest.param("/proc/butppg/run", id="proc")])
def test_an_output_folder_that_cannot_be_written(place: str, refused_fit: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refused_fit("--output_dir", tmp_path / place)
    assert f"cannot make the folder {tmp_path / place}" in line
    assert "choose another" in line
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_folder_that_holds_a_run(refused: Refused, run_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    before = read_folder(run_folder)
    line = refused("fit", "--data.root", data_folder, "--output_dir", run_folder)
    assert all(words in line for words in (str(run_folder), "--resume auto", "--overwrite", "--output_dir"))
    other = write_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "best_model.pt").write_text("another run")
    flags = ["--data.root", data_folder, "--output_dir", tmp_path / "held"]
    assert "already holds a run; replace it" in refused("fit", *flags, "--resume", "auto")
    assert "already holds a run; replace it" in refused("fit", *flags, "--resume", other)
    assert "would remove" in refused("fit", "--output_dir", run_folder, "--resume=auto", "--overwrite=true")
    assert (tmp_path / "held" / "best_model.pt").read_text() == "another run"
    assert read_folder(run_folder) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [("fiit", "unknown command 'fiit'"), ("fit --data.root nowhere", "nowhere does not exist; make synthetic data")],
)
def test_the_process_ends_with_code_2_and_no_traceback(words: str, expected: str, tmp_path: Path) -> None:
    script = "import sys; from butppg_lightning.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("butppg: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "usage:" not in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())


def test_debug_shows_where_it_happened() -> None:
    from butppg_lightning.errors import UserError

    with pytest.raises(UserError, match="unknown command"):
        main(["fiit", "--debug"])
