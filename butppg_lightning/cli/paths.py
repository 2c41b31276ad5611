"""`~` and variables in paths: what a shell does to a word of its own, done to options and YAML too, in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from butppg_lightning.errors import UserError

# of our options, of Lightning's, and of loggers and callbacks
_PATH_KEY = re.compile(r"(?:^|_|\.)(?:dir|dirpath|path|folder|root|file|filename|pretrained|resume|study|base|config)$")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<bare>[A-Za-z_]\w*))")


def expand_paths(content: Any, typed: Collection[str] = (), key: str = "") -> Any:
    """Return what a parser made of options with every path in it expanded; a Namespace is changed in place.

    Paths are known by their type or by their key, at any depth.
    """
    if isinstance(content, Namespace | dict):
        for name, value in list(vars(content).items() if isinstance(content, Namespace) else content.items()):
            content[name] = expand_paths(value, typed, str(name))
        return content
    if isinstance(content, list | tuple):
        return type(content)(expand_paths(value, typed, key) for value in content)
    if isinstance(content, Path):
        return type(content)(expand_path(str(content), typed, key))
    return expand_path(content, typed, key) if isinstance(content, str) and _PATH_KEY.search(key) else content


def expand_path(text: str, typed: Collection[str] = (), key: str = "a path") -> str:
    """Return a path with `~`, `$NAME` and `${NAME}` expanded; an unset variable or an unknown user is a UserError.

    A `$` in the name of what exists stands for itself, and so does `$NAME` as a part of a name that was typed: a shell
    would have replaced it, had it been meant.

    Args:
        text: The path.
        typed: The words of the command line.
        key: What messages call it.

    Examples:
        >>> os.environ["BUTPPG_EXAMPLE"] = "/data"
        >>> expand_path("${BUTPPG_EXAMPLE}/a"), expand_path("my$run", ["--output_dir=my$run"])
        ('/data/a', 'my$run')
    """
    found = text
    if text.startswith("~") and (found := os.path.expanduser(text)) == text:  # noqa: PTH111 - keeps how it is written
        raise UserError(f"{key} is {text}, but there is no such user; write ./{text} for a file of that name")
    if "$" not in found or "://" in found or _exists(found):
        return found
    literal = any(word == text or word.endswith(f"={text}") for word in typed)

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"]
        if literal and match["bare"] and match[0] not in found.split("/"):
            return match[0]
        if name not in os.environ:
            raise UserError(f"{key} is {text}, but the variable {name} is not set; set it or write the path out")
        return os.environ[name]

    return _VARIABLE.sub(value, found)


def _exists(text: str) -> bool:
    """Return whether the part of a path up to its last `$` is there as it is written."""
    before, last = text.rsplit("$", 1)
    return os.path.lexists(f"{before}${last.partition('/')[0]}")
