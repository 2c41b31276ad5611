"""Whole processes, timed: seconds from start to end, and the most memory that was the process's own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CLOCK = "clock.json"
_INTERVAL = 0.1  # seconds between two looks at a process's memory


@dataclass
class Run:
    """What a finished process cost.

    Attributes:
        seconds: From start to end, imports included.
        peak_bytes: The most it held beside pages of files (which the system takes back when it needs them), looked
            at ten times a second; 0 where the system has no /proc.
        output: What it printed on stdout.
        log: What it printed on stderr.
        epochs: What EpochClock measured, one entry an epoch.
        begin: When it was started, on the clock that all processes share.
    """

    seconds: float
    peak_bytes: int
    output: str
    log: str
    epochs: list[dict[str, float]] = field(default_factory=list)
    begin: float = 0.0

    def median(self, part: str, epochs: slice) -> float:
        """Return the median of a part's seconds over some epochs."""
        return statistics.median(epoch[part] for epoch in self.epochs[epochs])

    def scaled(self, windows: float, first: int, second: int) -> float:
        """Return what a longer run would take, from one of two epochs of each stage.

        Args:
            windows: How many times as many windows.
            first: Epochs of the first stage.
            second: Epochs of the second stage.

        Returns:
            Seconds: each stage's second epoch (its first also pays for what happens once) times windows and epochs;
            what lies outside the epochs stays as it is.
        """
        whole = [epoch["whole"] for epoch in self.epochs]
        if len(whole) != 4:
            raise RuntimeError(f"expected two epochs of each stage, found {len(whole)}")
        return self.seconds - sum(whole) + windows * (first * whole[1] + second * whole[3])


def butppg(words: list[str], folder: Path, *, clock: bool = False, **variables: str) -> Run:
    """Run a `butppg` command, with further environment ``variables``; with ``clock`` its epochs are timed.

    Args:
        words: The words after ``butppg``.
        folder: Where its log, and the clock's file, go.
        clock: Whether to add EpochClock.
        variables: Of its environment.

    Raises:
        RuntimeError: If it fails; the message is the last line it printed.
    """
    if clock:
        words = [*words, "--trainer.callbacks+=clock.EpochClock", f"--trainer.callbacks.path={folder / CLOCK}"]
    return process([sys.executable, "-m", "butppg_lightning", *words], folder, **variables)


def script(name: str, words: list[str], folder: Path) -> Run:
    """Run a script of this folder, as :func:`butppg` does."""
    return process([sys.executable, str(HERE / name), *words], folder)


def process(command: list[str], folder: Path, **variables: str) -> Run:
    """Run a command in a process of its own, with further environment ``variables``.

    Raises:
        RuntimeError: If it fails; the message is the last line it printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
    peak = [0]
    with (folder / "stdout.txt").open("w") as output, (folder / "stderr.txt").open("w") as log:
        begin = time.monotonic()
        with subprocess.Popen(command, stdout=output, stderr=log, env=environment) as child:
            # a thread looks at the memory: waiting with a timeout would find the end up to 50 ms late
            watcher = threading.Thread(target=_watch, args=(child, peak), daemon=True)
            watcher.start()
            try:
                code = child.wait()
            except BaseException:
                child.kill()
                raise
        seconds = time.monotonic() - begin
        watcher.join()
    texts = [(folder / name).read_text(errors="replace") for name in ("stdout.txt", "stderr.txt")]
    if code:
        lines = [line for text in texts for line in text.splitlines() if line.strip()]
        raise RuntimeError(f"exit code {code}: {lines[-1] if lines else 'no output'}")
    clock = folder / CLOCK
    return Run(seconds, peak[0], *texts, json.loads(clock.read_text()) if clock.exists() else [], begin)


def answer(run: Run) -> dict[str, Any]:
    """Return the JSON object that a script printed as its last line."""
    found: dict[str, Any] = json.loads(run.output.splitlines()[-1])
    return found


def _watch(child: subprocess.Popen, peak: list[int]) -> None:
    while child.returncode is None:
        peak[0] = max(peak[0], own_bytes(child.pid))
        time.sleep(_INTERVAL)


def own_bytes(pid: int) -> int:
    """Return the resident bytes of a process less those of mapped files; 0 if it has ended, or without /proc.

    RssAnon and RssShmem of /proc/PID/status; smaps_rollup says the same but walks all pages, and the process waits.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
