"""The packages of the extra `export`: which most users never need, and which talk to their developers."""

from __future__ import annotations

import importlib
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


def require(name: str) -> Any:
    """Import a package of the extra `export`, for example ``onnxruntime`` or ``safetensors.torch``.

    Raises:
        UserError: If it is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise UserError(f"this needs {package}; pip install 'butppg-lightning[export]'") from None


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keep a package's warnings from users, who can do nothing about them; errors are raised as ever.

    Args:
        names: Its loggers; the root logger's remarks are kept back too.
    """
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in names)]
    levels, handlers = [logger.level for logger in loggers], list(root.handlers)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.handlers[:] = handlers  # logging.warning() installs one where there is none
