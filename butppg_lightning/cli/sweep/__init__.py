"""`butppg sweep`: search the options of `butppg fit`, with any number of workers on one study; here, what to search."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt

from butppg_lightning.cli.configs import expand_config_paths, read_yaml
from butppg_lightning.cli.parser import command_parser
from butppg_lightning.console import say
from butppg_lightning.errors import UserError

METRICS: dict[str, Literal["maximize", "minimize"]] = {
    **dict.fromkeys(("val_auroc", "val_auprc", "val_acc", "val_f1", "val_mcc"), "maximize"),
    **dict.fromkeys(("val_loss", "val_ece"), "minimize"),
}
"""Validation metrics that a run writes for every epoch, and which way is better."""

_RANGE = {"low", "high", "log", "step"}
_OWN = ("output_dir", "resume", "overwrite", "ckpt_path", "test", "config")
_MACHINE = (
    "output_dir", "test", "cache", "data.num_workers", "trainer.accelerator", "trainer.devices", "trainer.strategy",
    "trainer.num_nodes", "trainer.logger",
)  # fmt: skip

_DESCRIPTION = """Search the options of `butppg fit`: a YAML says what and how. Shipped: sweep/lr.yaml, \
sweep/inflation.yaml, sweep/augment.yaml. Start the same command as often as you like, on machines that share the \
folder: they work on one study; it also continues an interrupted one. Every option that is not listed below, and \
further --config, goes to every trial's `butppg fit`. Trials never see the test split."""
_EXAMPLE = "butppg sweep --config sweep/lr.yaml --output_dir artifacts/sweep_lr --data.root data/but_ppg"
_NEEDED = {"optuna": "optuna", "scikit-learn": "sklearn", "matplotlib": "matplotlib"}


def run(arguments: list[str]) -> None:
    """Run trials until the sweep is complete, then write and print what came out; names have underscores."""
    plan, passed = read_sweep(arguments)
    from butppg_lightning.cli.sweep.process import prepare

    prepare()  # beside the imports to come, which take as long
    from butppg_lightning.cli.sweep.study import CACHE, finish, make_method, open_study, remove_outcome
    from butppg_lightning.cli.sweep.worker import Worker, check_trials
    from butppg_lightning.data.features import remove_features

    make_method(plan, "sampler"), make_method(plan, "pruning")
    fit_arguments = [*expand_config_paths(plan.fit_arguments()), *passed]
    shared = check_trials(plan, fit_arguments)
    if shared["model.pretrained"] is None and "model.pretrained" not in plan.search:
        say("no --model.pretrained: the encoder of every trial starts from random weights")
    own_cache = shared["cache.folder"] is None
    if own_cache:  # trials whose data and frozen weights are the same share what the frozen blocks made of them
        fit_arguments.append(f"--cache.folder={plan.folder / CACHE}")
    study = open_study(plan, plan.record(shared))
    if plan.overwrite:
        remove_outcome(plan.folder)
    if plan.trials:
        Worker(plan, study, fit_arguments).run()
        if own_cache:
            remove_features(plan.folder / CACHE)
    finish(plan, study)


def read_sweep(arguments: list[str]) -> tuple[Plan, list[str]]:
    """Return the plan that the command line and its YAML describe, and the arguments of every trial's `butppg fit`."""
    parser = command_parser("sweep", _DESCRIPTION, _EXAMPLE)
    how = "The sweep's YAML; its keys are the options of the next group."
    parser.add_argument("--config", action="config", help=how)
    parser.add_class_arguments(Plan, skip={"source"})
    known = parser.known_options()
    own, passed = (expand_config_paths(part) for part in _divide(arguments, [*known, "-h"]))
    config = own[own.index("--config") + 1] if "--config" in own[:-1] else ""
    if not {"-h", "--help"} & set(own):
        if not config:
            raise UserError("name the sweep: --config sweep/lr.yaml (shipped) or a YAML of your own; see --help")
        content = read_yaml(Path(config), config, "holds no keys; a sweep needs base and parameters")
        if "parameters" not in content and {"model", "data", "trainer", "stages"} & set(content):
            hint = "name it under base: of a sweep's YAML, or after that one"
            raise UserError(f"{config} is a config of `butppg fit`; {hint}")
        if unknown := [str(key) for key in content if f"--{key}" not in known]:
            raise UserError(f"{config}: unknown key {unknown[0]}{nearest(unknown[0], [name[2:] for name in known])}")
    options = parser.parse_args(own).as_dict()
    del options["config"]
    if missing := [name for name, module in _NEEDED.items() if find_spec(module) is None]:
        raise UserError(f"a sweep needs {', '.join(missing)}; pip install 'butppg-lightning[sweep]'")
    plan = Plan(Path(config), **options)
    for key in (argument[2:].partition("=")[0] for argument in passed if argument.startswith("--")):
        if key in ("resume", "ckpt_path", "test"):
            raise UserError(f"--{key} is no option of a sweep: trials start afresh and are never tested; drop it")
        if any(f"{parameter}.".startswith(f"{key}.") for parameter in plan.search):
            raise UserError(f"--{key} is a parameter of {plan.source}; drop the option, or take it out of the YAML")
    return plan, passed


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


def _divide(arguments: list[str], known: list[str]) -> tuple[list[str], list[str]]:
    """Divide arguments into the sweep's own and those for `butppg fit`; of several --config the first is the sweep's.

    Examples:
        >>> _divide(["--config", "lr.yaml", "--config=tiny.yaml", "--model.head", "mlp"], ["--config"])
        (['--config', 'lr.yaml'], ['--config', 'tiny.yaml', '--model.head', 'mlp'])
    """
    own: list[str] = []
    passed: list[str] = []
    target = own
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") or name in known:
            target = own if name in known and not (name == "--config" and name in own) else passed
        target += [name, value] if name == "--config" and equals else [argument]
    return own, passed


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
