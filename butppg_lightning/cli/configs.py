"""What configs and options say before any parser reads them: where configs are found, the encoder, mistyped keys.

A mistyped key of a training command is refused at once, before the seconds that importing torch and Lightning takes:
the keys are read off the source text. Whatever is in doubt passes, and the real parser decides.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from butppg_lightning.cli.paths import expand_path
from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # in the wheel; in a checkout
_SECTIONS = ("model", "data", "stages", "trainer")
_CONFIG = ("--config", "-c")
_FINETUNING = {
    "model": ("tasks/classifier.py", "PPGQualityClassifier"),
    "data": ("data/finetune.py", "BUTPPGDataModule"),
    "stages": ("training/staged_unfreezing.py", "StagedUnfreezing"),
    "cache": ("training/frozen_prefix.py", "FrozenPrefixCache"),
    "average": ("training/weight_average.py", "WeightAverage"),
}
_PRETRAINING = {
    "model": ("tasks/pretrainer.py", "MaskedPretrainer"),
    "data": ("data/pretrain.py", "PretrainDataModule"),
}
_OPTIONS = _PACKAGE / "cli/training_parser.py"
_BUILT_IN = ("config", "seed_everything", "print_config", "trainer")  # jsonargparse's and LightningCLI's own


def shipped_configs() -> Path:
    """Return the folder of the shipped configs."""
    return next(folder for folder in _SHIPPED if folder.is_dir())


def names_of_configs() -> list[str]:
    """Return what ``--config`` calls the shipped configs."""
    folder = shipped_configs()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))


def expand_config_paths(arguments: Sequence[str]) -> list[str]:
    """Let ``--config finetune.yaml`` mean the shipped file when the working directory has none."""
    expanded: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        inside = word.startswith("--config=")
        name = word.removeprefix("--config=")
        path = str(_find(name)) if inside or before in _CONFIG else name
        expanded.append(f"--config={path}" if inside else path)
    return expanded


def options_given(arguments: list[str], group: str) -> list[str]:
    """Return the options of a group that the command line itself gives, without the group's name.

    Examples:
        >>> options_given(["--config", "a.yaml", "--model.lr=1e-3", "--model.head", "mlp"], "model")
        ['lr', 'head']
    """
    prefix = f"--{group}."
    return [word.removeprefix(prefix).partition("=")[0] for word in arguments if word.startswith(prefix)]


def without(arguments: Sequence[str], *options: str) -> list[str]:
    """Return arguments without some options and their values.

    Examples:
        >>> without(["--resume=auto", "--overwrite", "--ckpt_path", "a", "--config", "b"], "--resume", "--ckpt_path")
        ['--overwrite', '--config', 'b']
    """
    kept, dropping = [], False
    for word in arguments:
        if word.startswith("--"):
            dropping = word.partition("=")[0] in options
        if not dropping:
            kept.append(word)
    return kept


def merge_encoder(arguments: list[str]) -> list[str]:
    """Merge what several configs and flags say of the encoder into one ``--model.encoder``, which the parser gets.

    jsonargparse replaces a dictionary whole, where a researcher who adds ``--model.encoder.init_args.depth 4`` to a
    config means one key of it; and it takes every ``{class_path, init_args}`` for a class that it should import. So
    the encoder is taken out of configs (their paths expanded) and flags, whatever its spelling: YAML, JSON, dotted, or
    a class's name alone; one last argument holds it.
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


def refuse_unknown_keys(command: str, arguments: Sequence[str]) -> None:
    """Refuse an option or a key of a config that a training command surely does not know, and say where it stands."""
    if any(word == "-h" or word.startswith("--help") for word in arguments) or not _OPTIONS.is_file():
        return  # or the package is installed without its source text
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
    lightning = importlib.util.find_spec("lightning")
    trainer = Path((lightning and lightning.origin) or "").parent / "pytorch/trainer/trainer.py"
    groups = {group: _parameters(_PACKAGE / file, name) for group, (file, name) in classes.items()}
    return {**groups, "trainer": _parameters(trainer, "Trainer")}


@functools.cache
def known_options() -> list[str]:
    """Return the keys without a group: every ``--option`` that the training commands name."""
    return [*_BUILT_IN, *re.findall(r'"--([a-z_]+)"', _OPTIONS.read_text(encoding="utf-8"))]


def read_yaml(path: Path, name: str, empty: str) -> dict[str, Any]:
    """Read a YAML file of keys, which messages call ``name``; ``empty`` follows that where the file holds none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} cannot be read as text: {error}") from None
    except yaml.YAMLError as error:
        problem = f": {' '.join(str(error).split())}"
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            problem = f", line {error.problem_mark.line + 1}: {error.problem}"
        raise UserError(f"{name} is not valid YAML{problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} {empty}")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """Read a config of a training command; refuse one that holds no keys, or a section without any."""
    content = read_yaml(path, f"config {path}", "holds no keys; write sections such as model, data and trainer")
    for section in _SECTIONS:
        if not isinstance(content.get(section, {}), dict):
            raise UserError(f"config {path}: {section} is {content[section]}; expected keys below it")
    return content


def _keys_given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every key that options and configs give, and where it stands."""
    words = expand_config_paths(arguments)
    configs = []
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, _, value = word.partition("=")
        if word.startswith("--") and word != "--":
            yield name.removeprefix("--").rstrip("+").replace("-", "_"), ""
        if word in _CONFIG or name == "--config":
            configs.append(value or after)
    for path in filter(None, configs):
        for key, value in read_config(Path(path)).items():
            if isinstance(key, str) and not key.startswith("$"):
                below = [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
                yield from ((name, f"config {path}: ") for name in below or [key])


def _parameters(file: Path, name: str) -> list[str]:
    """Return the parameters of a class that its source text names, unless it takes others too."""
    tree = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__" and not method.args.kwarg:
                    return [argument.arg for argument in (*method.args.args[1:], *method.args.kwonlyargs)]
    return []


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


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{name} is {text}; expected a number, a word or '{{key: value}}'") from None


def _find(name: str) -> Path:
    path = Path(expand_path(name, [name], "--config"))
    if path.is_file():
        return path
    shipped = shipped_configs()
    relative = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    if not path.is_absolute() and (shipped / relative).is_file():
        return shipped / relative
    known = ", ".join(names_of_configs())
    raise UserError(f"config {name} not found, neither here nor among the shipped ones: {known}")
