"""What stands behind a model's name: the gate that the package ships, a folder, a file, or a name on a hub.

A folder that `butppg export` wrote stands for its weights wherever a checkpoint's path does, and ``shipped`` for the
folder in the package. The digests of the files lie beside them, as `sha256sum -c SHA256SUMS` reads them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.console import say
from butppg_lightning.errors import UserError, first_line
from butppg_lightning.extras import quiet, require
from butppg_lightning.files import atomic_write, file_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIPPED = "shipped"
"""The name of the gate in the package."""
GATE = Path(__file__).resolve().parent / "gate"
WEIGHTS, CONFIG, EXAMPLES = _SEALED = ("model.safetensors", "config.json", "examples.safetensors")
"""The names of a model's files in a folder; the examples are windows and the probabilities that it gives them."""
SUMS = "SHA256SUMS"
SUFFIX = ".safetensors"
"""What tells an exported model's weights from a checkpoint."""
_HUB_NAME = re.compile(r"[\w-]+/[\w.-]+")
_FILES = (".pt", ".pth", ".ckpt", ".bin", SUFFIX)


def locate(source: Path | str) -> Path:
    """Return the file that stands behind what a user calls a model.

    ``shipped`` is always the gate in the package, so that a command means the same in every folder; a file of that name
    in the working directory, which is pointed out, needs its absolute path.

    Args:
        source: ``shipped``, a folder that `butppg export` or ``save_pretrained`` wrote, or a file.

    Raises:
        UserError: If the folder is damaged.
    """
    path = Path(source).expanduser()
    if str(source) == SHIPPED:
        path = GATE
        if Path(SHIPPED).exists():
            say(f"note: {SHIPPED} is the package's gate; for ./{SHIPPED} give its absolute path")
    if path == GATE or (path / SUMS).is_file():
        _verify(path)
    return path / WEIGHTS if (path / WEIGHTS).is_file() else path


def fetch(name: Path | str) -> Path:
    """Return the file that stands behind what a user calls a model, ``owner/name`` on the hub too.

    A name is looked for on the hub only where no file or folder begins like it; see :func:`locate` for the others.

    Raises:
        UserError: If a folder holds none or is damaged, or the hub does not give it.
    """
    source = locate(name)
    if source.is_dir():
        raise UserError(f"{source} is a folder without {WEIGHTS}; name a checkpoint in it, such as best_model.pt")
    looks_like_one = _HUB_NAME.fullmatch(source.as_posix()) and source.suffix not in _FILES
    if looks_like_one and not source.parent.exists():
        say(f"{source} is no file here; asking the Hugging Face hub for a model of that name")
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


def seal(folder: Path) -> None:
    """Write the digests of the files of a model's folder."""
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in _SEALED if (folder / name).is_file()]
    with atomic_write(folder / SUMS) as file:
        file.write("".join(lines).encode())


def _verify(folder: Path) -> None:
    mend = "install butppg-lightning again" if folder == GATE else "copy or export it again"
    try:
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
        stated = {name: digest for digest, name in (line.split() for line in lines)}
        if not {WEIGHTS, CONFIG} <= stated.keys() <= set(_SEALED):
            raise UserError(f"{folder / SUMS} is damaged; {mend}")
        for name, digest in stated.items():
            if file_sha256(folder / name) != digest:
                raise UserError(f"{folder / name} is damaged (its SHA-256 is not that of {SUMS}); {mend}")
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is damaged"
        raise UserError(f"{getattr(error, 'filename', None) or folder / SUMS} {reason}; {mend}") from None
