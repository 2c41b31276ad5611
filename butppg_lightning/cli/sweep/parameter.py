"""One parameter of a sweep: a range or a list of values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    import optuna

_MOST_POINTS = 1000


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if all that is given is whole.

    Attributes:
        low: The smallest.
        high: The largest.
        log: Whether every decade is as likely as another.
        step: Distance of neighbours; None for 1 (whole numbers) or none.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether these are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 0))


@dataclass(frozen=True)
class Parameter:
    """A parameter.

    Attributes:
        key: Dotted key of `butppg fit`.
        range: Where it lies, or None.
        values: What it may be, by the name it has in the study; None with a range. Optuna stores words, numbers and
            null only: a list or a dictionary is named by its JSON.
    """

    key: str
    range: Range | None = None
    values: dict[Any, Any] | None = None

    def suggest(self, trial: optuna.Trial) -> Any:
        """Let the sampler choose; returns what the study holds."""
        if self.values is not None:
            return trial.suggest_categorical(self.key, list(self.values))
        assert self.range is not None
        low, high, log, step = self.range.low, self.range.high, self.range.log, self.range.step
        if self.range.whole:
            return trial.suggest_int(self.key, int(low), int(high), log=log, step=int(step or 1))
        return trial.suggest_float(self.key, low, high, log=log, step=step)

    def option(self, value: Any) -> Any:
        """Return what `butppg fit` is told, from what the study holds."""
        return value if self.values is None else self.values[value]

    def candidates(self) -> list[Any]:
        """Return every value, or both ends of the range, as `butppg fit` is told."""
        if self.values is not None:
            return list(self.values.values())
        assert self.range is not None
        return [self.range.low, self.range.high]

    def values_of_grid(self, source: str) -> list[Any]:
        """Return all values, as the study holds them.

        Raises:
            UserError: If there is no end of them.
        """
        if self.values is not None:
            return list(self.values)
        assert self.range is not None
        step = self.range.step or (1 if self.range.whole else None)
        if step is None or self.range.log:
            raise UserError(f"{source}: {self.key} has no steps, so it has no grid; give a step or a list of values")
        count = math.floor((self.range.high - self.range.low) / step + 1e-9) + 1
        if count > _MOST_POINTS:
            raise UserError(f"{source}: {self.key} has {count} values, too many for a grid; give a larger step")
        return [self.range.low + number * step for number in range(count)]

    def told(self) -> Any:
        """Return it in plain types, as the YAML has it."""
        if self.range is None:
            return list((self.values or {}).values())
        return {key: value for key, value in vars(self.range).items() if value not in (None, False)}


def read_parameter(place: str, key: str, content: Any) -> Parameter:
    """Make a parameter from what a YAML says of it.

    Args:
        place: File and key, for messages.
        key: Dotted key of `butppg fit`.
        content: ``{low, high, log, step}``, or a list of values (also as ``{values: [...]}``).

    Raises:
        UserError: If it is neither, or an impossible range.
    """
    if isinstance(content, dict) and set(content) == {"values"}:
        content = content["values"]
    if isinstance(content, list):
        values = {_name(_number(value)): _number(value) for value in content}
        if len(values) < len(content) or not values:
            raise UserError(f"{place} is {content}; expected a list of different values")
        return Parameter(key, values=values)
    if not isinstance(content, dict):
        raise UserError(f"{place} is {content}; give a list or {{low, high}}, or put a single value under fixed")
    return Parameter(key, range=_range(place, content))


def in_words(options: dict[str, Any]) -> str:
    """Return options for a person.

    Examples:
        >>> in_words({"model.lr": 0.000123456, "stages.unfreeze_last_n": 4})
        'model.lr 0.0001235, stages.unfreeze_last_n 4'
    """
    return ", ".join(f"{key} {shown(value)}" for key, value in options.items())


def shown(value: Any) -> str:
    """Return a value of a parameter for a person."""
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _range(place: str, content: dict[str, Any]) -> Range:
    if unknown := set(content) - {"low", "high", "log", "step"}:
        raise UserError(f"{place} has the key {sorted(map(str, unknown))[0]}; a range has low, high, log and step")
    numbers = {name: _number(content.get(name)) for name in ("low", "high", "step")}
    for name, value in numbers.items():
        wrong = isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        if wrong and not (name == "step" and value is None):
            raise UserError(f"{place}: {name} is {value}; expected a number")
    low, high, step, log = *numbers.values(), content.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{place}: log is {log}; expected true or false")
    if low >= high:
        raise UserError(f"{place}: low is {low} and high is {high}; expected low below high")
    if log and (low <= 0 or step is not None):
        raise UserError(f"{place}: a range with log has no step and lies above 0; low is {low}")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"{place}: step is {step}; expected more than 0 and at most {high - low:g}")
    return Range(low, high, log, step)


def _number(value: Any) -> Any:
    # YAML 1.1 takes 1e-5 for a word
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _name(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)
