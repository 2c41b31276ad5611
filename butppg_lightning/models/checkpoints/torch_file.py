"""Torch files from strangers: tensors and plain values come out, and nothing in them is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import refuse_unnamed

if TYPE_CHECKING:
    from collections.abc import Mapping

HOW_TO_PRETRAIN = "pretrain one first: butppg pretrain --config pretrain.yaml --data.root DIR --output_dir DIR"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a torch file without running any code from it.

    Args:
        path: The file.

    Returns:
        Its content, on the CPU.

    Raises:
        UserError: If it is missing, damaged, not a checkpoint, or holds anything beyond tensors and plain types.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} not found; {HOW_TO_PRETRAIN}")
    _refuse_zip_bomb(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            pickled = file.read(1) in (b"\x80", b"P")  # a pickle, or a zip of one; else any text would seem to run code
        if pickled and ("Unsupported" in str(error) or "GLOBAL" in str(error)):
            raise UserError(
                f"{path} holds more than tensors and plain values; loading it could run code, so it is refused"
            ) from None
        raise UserError(f"{path} is not a torch checkpoint, or is damaged") from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # a stranger's bytes can make the reader fail in any way
        raise UserError(f"{path} is not a torch checkpoint, or is damaged ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def refuse_stranger(path: Path, asked: Mapping[str, Any] | None) -> None:
    """Refuse a checkpoint whose encoder class is neither ours nor named by the caller: importing it runs code.

    Raises:
        UserError: Then, and as :func:`read_checkpoint`.
    """
    hparams = read_checkpoint(path).get("hyper_parameters")
    refuse_unnamed((hparams if isinstance(hparams, dict) else {}).get("encoder"), asked)


def _refuse_zip_bomb(path: Path) -> None:
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UserError(f"{path} is not a torch checkpoint, or is damaged ({type(error).__name__})") from None
    # torch stores tensors uncompressed; only its small pickle may be packed by other tools
    if unpacked > 4 * path.stat().st_size + 2**20:
        raise UserError(f"{path} unpacks to {unpacked / 2**30:.1f} GiB from far less; that is no checkpoint of torch")
