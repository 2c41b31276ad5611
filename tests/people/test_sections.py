"""What a study asks besides: pooled and supervised encoders, choices inside, other devices, few people, rhythm."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import make_windows

from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.window import WindowSet, read_windows
from people.baselines import index_columns
from people.command import main
from people.comparison import sign_flip_test, within_subject_auroc
from people.conditions import ALONE, CONDITIONS, INDICES, TURNED, changed, conditions_of
from people.data_set import DataSet
from people.folds import Fold, folds_inside, make_folds, training_windows, with_fewer
from people.held import Held, choose, read_predictions
from people.jobs import write_indices
from people.methods import Method, read_definition
from people.rhythm import pulse_band_share, shares_called_poor

HOME = Path(__file__).parent
TINY = "--config tiny.yaml --trainer.max_epochs 1 --trainer.precision 32-true"
DEFINITION = f"""
defaults:
  pretrain: --config pretrain.yaml {TINY}
  supervise: --config finetune.yaml {TINY} --model.finetune_channels 2 --data.use_channels [PPG]
methods:
  - {{name: recommended, encoder: supervised, pooled: true, conditions: true, external: true, seeds: 1,
     fit: "--config finetune.yaml {TINY} --model.finetune_channels '[ACC_X, ACC_Y, ACC_Z, PPG]'"}}
  - {{name: logistic, baseline: logistic_all, curve: true, conditions: true}}
  - {{name: spread, baseline: log_spread, curve: true}}
  - {{name: chosen, choose: [logistic, spread]}}
questions:
  - {{title: indices above spread, this: logistic, than: spread}}
