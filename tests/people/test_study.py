"""The study: people are held out, what is done is not done again, and the figures are those of the files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import but_ppg_release
import numpy as np
import pytest
from conftest import REAL_DATA, make_windows

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.metrics import auroc
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.window import WindowSet, read_windows
from people.command import main
from people.figures import calibrate, compare, primary
from people.folds import Fold, join, make_folds, training_windows, unlabelled_windows
from people.held import Held, combine
from people.methods import Method, read_ablation, read_definition

HOME = Path(__file__).parent
TINY = "--config tiny.yaml --trainer.max_epochs 1 --trainer.precision 32-true"
DEFINITION = f"""
defaults:
  pretrain: --config pretrain.yaml {TINY}
  adapt: --config pretrain.yaml {TINY}
methods:
  - {{name: recommended, fit: "--config finetune.yaml {TINY} --model.lr 3e-3"}}
  - {{name: three, baseline: three_indices, seeds: 1, drawn: true, external: true}}
  - {{name: spread, baseline: log_spread, seeds: 1, table: channels}}
  - {{name: ensemble, ensemble: recommended}}
  - {{name: both, rank_mean: [recommended, three]}}
"""
ROWS = """
methods:
  - {name: seeds, group: head, ensemble: recommended}
  - {name: with_three, group: baseline, rank_mean: [recommended, three]}
