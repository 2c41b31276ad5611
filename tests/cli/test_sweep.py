"""Sweeps through the command line; most with a stand-in for `butppg fit`, a few with real runs."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import optuna
import pytest
import torch
import yaml
from conftest import make_windows
from exactness import command, environment
from shell import suggested

from butppg_lightning.cli import main
from butppg_lightning.cli.sweep import read_sweep, storage, study, worker
from butppg_lightning.cli.sweep.jobs import at_once
from butppg_lightning.models.calibration import stored_calibration
from butppg_lightning.models.checkpoints import read_checkpoint

LR = {"low": 1e-5, "high": 0.1, "log": True}
SHORT = {"trainer.max_epochs": 2, "stages.head_only_epochs": 1, "stages.unfreeze_last_n": 1}


def write(folder: Path, data: Path, **content) -> Path:
    """Write a sweep's YAML."""
    whole = {
        "base": ["finetune.yaml", "tiny.yaml"],
        "fixed": {"data.root": str(data), **SHORT, **content.pop("fixed", {})},
        "parameters": {"model.lr": LR},
        "sampler": "random",
        **content,
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


def sweep(config: Path, output: Path, *words: str, jobs: int = 1) -> int:
    return main(["sweep", "--config", str(config), "--output-dir", str(output), "--jobs", str(jobs), *words])


def table(output: Path) -> list[dict[str, str]]:
    with (output / "trials.csv").open() as file:
        return list(csv.DictReader(file))


class Pretended:
    """Stands for a trial's process: writes what `fit` would, at once; `outcomes` says how each trial goes."""

    outcomes: ClassVar[list] = []
    words: ClassVar[list] = []

    def __init__(self, folder: Path, words: list[str], threads: int) -> None:
        number = int(folder.name)
        story = self.outcomes[number] if number < len(self.outcomes) else [0.5, 0.6]
        self.folder, self._said = folder, ""
        self._looked = 0
        if "--resume=auto" in words:  # no trial: the best is calibrated
            self._history = []
            return
        folder.mkdir(parents=True)
        Pretended.words.append(words)
        if isinstance(story, str):
            self._said, story = story, []
        self._history = story
        figures = [value for value in story if value is not None]
        torch.save({"metrics": {"auroc": max(figures, default=None)}}, folder / "best_model.pt")
        config = {"output_dir": str(folder), "test": False, "cache": {"folder": None}, "data": {"root": "d"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    def wait(self, seconds: float) -> bool:
        self._looked += 1
        return self._looked >= max(len(self._history), 1)

    def history(self, metric: str) -> list:
        return self._history[: self._looked]

    def failure(self) -> str:
        return self._said

    def stop(self) -> None:
        pass


@pytest.fixture
def pretended(monkeypatch) -> type[Pretended]:
    monkeypatch.setattr(worker, "TrialProcess", Pretended)
    monkeypatch.setattr(worker, "_WAIT", 0.01)
    monkeypatch.setattr(study, "draw", lambda *_: None)  # the real sweep draws
    Pretended.outcomes, Pretended.words = [], []
    return Pretended


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Path:
    """Splits with enough validation windows to calibrate on."""
    folder = tmp_path_factory.mktemp("splits")
    for seed, (split, count) in enumerate({"train": 48, "val": 60, "test": 15}.items()):
        make_windows(count, seed, subjects=split).save(folder / f"{split}.npz")
    return folder


@pytest.fixture(scope="module")
def real(splits: Path, tmp_path_factory) -> Path:
    """The folder of a sweep of two real trials."""
    folder = tmp_path_factory.mktemp("sweep")
    config = write(folder, splits, trials=2, parameters={"model.lr": LR, "model.head": ["linear", "mlp"]})
    assert sweep(config, folder / "out") == 0
    return folder / "out"


def test_a_sweep_leaves_a_table_and_a_config(real: Path) -> None:
    rows = table(real)
    assert [row["state"] for row in rows] == ["complete"] * 2
    assert len({row["model.lr"] for row in rows}) == 2
    best = max(rows, key=lambda row: float(row["val_auroc"]))
    config = yaml.safe_load((real / "best.yaml").read_text())
    assert config["model"]["lr"] == float(best["model.lr"])
    assert config["model"]["head"] == best["model.head"]
    assert config["output_dir"] == str(real / "best")
    assert config["cache"]["folder"] is None


def test_the_commands_at_the_end_are_right_in_any_folder(pretended, data_folder: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "it's a; $(touch broken)"
    assert sweep(write(tmp_path, data_folder, trials=1), folder) == 0
    said = capsys.readouterr().out
    assert suggested(said, "butppg fit") == ["fit", "--config", str(folder / "best.yaml")]
    assert suggested(said, "butppg test")[1:3] == ["--ckpt_path", str(folder / "trials" / "0000" / "best_model.pt")]


def test_trials_never_meet_the_test_split(real: Path) -> None:
    assert not list(real.rglob("test_metrics.json"))
    assert "not tested" in (real / "trials" / "0000" / "log.txt").read_text()


def test_only_the_best_trial_keeps_its_weights(real: Path) -> None:
    best = max(table(real), key=lambda row: float(row["val_auroc"]))["trial"]
    assert {path.parent.name for path in real.glob("trials/*/best_model.pt")} == {f"{int(best):04d}"}


def test_the_trials_shared_their_features(real: Path) -> None:
    assert "taken from an earlier run" in (real / "trials" / "0001" / "log.txt").read_text()
    assert not (real / "cache").exists()


def test_fit_takes_the_best_config_and_does_the_same(real: Path, tmp_path: Path) -> None:
    assert main(["fit", "--config", str(real / "best.yaml"), "--output_dir", str(tmp_path / "run")]) == 0
    again = json.loads((tmp_path / "run" / "training_history.json").read_text())["val_auroc"]
    best = max(float(row["val_auroc"]) for row in table(real))
    assert max(again) == pytest.approx(best, abs=1e-6)
    assert (tmp_path / "run" / "test_metrics.json").exists()


def test_the_best_alone_is_calibrated(real: Path) -> None:
    best = int(max(table(real), key=lambda row: float(row["val_auroc"]))["trial"])
    logs = [(real / "trials" / f"000{number}" / "log.txt").read_text() for number in (best, 1 - best)]
    assert "Calibrated" in logs[0]
    assert "Calibrated" not in logs[1]
    model = real / "trials" / f"000{best}" / "best_model.pt"
    assert stored_calibration(read_checkpoint(model), model).source.startswith("val.npz")


def test_trials_at_once_are_those_of_one_after_the_other(real: Path, splits: Path, tmp_path: Path, capsys) -> None:
    parameters = {"model.lr": LR, "model.head": ["linear", "mlp"]}
    assert sweep(write(tmp_path, splits, trials=4, parameters=parameters), tmp_path / "out", jobs=3) == 0
    rows = sorted(table(tmp_path / "out"), key=lambda row: int(row["trial"]))
    assert [row["state"] for row in rows] == ["complete"] * 4
    for row, alone in zip(rows, table(real), strict=False):  # drawn at random, by place
        assert row["model.lr"] == alone["model.lr"]
        assert float(row["val_auroc"]) == pytest.approx(float(alone["val_auroc"]), abs=1e-3)
    begun = [datetime.fromisoformat(row["begun"]).timestamp() for row in rows]
    assert max(begun[1:]) - begun[0] >= float(rows[0]["seconds"]) - 1.5, "the first one stored the features alone"
    assert "taken from an earlier run" in (tmp_path / "out" / "trials" / "0003" / "log.txt").read_text()
    best = max(rows, key=lambda row: float(row["val_auroc"]))["trial"]
    assert [path.parent.name for path in (tmp_path / "out").rglob("best_model.pt")] == [f"{int(best):04d}"]
    said = capsys.readouterr().out
    assert said.count("(best so far)") >= 1
    assert "uncalibrated" not in said


def test_where_one_of_several_fails_for_good_all_end(pretended, data_folder: Path, tmp_path: Path, capsys) -> None:
    pretended.outcomes = [[0.6], *["out of memory"] * 50]
    assert sweep(write(tmp_path, data_folder, trials=50), tmp_path / "out", jobs=3) == 2
    assert "3 trials failed one after the other" in capsys.readouterr().err
    opened = optuna.load_study(study_name="search", storage=study._storage(None, tmp_path / "out"))
    assert len(opened.trials) < 20
    assert not [trial for trial in opened.trials if trial.state == optuna.trial.TrialState.RUNNING]


@pytest.mark.parametrize(
    ("options", "jobs"),
    [({}, 4), ({"trainer.accelerator": "cpu"}, 4), ({"trainer.devices": 2}, 1), ({"trainer.num_nodes": 2}, 1)],
)
def test_by_default_a_cpu_has_a_trial_a_thread(options: dict, jobs: int, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    shared = {"trainer.accelerator": "auto", "trainer.devices": "auto", "trainer.num_nodes": 1, **options}
    assert at_once(shared) == jobs
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert at_once(shared) == (jobs if shared["trainer.accelerator"] == "cpu" else 1)


def interrupted(config: Path, output: Path, numbers: list[int], jobs: int = 1) -> int:
    """Run a sweep, and press Ctrl-C when trials of these numbers have trained an epoch."""
    running = [output / f"trials/000{number}/training_history.json" for number in numbers]

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not all(path.exists() for path in running) and time.monotonic() < deadline:
            time.sleep(0.05)
        if all(path.exists() for path in running):  # else another test would be interrupted
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where the suite is a job in the background
    threading.Thread(target=interrupt).start()
    code = sweep(config, output, jobs=jobs)
    for path in running:
        assert "stopped by SIGTERM" in (path.parent / "log.txt").read_text(), "the run ended in order"
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    return code


def test_ctrl_c_ends_in_one_line_and_the_same_command_continues(data_folder: Path, tmp_path: Path, capsys) -> None:
    config = write(tmp_path, data_folder, trials=1, fixed={"trainer.max_epochs": 500})
    assert interrupted(config, tmp_path / "out", [0]) == 130
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == "butppg: interrupted after 0 of 1 trials; the same command continues the sweep"


def test_ctrl_c_puts_all_that_run_in_line_again(data_folder: Path, tmp_path: Path, capsys) -> None:
    config, output = write(tmp_path, data_folder), tmp_path / "out"
    content = yaml.safe_load(config.read_text())
    # the first trial ends, before others begin
    content |= {"parameters": {"trainer.max_epochs": [2, 500, 501]}, "sampler": "grid"}
    del content["fixed"]["trainer.max_epochs"]
    config.write_text(yaml.safe_dump(content))
    assert interrupted(config, output, [1, 2], jobs=2) == 130
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == "butppg: interrupted after 1 of 3 trials; the same command continues the sweep"
    opened = optuna.load_study(study_name="search", storage=study._storage(None, output))
    assert [trial.state for trial in opened.trials].count(optuna.trial.TrialState.WAITING) == 2


@pytest.mark.slow
def test_a_killed_worker_loses_one_trial(data_folder: Path, tmp_path: Path) -> None:
    config = write(tmp_path, data_folder, trials=4, fixed={"trainer.max_epochs": 60})
    output = tmp_path / "out"
    words = ["sweep", "--config", str(config), "--output_dir", str(output)]
    said = [tmp_path / "first.txt", tmp_path / "second.txt"]
    start = {"env": {**environment(), "PYTHONUNBUFFERED": "1"}, "stderr": subprocess.STDOUT}
    workers = [subprocess.Popen(command(*words), stdout=path.open("w"), **start) for path in said]
    logs, deadline = [], time.monotonic() + 120
    while not logs and time.monotonic() < deadline:
        time.sleep(0.02)
        logs = [path.parent / "log.txt" for path in output.glob("trials/*/training_history.json")]
    log = logs[0]
    lost = int(log.parent.name)
    owner = next(number for number, path in enumerate(said) if f"trial {lost}: " in path.read_text())
    workers[owner].send_signal(signal.SIGKILL)
    workers[owner].wait()
    time.sleep(0.5)
    size = log.stat().st_size
    assert workers[1 - owner].wait(timeout=240) == 0, said[1 - owner].read_text()
    assert f"trial {lost} was lost with its worker" in said[1 - owner].read_text()
    assert log.stat().st_size == size, "the killed worker's run died with it"
    rows = table(output)
    assert [row["state"] for row in rows].count("complete") == 4
    assert [row["trial"] for row in rows if row["state"] == "lost"] == [str(lost)]
    replaced = next(row for row in rows if row["instead_of"] == str(lost))
    assert replaced["model.lr"] == rows[lost]["model.lr"]


def test_another_yaml_for_the_same_folder_is_refused(pretended, data_folder: Path, tmp_path: Path, capsys) -> None:
    config, output = write(tmp_path, data_folder, trials=1, name="one"), tmp_path / "out"
    assert sweep(config, output) == 0
    assert sweep(config, output, "--data.num-workers", "0", "--trials", "0") == 0, "a machine's own affair"
    assert "1 complete" in capsys.readouterr().out, "and no trials show what there is"
    assert sweep(config, output, "--data.batch_size", "7") == 2
    assert "data.batch_size is 32" in capsys.readouterr().err
    for key, value in {"seed": 1, "metric": "val_mcc", "parameters": {"model.lr": {**LR, "low": 1e-6}}}.items():
        assert sweep(write(tmp_path, data_folder, name="one", **{key: value}), output) == 2
        said = capsys.readouterr().err
        assert {"parameters": "model.lr"}.get(key, key) in said
        assert "--overwrite" in said


def test_pictures_are_drawn(pretended, data_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(worker, "TrialProcess", Pretended)
    pretended.outcomes = [[0.6], "out of memory", [0.7], [0.8], [0.75]]
    config, output = write(tmp_path, data_folder), tmp_path / "out"
    assert sweep(config, output, "--trials", "4") == 0
    assert "no importance.png: 3 complete trials" in capsys.readouterr().out
    assert sweep(config, output, "--trials", "5") == 0
    for name in ("history.png", "importance.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")


def test_bad_trials_are_pruned(pretended, data_folder: Path, tmp_path: Path, capsys) -> None:
    pretended.outcomes = [[0.6, 0.7, 0.8], [0.6, 0.7, 0.8], [0.5, 0.5, 0.9], [0.65, 0.75, None, 0.85]]
    pruning = {"method": "median", "n_startup_trials": 2, "n_warmup_steps": 1}
    config = write(tmp_path, data_folder, trials=4, pruning=pruning)
    assert sweep(config, tmp_path / "out") == 0
    rows = table(tmp_path / "out")
    assert [row["state"] for row in rows] == ["complete", "complete", "pruned", "complete"]
    assert (rows[2]["epochs"], rows[2]["val_auroc"]) == ("2", "0.5")
    assert "trial 2: pruned after 2 epochs" in capsys.readouterr().out
    assert "Trial 3" in (tmp_path / "out" / "best.yaml").read_text()


def test_a_failed_trial_is_told_and_the_sweep_goes_on(pretended, data_folder: Path, tmp_path: Path, capsys) -> None:
    pretended.outcomes = [[0.6], "stage2 is impossible", [None]]
    assert sweep(write(tmp_path, data_folder, trials=4), tmp_path / "out") == 0
    rows = table(tmp_path / "out")
    assert [row["state"] for row in rows] == ["complete", "failed", "failed", "complete"]
    assert rows[1]["reason"] == "stage2 is impossible"
    assert "undefined" in rows[2]["reason"]
    assert "trial 1 failed: stage2 is impossible" in capsys.readouterr().out


@pytest.mark.parametrize(("before", "word"), [([], "no trial has succeeded"), ([[0.5]], "3 trials failed one after")])
def test_a_first_failure_or_three_in_a_row_end_the_sweep(
    before: list, word: str, pretended, data_folder: Path, tmp_path: Path, capsys
) -> None:
    pretended.outcomes = [*before, *["no space left"] * 9]
    assert sweep(write(tmp_path, data_folder, trials=9), tmp_path / "out") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert word in said
    assert "no space left" in said
    assert sweep(write(tmp_path, data_folder, trials=1), tmp_path / "out", "--overwrite") == (0 if before else 2)


def test_a_grid_is_gone_through_once(pretended, data_folder: Path, tmp_path: Path) -> None:
    parameters = {
        "model.augment": [{"shift": 0.1}, {"shift": 0.1, "noise": 0.2}],
        "seed_everything": {"low": 0, "high": 2},
    }
    config = write(tmp_path, data_folder, parameters=parameters, sampler="grid", trials=99)
    for trials in ("4", "99"):
        assert sweep(config, tmp_path / "out", "--trials", trials) == 0
    drawn = {(row["model.augment"], row["seed_everything"]) for row in table(tmp_path / "out")}
    assert len(drawn) == len(table(tmp_path / "out")) == 6
    assert '--model.augment={"shift": 0.1, "noise": 0.2}' in pretended.words[-1]


def test_a_continued_sweep_draws_what_an_uninterrupted_one_would(pretended, data_folder: Path, tmp_path: Path) -> None:
    config = write(tmp_path, data_folder, trials=7, sampler={"method": "tpe", "n_startup_trials": 3})
    pretended.outcomes = [[number / 20] for number in range(7)]
    assert sweep(config, tmp_path / "whole") == 0
    for trials in ("5", "7"):
        assert sweep(config, tmp_path / "parts", "--trials", trials) == 0
    drawn = [[row["model.lr"] for row in table(tmp_path / name)] for name in ("whole", "parts")]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 7


LEFT = """
import os, sys, optuna
from butppg_lightning.cli.sweep.study import _storage
from pathlib import Path
opened = optuna.load_study(study_name="search", storage=_storage(None, Path(sys.argv[1])))

def killed(trial):
    trial.suggest_float("model.lr", 1e-5, 0.1, log=True)
    opened._storage.record_heartbeat(trial._trial_id)
    os.kill(os.getpid(), 9)

opened.optimize(killed, n_trials=1) if sys.argv[2] == "in the middle" else opened.ask() and os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("when", ["in the middle", "before the first sign of life"])
def test_lost_trials_are_done_again_with_the_same_parameters(
    when: str, pretended, data_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    config = write(tmp_path, data_folder, trials=3)
    output = tmp_path / "out"
    assert sweep(config, output, "--trials", "1") == 0
    # what a worker leaves behind that is killed
    assert subprocess.run([sys.executable, "-c", LEFT, str(output), when], check=False).returncode == -signal.SIGKILL
    monkeypatch.setattr(study, "GRACE", 1)
    assert sweep(config, output) == 0
    assert "trial 1 was lost with its worker; another takes its place" in capsys.readouterr().out
    rows = table(output)
    assert sorted(row["state"] for row in rows) == ["complete", "complete", "complete", "lost"]
    again = next(row for row in rows if row["instead_of"] == "1")
    assert again["model.lr"] == rows[1]["model.lr"] or when != "in the middle"


def test_a_trial_that_another_worker_gave_up_is_left_to_it(
    pretended, data_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    config, output = write(tmp_path, data_folder, trials=2), tmp_path / "out"
    pretended.outcomes = [[0.6]]
    wait = Pretended.wait

    def suspended(self: Pretended, seconds: float) -> bool:
        if self.folder.name == "0001":  # as long as this worker slept, another one did this
            opened = optuna.load_study(study_name="search", storage=study._storage(None, output))
            study._again(opened, opened.tell(1, state=optuna.trial.TrialState.FAIL))
        return wait(self, seconds)

    monkeypatch.setattr(Pretended, "wait", suspended)
    assert sweep(config, output) == 0
    assert "left to it" in capsys.readouterr().out
    assert [row["state"] for row in table(output)] == ["complete", "lost", "complete"]


def test_what_a_killed_worker_leaves_locked_never_blocks(
    pretended, data_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    config = write(tmp_path, data_folder, trials=1)
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--config", str(config), "--output_dir", "out"]) == 0
    killed = (
        "import os, sqlite3, sys\n"
        "study = sqlite3.connect(sys.argv[1])\n"
        "study.execute('BEGIN EXCLUSIVE')\n"
        "study.execute('DELETE FROM trials')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", killed, "out/study.db"], check=False).returncode == -signal.SIGKILL
    (tmp_path / "out" / "study.journal.lock").symlink_to("out/study.journal")  # of an earlier version
    assert main(["sweep", "--config", str(config), "--output_dir", "out", "--trials", "2"]) == 0
    assert [row["state"] for row in table(tmp_path / "out")] == ["complete"] * 2


@pytest.mark.slow
def test_workers_that_start_together_make_one_study(data_folder: Path, tmp_path: Path) -> None:
    make = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from butppg_lightning.cli.sweep.plan import Plan\n"
        "from butppg_lightning.cli.sweep.study import open_study\n"
        "plan = Plan(Path('search.yaml'), {'model.lr': [0.1, 0.2]}, output_dir=sys.argv[1])\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "open_study(plan, {'seed': 0})\n"
    )
    together = [sys.executable, "-c", make, str(tmp_path), str(time.time() + 8)]
    workers = [subprocess.Popen(together, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [worker.communicate()[1] for worker in workers] == [""] * 4
    assert optuna.get_all_study_names(study._storage(None, tmp_path)) == ["search"]


def test_of_two_workers_at_the_last_place_one_stands_back(pretended, data_folder: Path, tmp_path: Path) -> None:
    config = write(tmp_path, data_folder, trials=1)
    assert sweep(config, tmp_path / "out") == 0
    plan, _ = read_sweep(["--config", str(config), "--output_dir", str(tmp_path / "out")])
    opened = optuna.load_study(
        study_name="search", storage=study._storage(None, tmp_path / "out"), sampler=study.PlacedSampler(plan)
    )
    worker.Worker(plan, opened, [], [], 1).run_one()  # it saw the study before the other one's trial began
    assert opened.trials[1].user_attrs == {"surplus": True}
    assert sweep(config, tmp_path / "out", "--trials", "2") == 0
    assert [row["trial"] for row in table(tmp_path / "out")] == ["0", "2"]


def test_a_sweep_that_is_at_work_or_of_an_earlier_version_is_not_replaced_unasked(
    pretended, data_folder: Path, tmp_path: Path, capsys
) -> None:
    config, output = write(tmp_path, data_folder, trials=1), tmp_path / "out"
    assert sweep(config, output) == 0
    optuna.load_study(study_name="search", storage=study._storage(None, output)).ask()
    assert sweep(config, output, "--overwrite") == 2
    assert "a worker is still at the sweep" in capsys.readouterr().err
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "study.journal").touch()
    assert sweep(config, earlier) == 2
    assert "a sweep of an earlier version" in capsys.readouterr().err
    assert sweep(config, earlier, "--overwrite") == 0


def test_another_database_takes_the_folders_place(pretended, data_folder: Path, tmp_path: Path, capsys) -> None:
    config, url = write(tmp_path, data_folder, trials=1), f"sqlite:///{tmp_path}/studies.db"
    assert sweep(config, tmp_path / "out", "--study", url) == 0
    assert not (tmp_path / "out" / "study.db").exists()
    assert sweep(config, tmp_path / "elsewhere", "--study", url) == 2
    assert "all workers need the same --output_dir" in capsys.readouterr().err
    assert sweep(config, tmp_path / "out", "--study", "nothing://x") == 2
    assert "--study nothing://x cannot be opened" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"metric": "test_auroc"}, "nothing is ever chosen on the test split; the nearest is val_auroc"),
        ({"metric": "val_auc"}, "the nearest is val_auroc"),
        ({"direction": "minimize"}, "the worst val_auroc"),
        ({"parameters": {"model.lrr": LR}}, "unknown option --model.lrr; the nearest is --model.lr"),
        ({"parameters": {"model.lr": ["fast"]}}, "--model.lr: expected float, got fast"),
        ({"parameters": {"model.augment.nose": [0.1]}}, "nose"),
        ({"parameters": {"model.lr": 1e-3}}, "put a single value under fixed"),
        ({"parameters": {"model.lr": {"low": 1, "high": 0.1}}}, "`low <= high` must hold"),
        ({"parameters": {"model.lr": {"low": 0, "high": 0.1, "log": True}}}, "`low > 0` must hold"),
        ({"parameters": {"model.lr": {"low": 0, "hihg": 0.1}}}, "hihg"),
        ({"parameters": {}}, "names no parameters"),
        ({"parameters": {"output_dir": ["a", "b"]}}, "the sweep's own affair"),
        ({"parameters": {"trainer.max_epochs": [1, 2]}}, "under fixed and under parameters"),
        ({"parametres": {}}, "the nearest is parameters"),
        ({"trials": -3}, "-3 does not conform to restriction v>=0"),
        ({"sampler": "bayes"}, "sampler is bayes"),
        ({"sampler": "grid"}, "has no steps"),
        ({"sampler": {"method": "tpe", "n_startup": 3}}, "the nearest is n_startup_trials"),
        ({"pruning": {"method": "median", "warmup": 3}}, "n_warmup_steps"),
        ({"fixed": {"model.pretrained": "nothing.pt"}}, "nothing.pt not found"),
        ({"base": ["nothing.yaml"]}, "nothing.yaml not found"),
    ],
)
def test_mistakes_end_in_one_line_before_any_trial(
    change: dict, word: str, pretended, data_folder: Path, tmp_path: Path, capsys
) -> None:
    assert sweep(write(tmp_path, data_folder, **change), tmp_path / "out") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("butppg: ")
    assert word in said
    assert not (tmp_path / "out").exists()
    assert not pretended.words


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--model.lr", "0.1"], "is a parameter of"),
        (["--resume", "auto"], "no option of a sweep"),
        (["--model.haed", "mlp"], "the nearest is --model.head"),
        (["--trails", "3"], "unknown option --trails"),
    ],
)
def test_options_that_do_not_fit(words: list[str], word: str, data_folder: Path, tmp_path: Path, capsys) -> None:
    assert sweep(write(tmp_path, data_folder), tmp_path / "out", *words) == 2
    assert word in capsys.readouterr().err


def test_a_missing_package_is_named(data_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(
        "butppg_lightning.cli.sweep.find_spec", lambda name: None if name in ("optuna", "sklearn") else name
    )
    assert sweep(write(tmp_path, data_folder), tmp_path / "out") == 2
    assert "a sweep needs optuna, scikit-learn; pip install" in capsys.readouterr().err


def test_without_val_nothing_is_chosen_on_test(data_folder: Path, tmp_path: Path, capsys) -> None:
    for split in ("train", "test"):
        make_windows(12, subjects=split).save(tmp_path / f"{split}.npz")
    assert sweep(write(tmp_path, tmp_path), tmp_path / "out") == 2
    assert "no val.npz" in capsys.readouterr().err
    words = ["fit", "--config", "tiny.yaml", "--data.root", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    assert main([*words, "--test", "false"]) == 2
    assert "no val.npz" in capsys.readouterr().err
    assert main(["sweep", "--config", "finetune.yaml"]) == 2
    assert "is a config of `butppg fit`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lr", "inflation", "augment"])
def test_shipped_sweeps_are_taken(name: str, pretended, pretrained: Path, data_folder: Path, tmp_path: Path) -> None:
    words = ["--config", f"sweep/{name}.yaml", "--output_dir", str(tmp_path), "--data.root", str(data_folder)]
    assert main(["sweep", *words, "--trials", "1", "--model.pretrained", str(pretrained)]) == 0
    assert (tmp_path / "best.yaml").exists()


def test_the_inflation_sweep_is_its_whole_grid() -> None:
    plan, _ = read_sweep(["--config", "sweep/inflation.yaml"])
    assert len({json.dumps(plan.grid_point(number)) for number in range(plan.trials)}) == 21


def test_a_locked_study_is_not_waited_for_without_a_word(
    pretended, data_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(storage, "_PATIENCE", 0.1)
    monkeypatch.setattr(storage, "_BUSY", 0.3)
    config = write(tmp_path, data_folder, trials=1)
    assert sweep(config, tmp_path / "out") == 0
    with closing(sqlite3.connect(tmp_path / "out" / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert sweep(config, tmp_path / "out") == 2
    said = capsys.readouterr().err.splitlines()
    assert any("database is locked; waiting for up to" in line and "`fuser " in line for line in said)
    assert "locked" in said[-1]
    assert sweep(config, tmp_path / "out") == 0
