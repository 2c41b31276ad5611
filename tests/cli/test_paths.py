"""`~` and variables mean in YAML and in --key=value what they mean to a shell, for every path."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from exactness import fit
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import Namespace
from lightning.pytorch import Callback

from butppg_lightning.cli import main
from butppg_lightning.cli.paths import expand_path, expand_paths
from butppg_lightning.errors import UserError

SHORT = ["--config=tiny.yaml", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--calibrate=false"]
NAMES = st.text(st.characters(exclude_characters="\0/$~", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)


class Moves(Callback):
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        os.chdir(self.folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, with a working directory beside it."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNS", str(tmp_path / "home" / "my runs"))
    monkeypatch.delenv("UNSET", raising=False)
    return tmp_path / "home"


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_other_paths_stay_as_they_are(names: list[str]) -> None:
    assert expand_path("/".join(names)) == "/".join(names)
    home = os.path.expanduser("~")  # noqa: PTH111
    for start in ("~", "$HOME", "${HOME}"):
        assert expand_path("/".join([start, *names])) == "/".join([home, *names])
    assert expand_path("/".join([names[0] + "${HOME}", *names])) == "/".join([names[0] + home, *names])


@pytest.mark.parametrize("text", ["$UNSET/a", "${UNSET}", "a/x_$UNSET", "$HOME/${UNSET}/a"])
def test_an_unset_variable_is_refused(text: str, home: Path) -> None:
    with pytest.raises(UserError, match="the variable UNSET is not set; set it or write the path out"):
        expand_path(text)


def test_what_exists_stands_for_itself(home: Path) -> None:
    for name in ("$UNSET", "$HOME", "a$b"):
        Path(name).mkdir()
        assert expand_path(name) == name
        assert expand_path(f"{name}/new") == f"{name}/new"
    Path("~").mkdir()
    assert expand_path("~/a") == str(home / "a"), "a folder named ~ is nobody's wish"
    assert expand_path("./~/a") == "./~/a"
    assert expand_path("postgresql://user:pa$word@host/study") == "postgresql://user:pa$word@host/study"


def test_a_part_of_a_typed_name_is_not_a_variable_and_an_unknown_user_is_refused(home: Path) -> None:
    assert expand_path("a$HOME b", ["--output", "a$HOME b"]) == "a$HOME b"
    assert expand_path("$RUNS/a", ["--output=$RUNS/a"]) == f"{home}/my runs/a"
    with pytest.raises(UserError, match="there is no such user"):
        expand_path("~nobody-of-this-name/a")


def test_only_paths_are_expanded_wherever_they_stand(home: Path) -> None:
    given = {"notes": "~/a $UNSET", "logger": [{"init_args": {"save_dir": "~/a", "name": "$UNSET"}}]}
    found = expand_paths(Namespace(**given, input=[Path("~/b.csv")], parameters={"model.pretrained": ["~/c", None]}))
    assert found.notes == "~/a $UNSET"
    assert found.logger[0]["init_args"] == {"save_dir": f"{home}/a", "name": "$UNSET"}
    assert found.input == [home / "b.csv"]
    assert found.parameters == {"model.pretrained": [f"{home}/c", None]}


@pytest.mark.parametrize("how", ["yaml", "typed", "config in the home"])
def test_a_run_in_the_home(how: str, home: Path, data_folder: Path) -> None:
    (home / "d").symlink_to(data_folder)
    content = {"output_dir": "${RUNS}/one", "data": {"root": "~/d"}, "cache": {"folder": "$HOME/features"}}
    flags = ["--output_dir=$RUNS/one", "--data.root=~/d", "--cache.folder=~/features"]
    if how != "typed":
        place = home if how == "config in the home" else Path()
        (place / "o.yaml").write_text(yaml.safe_dump(content))
        flags = ["--config=~/o.yaml" if place == home else "--config=o.yaml"]
    assert main(["fit", "--config", "finetune.yaml", *flags, *SHORT, "--cache.keep=true", "--cache.memory_gb=0"]) == 0
    run = home / "my runs" / "one"
    assert (run / "best_model.pt").is_file()
    assert list((home / "features").glob("*.features"))
    assert [path.name for path in Path().iterdir()] in ([], ["o.yaml"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["output_dir"] == str(run)
    assert main(["fit", f"--config={run}/config.yaml", "--overwrite"]) == 0, "what is recorded can be used again"
    where = ["--data.root=$HOME/d", "--trainer.accelerator=cpu"]
    assert main(["test", *where, "--ckpt_path=~/my runs/one/best_model.pt"]) == 0
    words = ["--data-dir=~/d", "--checkpoint=${RUNS}/one/best_model.pt", "--output-dir=~/seen"]
    assert main(["evaluate", *words]) == 0
    assert (home / "seen" / "report.html").is_file()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.pretrained", "{home}/none"),
        ("resume", "checkpoint {home}/none not found"),
        ("ckpt_path", "checkpoint {home}/none not found"),
        ("data.root", "data folder {home}/none does not exist"),
        ("output_dir", "the variable UNSET is not set"),
    ],
)
def test_every_path_of_a_fit(key: str, message: str, home: Path, data_folder: Path, capsys: Any) -> None:
    value = "$UNSET/none" if "UNSET" in message else "~/none"
    section, _, name = key.rpartition(".")
    Path("o.yaml").write_text(yaml.safe_dump({section: {name: value}} if section else {name: value}))
    flags = ["--config=o.yaml"] if section != "data" else ["--config=o.yaml", "--data.root=~/none"]
    assert main(["fit", "--config=finetune.yaml", "--data.root", str(data_folder), *flags, *SHORT]) == 2
    assert message.format(home=home) in capsys.readouterr().err


def test_a_sweep_takes_them_too(home: Path, data_folder: Path, capsys: Any) -> None:
    (home / "base.yaml").write_text("trainer: {max_epochs: 1}\n")
    content = {"base": ["finetune.yaml", "~/base.yaml"], "output_dir": "~/sweep", "trials": 0}
    content |= {"fixed": {"data": {"root": "$HOME/d"}}, "parameters": {"model.pretrained": ["~/none", None]}}
    (home / "d").symlink_to(data_folder)
    Path("s.yaml").write_text(yaml.safe_dump(content))
    assert main(["sweep", "--config=s.yaml", "--config=tiny.yaml"]) == 2
    assert f"{home}/none" in capsys.readouterr().err


def test_a_run_stays_in_its_folder_when_the_working_directory_changes(home: Path, data_folder: Path) -> None:
    class_path = "--trainer.callbacks+=test_paths.Moves"
    assert fit(Path("run"), data_folder, *SHORT, class_path, f"--trainer.callbacks.folder={home}") == 0
    assert (home.parent / "work" / "run" / "test_metrics.json").is_file()
    assert list(home.iterdir()) == []