"""


def people(count: int = 60, subjects: int = 6, seed: int = 0) -> WindowSet:
    windows = make_windows(count, seed)
    return replace(windows, subjects=np.array([f"p{index % subjects}" for index in range(count)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled and unlabelled windows of the same six people, windows to pretrain on, and the methods."""
    path = tmp_path_factory.mktemp("results")
    windows = people()
    windows.labels = np.asarray(np.arange(60) // 6 % 2)  # both classes in everybody
    windows.save(path / "windows.npz")
    plain = people(36, seed=1)
    order = [3, 4, 0, 1, 2]
    names = tuple(plain.channels[row] for row in order)
    WindowSet(plain.signals[:, order], names, subjects=plain.subjects).save(path / "unlabelled.npz")
    others = make_windows(32, seed=2)
    WindowSet(others.signals[:, 3:], ("PPG", "ECG"), subjects=others.subjects).save(path / "pre" / "train_windows.npz")
    (path / "methods.yaml").write_text(DEFINITION)
    (path / "rows.yaml").write_text(ROWS)
    return path


def words(folder: Path, output: Path, *more: str, definition: str = "methods.yaml") -> list[str]:
    data = {"windows": "windows.npz", "unlabelled": "unlabelled.npz", "pretraining": "pre", "definitions": definition}
    given = [word for key, name in data.items() for word in (f"--{key}", str(folder / name))]
    return [*given, "--folds", "2", "--seeds", "2", "--output", str(output), "--workers", "1", *more]


@pytest.fixture(scope="module")
def output(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("done") / "out"
    assert main(words(folder, path)) == 0
    return path


def times(output: Path) -> dict[str, int]:
    found = [*output.rglob("*_seed-*.csv"), *output.rglob("encoder.pt")]
    return {str(path.relative_to(output)): path.stat().st_mtime_ns for path in found}


def scores_of(output: Path, method: str, seed: int, count: int = 60) -> np.ndarray:
    scores = np.full(count, np.nan)
    for path in (output / "predictions" / method).glob(f"fold-*_seed-{seed}.csv"):
        with path.open() as file:
            for row in csv.DictReader(file):
                assert np.isnan(scores[int(row["row"])])
                scores[int(row["row"])] = float(row.get("logit") or row["score"])
    assert np.isfinite(scores).all()
    return scores


def test_figures_are_those_of_the_predictions(folder: Path, output: Path) -> None:
    windows, told = (
        read_windows(folder / "windows.npz", labelled=True),
        json.loads((output / "results.json").read_text()),
    )
    by_seed = [scores_of(output, "recommended", seed) for seed in (0, 1)]
    assert not np.array_equal(*by_seed)
    own = {}
    for name in np.unique(windows.subjects).tolist():
        rows = windows.subjects == name
        own[name] = np.mean([auroc(windows.labels[rows], scores[rows]) for scores in by_seed])
    found = told["methods"]["recommended"]
    assert found["within"] == pytest.approx(own)
    assert found["within_mean"] == pytest.approx(np.mean(list(own.values())))
    assert found["pooled_auroc"] == pytest.approx(np.mean([auroc(windows.labels, scores) for scores in by_seed]))
    ensemble = told["methods"]["ensemble"]
    assert ensemble["pooled_auroc"] == pytest.approx(auroc(windows.labels, np.mean(by_seed, axis=0)))
    baseline = told["methods"]["three"]
    assert baseline["within_sd"] is None
    difference = baseline["reference_less_this"]
    assert difference["mean"] == pytest.approx(found["within_mean"] - baseline["within_mean"])
    assert difference["subjects"] == 6
    assert told["costs"]["jobs"] == 2 * (2 + 1 + 1)


def test_page_pictures_and_final_model(output: Path) -> None:
    page = (output / "results.md").read_text()
    assert "| p0 | p1 | p2 | p3 | p4 | p5 |" in page
    assert "## Channels" in page
    for name in ("within_subject", "roc", "risk_coverage"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({name}.png)" in page
    told = json.loads((output / "results.json").read_text())["final"]
    network, _ = restore_network(output / "final" / "best_model.pt")
    assert network.calibration.fitted == told["calibrated"]
    assert told["calibrated"] or told["why"]
    assert not (output / "work").exists()


def test_nothing_is_done_twice_and_what_changed_is(
    folder: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(output, tmp_path / "out"))
    before = times(output)
    assert len(before) == 2 * 4 + 1 + 3  # predictions; pretraining, and its continuation for two folds and everybody
    assert main(words(folder, output)) == 0
    assert times(output) == before
    (folder / "other.yaml").write_text(DEFINITION.replace("three_indices", "pulse_indices"))
    (output / "predictions" / "spread" / "fold-1_seed-0.json").unlink()  # killed before its end
    capsys.readouterr()
    assert main(words(folder, output, definition="other.yaml")) == 0
    assert "3 predictions are of another definition" in capsys.readouterr().err
    after = times(output)
    changed = {name for name, stamp in after.items() if before[name] != stamp}
    assert changed == {f"predictions/three/fold-{fold}_seed-0.csv" for fold in range(2)} | {
        "predictions/spread/fold-1_seed-0.csv"
    }


def test_ablation_shares_what_is_done(folder: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: stamp for name, stamp in times(output).items() if "recommended" in name or "encoder" in name}
    assert main(words(folder, output, "--ablation", str(folder / "rows.yaml"))) == 0
    assert before.items() <= times(output).items()
    told = json.loads((output / "ablation.json").read_text())
    assert list(told["rows"]) == ["recommended", "seeds", "with_three"]
    row, reference = told["rows"]["seeds"], told["rows"]["recommended"]
    expected = row["within_mean"] - reference["within_mean"]
    assert row["this_less_reference"]["mean"] == pytest.approx(expected)
    assert "| seeds | head |" in (output / "ablation.md").read_text()
    assert "with_three" in capsys.readouterr().out


def test_a_job_that_fails_ends_everything_with_its_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wrong.yaml").write_text(
        f"methods: [{{name: wrong, encoder: none, fit: --config finetune.yaml {TINY} --model.head round}}]"
    )
    assert main(words(folder, tmp_path, definition="wrong.yaml")) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("study: ")]
    assert len(told) == 1
    assert "wrong, without" in told[0]
    assert "model.head" in told[0]
    assert str(tmp_path / "logs") in told[0]
    assert not list(tmp_path.rglob("*_seed-*.csv"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--methods", "recommended,none"], "--methods names 'none'"),
        (["--folds", "some"], "--folds is some"),
        (["--seeds", "0"], "seeds"),
        (["--but_ppg", "."], "either --windows"),
        (["--release", "/nowhere"], "--release /nowhere does not exist"),
        (["--pretraining", "."], "holds no train_windows.npz"),
        (["--definitions", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["--outptu", "x"], "--outptu"),
    ],
)
def test_mistakes_end_in_one_line(
    folder: Path, tmp_path: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words(folder, tmp_path / "out", *given)) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert message in told[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{name: a, fits: x}", "'fits' is not accepted"),
        ("{name: a/b}", "a/b does not match"),
        ("{name: a, baseline: oracle}", "no baseline 'oracle'"),
        ("{name: a, base: b}", "base 'b'"),
        ("{name: a, rank_mean: [recommended]}", "two or more"),
        ("{name: a, encoder: best}", "encoder.*Got value: best"),
        ("{name: recommended}", "must be new"),
        ("{name: a, seeds: 0}", "seeds.*v>0.*Given value: 0"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named(folder: Path, tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "rows.yaml").write_text(f"methods:\n  - {row}\n")
    with pytest.raises(UserError, match=message):
        read_ablation(tmp_path / "rows.yaml", read_definition(folder / "methods.yaml"))


def test_shipped_methods_and_rows_are_understood(tmp_path: Path) -> None:
    definition = read_definition(HOME / "methods.yaml")
    recommended = definition.methods["recommended"]
    varied = [
        row for row in read_ablation(HOME / "ablation.yaml", definition).methods.values() if row.kind == "network"
    ]
    assert len(varied) > 20
    for row in varied:
        assert row.fit.startswith(recommended.fit)
        assert row.pretrain.startswith(recommended.pretrain)
    (tmp_path / "rows.yaml").write_text("methods: [{name: fast, fit: --model.lr 1, encoder: none}]")
    row = read_ablation(tmp_path / "rows.yaml", definition).methods["fast"]
    assert row.fit == f"{recommended.fit} --model.lr 1"
    assert (row.encoder, row.table, row.name) == ("none", "ablation", "fast")


def test_a_row_whose_package_is_absent_is_left_out_aloud(folder: Path, tmp_path: Path, capsys) -> None:
    text = (folder / "methods.yaml").read_text()
    rows = "".join(f"  - {{name: {name}, needs: {name}, fit: x}}\n" for name in ("numpy", "no_such_package"))
    (tmp_path / "methods.yaml").write_text(text.rstrip() + "\n" + rows)
    chosen = read_definition(tmp_path / "methods.yaml").chosen(["numpy", "no_such_package"])
    assert list(chosen) == ["recommended", "numpy"]
    assert "no_such_package is left out" in capsys.readouterr().err


def test_the_rows_and_keys_of_the_readme_are_those_there_are(tmp_path: Path) -> None:
    page = (HOME / "README.md").read_text()
    (tmp_path / "rows.yaml").write_text("methods:\n" + page.partition("```yaml\n")[2].partition("```")[0])
    found = read_ablation(tmp_path / "rows.yaml", read_definition(HOME / "methods.yaml")).methods
    kinds = {"wide": "network", "smooth": "baseline", "rhythm": "indices", "mean": "ensemble", "both": "rank_mean"}
    assert {name: found[name].kind for name in kinds} == kinds
    for item in fields(Method):
        assert f"`{item.name}`" in page or f"{item.name}:" in page


def test_held_out_people_never_get_in() -> None:
    windows, plain = people(), people(36, seed=1)
    for fold in make_folds(windows, "subject"):
        assert set(training_windows(windows, fold, "w").subjects.tolist()) == set(fold.train)
        found = unlabelled_windows(windows, plain, fold, "u")
        assert set(found.subjects.tolist()) == set(fold.train)
        assert found.labels is None
    assert sorted(name for fold in make_folds(windows, "3") for name in fold.test) == [f"p{row}" for row in range(6)]
    fold = Fold("0", ("p1", "p2"), ("p0",))
    renamed = replace(plain, subjects=np.array([f"P{name[1]}" for name in plain.subjects]))
    with pytest.raises(UserError, match="no windows of the subjects p1, p2"):
        unlabelled_windows(windows, renamed, fold, "u")
    copied = replace(windows, subjects=np.where(windows.subjects == "p0", "p1", windows.subjects))
    with pytest.raises(UserError, match="10 windows of held-out subjects"):
        unlabelled_windows(windows, copied, fold, "u")


def test_windows_of_two_sources_are_joined_by_channel() -> None:
    first, second = people(6), people(4, seed=3)
    joined = join([("a", first), ("b", WindowSet(second.signals[:, [4, 3]], ("ECG", "PPG")))])
    assert joined.channels == first.channels
    assert np.array_equal(joined.signals[6:, 3:], second.signals[:, 3:])
    assert joined.present[6:].tolist() == [[False, False, False, True, True]] * 4
    assert joined.subjects[0] == "a-p0"


def held(scores: np.ndarray, labels: np.ndarray, name: str = "m") -> Held:
    folds = np.arange(len(labels)) % 3
    subjects = np.array([f"p{row % 6}" for row in range(len(labels))])
    return Held(Method(name), labels, subjects, scores, folds)


def test_a_fold_is_calibrated_on_the_others_only() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 600)
    scores = (labels + generator.normal(size=(2, 600))) * 3
    first = calibrate(held(scores, labels))
    inside = np.arange(600) % 3 == 0
    flipped = inside & (generator.random(600) < 0.3)
    second = calibrate(held(scores, np.where(flipped, 1 - labels, labels)))
    assert np.array_equal(first.probabilities[:, inside], second.probabilities[:, inside])
    assert np.array_equal(first.called[:, inside], second.called[:, inside])
    assert not np.allclose(first.probabilities[:, ~inside], second.probabilities[:, ~inside])
    assert "good windows below poor" in calibrate(held(-scores, labels)).failed


def test_combinations_and_comparisons() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 120)
    one, other = held(generator.normal(size=(3, 120)), labels), held(labels[None] * 1000.0, labels, "n")
    both = combine(Method("b", rank_mean=["m", "n"]), {"m": one, "n": other})
    assert both.scores.shape == both.within.shape == (3, 120)
    assert both.scores.min() >= 0
    assert both.scores.max() <= 1
    found = primary(both)
    assert primary(one)["within_mean"] < found["within_mean"] <= primary(other)["within_mean"] == 1
    assert compare(primary(other), primary(one))["verdict"] == "better"
    assert compare(primary(one), primary(other))["verdict"] == "worse"
    assert compare(primary(one), primary(one))["verdict"] == "not shown"


@pytest.mark.slow
def test_a_killed_run_goes_on(folder: Path, output: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(HOME), *words(folder, tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while len(list(tmp_path.rglob("predictions/recommended/*.csv"))) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    before = times(tmp_path)
    time.sleep(2)
    assert times(tmp_path) == before  # the workers are gone with their parent
    assert main(words(folder, tmp_path)) == 0
    kept = {name for name, stamp in times(tmp_path).items() if before.get(name) == stamp}
    assert len(kept) >= len(before) - 1  # at most the one that was being written
    for seed in (0, 1):
        assert np.array_equal(scores_of(tmp_path, "recommended", seed), scores_of(output, "recommended", seed))


@pytest.mark.slow
def test_a_release_is_held_out_by_subject(folder: Path, tmp_path: Path) -> None:
    but_ppg_release.write_release(tmp_path / "release")
    (folder / "few.yaml").write_text(
        f'methods: [{{name: recommended, encoder: none, fit: "--config finetune.yaml {TINY}"}}]'
    )
    given = ["--but_ppg", str(tmp_path / "release"), "--definitions", str(folder / "few.yaml"), "--seeds", "1"]
    assert main([*given, "--output", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(told["protocol"]["folds"]) == 5
    assert told["protocol"]["windows"]["count"] == 32
    assert told["external"] is None


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "but_ppg_release_sample").is_dir(), reason="the recordings are not there")
def test_the_genuine_records_are_scored_and_no_others(folder: Path, tmp_path: Path) -> None:
    release = ["--release", str(REAL_DATA / "but_ppg_release_sample")]
    assert main(words(folder, tmp_path, *release, "--methods", "three")) == 0
    told = json.loads((tmp_path / "results.json").read_text())["external"]
    assert (told["windows"], told["good"], told["subjects"]) == (24, 18, 6)
    assert list(told["methods"]) == ["three"]
