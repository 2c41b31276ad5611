"""What a stored result was made from, so that it is used again only for the very same question."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from butppg_lightning.cli.configs import expand_config_paths
from butppg_lightning.files import write_json

_PROTOCOL = 1  # raise it when the same words and data are to be asked anew
_PIECE = 2**24
_PACKAGE = Path(__file__).resolve().parents[2]
_LEARNING = ("models", "tasks", "optim", "callbacks", "data", "evaluation/baselines")


def fingerprint(**parts: Any) -> str:
    """Return 16 letters that change with any of the parts, which are plain types."""
    text = json.dumps({"protocol": _PROTOCOL, **parts}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@lru_cache
def meaning(words: tuple[str, ...]) -> list[Any]:
    """Return command words with what each ``--config`` file says in the place of its path; each file is read once.

    Raises:
        UserError: If a config is nowhere to be found.
    """
    found: list[Any] = []
    for word in expand_config_paths(list(words)):
        path = word.removeprefix("--config=") if word.startswith("--config=") else word
        config = word != path or bool(found and found[-1] in ("--config", "-c"))
        found.append(yaml.safe_load(Path(path).read_text("utf-8")) if config else word)
    return found


def digest_of(path: Path) -> str:
    """Return a digest of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def digest_of_folder(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's windows by name: npz files, and the manifests of stores."""
    found = sorted([*folder.glob("*_windows.npz"), *folder.glob("*_windows.store/*.json")])
    return {str(path.relative_to(folder)): digest_of(path) for path in found}


@lru_cache
def code_digest() -> str:
    """Return a digest of the source code that training and scoring run through, as it is when first asked."""
    digest = hashlib.blake2b(digest_size=8)
    for room in _LEARNING:
        for path in sorted((_PACKAGE / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def stored(path: Path) -> dict[str, Any]:
    """Return the note beside a result; empty if there is none, or half of one."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_done(result: Path, wanted: str) -> bool:
    """Tell whether a result is there and was made from the same."""
    return result.is_file() and stored(note_of(result)).get("fingerprint") == wanted


def finish(result: Path, wanted: str, **told: Any) -> None:
    """Write the note beside a finished result; until it is there the result does not count."""
    write_json(note_of(result), {"fingerprint": wanted, "code": code_digest(), **told})


def note_of(result: Path) -> Path:
    """Return the note's path."""
    return result.with_suffix(".json")
