"""What Lightning says that a user need not read."""

from __future__ import annotations

import logging
import threading
import warnings
from typing import Any

from butppg_lightning.files import write_failure

_NOISE = (
    # the figures logged are already over all processes
    ".*when logging on epoch level in distributed setting.*",
    ".*module.s. in eval mode at the start of training.*",
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    ".*is smaller than the logging interval.*",
    ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
    ".*Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
    ".*no `val_dataloader` with your current.*",
    ".*Total length of .* across ranks is zero.*",
)


def _one_line_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> str:
    return f"warning: {message}\n"


def _only_news(failed: threading.ExceptHookArgs) -> None:
    # a logger's thread that finds the disk full stops, and the run then says so itself
    if write_failure(failed.exc_value) is None:
        threading.__excepthook__(failed)


def quieten() -> None:
    """Print warnings as one line, and leave out those that say nothing to a user of this package."""
    # where a warning was raised helps a developer; the user needs what it says
    warnings.formatwarning = _one_line_warning
    threading.excepthook = _only_news
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
