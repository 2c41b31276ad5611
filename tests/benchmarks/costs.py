"""What training and scoring cost on this machine, as one table.

Nothing passes or fails here: the table says whether a goal was reached. The whole takes over an hour on 2 cores
(and 6 GB on disk, under --output, while it runs); run it on a machine that does nothing else.

    python tests/benchmarks/costs.py --output artifacts/bench
    python tests/benchmarks/costs.py --only rates scoring
    python tests/benchmarks/costs.py --quick          # tiny sizes: does every row still run? The figures mean nothing
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import kernel_rows
import process_rows
import report
import scoring_rows
import training_rows
from bench import QUICK, Bench, Sizes, minutes
from report import Row

from butppg_lightning.console import say
from butppg_lightning.files import require_writable

ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "large": training_rows.large,
    "plain": training_rows.plain,
    "medium": training_rows.medium,
    "avx2": training_rows.without_bf16,
    "lightning": training_rows.lightning,
    "small": training_rows.small,
    "rates": kernel_rows.rates,
    "augmented": training_rows.augmented,
    "memory": training_rows.memory,
    "growth": training_rows.growth,
    "sweep": process_rows.sweep,
    "processes": process_rows.processes,
    "pretraining": kernel_rows.pretraining,
    "help": training_rows.help_pages,
    "scoring": scoring_rows.scoring,
    "recordings": scoring_rows.recordings,
}


def measure(name: str, bench: Bench) -> list[Row]:
    """Measure one row (or a few that belong together); a failure becomes a row that says why."""
    begin = time.perf_counter()
    say(f"{name} ...")
    try:
        rows = ROWS[name](bench)
    except Exception as error:  # the others still count
        rows = [Row(name, "failed", note=f"{type(error).__name__}: {error}".replace("\n", " "))]
    say(f"{name}: {rows[0].measured} ({minutes(time.perf_counter() - begin)} for the row)")
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=f"{', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument(
        "--output", type=Path, default=Path("artifacts/bench"), help="folder for costs.md and costs.json"
    )
    options = parser.parse_args()
    folder = require_writable(options.output.resolve())
    facts = report.machine()
    if options.quick:
        facts["sizes"] = "tiny (--quick): the figures mean nothing"
    rows: list[Row] = []
    # beside the results, because a temporary folder may be in memory, where mapped files would count as such
    with tempfile.TemporaryDirectory(dir=folder, prefix=".scratch.") as scratch:
        bench = Bench(QUICK if options.quick else Sizes(), Path(scratch))
        for name in ROWS:
            if name in options.only:
                rows += measure(name, bench)
                report.save(folder, facts, rows)
    report.show(facts, rows)
    print(f"{folder / 'costs.md'} and {folder / 'costs.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
