"""What turns a network's logits into probabilities one can act on, and where to cut them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from butppg_lightning.console import say
from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

HOW_TO_CALIBRATE = "butppg calibrate --checkpoint FILE --data-dir DIR --overwrite"
OPERATING_POINTS = ("balanced", "precision", "sensitivity")
"""``balanced``: largest balanced accuracy; ``precision``: so many of the windows called good are good, at the largest
sensitivity; ``sensitivity``: so many of the good windows are kept, at the fewest false alarms."""
CHECKPOINT_KEY = "calibration"
"""The key of a checkpoint that holds :meth:`Calibration.state`."""
_CURVE = ("threshold", "sensitivity", "false_positive_rate")
_MOST_POINTS = 10_000  # a stranger's curve may not be larger


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what the fitting predictions say of it; shares in 0..1."""

    name: str  # one of OPERATING_POINTS
    threshold: float  # from this calibrated probability on a window is called good
    sensitivity: float  # share of the good windows called good
    false_positive_rate: float  # share of the poor windows called good
    precision: float  # share of good windows among those called good
    remark: str = ""  # one line if the point is not what its name promises


@dataclass(frozen=True)
class Calibration:
    """Temperature and bias on the logit, and the ROC curve of the predictions they were fitted on.

    The probability of good is ``sigmoid(logit / temperature + bias)`` (Platt 1999; with a bias of 0 the temperature
    scaling of Guo et al. 2017). Where another share of windows is good, its logit shifts by the difference of the
    shares' logits, which is Bayes' rule as long as good and poor windows themselves look the same (Saerens et al.
    2002). Ranking is never changed. One that was never fitted is the plain sigmoid.

    Args:
        temperature: Above 0; above 1 softens.
        bias: Added to the logit after the temperature.
        prior: Share of good windows among those it was fitted on, 0..1 exclusive; None if it was never fitted.
        curve: ROC curve of the fitting predictions: lists of equal length under ``threshold`` (calibrated
            probability, falling), ``sensitivity`` and ``false_positive_rate`` (rising), all in 0..1.
        source: What it was fitted on, in words.
        precision: What the operating point ``precision`` asks for.
        sensitivity: What the operating point ``sensitivity`` asks for.
    """

    temperature: float = 1.0
    bias: float = 0.0
    prior: float | None = None
    curve: dict[str, list[float]] | None = None
    source: str = ""
    precision: float = 0.95
    sensitivity: float = 0.9

    @property
    def fitted(self) -> bool:
        """Whether it was fitted on anything."""
        return self.prior is not None

    def probabilities(self, logits: Tensor, prior: float | None = None) -> Tensor:
        """Return the probability of good, ``[N]`` float32 in 0..1, of logits ``[N]``.

        ``prior`` is the share of good windows where the model is used; None for the one it was fitted at.

        Raises:
            UserError: If ``prior`` is not between 0 and 1, or given though nothing was fitted.
        """
        return (logits.float() / self.temperature + (self.bias + self._shift(prior))).sigmoid()

    def threshold(self, operating_point: str = "balanced", prior: float | None = None) -> float:
        """Return the probability from which on a window is called good; 0.5 if nothing was fitted.

        A point that is not what its name promises is reported on stderr; see :meth:`point`.

        Raises:
            UserError: As :meth:`point`, except for the calibration that was never fitted.
        """
        _check_name(operating_point)
        if self.curve is None and prior is None:
            return 0.5
        found = self.point(operating_point, prior)
        if found.remark:
            say(f"note: {found.remark}")
        return found.threshold

    def point(self, operating_point: str = "balanced", prior: float | None = None) -> OperatingPoint:
        """Return one of :data:`OPERATING_POINTS`; ``prior`` as in :meth:`probabilities`.

        The balanced and the sensitivity point stay where they are on the ROC curve whatever the prior, and only their
        thresholds shift; the precision point is sought anew.

        Raises:
            UserError: If the name is unknown, the prior impossible, or nothing was fitted.
        """
        _check_name(operating_point)
        if self.curve is None or self.prior is None:
            raise UserError(
                f"the checkpoint is not calibrated, so it has no operating point '{operating_point}' and no prior; "
                f"first run: {HOW_TO_CALIBRATE}"
            )
        shift, share = self._shift(prior), self.prior if prior is None else prior
        rows = list(zip(*(self.curve[key] for key in _CURVE), strict=True))
        purities = [_precision(kept, alarms, share) for _, kept, alarms in rows]
        row, remark = self._row(operating_point, rows, purities, share)
        cut, kept, alarms = rows[row]
        return OperatingPoint(operating_point, _shifted(cut, shift), kept, alarms, purities[row], remark)

    def state(self) -> dict[str, Any]:
        """Return it in plain types, for a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_state(state: Any) -> Calibration:
        """Return the calibration that :meth:`state` described; refuse unknown keys, wrong types, impossible numbers."""
        if not isinstance(state, dict) or not set(state) <= set(Calibration.__dataclass_fields__):
            raise _damaged("it is no set of its keys")
        for key in ("temperature", "bias", "prior", "precision", "sensitivity"):
            value = state.get(key)
            if key in state and not (_is_number(value) or (key == "prior" and value is None)):
                raise _damaged(f"{key} is {value!r}")
        if not isinstance(state.get("source", ""), str):
            raise _damaged("its source is no text")
        if state.get("temperature", 1.0) <= 0:
            raise _damaged(f"temperature is {state['temperature']:g}, which must be above 0")
        for key in ("prior", "precision", "sensitivity"):
            value = state.get(key)
            if value is not None and not 0 < value < 1:
                raise _damaged(f"{key} is {value:g}, which must lie between 0 and 1")
        curve = state.get("curve")
        if curve is not None:
            _check_curve(curve)
            if state.get("prior") is None:
                raise _damaged("it has a curve and no prior")
        return Calibration(**state)

    def _row(self, name: str, rows: list[tuple[float, ...]], purities: list[float], share: float) -> tuple[int, str]:
        numbers = range(len(rows))
        if name == "balanced":
            return max(numbers, key=lambda row: rows[row][1] - rows[row][2]), ""
        if name == "sensitivity":  # the last point of a curve keeps everything
            return next(row for row in numbers if rows[row][1] >= self.sensitivity or row == len(rows) - 1), ""
        reached = [row for row in numbers if purities[row] >= self.precision]
        if reached:
            return reached[-1], ""
        best = max(numbers, key=lambda row: (purities[row], row))
        return best, (
            f"a precision of {self.precision:.0%} is out of reach where {share:.1%} of the windows are good; the "
            f"operating point 'precision' is the highest there is, {purities[best]:.1%}"
        )

    def _shift(self, prior: float | None) -> float:
        if prior is None:
            return 0.0
        if not 0 < prior < 1:
            raise UserError(f"prior is {prior:g}; expected the share of good windows, between 0 and 1, such as 0.21")
        if self.prior is None:
            raise UserError(
                f"prior {prior:g} needs a calibrated checkpoint, which knows the share of good windows it was fitted "
                f"at; first run: {HOW_TO_CALIBRATE}"
            )
        return _logit(prior) - _logit(self.prior)


def stored_calibration(content: dict[str, Any], path: Path | str) -> Calibration:
    """Return the calibration in a checkpoint's content, the plain sigmoid if it has none; refuse a damaged one."""
    if CHECKPOINT_KEY not in content:
        return Calibration()
    try:
        return Calibration.from_state(content[CHECKPOINT_KEY])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_name(name: str) -> None:
    if name not in OPERATING_POINTS:
        raise UserError(f"operating point '{name}' is unknown; choose {', '.join(OPERATING_POINTS)}")


