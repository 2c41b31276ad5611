"""Where configs are found, and which options the command line itself gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from butppg_lightning.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_SECTIONS = ("model", "data", "stages", "trainer")
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # in the wheel; in a checkout


def shipped_configs() -> Path:
    """Return the folder of the shipped configs."""
    return next(folder for folder in _SHIPPED if folder.is_dir())


def expand_config_paths(arguments: list[str]) -> list[str]:
    """Let ``--config finetune.yaml`` mean the shipped file when the working directory has none.

    Raises:
        UserError: If a config is nowhere to be found.
    """
    expanded, expecting = [], False
    for word in arguments:
        if expecting:
            expanded.append(str(_find(word)))
        elif word.startswith("--config="):
            expanded.append(f"--config={_find(word.removeprefix('--config='))}")
        else:
            expanded.append(word)
        expecting = word in ("--config", "-c")
    return expanded


def options_given(arguments: list[str], group: str) -> list[str]:
    """Return the options of a group that the command line itself gives, without the group's name.

    Examples:
        >>> options_given(["--config", "a.yaml", "--model.lr=1e-3", "--model.head", "mlp"], "model")
        ['lr', 'head']
    """
    prefix = f"--{group}."
    return [word.removeprefix(prefix).partition("=")[0] for word in arguments if word.startswith(prefix)]


def merge_encoder(arguments: list[str]) -> list[str]:
    """Merge what several configs and flags say of the encoder into one ``--model.encoder``.

    The parser replaces a dictionary whole; a researcher who adds ``--model.encoder.init_args.depth 4`` to a config
    means one key of it.

    Args:
        arguments: The words after the command, with config paths expanded.

    Returns:
        The words, with the encoder's flags replaced by a last one that holds the merged specification.
    """
    spec: dict[str, Any] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not f"{name}.".startswith("--model.encoder.") and name not in ("--config", "-c"):
            rest.append(word)
            continue
        if not equals and (value := next(words, "")) == "":
            return arguments  # the parser says that the value is missing
        if name in ("--config", "-c"):
            rest += [name, value]
            _merge(spec, _encoder_of(Path(value)))
        elif name == "--model.encoder":
            whole = _value(name, value)
            rest += [word] if equals else [word, value]  # null, or what is no dictionary, is the parser's to judge
            _merge(spec, whole) if isinstance(whole, dict) else spec.clear()
        else:
            key = name.removeprefix("--model.encoder.")
            inner = key.removeprefix("init_args.")
            _merge(spec, {key: value} if inner == key else {"init_args": {inner: _value(name, value)}})
    return [*rest, "--model.encoder", json.dumps(spec)] if spec else rest


def _merge(spec: dict[str, Any], more: dict[str, Any]) -> None:
    if more.get("class_path", spec.get("class_path")) != spec.get("class_path"):
        spec.pop("init_args", None)  # another class takes other arguments
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(spec.get(key), dict)
        spec[key] = {**spec[key], **value} if both else value


def read_yaml(path: Path, name: str, empty: str) -> dict[str, Any]:
    """Read a YAML file of keys.

    Args:
        path: The file.
        name: What to call it in messages.
        empty: What to say of a file without keys, after its name.

    Raises:
        UserError: If it cannot be read, is no YAML, or holds no keys.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} cannot be read as text: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name} is not valid YAML, line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} {empty}")
    return content


def _encoder_of(path: Path) -> dict[str, Any]:
    content = read_yaml(path, f"config {path}", "holds no keys; write sections such as model, data and trainer")
    for section in _SECTIONS:
        if not isinstance(content.get(section, {}), dict):
            raise UserError(f"config {path}: {section} is {content[section]}; expected keys below it")
    encoder = content.get("model", {}).get("encoder")
    return encoder if isinstance(encoder, dict) else {}


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{name} is {text}; expected a number, a word or '{{key: value}}'") from None


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    relative = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    if not path.is_absolute() and (shipped / relative).is_file():
        return shipped / relative
    known = ", ".join(sorted(str(item.relative_to(shipped)) for item in shipped.rglob("*.yaml")))
    raise UserError(f"config {name} not found, neither here nor among the shipped ones: {known}")
