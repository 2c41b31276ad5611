"""Warnings of the libraries below in one line, and what to change where memory or disk ran out."""

from __future__ import annotations

import itertools
import logging
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.files import write_failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from butppg_lightning.training.run_logs import StageRecord

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
_KILLED = "is killed by signal: Killed"  # a loader's worker, by the kernel
_NO_MEMORY = (
    "out of memory",  # CUDA, MPS, hip
    "not enough memory",  # DefaultCPUAllocator
    "DefaultCPUAllocator: can't allocate",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
    _KILLED,
)


def quieten() -> None:
    """Print warnings as one line, and leave out those that say nothing to a user of this package."""
    # where a warning was raised helps a developer; the user needs what it says
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    threading.excepthook = _only_news
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def ran_out(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out; imports nothing to find out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in _NO_MEMORY)


def resource_line(error: BaseException, arguments: Sequence[str]) -> str | None:
    """Return the line for an exception that means that memory or disk ran out; None if it means something else."""
    command = arguments[0]
    if failed := write_failure(error):
        given = [after for name, after in itertools.pairwise(arguments) if name.startswith("--output")]
        given += [name.partition("=")[2] for name in arguments if name.startswith("--output") and "=" in name]
        return _disk(failed, given[-1] if given else f"the output of `butppg {command}`")
    if not ran_out(error):
        return None
    size = "" if command in ("mock", "prepare", "completion") else "; use a smaller --batch_size"
    return f"out of memory in `butppg {command}`{size}, or end other programs"


@contextmanager
def resources_reported(config: Any, record: StageRecord) -> Iterator[None]:
    """Turn what means that memory or disk ran out in a training command into a line that says what to change."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if failed := write_failure(error):
            raise UserError(_disk(failed, config.output_dir)) from error
        if not ran_out(error):
            raise
        where = f" in {record.place}" if record.place else ""
        raise UserError(f"out of memory{where}; {_advice(config, error)}") from error


def _only_news(failed: threading.ExceptHookArgs) -> None:
    # a logger's thread that finds the disk full stops, and the run then says so itself
    if write_failure(failed.exc_value) is None:
        threading.__excepthook__(failed)


def _disk(failed: OSError, output: str) -> str:
    return f"cannot write {failed.filename or output}: {failed.strerror}; free space or choose another folder"


def _advice(config: Any, error: BaseException) -> str:
    if _KILLED in str(error):
        return f"a loader's worker was killed: use --data.num_workers 0 (now {config.data.num_workers})"
    size, trainer = config.data.batch_size, config.trainer
    ways = []
    if size > 1:
        steps = 2 * trainer.accumulate_grad_batches
        same = f" with --trainer.accumulate_grad_batches {steps}, which trains nearly the same"
        ways.append(f"use --data.batch_size {size // 2} (now {size}){same if 'overwrite' in config else ''}")
    if str(trainer.precision).startswith("32"):
        ways.append("--trainer.precision bf16-mixed (now 32-true)")
    if config.get("cache") and config.cache.enabled:
        ways.append("--cache.enabled false")
    return ", or ".join(ways) or "use a smaller model (--config small.yaml)"
