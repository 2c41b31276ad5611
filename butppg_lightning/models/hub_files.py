"""Where weights are that a user names by a file, a folder, or their name on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError, first_line
from butppg_lightning.extras import quiet, require
from butppg_lightning.models.checkpoints import SUFFIX
from butppg_lightning.shipped import WEIGHTS, locate

if TYPE_CHECKING:
    from collections.abc import Sequence

_HUB_NAME = re.compile(r"[\w-]+/[\w.-]+")
_FILES = (".pt", ".pth", ".ckpt", ".bin", SUFFIX)


def fetch(name: Path | str) -> Path:
    """Return the file that stands behind what a user calls a model, ``owner/name`` on the hub too.

    A name is looked for on the hub only where no file or folder begins like it; see
    :func:`~butppg_lightning.shipped.locate` for the others.

    Raises:
        UserError: If a folder holds none or is damaged, or the hub does not give it.
    """
    source = locate(name)
    if source.is_dir():
        raise UserError(f"{source} is a folder without {WEIGHTS}; name a checkpoint in it, such as best_model.pt")
    looks_like_one = _HUB_NAME.fullmatch(source.as_posix()) and source.suffix not in _FILES
    if looks_like_one and not source.parent.exists():
        return download(str(source), (WEIGHTS,))[0]
    return source


def download(name: str, files: Sequence[str], **options: Any) -> list[Path]:
    """Fetch files of the model ``owner/name``, or take them from where huggingface_hub keeps them; nothing is run.

    Args:
        name: On the hub.
        files: Their names.
        options: Of ``huggingface_hub.hf_hub_download``.

    Raises:
        UserError: If the name cannot be one, or the hub does not give them (there is no network, perhaps).
    """
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"{name} is no folder; give one that save_pretrained wrote, or owner/name on the hub")
    library = require("huggingface_hub")
    get = library.hf_hub_download  # sets up the logging that is to be quiet
    try:
        with quiet("huggingface_hub"):
            return [Path(get(name, file, **options)) for file in files]
    except (OSError, ValueError, library.errors.EntryNotFoundError) as error:
        raise UserError(f"{name} is no folder here, and the hub did not give it: {first_line(error)}") from None
