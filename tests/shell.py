"""What a shell makes of a command that a message suggests."""

from __future__ import annotations

import re
import subprocess

from butppg_lightning.cli import main

NASTY = ("with a blank", "it's", 'a "quote"', "x; touch broken", "$HOME and $(touch broken)", "-dash", "a$b `c`")


def suggested(text: str, command: str = "butppg") -> list[str]:
    """Return the words that a shell would give to `butppg` for the last suggestion in a text."""
    line = re.findall(rf"{command} .*", text)[-1]
    script = f"butppg() {{ printf '%s\\0' \"$@\"; }}; {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def run_suggested(text: str, *more: str, command: str = "butppg") -> int:
    """Run the last suggestion in a text, with further options."""
    return main([*suggested(text, command), *more])
