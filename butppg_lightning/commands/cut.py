"""Where `score` and `evaluate` cut probabilities: the options they share."""

from __future__ import annotations

from typing import Any

from butppg_lightning.errors import UserError


def check_cut(options: Any) -> None:
    """Check ``threshold``, ``operating_point``, ``prior`` and ``batch_size``.

    Raises:
        UserError: If one is impossible, or two contradict each other.
    """
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold is {options.threshold:g}; expected 0 to 1")
    if options.threshold is not None and options.operating_point is not None:
        raise UserError("--threshold and --operating_point both say where to cut; give one")
    if options.prior is not None and not 0 < options.prior < 1:
        raise UserError(f"--prior is {options.prior:g}; expected the share of good windows, between 0 and 1")
    if options.batch_size < 1:
        raise UserError(f"--batch_size is {options.batch_size}; expected 1 or more")
