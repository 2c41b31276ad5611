"""The `butppg` process ends at once, and yet loses nothing: output, exit codes, what is registered for its end."""

import pstats
import subprocess
import sys
from pathlib import Path

import pytest
from exactness import command, environment

SCRIPT = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
sys.argv = ["butppg", *sys.argv[1:]]
atexit.register(lambda: open("registered", "w").write("done"))
threading.Thread(target=lambda: (time.sleep(0.5), open("thread", "w").write("done"))).start()
idle = ThreadPoolExecutor(1)
idle.submit(print, end="")
from butppg_lightning.cli import run
run()
"""


@pytest.mark.parametrize(("words", "code"), [(["inspect", "shipped"], 0), (["inspect", "nothing.pt"], 2)])
def test_nothing_is_lost(words: list[str], code: int, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == code
    assert (ended.stderr if code else ended.stdout).strip()
    assert (tmp_path / "registered").read_text() == "done"
    assert (tmp_path / "thread").read_text() == "done"


def test_a_pipe_gets_all_of_it(tmp_path: Path) -> None:
    ended = subprocess.run(command("fit", "--help"), cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert ended.returncode == 0
    assert "--model.lr" in ended.stdout


def test_a_profiler_has_its_say(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cProfile", "-o", "times", "-m", "butppg_lightning", "inspect", "shipped"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True).returncode == 0
    assert pstats.Stats(str(tmp_path / "times")).total_tt > 0
