"""Classes of torch that a configuration names by ``class_path``: looked up, never imported from elsewhere."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


def torch_class(
    spec: Mapping[str, Any], module: ModuleType, base: type, key: str, refused: Mapping[str, str]
) -> tuple[type[Any], dict[str, Any]]:
    """Return the class that a specification names, and its arguments.

    Only what ``module`` itself offers is found: a checkpoint's hyperparameters cannot make us import anything.

    Args:
        spec: ``{class_path, init_args}``; the class path in full, or the class's name alone.
        module: ``torch.optim`` or ``torch.optim.lr_scheduler``.
        base: What the class has to be.
        key: Name of the option, for messages.
        refused: Class name to the reason why it cannot serve.

    Raises:
        UserError: If there is no such class, or it is refused.
    """
    path, arguments = spec.get("class_path"), spec.get("init_args") or {}
    if set(spec) - {"class_path", "init_args"} or not isinstance(path, str) or not isinstance(arguments, dict):
        raise UserError(f"{key} is {dict(spec)}; expected class_path: {module.__name__}.NAME and init_args")
    home, _, name = path.rpartition(".")
    found = getattr(module, name, None) if home in ("", module.__name__, "torch.optim") else None
    if not isinstance(found, type) or not issubclass(found, base) or found is base:
        known = [item for item in vars(module) if isinstance(getattr(module, item), type)]
        known = [item for item in known if issubclass(getattr(module, item), base) and not item.startswith("_")]
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"{key} is {path}; choose one of {module.__name__}{f': the nearest is {near[0]}' if near else ''}"
        )
    if name in refused:
        raise UserError(f"{key} cannot be {name}: {refused[name]}")
    return found, dict(arguments)
