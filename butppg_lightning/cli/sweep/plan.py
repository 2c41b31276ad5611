"""What a sweep searches, and how: the keys of its YAML."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from butppg_lightning.errors import UserError

METRICS: dict[str, Literal["maximize", "minimize"]] = {
    **dict.fromkeys(("val_auroc", "val_auprc", "val_acc", "val_f1", "val_mcc"), "maximize"),
    **dict.fromkeys(("val_loss", "val_ece"), "minimize"),
}
"""Validation metrics that a run writes for every epoch, and which way is better."""

_RANGE = {"low", "high", "log", "step"}
_OWN = ("output_dir", "resume", "overwrite", "ckpt_path", "test", "config")
_MACHINE = (
    "output_dir", "test", "save_every_epoch", "cache", "data.num_workers", "trainer.accelerator", "trainer.devices",
    "trainer.strategy", "trainer.num_nodes", "trainer.logger",
)  # fmt: skip


@dataclass
class Plan:
    """What to search, and how.

    Beside its arguments it has ``folder``, and ``search``: the parameters as Optuna's distributions.

    Args:
        source: The YAML.
        parameters: What is searched, by dotted key of `butppg fit`: each a range {low, high, log, step}, of whole
            numbers if all in it are, or a list of values.
        base: Configs of `butppg fit`, looked for beside the YAML, here and among the shipped ones.
        fixed: Options that every trial has, by dotted key of `butppg fit`.
        metric: Validation metric that trials are compared by, at a trial's best epoch.
        direction: maximize or minimize; null for what suits the metric (the other is refused).
        trials: Trials of all workers together, without those lost with their worker; 0 shows what there is.
        jobs: Trials at once after the first, each with its share of the threads; null for one a thread on a CPU, 4 at
            most, and one on other devices. What tpe draws then depends on which trial ends first: 1 repeats a sweep.
        sampler: tpe, random or grid; or {method: tpe, ...} with options of Optuna's sampler.
        pruning: none, median or hyperband; or {method: median, ...} with options of Optuna's pruner.
        seed: Seed of the sampler.
        keep: best: only the best trial keeps its weights. all: every trial does.
        name: Name of the study; null for the YAML's.
        study: File (SQLite) or database (postgresql://...) of the study; null for study.db in output_dir.
        output_dir: Folder of the sweep, the same for all workers; null for artifacts/sweep_NAME.
        overwrite: Replace the sweep that output_dir holds.

    Raises:
        UserError: If something impossible is asked for.
    """

    source: Path
    parameters: dict[str, Any]
    base: str | list[str] = "finetune.yaml"
    fixed: dict[str, Any] | None = None
    metric: str = "val_auroc"
    direction: Literal["maximize", "minimize"] | None = None
    trials: NonNegativeInt = 20
    jobs: PositiveInt | None = None
    sampler: str | dict[str, Any] = "tpe"
    pruning: str | dict[str, Any] | bool | None = None
    seed: NonNegativeInt = 0
    keep: Literal["best", "all"] = "best"
    name: str | None = None
    study: str | None = None
    output_dir: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.name = self.name or self.source.stem
        self.folder = Path(self.output_dir or f"artifacts/sweep_{self.name}")
        self.fixed = _opened(self.source, self.fixed or {})
        self.parameters = _opened(self.source, self.parameters)
        self.search = {key: _distribution(f"{self.source}: {key}", value) for key, value in self.parameters.items()}
        if not self.search:
            raise UserError(
                f"{self.source} names no parameters; write, say, parameters: {{model.lr: [1.0e-4, 1.0e-3]}}"
            )
        if twice := sorted(set(self.fixed) & set(self.search)):
            raise UserError(f"{self.source}: {twice[0]} stands under fixed and under parameters; drop one")
        if self.metric not in METRICS:
            only = "trials are compared on validation metrics, nothing is ever chosen on the test split"
            raise UserError(f"{self.source}: metric is {self.metric}, but {only}{nearest(self.metric, METRICS)}")
        if self.direction not in (None, METRICS[self.metric]):
            raise UserError(f"{self.source}: direction is {self.direction}, which looks for the worst {self.metric}")
        self.grid: list[list[Any]] = []
        if method_of(self.sampler)[0] == "grid":
            self.grid = [_values(f"{self.source}: {key}", one) for key, one in self.search.items()]
            self.trials = min(self.trials, math.prod(map(len, self.grid)))

    def grid_point(self, place: int) -> dict[str, Any]:
        """Return a point of the grid; the last parameter changes fastest."""
        points = itertools.cycle(itertools.product(*self.grid))
        return dict(zip(self.search, next(itertools.islice(points, place, None)), strict=True))

    def fit_arguments(self) -> list[str]:
        """Return the arguments of `butppg fit` that every trial starts with."""
        names = [self.base] if isinstance(self.base, str) else self.base
        # beside the YAML first: a folder of sweeps and configs can be moved as one
        base = [self.source.parent / name if (self.source.parent / name).is_file() else name for name in names]
        configs = [argument for name in base for argument in ("--config", str(name))]
        return [*configs, *(option(key, value) for key, value in (self.fixed or {}).items())]

    def record(self, shared: dict[str, Any]) -> dict[str, Any]:
        """Return what may not change while a study goes on: of what trials share all but a machine's own affair."""
        free = (*_MACHINE, *self.search)
        same = {key: shared[key] for key in shared if not any(f"{key}.".startswith(f"{name}.") for name in free)}
        methods = {"sampler": method_of(self.sampler), "pruning": method_of(self.pruning)}
        whole = {"metric": self.metric, "seed": self.seed, **methods, **self.parameters, **same}
        return dict(json.loads(json.dumps(whole)))


def method_of(value: str | dict[str, Any] | bool | None) -> tuple[str, dict[str, Any]]:
    """Return the method of a sampler or of pruning, and its options."""
    options = dict(value) if isinstance(value, dict) else {"method": value or "none"}
    return str(options.pop("method", None)), options


def option(key: str, value: Any) -> str:
    """Return the argument of `butppg fit` that sets a key.

    Examples:
        >>> option("model.lr", 1e-5), option("model.augment", {"noise": 0.1})
        ('--model.lr=1.0e-05', '--model.augment={"noise": 0.1}')
    """
    return f"--{key}={value if isinstance(value, str) else _plain(value)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the key that was probably meant."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; the nearest is {near[0]}" if near else f"; expected {', '.join(known) or 'none'}"


def _plain(value: Any) -> str:
    # YAML 1.1 takes 1e-05 for a word
    return re.sub(r"(?<![\d.])(\d+)e(?=[-+]?\d)", r"\1.0e", json.dumps(value))


def _opened(source: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return options by dotted key; sections such as ``model:`` with keys below are opened."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        section = isinstance(value, dict) and "." not in key and not _RANGE & set(value)
        found.update({f"{key}.{name}": inner for name, inner in value.items()} if section else {key: value})
    if own := sorted(set(found) & set(_OWN)):
        raise UserError(f"{source}: {own[0]} is the sweep's own affair; drop it")
    return found


def _distribution(place: str, content: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(content, dict) and set(content) == {"values"}:
        content = content["values"]
    if isinstance(content, list):
        # Optuna stores words, numbers and null: a list or a dictionary goes by its JSON, which `butppg fit` reads too
        values = [_plain(value) if isinstance(value, dict | list) else value for value in content]
        if not values or len(set(values)) < len(values):
            raise UserError(f"{place} is {content}; expected a list of different values")
        return CategoricalDistribution(values)
    if not isinstance(content, dict):
        raise UserError(f"{place} is {content}; give a list or {{low, high}}, or put a single value under fixed")
    numbers = {key: value for key, value in content.items() if key != "log" and value is not None}
    finite = all(type(value) in (int, float) and math.isfinite(value) for value in numbers.values())
    if not finite or not {"low", "high"} <= set(numbers) or not set(content) <= _RANGE:
        raise UserError(f"{place} is {content}; a range has the numbers low and high, and may have log or step")
    whole = all(isinstance(value, int) for value in numbers.values())
    try:
        return (IntDistribution if whole else FloatDistribution)(**numbers, log=bool(content.get("log")))
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def _values(place: str, one: Any) -> list[Any]:
    if hasattr(one, "choices"):
        return list(one.choices)
    if one.step is None or one.log:
        raise UserError(f"{place} has no steps, so it has no grid; give a step or a list of values")
    return [one.low + number * one.step for number in range(round((one.high - one.low) / one.step) + 1)]
