"""`butppg prepare ...`: windows and splits from recordings."""

from __future__ import annotations

import importlib

from butppg_lightning.errors import UserError

_HOME = "butppg_lightning.commands.prepare"
_WHAT = {
    "splits": (f"{_HOME}.splits", "run", "one labelled npz with subjects -> train, val and test"),
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
