import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from butppg_lightning.training import progress
from butppg_lightning.training.run_logs import stage_rows


def stub_trainer(epoch: int, epochs: int, batches: int) -> SimpleNamespace:
    loop = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(completed=0)))
    return SimpleNamespace(
        current_epoch=epoch,
        max_epochs=epochs,
        num_training_batches=batches,
        accumulate_grad_batches=2,
        callbacks=[],
        optimizers=[SimpleNamespace(param_groups=[{"lr": 1e-3}])],
        lr_scheduler_configs=[],
        lightning_module=SimpleNamespace(hparams={}),
        callback_metrics={"val_auroc": torch.tensor(0.9)},
        sanity_checking=False,
        state=SimpleNamespace(fn="fit"),
        fit_loop=SimpleNamespace(epoch_loop=loop),
    )


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> progress.RunProgress:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    return progress.RunProgress()


def test_line_tells_stage_figures_and_the_whole_runs_time(bar, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    trainer = stub_trainer(epoch=1, epochs=4, batches=10)
    monkeypatch.setattr(progress, "stage_name", lambda _: "stage2_partial")
    bar.on_validation_end(trainer, None)
    bar.on_train_epoch_start(trainer, None)
    now[0] = 5.0
    bar.on_train_batch_end(trainer, None, {"loss": torch.tensor(0.25)}, None, 4)
    task = bar._progress.tasks[0]
    assert task.description == "2/4 stage2_partial"
    assert (task.completed, task.total) == (5, 10)
    assert task.fields["figures"] == "loss 0.500 val AUROC 0.900 lr 1.0e-03"
    assert task.fields["left"] == "0:25 left"  # 10 s an epoch: half of this one, and two more
    bar.on_train_epoch_end(trainer, None)
    assert bar._progress is None


@pytest.mark.parametrize(
    ("terminal", "variables", "wanted"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_bar_is_for_terminals_that_may_be_drawn_on(terminal, variables, wanted, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert progress.is_wanted() is wanted


def test_line_fits_into_eighty_columns(bar, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), width=80, force_terminal=True)
    trainer = stub_trainer(epoch=11, epochs=40, batches=10)
    monkeypatch.setattr(progress, "stage_name", lambda _: "stage1_head_only")
    bar.on_validation_end(trainer, None)
    bar.on_train_epoch_start(trainer, None)
    bar.on_train_batch_end(trainer, None, {"loss": torch.tensor(0.25)}, None, 4)
    screen.print(bar._progress.get_renderable())
    assert screen.file.getvalue().count("\n") == 1
    assert "val AUROC 0.900" in screen.file.getvalue()
    assert " left" in screen.file.getvalue()


def test_summary_has_a_row_for_each_stage() -> None:
    history = {
        "stage": ["head", "head", "all"],
        "val_auroc": [0.7, 0.6, None],
        "train_loss": [0.5, 0.4, None],
        "val_loss": [0.6, 0.7, 0.8],
    }
    assert stage_rows(history, [1.0, 2.0, 3.0]) == [
        ("head", "2", "0.7000", "1", "0.4000", "0.7000", "3.0 s"),
        ("all", "1", "undefined", "", "undefined", "0.8000", "3.0 s"),
    ]
    # an earlier version of the package ran the first two epochs
    assert [row[-1] for row in stage_rows(history, [3.0])] == ["unknown", "3.0 s"]
