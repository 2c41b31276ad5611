"""What a stored result was made from, so that it is used again only for the very same question."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from butppg_lightning.errors import UserError
from butppg_lightning.files import write_json

_PROTOCOL = 2  # raise it when the same arguments and data are to be asked anew
_PACKAGE = Path(__file__).resolve().parents[2] / "butppg_lightning"
_CONFIGS = _PACKAGE.parent / "configs"
_LEARNING = ("models", "tasks", "training", "data")


def fingerprint(**parts: Any) -> str:
    """Return 16 letters that change with any of the parts, which are plain types."""
    text = json.dumps({"protocol": _PROTOCOL, **parts}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@lru_cache
def meaning(arguments: str) -> list[Any]:
    """Return a command's arguments and what each ``--config`` file among them says; each file is read once."""
    configs = []
    for name in re.findall(r"--config[ =](\S+)", arguments):
        path = Path(name) if Path(name).is_file() else _CONFIGS / name
        if not path.is_file():
            raise UserError(f"config {name} is neither here nor in {_CONFIGS}")
        configs.append(yaml.safe_load(path.read_text("utf-8")))
    return [shlex.split(arguments), configs]


def digest_of(path: Path) -> str:
    """Return a digest of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()


def digest_of_folder(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's windows by name: npz files, and the manifests of stores."""
    found = sorted([*folder.glob("*_windows.npz"), *folder.glob("*_windows.store/*.json")])
    return {str(path.relative_to(folder)): digest_of(path) for path in found}


@lru_cache
def code_digest() -> str:
    """Return a digest of the source code that training and scoring run through, as it is when first asked."""
    digest = hashlib.blake2b(Path(__file__).with_name("baselines.py").read_bytes(), digest_size=8)
    for room in _LEARNING:
        for path in sorted((_PACKAGE / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def note_of(result: Path) -> dict[str, Any]:
    """Return the note beside a result; empty if there is none, or half of one."""
    try:
        content = json.loads(result.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_done(result: Path, wanted: str) -> bool:
    """Say whether a result is there and was made from the same."""
    return result.is_file() and note_of(result).get("fingerprint") == wanted


def forget(result: Path) -> None:
    """Remove the note, before the result is written anew."""
    result.with_suffix(".json").unlink(missing_ok=True)


def finish(result: Path, wanted: str, **more: Any) -> None:
    """Write the note beside a finished result; until it is there the result does not count."""
    write_json(result.with_suffix(".json"), {"fingerprint": wanted, "code": code_digest(), **more})
