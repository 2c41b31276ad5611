"""Where configs are found, and which options the command line itself gave."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGE = Path(__file__).resolve().parents[1]
_SECTIONS = ("model", "data", "stages", "trainer")
_CONFIG = ("--config", "-c")
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # in the wheel; in a checkout


def shipped_configs() -> Path:
    """Return the folder of the shipped configs."""
    return next(folder for folder in _SHIPPED if folder.is_dir())


def expand_config_paths(arguments: Sequence[str]) -> list[str]:
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
        expecting = word in _CONFIG
    return expanded


def configs_among(arguments: Sequence[str]) -> list[Path]:
    """Return the configs that the command line names.

    Raises:
        UserError: If one is nowhere to be found.
    """
    words = expand_config_paths(arguments)
    following = [after for word, after in itertools.pairwise(words) if word in _CONFIG]
    return [Path(name) for name in [*following, *(w.partition("=")[2] for w in words if w.startswith("--config="))]]


def options_given(arguments: list[str], group: str) -> list[str]:
    """Return the options of a group that the command line itself gives, without the group's name.

    Examples:
        >>> options_given(["--config", "a.yaml", "--model.lr=1e-3", "--model.head", "mlp"], "model")
        ['lr', 'head']
    """
    prefix = f"--{group}."
    return [word.removeprefix(prefix).partition("=")[0] for word in arguments if word.startswith(prefix)]


def merge_encoder(arguments: list[str]) -> list[str]:
    """Merge what several configs and flags say of the encoder into one ``--model.encoder``, which the parser gets.

    jsonargparse replaces a dictionary whole, where a researcher who adds ``--model.encoder.init_args.depth 4`` to a
    config means one key of it; and it takes every ``{class_path, init_args}`` for a class that it should import. So
    the encoder is taken out of configs and flags, whatever its spelling: YAML, JSON, dotted, or a class's name alone.

    Args:
        arguments: What was typed after the command, with config paths expanded.

    Returns:
        The arguments without the encoder, and a last one that holds it.
    """
    spec: dict[str, Any] | None = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not f"{name}.".startswith("--model.encoder.") and name not in _CONFIG:
            rest.append(word)
            continue
        if not equals and (value := next(words, "")) == "":
            return arguments  # the parser says that the value is missing
        if name in _CONFIG:
            config = read_config(Path(value))
            model = config.get("model", {})
            if "encoder" in model:
                spec = _merge(spec, model.pop("encoder"), f"config {value}: model.encoder")
                value = yaml.safe_dump(config)
            rest += [name, value]
        elif name == "--model.encoder":
            spec = _merge(spec, _value(name, value), name)
        else:
            key = name.removeprefix("--model.encoder.")
            inner = key.removeprefix("init_args.")
            found = value if key == "class_path" else _value(name, value)
            spec = _merge(spec, {key: found} if inner == key else {"init_args": {inner: found}}, name)
    return rest if spec == {} else [*rest, "--model.encoder", json.dumps(spec)]


def _merge(spec: dict[str, Any] | None, more: Any, origin: str) -> dict[str, Any] | None:
    """Return an encoder's specification with what is further said of it; null forgets what was said before."""
    if isinstance(more, str) and ("." in more or more == "PatchTransformer"):
        more = {"class_path": more}
    if more is None:
        return None
    if not isinstance(more, dict):
        raise UserError(f"{origin}: expected dict, got {more}")
    merged = dict(spec or {})
    if more.get("class_path", merged.get("class_path")) != merged.get("class_path"):
        from butppg_lightning.models.architecture import normal_spec

        if normal_spec(more)["class_path"] != normal_spec(merged)["class_path"]:
            merged.pop("init_args", None)  # another class takes other arguments
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


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


def read_config(path: Path) -> dict[str, Any]:
    """Read a config of a training command.

    Raises:
        UserError: If it cannot be read, is no YAML, holds no keys, or a section holds none.
    """
    content = read_yaml(path, f"config {path}", "holds no keys; write sections such as model, data and trainer")
    for section in _SECTIONS:
        if not isinstance(content.get(section, {}), dict):
            raise UserError(f"config {path}: {section} is {content[section]}; expected keys below it")
    return content


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
