"""A function as a command: its arguments typed and documented by itself, a user's mistake in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from jsonargparse import ArgumentError, ArgumentParser

from butppg_lightning.errors import UserError


def run_typed(function: Callable[..., None], folder: str, name: str, arguments: Sequence[str] | None) -> int:
    """Call ``function`` with the arguments of the command line, and return the exit code.

    ``python folder`` is what was typed, and ``name`` stands before the line of a mistake.
    """
    about = (function.__doc__ or "").partition("Args:")[0]
    parser = ArgumentParser(prog=f"python {folder}", description=about, exit_on_error=False)
    parser.add_function_arguments(function, as_group=False)
    try:
        function(**vars(parser.parse_args(arguments)))
    except ArgumentError as error:
        print(f"{name}: {' '.join(str(error).split())}; see --help", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    return 0
