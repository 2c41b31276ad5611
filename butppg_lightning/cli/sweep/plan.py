"""What a sweep's YAML says: parameters, metric, trials, sampler, pruning."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from butppg_lightning.cli.configs import read_yaml
from butppg_lightning.cli.sweep.parameter import Parameter, read_parameter
from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

METRICS = {
    **{f"val_{name}": "maximize" for name in ("auroc", "auprc", "acc", "f1", "mcc")},
    **{f"val_{name}": "minimize" for name in ("loss", "ece")},
}
"""Figures of validation that a run writes for every epoch, and which way is better."""

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median", "hyperband")
_KEEP = ("best", "all")
_KEYS = (
    "base", "fixed", "parameters", "metric", "direction", "trials", "pruning", "sampler", "seed", "keep", "name",
)  # fmt: skip
_RANGE = {"low", "high", "log", "step"}
_OWN = ("output_dir", "resume", "overwrite", "ckpt_path", "test", "config")


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        source: The YAML.
        base: Configs of `butppg fit`.
        fixed: Options that every trial has, by dotted key.
        parameters: What is searched.
        metric: Key of :data:`METRICS`.
        trials: How many, without those lost with their worker.
        pruning: Method (of :data:`PRUNERS`) and its options.
        sampler: Method (of :data:`SAMPLERS`) and its options.
        seed: Of the sampler.
        keep: ``best``: only the best trial keeps its weights; or ``all``.
        name: Of the study.
    """

    source: Path
    base: list[str]
    fixed: dict[str, Any]
    parameters: tuple[Parameter, ...]
    metric: str = "val_auroc"
    trials: int = 20
    pruning: dict[str, Any] = field(default_factory=lambda: {"method": "none"})
    sampler: dict[str, Any] = field(default_factory=lambda: {"method": "tpe"})
    seed: int = 0
    keep: str = "best"
    name: str = "sweep"

    @property
    def direction(self) -> str:
        """Which way the metric is better."""
        return METRICS[self.metric]

    def fixed_words(self) -> list[str]:
        """Return the words of `butppg fit` that every trial starts with."""
        configs = [word for name in self.base for word in ("--config", name)]
        return [*configs, *(option_word(key, value) for key, value in self.fixed.items())]

    def identity(self) -> dict[str, Any]:
        """Return, in plain types, what may not change while a study goes on."""
        return {
            "parameters": {parameter.key: parameter.told() for parameter in self.parameters},
            "metric": self.metric,
            "pruning": self.pruning,
            "sampler": self.sampler,
            "seed": self.seed,
        }


def read_plan(path: Path, trials: int | None = None) -> Plan:
    """Read a sweep's YAML.

    Args:
        path: The file.
        trials: Takes the place of what the file says, if given.

    Raises:
        UserError: If it cannot be read, or asks for something impossible.
    """
    content = _read(path)
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{path}: unknown key {key}{nearest(str(key), _KEYS)}")
    parameters = _options(path, "parameters", content.get("parameters"))
    if not parameters:
        raise UserError(
            f"{path} names no parameters; write, say, parameters: {{model.lr: {{low: 1.0e-5, high: 0.01}}}}"
        )
    fixed = _options(path, "fixed", content.get("fixed"))
    for key in parameters:
        if key in fixed:
            raise UserError(f"{path}: {key} stands under fixed and under parameters; drop one")
    metric = _metric(path, content)
    plan = Plan(
        source=path,
        base=_base(path, content),
        fixed=fixed,
        parameters=tuple(read_parameter(f"{path}: {key}", key, value) for key, value in parameters.items()),
        metric=metric,
        trials=_whole(path, "trials", content.get("trials", 20) if trials is None else trials),
        pruning=_method(path, "pruning", content.get("pruning"), PRUNERS),
        sampler=_method(path, "sampler", content.get("sampler", "tpe"), SAMPLERS),
        seed=_whole(path, "seed", content.get("seed", 0)),
        keep=_choice(path, "keep", content.get("keep", "best"), _KEEP),
        name=str(content.get("name", path.stem)),
    )
    if plan.sampler["method"] == "grid":
        return _bounded_by_grid(plan)
    return plan