"""
ACC, NO_ACC = "accelerometer mounted otherwise", "no acceleration"


def people(count: int = 72, subjects: int = 6, seed: int = 0) -> WindowSet:
    windows = make_windows(count, seed)
    names = np.array([f"p{index % subjects}" for index in range(count)])
    labels = np.arange(count) // subjects % 2
    kept = WindowSet(windows.signals[:, :4], windows.channels[:4], labels=labels, subjects=names)
    return replace(kept, hr_ref=np.full(count, 70.0))


def patients(path: Path, count: int, seed: int) -> Path:
    windows = make_windows(count, seed)
    subjects = np.array([f"q{index % 8}" for index in range(count)])
    extras = {
        "labels_hr": (np.arange(count) % 3 - 1).astype(np.int8),
        "repeated": np.arange(count) == 0,
        "rhythm": np.where(np.arange(count) % 2, "SR", "AF"),
    }
    WindowSet(windows.signals[:, 3:], ("PPG", "ECG"), subjects=subjects, extras=extras).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sections")
    people().save(path / "windows.npz")
    others = make_windows(16, seed=2)
    WindowSet(others.signals[:, 3:], ("PPG", "ECG"), subjects=others.subjects).save(path / "pre" / "train_windows.npz")
    patients(path / "one" / "windows.npz", 40, 3)
    patients(path / "two" / "windows.npz", 24, 4)
    (path / "methods.yaml").write_text(DEFINITION)
    return path


def words(folder: Path, output: Path) -> list[str]:
    files = ",".join(str(folder / name / "windows.npz") for name in ("one", "two"))
    given = {"windows": "windows.npz", "pretraining": "pre", "definitions": "methods.yaml", "rhythm": "two/windows.npz"}
    found = [word for key, name in given.items() for word in (f"--{key}", str(folder / name))]
    return [*found, "--patients", files, "--folds", "2", "--seeds", "2", "--workers", "1", "--output", str(output)]


@pytest.fixture(scope="module")
def output(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sections_done") / "out"
    assert main(words(folder, path)) == 0
    return path


def test_everything_is_in_the_page_and_nothing_is_done_twice(folder: Path, output: Path) -> None:
    page = (output / "results.md").read_text()
    for heading in ("Questions", "Learning curve", "Other devices", "Atrial fibrillation"):
        assert f"## {heading}" in page
    assert "pretrained on these people too" in page
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*_seed-*.csv")}
    assert main(words(folder, output)) == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*_seed-*.csv")} == before


def test_a_supervised_encoder_was_pretrained_and_starts_the_fit(output: Path) -> None:
    notes = {
        path.parent.name: json.loads((path.with_suffix(".json")).read_text()) for path in output.rglob("encoder.pt")
    }
    assert len(notes) == 2
    assert sum("--model.finetune_channels" in note["arguments"] for note in notes.values()) == 1
    log = next(path.read_text() for path in (output / "logs").glob("recommended_fold-0*"))
    assert "matched, 2 inflated, 0 missing" in " ".join(log.split())
    network, _ = restore_network(output / "final" / "best_model.pt")
    assert network.channels == ("ACC_X", "ACC_Y", "ACC_Z", "PPG")


def test_a_condition_taken_away_by_hand_is_scored_again(folder: Path, output: Path) -> None:
    found = sorted((output / "conditions").rglob("logistic/fold-1_seed-1.csv"))
    assert len(found) == len(CONDITIONS) - 1
    before = read_predictions(found[0])
    found[0].unlink()
    assert main(words(folder, output)) == 0
    assert read_predictions(found[0]).equals(before)


def test_pooled_windows_are_those_of_all_patients_but_the_repeated(folder: Path, tmp_path: Path) -> None:
    files = tuple(folder / name / "windows.npz" for name in ("one", "two"))
    data = DataSet(folder / "windows.npz", pretraining=folder / "pre", patients=files)
    data.write_pool(tmp_path)
    train, validation = (read_windows(tmp_path / f"{split}_windows.npz", labelled=False) for split in ("train", "val"))
    assert len(train) + len(validation) == 16 + 39 + 23
    assert set(validation.subjects) == {"one-q4", "two-q4"}
    assert not set(validation.subjects) & set(train.subjects)
    data.write_supervised(tmp_path)
    labelled = read_windows(tmp_path / "train.npz", labelled=True)
    rates = np.concatenate([np.arange(1, count) % 3 - 1 for count in (40, 24)])
    assert labelled.labels.tolist() == rates[rates >= 0].tolist()
    with pytest.raises(UserError, match="no 'labels_hr'"):
        replace(data, patients=(folder / "pre" / "train_windows.npz",)).write_supervised(tmp_path)


def test_people_to_choose_by_and_few_people_are_of_those_trained_on() -> None:
    windows = people(120, 12)
    for fold in make_folds(windows, "3"):
        inside = folds_inside(windows, fold)
        assert sorted(name for each in inside for name in each.test) == sorted(fold.train)
        for each in inside:
            assert not set(fold.test) & {*each.train, *each.test}
            assert not set(each.train) & set(each.test)
        few = [with_fewer(fold, people, 0) for people in (2, 5)]
        assert set(few[0].train) < set(few[1].train) < set(fold.train)
        assert few[0].test == fold.test
        assert with_fewer(fold, 5, 0) == few[1] != with_fewer(fold, 5, 1)
        assert training_windows(windows, few[0], "w").hr_ref.tolist() == [70.0] * 20
    with pytest.raises(UserError, match="9 people cannot be drawn from the 8"):
        with_fewer(fold, 9, 0)


def test_a_choice_is_made_inside_and_never_by_who_is_held_out(output: Path) -> None:
    told = json.loads((output / "results.json").read_text())["methods"]
    for number, name in enumerate(told["chosen"]["chosen"]):
        means = {}
        for member in ("logistic", "spread"):
            paths = (output / "predictions" / member).glob(f"fold-{number}_inside-*_seed-0.csv")
            scores: list[list[object]] = [read_predictions(path).to_numpy().tolist() for path in paths]  # type: ignore
            rows = [row for part in scores for row in part]  # type: ignore
            _, subjects, labels, found = (np.array(column) for column in zip(*rows, strict=True))
            means[member] = within_subject_auroc(labels.astype(int), found.astype(float), subjects)[1]
        assert means[name] == max(means.values())
    windows = people()
    folds = np.arange(72) // 36
    one, two = (
        Held(Method(name), windows.labels, windows.subjects, np.full((2, 72), value), folds)
        for name, value in (("a", 1.0), ("b", 2.0))
    )
    both = choose(Method("c", choose=["a", "b"]), {"a": one, "b": two}, ["b", "a"])
    assert both.scores.tolist() == [[2.0] * 36 + [1.0] * 36] * 2


def test_conditions_change_what_they_say_and_no_more() -> None:
    windows, names = people(24), [f"p{row}" for row in range(6)]
    windows.extras[INDICES] = np.zeros((24, 3))
    assert conditions_of(windows) == [name for name in CONDITIONS if name != ALONE]
    assert changed(windows, ALONE, []).channels == ("PPG",)
    assert conditions_of(WindowSet(windows.signals[:, 3:], ("PPG",))) == [TURNED]
    turned, mounted, absent = (changed(windows, name, names) for name in (TURNED, ACC, NO_ACC))
    for each in (turned, mounted, absent):
        assert INDICES not in each.extras
    rows = np.isin(windows.subjects, ["p0", "p2", "p4"])
    assert np.array_equal(turned.signals[~rows], windows.signals[~rows])
    assert np.array_equal(turned.signals[:, :3], windows.signals[:, :3])
    centred = windows.signals[rows, 3] - np.median(windows.signals[rows, 3], axis=1, keepdims=True)
    assert np.allclose(turned.signals[rows, 3] - np.median(turned.signals[rows, 3], axis=1, keepdims=True), -centred)
    lengths = [np.linalg.norm(each.signals[:, :3], axis=1) for each in (windows, mounted)]
    assert np.allclose(*lengths, rtol=1e-4, atol=1e-5)
    assert not np.allclose(mounted.signals[:, 0], windows.signals[:, 0], atol=1e-2)
    part = windows.take(np.flatnonzero(windows.subjects == "p3"))
    assert np.array_equal(changed(part, ACC, names).signals, mounted.signals[windows.subjects == "p3"])
    assert not absent.present[:, :3].any()
    assert absent.present[:, 3].all()
    assert not absent.signals[:, :3].any()


def test_indices_computed_beforehand_are_those_of_the_windows(tmp_path: Path) -> None:
    windows, path = people(12), tmp_path / "indices.npy"
    write_indices(windows, path, "d")
    names = ("motion_energy", "local_share", "skewness")
    known = replace(windows, extras={INDICES: np.load(path)}).take(np.array([3, 5]))
    assert np.allclose(index_columns(known, names), index_columns(windows.take(np.array([3, 5])), names), atol=1e-5)
    stamp = path.stat().st_mtime_ns
    write_indices(windows, path, "d")
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("count", [17, 25, 32])
def test_sign_flips_of_many_are_counted_exactly(count: int) -> None:
    """By convolution: whole numbers have few sums."""
    values = np.random.default_rng(count).integers(-4, 7, count)
    ways = np.array([1.0])
    for value in np.abs(values):
        step = np.zeros(2 * value + 1)
        step[[0, -1]] = (1, 1) if value else (2, 2)
        ways = np.convolve(ways, step)
    sums = np.arange(len(ways)) - np.abs(values).sum()
    expected = ways[np.abs(sums) >= abs(values.sum())].sum() / 2.0**count
    found = sign_flip_test(values * 0.01)
    assert found.exact
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert found.clearly == (values >= 2).sum()


def test_equal_quality_takes_away_what_quality_explains() -> None:
    generator = np.random.default_rng(0)
    rhythm = np.repeat(["SR", "AF"], 2000)
    subjects = np.array([f"{name}{row % 10}" for row, name in enumerate(rhythm)])
    quality = generator.random(4000) * np.where(rhythm == "AF", 0.7, 1.0)
    found = shares_called_poor(generator.random(4000) > quality, rhythm, quality, subjects)
    assert found["raw"]["AF"] - found["raw"]["SR"] > 0.1
    assert abs(found["difference"]) < 0.03
    assert found["ci95"][0] < found["difference"] < found["ci95"][1]
    poor = (rhythm == "AF") & (generator.random(4000) < 0.3)
    assert shares_called_poor(poor, rhythm, quality, subjects)["difference"] == pytest.approx(0.3, abs=0.03)


def test_quality_is_blind_to_the_rhythm_and_sees_noise() -> None:
    time, generator = np.arange(1250) / 125, np.random.default_rng(0)
    regular = np.sin(2 * np.pi * 1.2 * time)
    irregular = np.sin(2 * np.pi * np.cumsum(generator.uniform(0.8, 2.0, 10).repeat(125)) / 125)
    noisy = regular + generator.normal(0, 1, 1250)
    shares = pulse_band_share(WindowSet(np.stack([regular, irregular, noisy])[:, None], ("PPG",)))
    assert shares[:2].min() > 0.97
    assert shares[2] < 0.75


def test_the_methods_of_bami1_are_understood() -> None:
    found = read_definition(HOME / "methods_bami1.yaml")
    assert found.methods["net_supervised"].encoder == "supervised"
    assert len(found.questions) > 8
    kinds = {name: method.kind for name, method in found.methods.items()}
    for kind, channels in product(("logistic", "forest", "extra_trees", "boosted"), ("all", "ppg")):
        assert kinds[f"{kind}_{channels}"] == "baseline"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: [{name: a}]\nquestions: [{title: t, this: a, than: b}]", "as this and than names of methods"),
        ("methods: [{name: a}, {name: b, choose: [a]}]", "choose takes the names of two or more"),
    ],
)
def test_what_cannot_be_asked_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_definition(tmp_path / "m.yaml")


def test_further_patients_must_be_named_where_they_are_needed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(folder, tmp_path)
    place = given.index("--patients")
    assert main([*given[:place], *given[place + 2 :]]) == 2
    assert "method recommended needs further patients" in capsys.readouterr().err
    given[place + 1] = "/nowhere.npz"
    assert main(given) == 2
    assert "--patients /nowhere.npz does not exist" in capsys.readouterr().err


def test_a_fold_of_few_is_said_by_its_people() -> None:
    assert str(Fold("0_people-2_draw-1", ("a", "b"), ("c",))) == "without c"
