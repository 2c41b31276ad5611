"""Refusing a mistyped key of a training command at once, before the seconds that importing torch and Lightning takes.

The keys are read off the source text: the parameters of the classes that LightningCLI turns into groups, and the
options that the training commands add. Whatever is in doubt passes, and the real parser decides.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.cli.configs import configs_among, read_config
from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PACKAGE = Path(__file__).resolve().parents[1]
_TRAINER = "trainer/trainer.py", "Trainer"
_SHARED = {
    "stages": ("training/staged_unfreezing.py", "StagedUnfreezing"),
    "cache": ("training/frozen_prefix.py", "FrozenPrefixCache"),
    "average": ("training/weight_average.py", "WeightAverage"),
}
_FINETUNING = {
    "model": ("tasks/classifier.py", "PPGQualityClassifier"),
    "data": ("data/finetune.py", "BUTPPGDataModule"),
    **_SHARED,
}
_PRETRAINING = {
    "model": ("tasks/pretrainer.py", "MaskedPretrainer"),
    "data": ("data/pretrain.py", "PretrainDataModule"),
}
_COMMANDS = ("cli/training.py", "cli/finetune.py", "cli/pretrain.py")
_BUILT_IN = ("config", "seed_everything", "print_config", "trainer")  # jsonargparse's and LightningCLI's own


def refuse_unknown_keys(command: str, arguments: Sequence[str]) -> None:
    """Refuse an option or a key of a config that the command surely does not know.

    Args:
        command: fit, validate, test, predict or pretrain.
        arguments: What the user typed after it.

    Raises:
        UserError: Naming the key, where it stands and the nearest one; or if a config cannot be read.
    """
    if any(word == "-h" or word.startswith("--help") for word in arguments):
        return
    if not all((_PACKAGE / file).is_file() for file in _COMMANDS):
        return  # installed without its source text
    groups, others = known_groups(command), known_options()
    for key, origin in _keys_given(arguments):
        first, _, rest = key.partition(".")
        name = rest.partition(".")[0].rstrip("+")
        known = groups.get(first)
        if first in others if known is None else not known or name in ("", "help", *known):
            continue
        from butppg_lightning.cli.parser import nearest_option

        options = [f"--{group}.{name}" for group, names in groups.items() for name in names]
        options += [f"--{name}" for name in others if name not in groups]
        raise UserError(f"{origin}unknown option --{key}{nearest_option(f'--{key}', options)}")


@functools.cache
def known_groups(command: str) -> dict[str, list[str]]:
    """Return for each group of keys what may follow its dot; nothing where that is not known."""
    classes = _PRETRAINING if command == "pretrain" else _FINETUNING
    groups = {group: _parameters(_PACKAGE / file, name) for group, (file, name) in classes.items()}
    lightning = importlib.util.find_spec("lightning")
    folder = Path((lightning and lightning.origin) or "").parent / "pytorch"
    return {**groups, "trainer": _parameters(folder / _TRAINER[0], _TRAINER[1])}


@functools.cache
def known_options() -> list[str]:
    """Return the keys without a group: every ``--option`` that the training commands name, and whatever looks alike."""
    found = dict.fromkeys(_BUILT_IN)
    for file in _COMMANDS:
        for node in ast.walk(ast.parse((_PACKAGE / file).read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and (option := re.fullmatch(r"--([a-z_]+)", text)):
                found[option[1]] = None
    return list(found)


def _parameters(file: Path, name: str) -> list[str]:
    if not file.is_file():
        return []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__" and not method.args.kwarg:
                    return [argument.arg for argument in (*method.args.args[1:], *method.args.kwonlyargs)]
    return []


def _keys_given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every key that options and configs give, and where it stands."""
    for word in arguments:
        if word.startswith("--") and word != "--":
            yield word.partition("=")[0].removeprefix("--").rstrip("+").replace("-", "_"), ""
    for path in configs_among(arguments):
        content: dict[str, Any] = read_config(path)
        for key, value in content.items():
            if isinstance(key, str) and not key.startswith("$"):
                below = [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
                yield from ((name, f"config {path}: ") for name in below or [key])