def grid_size(plan: Plan) -> int:
    """Return how many points the grid has.

    Raises:
        UserError: If a range has no steps.
    """
    size = 1
    for parameter in plan.parameters:
        size *= len(parameter.values_of_grid(str(plan.source)))
    return size


def grid_point(plan: Plan, number: int) -> dict[str, Any]:
    """Return a point of the grid, in Optuna's terms; the last parameter changes fastest."""
    point = {}
    for parameter in reversed(plan.parameters):
        values = parameter.values_of_grid(str(plan.source))
        number, place = divmod(number, len(values))
        point[parameter.key] = values[place]
    return point


def option_word(key: str, value: Any) -> str:
    """Return the word of `butppg fit` that sets a key.

    Examples:
        >>> option_word("model.lr", 1e-5), option_word("model.augment", {"noise": 0.1})
        ('--model.lr=1.0e-05', '--model.augment={"noise": 0.1}')
    """
    if isinstance(value, str):
        return f"--{key}={value}"
    # YAML 1.1 takes 1e-05 for a word
    return f"--{key}=" + re.sub(r"(?<![\d.])(\d+)e(?=[-+]?\d)", r"\1.0e", json.dumps(value))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the key that was probably meant."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; the nearest is {near[0]}" if near else f"; expected {', '.join(known)}"


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path, str(path), "holds no keys; a sweep needs base and parameters")
    if "parameters" not in content and {"model", "data", "trainer", "stages"} & set(content):
        raise UserError(f"{path} is a config of `butppg fit`; name it under base: of a sweep's YAML, or after that one")
    return content


def _options(path: Path, group: str, content: Any) -> dict[str, Any]:
    """Return options by dotted key; sections such as ``model:`` with keys below are opened."""
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: {group} is {content}; expected dotted keys of `butppg fit`, such as model.lr")
    found: dict[str, Any] = {}
    for key, value in content.items():
        section = isinstance(value, dict) and "." not in str(key) and not _RANGE & set(value)
        found.update({f"{key}.{name}": inner for name, inner in value.items()} if section else {str(key): value})
    for key in found:
        if key in _OWN:
            raise UserError(f"{path}: {key} under {group} is the sweep's own affair; drop it")
    return found


def _base(path: Path, content: Mapping[str, Any]) -> list[str]:
    base = content.get("base", ["finetune.yaml"])
    names = [base] if isinstance(base, str) else base
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: base is {base}; expected a list of configs of `butppg fit`, such as [finetune.yaml]")
    # beside the YAML first: a folder of sweeps and configs can be moved as one
    return [str(path.parent / name) if (path.parent / name).is_file() else name for name in names]


def _metric(path: Path, content: Mapping[str, Any]) -> str:
    metric = str(content.get("metric", "val_auroc"))
    if metric.startswith("test"):
        near = f"val_{metric.removeprefix('test_')}"
        instead = near if near in METRICS else "val_auroc"
        raise UserError(f"{path}: metric is {metric}, but nothing is ever chosen on the test split; take {instead}")
    _choice(path, "metric", metric, METRICS)
    asked = content.get("direction", METRICS[metric])
    _choice(path, "direction", asked, ("maximize", "minimize"))
    if asked != METRICS[metric]:
        raise UserError(f"{path}: direction is {asked}, which looks for the worst {metric}; write {METRICS[metric]}")
    return metric


def _method(path: Path, key: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    options = value if isinstance(value, dict) else {"method": "none" if value in (None, False) else value}
    if "method" not in options:
        raise UserError(f"{path}: {key} lacks the method; write {key}: {{method: {known[1]}, ...}}")
    _choice(path, f"{key}", options["method"], known)
    return dict(options)


def _choice(path: Path, key: str, value: Any, known: Iterable[str]) -> str:
    if value not in (known := list(known)):
        raise UserError(f"{path}: {key} is {value}{nearest(str(value), known)}")
    return str(value)


def _whole(path: Path, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{path}: {key} is {value}; expected a whole number of at least 0")
    return value


def _bounded_by_grid(plan: Plan) -> Plan:
    return replace(plan, trials=min(plan.trials, grid_size(plan)))
