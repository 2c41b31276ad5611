"""The best epoch is chosen among epochs that were validated, and by their figures only."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from butppg_lightning.cli import main
from butppg_lightning.training.selection import QUALITY, Selection

SIZE = ["--config", "finetune.yaml", "--config", "tiny.yaml", "--model.lr", "1e-2", "--stages.head_only_epochs", "2"]


def fit(data: Path, output: Path, *more: str) -> int:
    return main(["fit", *SIZE, "--data.root", str(data), "--output_dir", str(output), *more])


@pytest.mark.parametrize("every", [2, 3])
def test_an_epoch_that_was_not_validated_is_never_the_best(
    every: int, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.max_epochs", "7", "--trainer.check_val_every_n_epoch", str(every)]
    assert fit(data_folder, tmp_path / "run", *words) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    validated = {epoch for epoch in range(1, 8) if epoch % every == 0}
    for number, line in enumerate(lines, 1):
        assert ("val_auroc" in line) == (number in validated), line
        assert number in validated or "best so far" not in line, line
    history = json.loads((tmp_path / "run" / "training_history.json").read_text())["val_auroc"]
    scores = {epoch: score for epoch, score in enumerate(history) if score is not None}
    assert {epoch + 1 for epoch in scores} == validated
    best = torch.load(tmp_path / "run" / "best_model.pt", weights_only=True)
    assert best["epoch"] == max(scores, key=lambda epoch: (scores[epoch], -epoch))
    assert best["metrics"]["auroc"] == scores[best["epoch"]]


def test_a_run_in_which_no_epoch_would_be_validated_is_refused(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "5"]
    assert fit(data_folder, tmp_path / "run", *words) == 2
    assert "no epoch would be validated" in capsys.readouterr().err
    assert fit(data_folder, tmp_path / "last", *words, "--select", "last") == 0


def test_a_run_cut_short_before_any_validation_says_what_its_best_model_is(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "3", "--trainer.max_steps", "3"]
    assert fit(data_folder, tmp_path / "run", *words) == 0
    printed = capsys.readouterr()
    assert "best so far" not in printed.out
    assert "ended before any epoch was validated" in printed.err
    assert (tmp_path / "run" / "best_model.pt").is_file()


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_best_is_the_first_highest_and_survives_a_resume(scores: list[float | None]) -> None:
    whole, taken_up = Selection(QUALITY), Selection(QUALITY)
    for epoch, score in enumerate(scores):
        figures = {"val_auroc": score, "val_loss": 0.5, "train_loss": 0.5}
        found = whole.update(figures, epoch)
        again = Selection(QUALITY)
        again.load_state_dict(json.loads(json.dumps(taken_up.state_dict())))
        taken_up = again
        assert taken_up.update(figures, epoch) == found
    assert taken_up.epoch == whole.epoch
    if scores[0] is not None:
        known = [score for score in scores if score is not None]
        assert whole.score == max(known)
        assert whole.epoch == scores.index(max(known))
    else:
        assert whole.monitor == ("val_loss", "min")
        assert not math.isnan(whole.score)
