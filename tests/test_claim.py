"""A folder that a process holds: exactly one, until it ends or dies, with and without locks of the file system."""

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from butppg_lightning.errors import UserError
from butppg_lightning.files import claim

# a file system without locks is one on which flock fails like this
PROLOGUE = """
import errno, fcntl, os, sys, time
from pathlib import Path
if sys.argv[2]:
    def flock(*_):
        raise OSError(getattr(errno, sys.argv[2]), "no locks here")
    fcntl.flock = flock
from butppg_lightning.errors import UserError
from butppg_lightning.files import claim
"""
HOLD = "with claim(Path(sys.argv[1])):\n    {before}\n    print('held', os.getpid(), flush=True)\n    time.sleep(60)\n"
TRY = """
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
try:
    with claim(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error)
"""
KINDS = ["", "ENOLCK", "EOPNOTSUPP", "ENOSYS"]


def start(code: str, folder: Path, kind: str, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-W", "error", "-c", PROLOGUE + code, str(folder), kind, *more]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def without_locks(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def flock(*_: object) -> None:
        raise OSError(getattr(errno, kind), "no locks here")

    if kind:
        monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_holds_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, kind)
    holder = start(HOLD.format(before=""), tmp_path, kind)
    assert holder.stdout.readline().startswith("held")
    with pytest.raises(
        UserError, match=rf"in use by process {holder.pid} on .*, since 20.*wait for its end or stop it"
    ):
        claim(tmp_path).__enter__()
    holder.kill()
    holder.wait()
    with claim(tmp_path):
        assert json.loads((tmp_path / ".claim.json").read_text())["pid"] != holder.pid
    assert list(tmp_path.iterdir()) == []


def test_an_orphan_does_not_keep_what_its_parent_held(tmp_path: Path) -> None:
    """A loader's worker lives on for some seconds after a run was killed."""
    # the worker says so, because only then it has run, and let go of what it was born with
    worker = "if not os.fork():\n        print('held', flush=True)\n        time.sleep(5)\n        os._exit(0)"
    holder = start(HOLD.format(before=f"{worker}\n    time.sleep(60)"), tmp_path, "")
    assert holder.stdout.readline().startswith("held")
    holder.kill()
    holder.wait()
    with claim(tmp_path):
        pass


@pytest.mark.parametrize("kind", ["", "ENOLCK"])
def test_of_many_at_once_exactly_one_holds_it(kind: str, tmp_path: Path) -> None:
    folder, begin = tmp_path / "new" / "run", tmp_path / "begin"
    crowd = [start(TRY, folder, kind, str(begin)) for _ in range(6)]
    time.sleep(0.5)
    begin.touch()
    said = [process.stdout.readline().strip() for process in crowd]
    for process in crowd:
        process.communicate("")
    assert sorted(line == "held" for line in said) == [False] * 5 + [True]
    assert all("in use by" in line for line in said if line != "held")


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with claim(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_host_without_locks_is_never_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, "ENOLCK")
    (tmp_path / ".claim.marker").write_text("1\nelsewhere\n")
    (tmp_path / ".claim.json").write_text('{"pid": 1, "host": "elsewhere", "since": "today"}')
    with pytest.raises(UserError, match=r"process 1 on elsewhere.*if it is dead, remove .*\.claim\.marker"):
        claim(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder"):
        claim(tmp_path / "file" / "run").__enter__()
