"""Many recordings scored in one call: which ones, a folder each, one table of all, and what failed."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.cli.checks import refuse_earlier_results
from butppg_lightning.console import print_table, quoted, say
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.scores import write_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TABLE = "recordings.csv"
_FIGURES = ("duration_seconds", "windows", "good", "poor", "no_ppg", "share_usable", "hours_usable", "share_outside")
_COLUMNS = ("recording", "folder", "status", *_FIGURES, "guesses", "error")


class SomeFailedError(UserError):
    """Some of many recordings could not be scored; the others were."""

    exit_code = 1


def find_recordings(items: Sequence[str]) -> list[Path]:
    """Return the recordings that files, folders and patterns stand for, each once, in their order.

    One folder alone stands for the recordings in it, its files and the folders that devices wrote; of several folders,
    as a shell makes them of ``people/*``, each is a recording.

    Raises:
        UserError: If an item stands for none.
    """
    from butppg_lightning.sources.recordings import recording_files

    found: dict[Path, None] = {}
    for item in items:
        path = Path(item)
        known = path.exists() or Path(f"{path}.hea").is_file()
        there = next(parent for parent in (path, *path.parents, Path()) if parent.exists())
        # a folder that is there may be called [x]
        pattern = str(Path(glob.escape(str(there)), path.relative_to(there)))
        matches = [path] if known else sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207, any root
        if len(items) == 1 and known and path.is_dir():
            folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and recording_files(folder)]
            matches = [*recording_files(path), *folders]
        if not matches:
            raise UserError(f"--input_list {quoted(item)}: no recording is there")
        found |= dict.fromkeys(matches)
    return list(found)


def score_list(
    paths: Sequence[Path], output: Path, overwrite: bool, score: Callable[[Path, Path], dict[str, Any]]
) -> None:
    """Score recordings into one folder each, write a table of all, and go on where one fails.

    Args:
        paths: The recordings.
        output: The folder of the folders and of the table.
        overwrite: Replace earlier results.
        score: Scores a recording into a folder and returns its summary.

    Raises:
        SomeFailedError: At the end, if some could not be scored.
        UserError: If earlier results are there.
    """
    refuse_earlier_results(output, (TABLE,), overwrite)
    names = _folders(paths)
    rows: list[dict[str, Any]] = []
    for path, name in zip(paths, names, strict=True):
        row: dict[str, Any] = {"recording": str(path), "folder": name, "status": "scored", "error": ""}
        say(f"{path} ({len(rows) + 1} of {len(paths)})")
        try:
            if (output / name).exists() and not overwrite:
                raise UserError(f"{output / name} exists; add --overwrite")
            summary = score(path, output / name)
            row |= {key: summary[key] for key in _FIGURES}
            row["guesses"] = "; ".join(summary["guesses"])
        except UserError as error:
            row |= {"status": "failed", "error": str(error)}
            say(f"failed: {error}")
        rows.append(row)
        columns = {name: [row.get(name, "") for row in rows] for name in _COLUMNS}
        write_csv(output / TABLE, columns)  # after each: a stopped run has told what it did
    _show(output, rows)
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        raise SomeFailedError(f"{failed} of {len(rows)} recordings could not be scored; {output / TABLE} says why")


def _folders(paths: Sequence[Path]) -> list[str]:
    """Return a name for each recording's folder: its own, with those of folders above where that is not enough."""
    names: list[str] = []
    stems = [path.name.split(".")[0] or path.name for path in paths]
    for number, (path, stem) in enumerate(zip(paths, stems, strict=True)):
        same = [other for other, name in enumerate(stems) if name == stem]
        longer = stem if len(same) == 1 else f"{path.resolve().parent.name}_{path.name}"
        names.append(longer if longer not in names else f"{longer}_{number + 1}")
    return names


def _show(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    from rich.markup import escape

    print_table(
        f"{len(rows)} recordings",
        ("recording", "status", "windows", "good", "poor", "no PPG", "usable", "hours"),
        [
            (
                escape(row["folder"]),
                row["status"],
                *(f"{row[key]:,}" if key in row else "-" for key in ("windows", "good", "poor", "no_ppg")),
                f"{row['share_usable']:.1%}" if "share_usable" in row else "-",
                f"{row['hours_usable']:.2f}" if "hours_usable" in row else "-",
            )
            for row in rows
        ],
    )
    print(f"Results: {output / TABLE}")
