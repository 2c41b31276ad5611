"""The gate that the package ships, and folders of its kind: what names them, and whether they are whole.

A folder that `butppg export` wrote stands for its weights wherever a checkpoint's path does, and ``shipped`` for the
folder in the package. The digests of the files lie beside them, as `sha256sum -c SHA256SUMS` reads them.
"""

from __future__ import annotations

from pathlib import Path

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, file_sha256

SHIPPED = "shipped"
"""The name of the gate in the package."""
GATE = Path(__file__).resolve().parent / "gate"
WEIGHTS, CONFIG, EXAMPLES = _SEALED = ("model.safetensors", "config.json", "examples.safetensors")
"""The names of a model's files in a folder; the examples are windows and the probabilities that it gives them."""
SUMS = "SHA256SUMS"


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
