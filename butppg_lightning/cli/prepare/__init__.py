"""`butppg prepare ...`: windows and splits from recordings."""

from __future__ import annotations

import importlib

from butppg_lightning.errors import UserError

_HOME = "butppg_lightning.cli.prepare"
_WHAT = {
    "but-ppg": (f"{_HOME}.but_ppg", "run", "the BUT PPG release of PhysioNet -> train, val and test"),
    "splits": (f"{_HOME}.splits", "run", "one labelled npz with subjects -> train, val and test"),
    "vitaldb-splits": (f"{_HOME}.vitaldb", "splits", "cases of VitalDB -> train, val and test, by patient"),
    "vitaldb-windows": (f"{_HOME}.vitaldb", "windows", "those cases -> windows of PPG and ECG for pretraining"),
}


def run(arguments: list[str]) -> None:
    """Dispatch to what is to be prepared."""
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, _WHAT))
        lines = [f"  {name:<{width}}  {summary}" for name, (_, _, summary) in _WHAT.items()]
        print("\n".join(["usage: butppg prepare WHAT [OPTIONS]", "", *lines]))
        return
    if arguments[0] not in _WHAT:
        raise UserError(f"cannot prepare '{arguments[0]}'; choose {', '.join(_WHAT)}")
    module, function, _ = _WHAT[arguments[0]]
    getattr(importlib.import_module(module), function)(arguments[1:])
