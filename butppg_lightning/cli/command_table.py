"""The `butppg` command: a table of commands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

from butppg_lightning.errors import UserError


class Command(NamedTuple):
    """Where a command lives and what it does."""

    module: str
    function: str
    summary: str


_HOME = "butppg_lightning.cli"
COMMANDS = {
    "mock": Command(f"{_HOME}.mock", "run", "write synthetic BUT PPG splits or VitalDB-like windows"),
    "prepare": Command(f"{_HOME}.prepare", "run", "make splits and windows from recordings: BUT PPG, VitalDB, one npz"),
    "pretrain": Command(f"{_HOME}.pretrain", "pretrain", "pretrain an encoder by masked signal modelling"),
    "fit": Command(f"{_HOME}.finetune", "fit", "fine-tune the quality classifier in stages, then test it"),
    "sweep": Command(f"{_HOME}.sweep", "run", "search the options of fit, with any number of workers on one study"),
    "validate": Command(f"{_HOME}.finetune", "validate", "print a checkpoint's figures on val.npz"),
    "test": Command(f"{_HOME}.finetune", "test", "print a checkpoint's figures on test.npz"),
    "predict": Command(f"{_HOME}.finetune", "predict", "write a checkpoint's probabilities for a split"),
    "calibrate": Command(
        f"{_HOME}.calibrate", "run", "make a checkpoint's probabilities mean what they say, and set its thresholds"
    ),
    "evaluate": Command(f"{_HOME}.evaluate", "run", "write a checkpoint's figures and a report with pictures"),
    "score": Command(f"{_HOME}.score", "run", "tell the quality of every window of a long recording"),
    "export": Command(f"{_HOME}.export", "run", "write a classifier as ONNX (checked against torch) or safetensors"),
    "completion": Command(
        f"{_HOME}.completion", "run", "print a script for bash or zsh that completes commands on TAB"
    ),
    "inspect": Command(f"{_HOME}.inspect", "run", "tell what a checkpoint, an npz file or a run folder contains"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the `butppg` command.

    Args:
        arguments: The words after ``butppg``; None for those of the process.

    Returns:
        The exit code: 0; 2 after a mistake of the user's, which is told in one line; 130 or 143 after a signal;
        141 when nobody reads the output any more.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        _dispatch(words)
        sys.stdout.flush()
    except UserError as error:
        if debug:
            raise
        print(f"butppg: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:  # --help and --print_config end this way
        return int(stop.code or 0)
    except BrokenPipeError:  # `butppg ... | head` has read enough
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again as it ends
        return 141
    except (MemoryError, RuntimeError, OSError) as error:
        from butppg_lightning.cli.memory import ran_out

        if debug or not ran_out(error):
            raise
        size = "" if words[0] in ("mock", "prepare", "completion") else "; use a smaller --batch_size"
        print(f"butppg: out of memory in `butppg {words[0]}`{size}, or end other programs", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("butppg: interrupted", file=sys.stderr)
        return 130
    return 0


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if words[0] == "--version":
        from butppg_lightning.version import __version__

        print(__version__)
        return
    if words[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; the nearest is {near[0]}" if near else "; `butppg --help` lists them"
        raise UserError(f"unknown command '{words[0]}'{hint}")
    from butppg_lightning.cli.parser import normalise_dashes

    command = COMMANDS[words[0]]
    getattr(importlib.import_module(command.module), command.function)(normalise_dashes(words[1:]))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: butppg COMMAND [OPTIONS]",
            "",
            "Quality of PPG windows: pretrain on PPG and ECG, inflate to five channels, fine-tune in stages.",
            "",
            *lines,
            "",
            "`butppg COMMAND --help` shows a command's options; --debug shows the traceback of an error.",
            "",
            "Example:",
            "  butppg mock --output data/but_ppg --samples 1000 --seed 0",
            "  butppg fit --config finetune.yaml --data.root data/but_ppg --output_dir artifacts/run",
        ]
    )
