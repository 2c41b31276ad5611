"""kill -9 at any moment costs at most the steps since the last save."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from exactness import RUN, command, differences, environment, outcome

from butppg_lightning.training.run_folder import RUN_FILES

KILLS = 20
LONG = [*RUN, "--trainer.max_epochs=240", "--stages.head_only_epochs=80", "--stages.full_finetune_epochs=80"]


def start(output: Path, data: Path) -> subprocess.Popen[str]:
    words = ["fit", "--config", "finetune.yaml", "--data.root", str(data), "--output_dir", str(output), *LONG]
    return subprocess.Popen(
        command(*words, "--trainer.precision=32-true", "--resume=auto"),
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a job that a shell started in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    while line := process.stdout.readline():
        if word in line:
            return


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_change_nothing(data_folder: Path, tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", data_folder)
    whole.communicate(timeout=600)
    assert whole.returncode == 0
    generator = random.Random(0)
    epochs, kills = [], 0
    for _ in range(4 * KILLS):
        process = start(tmp_path / "run", data_folder)
        if kills < KILLS:
            wait_for(process, "Stage plan")
            time.sleep(generator.uniform(0.05, 1.5))
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=600)
        if process.returncode == 0:
            break
        kills += process.returncode == -signal.SIGKILL
        history = tmp_path / "run" / "training_history.json"
        if history.exists():  # never half a file
            epochs.append(len(json.loads(history.read_text())["train_loss"]))
    assert kills == KILLS
    assert epochs == sorted(epochs), "never further back than what was saved"
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []
    assert {path.name for path in (tmp_path / "run").iterdir()} == set(RUN_FILES), "no half files are left"


@pytest.mark.parametrize(("number", "word"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "interrupted")])
def test_a_polite_signal_ends_in_one_line_and_a_code_that_says_so(
    number: signal.Signals, word: str, data_folder: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "run", data_folder)
    wait_for(process, "Epoch 3/")
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, "not 0: a scheduler would take the run for finished"
    assert word in said.splitlines()[-1]
    assert "--resume auto" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "last.ckpt").exists()
    assert not (tmp_path / "run" / "final_model.pt").exists()
