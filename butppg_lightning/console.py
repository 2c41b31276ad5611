"""Tables on the terminal: as wide as it is, and wide enough to be read in a log file."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_LOG_WIDTH = 110


def say(line: str) -> None:
    """Print a line of information on stderr, once for all processes of a run."""
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0")))) == 0:
        print(line, file=sys.stderr)


def quoted(word: str | Path) -> str:
    """Return a word as a shell takes it; a path that begins like an option or a home is one of the working directory.

    Examples:
        >>> quoted("a;b"), quoted(Path("-run"))
        ("'a;b'", './-run')
    """
    return shlex.quote(f"./{word}" if isinstance(word, Path) and str(word)[0] in "-~" else str(word))


def suggestion(command: str, *arguments: str | Path) -> str:
    """Return a command line of `butppg` as a shell takes it; ``arguments`` are any words, ``command`` is as it stands.

    Examples:
        >>> suggestion("fit --config finetune.yaml", "--data.root", Path("my data"))
        "butppg fit --config finetune.yaml --data.root 'my data'"
    """
    return " ".join(["butppg", command, *map(quoted, arguments)])


def print_table(title: str, columns: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> None:
    """Print a table under a title.

    ``columns`` are the headings, the first left-aligned and the others right; None for a table of keys and values.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    table = Table(show_header=columns is not None)
    for number, heading in enumerate(columns or ("", "")):
        left = columns is None or number == 0
        table.add_column(heading, justify="left" if left else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    console.print(table)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, if that is a terminal; yields what is called with the number of items done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, force_jupyter=False)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.advance(task, done)
