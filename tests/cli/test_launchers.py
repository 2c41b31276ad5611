"""torchrun and SLURM start the processes themselves: a dry run with their variables, and numbers that contradict."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from exactness import command, differences, environment, outcome

from butppg_lightning.cli import main

SHORT = [
    "--config=finetune.yaml",
    "--config=tiny.yaml",
    "--data.batch_size=4",
    "--stages.head_only_epochs=1",
    "--stages.unfreeze_last_n=1",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
SLURM = {"JOB_ID": 7, "JOB_NAME": "train", "NODEID": 0, "PROCID": 0, "LOCALID": 0, "NTASKS": 2}
NODE = {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODELIST": "127.0.0.1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "2"}


def slurm(rank: int = 0) -> dict[str, str]:
    """Return what srun sets for a task."""
    return {f"SLURM_{key}": str(value) for key, value in {**SLURM, "PROCID": rank, "LOCALID": rank}.items()}


def words(output: Path, data: Path) -> list[str]:
    return ["fit", *SHORT, f"--data.root={data}", f"--output_dir={output}"]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def ended(commands: list[tuple[list[str], dict[str, str]]]) -> list[str]:
    """Run commands at the same time, each with its variables; return what each printed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen(one, env={**environment(), **more}, **pipes) for one, more in commands]
    try:
        said = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), said
    return said


@pytest.fixture(scope="module")
def lightnings(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The outcome of two processes of which Lightning starts the second."""
    run = tmp_path_factory.mktemp("two") / "run"
    ended([(command(*words(run, data_folder), *TWO), {})])
    return outcome(run)


def test_torchrun(lightnings: dict, data_folder: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    said = ended([([*start, "-m", "butppg_lightning", *words(tmp_path / "run", data_folder), *TWO], {})])[0]
    assert said.count("Epoch 2/2") == 1, "one process speaks"
    assert differences(outcome(tmp_path / "run"), lightnings) == []


def test_slurm(lightnings: dict, data_folder: Path, tmp_path: Path) -> None:
    job = {**NODE, "MASTER_PORT": free_port()}
    start = command(*words(tmp_path / "run", data_folder), *TWO)
    said = ended([(start, {**job, **slurm(rank)}) for rank in (0, 1)])
    assert [one.count("Epoch 2/2") for one in said] == [1, 0], "one process speaks"
    assert differences(outcome(tmp_path / "run"), lightnings) == []


@pytest.mark.parametrize(
    ("variables", "flags", "expected"),
    [
        (TORCHRUN, [], "torchrun started 2 processes, but --trainer.devices 1 on --trainer.num_nodes 1 are 1; with 2"),
        (TORCHRUN, [*TWO, "--trainer.num_nodes=2"], "on --trainer.num_nodes 2 are 4"),
        ({**slurm(), **NODE}, [], "SLURM started 2 processes, but --trainer.devices 1"),
        ({**slurm(), **NODE}, ["--trainer.num_nodes=2", "--trainer.strategy=ddp"], "--ntasks-per-node=2` does not"),
        (slurm(), TWO, "Use `--ntasks-per-node=2`"),
    ],
)
def test_numbers_that_contradict_the_launchers_are_refused_in_a_line(
    variables: dict, flags: list, expected: str, data_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([*words(tmp_path / "run", data_folder), *flags]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("butppg: ")
    assert expected in last
    assert not (tmp_path / "run" / "last.ckpt").exists()
