"""The `butppg` command: a table of commands, one file a command, each imported only when it is asked for."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable


class Command(NamedTuple):
    """What a command does (its line in ``butppg --help``) and where it lives.

    A command ``a b-c`` is the ``typed`` function ``b_c`` of ``cli/a/b_c.py``, for which
    :func:`butppg_lightning.cli.parser.run_function` parses. A ``training`` command's function takes the arguments and
    gives them to LightningCLI; an ``own`` one's is called ``run`` and parses them itself. ``folder`` is the option of a
    typed one that names the folder which it needs for itself.
    """

    summary: str
    module: str = ""
    kind: Literal["typed", "training", "own"] = "typed"
    folder: str = ""


COMMANDS = {
    "mock": Command("write synthetic BUT PPG splits or VitalDB-like windows", folder="output"),
    "prepare but-ppg": Command("the BUT PPG release of PhysioNet -> train, val and test", folder="output"),
    "prepare splits": Command("one labelled npz with subjects -> train, val and test", folder="output"),
    "prepare vitaldb-splits": Command("cases of VitalDB -> train, val and test, by patient", "prepare.vitaldb"),
    "prepare vitaldb-windows": Command(
        "those cases -> windows of PPG and ECG for pretraining", "prepare.vitaldb", folder="output"
    ),
    "pretrain": Command("pretrain an encoder by masked signal modelling", "training", "training"),
    "fit": Command("fine-tune the quality classifier in stages, then test it", "finetune", "training"),
    "sweep": Command("search the options of fit, with any number of workers on one study", "sweep", "own"),
    "validate": Command("print a checkpoint's metrics on val.npz", "finetune", "training"),
    "test": Command("print a checkpoint's metrics on test.npz", "finetune", "training"),
    "predict": Command("write a checkpoint's probabilities for a split", "finetune", "training"),
    "calibrate": Command("make a checkpoint's probabilities mean what they say, and set its thresholds"),
    "evaluate": Command("write a checkpoint's metrics and a report with pictures", folder="output_dir"),
    "score": Command("score every window of a long recording, or of many"),
    "export": Command("write a classifier as ONNX (checked against torch) or safetensors"),
    "completion": Command("print a script for bash or zsh that completes commands on TAB"),
    "inspect": Command("say what a checkpoint, an npz file or a run folder contains"),
}


def load(name: str) -> Callable[..., None]:
    """Import the function that is a command."""
    command, path = COMMANDS[name], name.replace("-", "_").replace(" ", ".")
    collecting = gc.isenabled()
    gc.disable()  # imports make much and leave nothing to collect: looking for it takes a sixth of their time
    try:
        if command.kind == "training":
            from butppg_lightning.cli.quick_start import import_lightning

            import_lightning()
        module = importlib.import_module(f"butppg_lightning.cli.{command.module or path}")
    finally:
        if collecting:
            gc.enable()
    function: Callable[..., None] = getattr(module, "run" if command.kind == "own" else path.rpartition(".")[2])
    return function


def main(arguments: list[str] | None = None) -> int:
    """Run the `butppg` command.

    Args:
        arguments: The words after ``butppg``; None for those of the process.

    Returns:
        The exit code: 0; 2 after a mistake of the user's, which is reported in one line; 130 or 143 after a signal;
        141 when nobody reads the output any more.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # as `python -m` does: where a user's own encoder or callback is
    try:
        _dispatch(words)
        sys.stdout.flush()
    except SystemExit as stop:  # --help and --print_config end this way
        return int(stop.code or 0)
    except BrokenPipeError:  # `butppg ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again as it ends
        return 141
    except Exception as error:
        from butppg_lightning.cli.messages import resource_line

        line = str(error) if isinstance(error, UserError) else resource_line(error, words)
        if debug or line is None:
            raise
        print(f"butppg: {line}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("butppg: interrupted", file=sys.stderr)
        return 130
    return 0


def run() -> NoReturn:
    """Be the `butppg` process: run the command, do what is registered for the end, and end at once.

    Python would first take its objects apart one by one, which the system does faster: a second after torch, Lightning
    and matplotlib. All that is written has been closed by then. A profiler or debugger that watches still has its say.
    """
    code = main()
    if sys.getprofile() is not None or sys.gettrace() is not None:
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # what Python does first: it waits for threads that go on
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from butppg_lightning.version import __version__

        print(__version__)
        return
    name, rest = _split(arguments)
    if name not in COMMANDS:  # the first word of several commands: butppg prepare
        print(f"usage: butppg {name} WHAT [OPTIONS]\n\n{_table(name + ' ')}")
        return
    if COMMANDS[name].kind == "training":
        from butppg_lightning.cli.configs import refuse_unknown_keys

        refuse_unknown_keys(name, rest)  # before the imports, which take seconds
    from butppg_lightning.cli.parser import run_function, underscored

    if COMMANDS[name].kind == "typed":
        run_function(name, load(name), rest, COMMANDS[name].folder)
    else:
        load(name)([underscored(word) for word in rest])


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the command, or the first word of several when help on them is wanted, and its arguments."""
    first, rest = arguments[0], arguments[1:]
    below = [name.split()[1] for name in COMMANDS if name.startswith(f"{first} ")]
    if first in COMMANDS or (below and (not rest or rest[0] in ("-h", "--help"))):
        return first, rest
    if below and rest[0] in below:
        return f"{first} {rest[0]}", rest[1:]
    if below:
        raise UserError(f"cannot {first} '{rest[0]}'; choose {', '.join(below)}")
    import difflib

    near = difflib.get_close_matches(first, {name.split()[0] for name in COMMANDS}, n=1)
    hint = f"; the nearest is {near[0]}" if near else "; `butppg --help` lists them"
    raise UserError(f"unknown command '{first}'{hint}")


def _table(prefix: str = "") -> str:
    """Return a line for every command, or for those whose name begins so."""
    found = {name.removeprefix(prefix): COMMANDS[name].summary for name in COMMANDS if name.startswith(prefix)}
    width = max(map(len, found))
    return "\n".join(f"  {name:<{width}}  {summary}" for name, summary in found.items())


def _help() -> str:
    return f"""\
usage: butppg COMMAND [OPTIONS]

Quality of PPG windows: pretrain on PPG and ECG, inflate to five channels, fine-tune in stages.

{_table()}

`butppg COMMAND --help` shows a command's options; --debug shows the traceback of an error.

Example:
  butppg mock --output data/but_ppg --samples 1000 --seed 0
  butppg fit --config finetune.yaml --data.root data/but_ppg --output_dir artifacts/run"""
