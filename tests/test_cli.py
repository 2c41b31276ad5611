import os
import subprocess
import sys
from pathlib import Path

import pytest

from butppg_lightning.cli import COMMANDS, main


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "butppg_lightning", "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import butppg_lightning",
        "from butppg_lightning.cli import main; main(['--help'])",
        "from butppg_lightning.cli import main; main(['mock', '--help'])",
    ],
)
def test_cheap_commands_load_no_heavy_module(code: str) -> None:
    assert not modules_after(code) & {"torch", "lightning", "scipy.signal", "matplotlib"}


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in printed
        assert command.summary in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"butppg {command}" in capsys.readouterr().out


def test_public_names_are_importable() -> None:
    import butppg_lightning

    for name in butppg_lightning.__all__:
        assert getattr(butppg_lightning, name) is not None
    with pytest.raises(AttributeError):
        butppg_lightning.nonsense  # noqa: B018


def test_top_level_is_as_designed() -> None:
    root = Path(__file__).resolve().parents[1]
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False).stdout
    names = {line.split("/")[0] for line in tracked.splitlines() if not line.startswith(".")}
    allowed = {"butppg_lightning", "configs", "tests", "notebooks", "pyproject.toml", "Makefile", "README.md"}
    assert names <= allowed | {"LICENSE", "CITATION.cff"}
