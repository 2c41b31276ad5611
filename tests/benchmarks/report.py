"""The table of the benchmark: on the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from butppg_lightning.console import print_table
from butppg_lightning.files import atomic_write, write_json

COLUMNS = ("what", "measured", "reference", "ratio", "goal", "reached")
_PACKAGES = ("butppg-lightning", "torch", "lightning", "numpy", "neurokit2")


@dataclass
class Row:
    """A line of the table.

    Attributes:
        what: What was measured.
        measured: The figure.
        reference: What it is compared with.
        ratio: The comparison.
        goal: What was aimed at.
        reached: Whether it was; None where nothing was aimed at, or nothing measured.
        note: How it was measured, and figures beside.
        figures: Plain numbers, for the JSON file.
    """

    what: str
    measured: str
    reference: str = ""
    ratio: str = ""
    goal: str = ""
    reached: bool | None = None
    note: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def cells(self, number: str) -> tuple[str, ...]:
        """Return the cells, with the number of the row's note."""
        reached = {True: "yes", False: "no", None: "-"}[self.reached]
        return (self.what + number, self.measured, self.reference, self.ratio, self.goal, reached)


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) / 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")]
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    return {
        "CPU": names[0] if names else platform.processor() or platform.machine(),
        "cores": f"{cores}" + (f", OMP_NUM_THREADS={threads}" if threads else ""),
        "memory": f"{memory[0]:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.release()}, load {os.getloadavg()[0]:.1f} before the start",
        "versions": ", ".join([f"python {platform.python_version()}", *map(_version, _PACKAGES)]),
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
    }


def show(facts: dict[str, str], rows: list[Row]) -> None:
    """Print the table, with the notes below."""
    print_table("Costs", None, list(facts.items()))
    print_table("", COLUMNS, [row.cells(number) for row, number in _numbered(rows)])
    print("\n".join(f"{number.strip()} {row.note}" for row, number in _numbered(rows) if row.note))


def save(folder: Path, facts: dict[str, str], rows: list[Row]) -> None:
    """Write costs.md and costs.json."""
    lines = [f"{', '.join(f'{key} {value}' for key, value in facts.items())}", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(row.cells(number))} |" for row, number in _numbered(rows)]
    lines += ["", *(f"{number.strip()} {row.note}  " for row, number in _numbered(rows) if row.note)]
    with atomic_write(folder / "costs.md") as file:
        file.write("\n".join([*lines, ""]).encode())
    write_json(folder / "costs.json", {"machine": facts, "rows": [asdict(row) for row in rows]})


def _numbered(rows: list[Row]) -> list[tuple[Row, str]]:
    noted = [id(row) for row in rows if row.note]
    return [(row, f" [{noted.index(id(row)) + 1}]" if row.note else "") for row in rows]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"
