"""What several commands check before they begin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.shipped import SHIPPED, locate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from butppg_lightning.models.network import QualityNetwork

DEFAULT_CHECKPOINT = Path(SHIPPED)
"""What commands take that are not given one."""


def require_checkpoint(path: Path) -> Path:
    """Return the file that a checkpoint's name stands for; refuse one that is not there with a UserError."""
    found = locate(path)
    if not found.is_file():
        raise UserError(f"checkpoint {path} not found; give the best_model.pt that `butppg fit` wrote, or {SHIPPED}")
    return found


def restored(checkpoint: Path) -> tuple[QualityNetwork, dict[str, Any], dict[str, str] | None]:
    """Return a checkpoint's network, its hyperparameters, and which model it is, which is said too, if it says so."""
    from butppg_lightning.models.about import identity, in_words
    from butppg_lightning.models.checkpoints import network_from, read_stored

    content = read_stored(checkpoint)
    network, trained = network_from(checkpoint, content)
    if known := identity(content):
        say(in_words(known))
    return network, trained, known


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
