"""A run with stored features that is killed and resumed, started over, or repeated by another one."""

import json
from pathlib import Path

import pytest
import torch
from exactness import RUN, Stopped, differences, fit, outcome, stop_at
from lightning.pytorch import Callback

CACHED = [*(flag for flag in RUN if "channel_dropout" not in flag), "--trainer.precision=32-true"]
POINTS = {
    "middle of an epoch in stage 1": ("batch", 1, 5),
    "boundary of stages 1 and 2": ("epoch", 2, 0),
    "middle of an epoch in stage 2": ("batch", 3, 5),
    "boundary of stages 2 and 3": ("epoch", 4, 0),
    "after the last epoch": ("fit_end", 0, 0),
}
# four epochs of stage 2, each with 8 of the 36 windows
LIMITED = ["--trainer.limit_train_batches=2", "--trainer.accumulate_grad_batches=1", "--save_every_n_steps=1"]
LIMITED += ["--stages.head_only_epochs=1", "--stages.full_finetune_epochs=0", "--trainer.max_epochs=5"]
BRIEF = ["--stages.head_only_epochs=1", "--stages.full_finetune_epochs=0", "--trainer.max_epochs=2"]
REUSED = "taken from an earlier run"


def stored(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")} if folder.is_dir() else set()


def interrupted(folder: Path, data: Path, point: tuple, *flags: str) -> None:
    with pytest.raises(Stopped):
        fit(folder, data, *flags, *stop_at(*point))


@pytest.fixture(scope="module")
def data(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The splits without the one for testing, which costs time and tells nothing here."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        (folder / f"{split}.npz").symlink_to(data_folder / f"{split}.npz")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert fit(folder, data, *CACHED) == 0
    assert not (folder / "cache").exists(), "a finished run leaves no features"
    return outcome(folder)


@pytest.mark.parametrize("point", POINTS)
def test_resumed_is_uninterrupted(point: str, uninterrupted: dict, data: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    interrupted(folder, data, POINTS[point], *CACHED)
    if POINTS[point][0] != "fit_end":
        assert stored(folder / "cache"), "a resumed run wants them"
    capsys.readouterr()
    assert fit(folder, data, *CACHED, "--resume=auto") == 0
    said = capsys.readouterr().err
    if POINTS[point][1] < 4 and POINTS[point][0] != "fit_end":
        assert said.count(REUSED) == said.count("train windows") + said.count("val windows") > 0
    assert differences(outcome(folder), uninterrupted) == []
    assert not (folder / "cache").exists()


@pytest.mark.slow
def test_another_precision_resumes_too(data: Path, tmp_path: Path) -> None:
    flags = [*CACHED, "--trainer.precision=bf16-mixed"]
    assert fit(tmp_path / "whole", data, *flags) == 0
    interrupted(tmp_path / "run", data, ("batch", 3, 5), *flags)
    assert fit(tmp_path / "run", data, *flags, "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


def test_a_limited_run_takes_its_features_up_again(data: Path, tmp_path: Path, capsys) -> None:
    assert fit(tmp_path / "whole", data, *CACHED, *LIMITED) == 0
    interrupted(tmp_path / "run", data, ("batch", 4, 1), *CACHED, *LIMITED)
    capsys.readouterr()
    assert fit(tmp_path / "run", data, *CACHED, *LIMITED, "--resume=auto") == 0
    assert "computed" not in capsys.readouterr().err
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


@pytest.mark.parametrize("change", ["--cache.enabled=false", "--cache.memory_gb=0"])
def test_a_run_may_be_resumed_with_another_cache(change: str, uninterrupted: dict, data: Path, tmp_path) -> None:
    interrupted(tmp_path / "run", data, ("batch", 3, 5), *CACHED)
    assert fit(tmp_path / "run", data, *CACHED, change, "--resume=auto") == 0
    found = outcome(tmp_path / "run")
    for key in ("train_loss", "val_loss"):
        whole = uninterrupted["training_history"][key]
        assert found["training_history"][key] == pytest.approx(whole, rel=1e-5), key
    assert not (tmp_path / "run" / "cache").exists()


def test_kept_features_serve_the_next_run_and_overwriting_removes_them(data: Path, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    assert fit(folder, data, *CACHED, "--cache.keep=true") == 0
    kept = stored(folder / "cache")
    assert {name.rpartition(".")[2] for name in kept} == {"features", "json"}
    capsys.readouterr()
    assert fit(folder, data, *CACHED, "--cache.enabled=false", "--overwrite=true", "--model.lr=1e-4") == 0
    assert not (folder / "cache").exists()


def test_a_run_that_overwrote_another_can_be_resumed_from_its_features(data: Path, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    assert fit(folder, data, *CACHED, "--seed_everything=5", "--cache.keep=true") == 0
    old = stored(folder / "cache")
    interrupted(folder, data, ("batch", 1, 5), *CACHED, "--overwrite=true")
    new = stored(folder / "cache")
    assert not new & old, "the features of the run that was replaced are gone"
    assert new, "the features of the run that replaced it are there"
    capsys.readouterr()
    assert fit(folder, data, *CACHED, "--resume=auto") == 0
    assert "computed" not in capsys.readouterr().err


def test_the_next_trial_of_a_sweep_reuses_a_shared_folder(data: Path, tmp_path: Path, capsys) -> None:
    shared = f"--cache.folder={tmp_path / 'shared'}"
    trials = {
        "first": ([], False),
        "another rate": (["--model.lr=5e-3", "--model.weight_decay=0"], True),
        "another head": (["--model.head=linear", "--stages.plan=[{trainable: 1}]"], True),
        "another seed": (["--seed_everything=7"], False),
        "another precision": (["--trainer.precision=bf16-mixed"], False),
        "another preprocessing": (["--model.preprocess.clip=5"], False),
    }
    for name, (flags, reused) in trials.items():
        capsys.readouterr()
        assert fit(tmp_path / name, data, *CACHED, *BRIEF, *flags, shared) == 0
        said = capsys.readouterr().err
        assert (REUSED in said, "computed" in said) == (reused, not reused), (name, said)
        assert not (tmp_path / name / "cache").exists()
    assert fit(tmp_path / "alone", data, *CACHED, *BRIEF, *trials["another rate"][0], "--cache.enabled=false") == 0
    paths = [tmp_path / name / "training_history.json" for name in ("alone", "another rate")]
    one, other = (json.loads(path.read_text()) for path in paths)
    assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


VARIED = [*RUN, "--model.augment.amplitude=0.3", "--model.augment.noise=0.2", "--trainer.precision=32-true"]
WATCH = ["--trainer.callbacks+=test_cache_resume.Watch"]
SERVED: list[tuple[int, int, list[torch.Tensor]]] = []


class Watch(Callback):
    """Notes epoch, view and stored views of the training windows."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        features = trainer.datamodule.splits["train"].features
        if batch_idx == 0 and features is not None:
            assert "signals" not in batch
            SERVED.append((trainer.current_epoch, features.view, list(features.views)))


@pytest.fixture(scope="module")
def varied(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    SERVED.clear()
    folder = tmp_path_factory.mktemp("varied") / "run"
    flags = ["--trainer.max_epochs=8", "--stages.head_only_epochs=4", "--cache.views=3"]
    assert fit(folder, data, *VARIED, *flags, *WATCH) == 0
    return {"outcome": outcome(folder), "served": list(SERVED), "flags": [*VARIED, *flags]}


def test_views_are_walked_through_and_drawn_afresh_at_each_stage(varied: dict) -> None:
    served = varied["served"]
    assert [(epoch, view) for epoch, view, _ in served] == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 0), (5, 1)]
    first, second = served[0][2], served[4][2]
    assert len(first) == len(second) == 3
    for views in (first, second):
        assert not any(torch.allclose(views[row], views[row - 1]) for row in range(3)), "views differ"
    for one in first:
        assert served[1][2][0] is first[0], "one set of views for a whole stage"
        assert not any(torch.allclose(one, other[: len(one)]) for other in second if other.shape == one.shape)


def test_variations_differ_from_stage_to_stage_at_the_same_depth(data: Path, tmp_path: Path) -> None:
    SERVED.clear()
    plan = ["--stages.plan=[{trainable: 2, epochs: 1}, {trainable: head, epochs: 1}, {trainable: 2}]"]
    flags = ["--trainer.max_epochs=3", "--cache.views=1", *plan]
    assert fit(tmp_path / "run", data, *VARIED, *flags, *WATCH) == 0
    first, _, last = (views for _, _, views in SERVED)
    assert first[0].shape == last[0].shape
    assert not torch.allclose(first[0], last[0])


@pytest.mark.parametrize("point", [("batch", 2, 5), ("batch", 5, 5)], ids=str)
def test_views_are_the_same_after_a_resume(point: tuple, varied: dict, data: Path, tmp_path, capsys) -> None:
    interrupted(tmp_path / "run", data, point, *varied["flags"])
    capsys.readouterr()
    assert fit(tmp_path / "run", data, *varied["flags"], "--resume=auto") == 0
    assert REUSED in capsys.readouterr().err
    assert differences(outcome(tmp_path / "run"), varied["outcome"]) == []


def test_views_are_drawn_again_where_their_files_are_gone(varied: dict, data: Path, tmp_path: Path) -> None:
    interrupted(tmp_path / "run", data, ("batch", 5, 5), *varied["flags"], "--cache.budget_gb=0")
    assert not stored(tmp_path / "run" / "cache")
    assert fit(tmp_path / "run", data, *varied["flags"], "--cache.budget_gb=0", "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), varied["outcome"]) == []


def test_views_of_limited_epochs_resume_too(data: Path, tmp_path: Path) -> None:
    flags = [*VARIED, *LIMITED, "--cache.views=2"]
    assert fit(tmp_path / "whole", data, *flags) == 0
    interrupted(tmp_path / "run", data, ("batch", 4, 1), *flags)
    assert fit(tmp_path / "run", data, *flags, "--resume=auto") == 0
    assert differences(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


def test_another_seed_draws_other_views(varied: dict, data: Path, tmp_path: Path) -> None:
    SERVED.clear()
    flags = [*varied["flags"], "--data.seed=9", "--trainer.max_epochs=1", "--stages.full_finetune_epochs=0"]
    assert fit(tmp_path / "run", data, *flags, *WATCH) == 0
    assert not torch.allclose(SERVED[0][2][0], varied["served"][0][2][0])


def test_another_number_of_views_is_refused_on_resuming(varied: dict, data: Path, tmp_path, capsys) -> None:
    interrupted(tmp_path / "run", data, ("epoch", 2, 0), *varied["flags"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    capsys.readouterr()
    assert fit(tmp_path / "run", data, *varied["flags"], "--cache.views=4", "--resume=auto") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "cache.views 3" in last
    assert "asks for 4" in last
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_resuming_without_the_stored_views_is_said(varied: dict, data: Path, tmp_path: Path, capsys) -> None:
    """From then on the windows are varied for every batch: the run goes on, but as another one."""
    interrupted(tmp_path / "run", data, ("epoch", 2, 0), *varied["flags"])
    capsys.readouterr()
    assert fit(tmp_path / "run", data, *varied["flags"], "--cache.enabled=false", "--resume=auto") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "not exactly" in line]
    assert len(said) == 1
    assert "cache.enabled" in said[0]
