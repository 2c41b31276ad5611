"""A mistyped key of a training command ends at once; a key that the real parser knows is never refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from butppg_lightning.cli import main
from butppg_lightning.cli.configs import known_groups, known_options, refuse_unknown_keys, shipped_configs
from butppg_lightning.errors import UserError

COMMANDS = ("fit", "validate", "test", "predict", "pretrain")


@pytest.fixture(scope="module")
def real_options() -> dict[str, set[str]]:
    """The options of the real parsers."""
    from butppg_lightning.cli import finetune, training

    found: dict[str, set[str]] = {}

    class Stop(Exception):
        pass

    def note(cli: Any, parser: Any, args: Any) -> None:
        found[cli.command] = {word for action in parser._actions for word in action.option_strings}
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.TrainingCLI, "parse_arguments", note)
        for command in COMMANDS:
            module = training if command == "pretrain" else finetune
            with pytest.raises(Stop):
                getattr(module, command)([])
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_real_parser_passes(command: str, real_options: dict[str, set[str]]) -> None:
    assert len(real_options[command]) > 50
    refuse_unknown_keys(command, sorted(real_options[command] - {"-h", "--help", "-c", "--config"}))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_known_is_what_the_real_parser_has(command: str, real_options: dict[str, set[str]]) -> None:
    for group, names in known_groups(command).items():
        assert names, f"nothing is known of {group}: typing errors in it would take seconds"
        assert {f"--{group}.{name}" for name in names} <= real_options[command]
    every = set().union(*real_options.values())
    assert {f"--{name}" for name in known_options()} <= every | {"--trainer"}


@pytest.mark.parametrize(
    "typed",
    [
        "--trainer.callbacks+=lightning.pytorch.callbacks.DeviceStatsMonitor --trainer.callbacks.cpu_stats true",
        "--trainer.logger lightning.pytorch.loggers.CSVLogger --trainer.logger.save_dir x",
        "--trainer.logger.init_args.save_dir=x --trainer.callbacks.help EarlyStopping --trainer.plugins x",
        "--model.augment.shift 0.1 --model.channel_dropout.ECG 0.5 --model.inflation.noise 0 --model.encoder.a.b 1",
        "--model.encoder={class_path: my.Encoder} --model.finetune-channels+ PPG --stages.plan+={trainable:head}",
        "--print_config --print_config=skip_default --data x.yaml --model.help --seed-everything=3",
        "--config finetune.yaml -c tiny.yaml --config=small.yaml",
    ],
)
def test_whatever_may_be_meant_passes(typed: str) -> None:
    refuse_unknown_keys("fit", typed.split(" "))


@pytest.mark.parametrize("config", sorted(path.name for path in shipped_configs().glob("*.yaml")))
def test_shipped_configs_pass(config: str) -> None:
    refuse_unknown_keys("pretrain" if config.startswith(("pretrain", "adapt")) else "fit", ["--config", config])


@pytest.mark.parametrize(
    ("command", "typed", "message"),
    [
        ("fit", "--model.learning-rate 1", "unknown option --model.learning_rate; the nearest is --model.lr"),
        ("fit", "--trainer.max_epoch=1", "unknown option --trainer.max_epoch; the nearest is --trainer.max_epochs"),
        ("fit", "--output 3", "unknown option --output; the nearest is --output_dir"),
        ("pretrain", "--model.head mlp", "unknown option --model.head; "),
        ("pretrain", "--config finetune.yaml", "unknown option --"),
        ("fit", "--config mine.yaml", "config mine.yaml: unknown option --stages.head_epochs; the nearest is "),
        ("test", "--config nowhere.yaml", "config nowhere.yaml not found"),
    ],
)
def test_a_mistyped_key_is_refused(
    command: str, typed: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("$schema: s.json\nmodel: {lr: 1}\nstages: {head_epochs: 3}\n")
    with pytest.raises(UserError) as found:
        refuse_unknown_keys(command, typed.split(" "))
    assert message in str(found.value)


def test_it_happens_before_the_heavy_imports() -> None:
    script = (
        "import sys; from butppg_lightning.cli import main; assert main(['fit', '--model.learning_rate', '1']) == 2; "
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_shows_our_keys_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # where it is longest
    assert main(["fit", "--help"]) == 0
    _, _, text = capsys.readouterr().out.partition("\noptions:")
    order = ["--output_dir ", "--data.root", "--model.lr ", "--stages.plan", "--cache.enabled", "--trainer.max_epochs"]
    assert sorted(order, key=text.index) == order
    assert "--trainer.limit_val_batches" not in text
    assert "--data.help" not in text
    assert text.endswith("All keys of Lightning's trainer: butppg fit --help.trainer\n")
    assert len(text.splitlines()) < 250
    assert main(["fit", "--help.trainer"]) == 0
    text = capsys.readouterr().out
    assert "--trainer.limit_val_batches" in text
    assert "--data.root" not in text.partition("\ntrainer: ")[2]