def _check_curve(curve: Any) -> None:
    if not isinstance(curve, dict) or set(curve) != set(_CURVE):
        raise _damaged("its curve has other keys than " + ", ".join(_CURVE))
    columns = [curve[key] for key in _CURVE]
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        raise _damaged("its curve's lists differ in length")
    if not 1 <= len(columns[0]) <= _MOST_POINTS:
        raise _damaged(f"its curve has {len(columns[0])} points")
    for key, column in zip(_CURVE, columns, strict=True):
        if not all(_is_number(value) and 0 <= value <= 1 for value in column):
            raise _damaged(f"its curve's {key} leaves 0 to 1")
        if column != sorted(column, reverse=key == "threshold"):
            raise _damaged(f"its curve's {key} is out of order")


def _damaged(what: str) -> UserError:
    return UserError(f"the stored calibration is damaged: {what}; write it anew with: {HOW_TO_CALIBRATE}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _precision(sensitivity: float, false_positive_rate: float, prior: float) -> float:
    hits, alarms = sensitivity * prior, false_positive_rate * (1 - prior)
    return hits / (hits + alarms) if hits + alarms else 0.0


def _logit(share: float) -> float:
    return math.log(share) - math.log1p(-share)


def _shifted(share: float, shift: float) -> float:
    if share in (0.0, 1.0) or not shift:
        return share
    return 1 / (1 + math.exp(-(_logit(share) + shift)))
