"""What several commands check before they begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def require_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that is not there with a UserError."""
    if not path.is_file():
        raise UserError(f"checkpoint {path} not found; give the best_model.pt that `butppg fit` wrote")


def require_at_least(least: int, **values: int) -> None:
    """Refuse numbers that are too small with a UserError that names the option."""
    for name, value in values.items():
        if value < least:
            raise UserError(f"--{name} is {value}; it must be {least} or more")


def refuse_earlier_results(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Refuse a folder that holds a command's results with a UserError, unless the user asked to replace them."""
    existing = next((name for name in names if (folder / name).exists()), None)
    if existing and not overwrite:
        raise UserError(f"{folder} already holds {existing}; choose another --output_dir or add --overwrite")
