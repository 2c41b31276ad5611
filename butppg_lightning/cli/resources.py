"""Running out of memory or disk, reported in one line that says what to change."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.files import write_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_SIGNS = (
    "out of memory",  # CUDA, MPS, hip
    "not enough memory",  # DefaultCPUAllocator
    "DefaultCPUAllocator: can't allocate",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
)
_KILLED = "is killed by signal: Killed"  # a loader's worker, by the kernel


def ran_out(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out; imports nothing to find out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError | OSError) and (_KILLED in text or any(sign in text for sign in _SIGNS))


def report(error: BaseException, command: str, arguments: Sequence[str]) -> str | None:
    """Return the line for an exception that means that memory or disk ran out; None if it means something else.

    Args:
        error: What ended the command.
        command: Its first word.
        arguments: What the user typed, which may name the output.
    """
    if failed := write_failure(error):
        given = [after for name, after in itertools.pairwise(arguments) if name.startswith("--output")]
        given += [name.partition("=")[2] for name in arguments if name.startswith("--output") and "=" in name]
        return _disk(failed, given[-1] if given else f"the output of `butppg {command}`")
    if not ran_out(error):
        return None
    size = "" if command in ("mock", "prepare", "completion") else "; use a smaller --batch_size"
    return f"out of memory in `butppg {command}`{size}, or end other programs"


@contextmanager
def resources_reported(config: Any, place: Callable[[], str]) -> Iterator[None]:
    """Turn an exception that means "no memory left" or "no disk left" into a line for the user.

    Args:
        config: The resolved configuration of a training command (``data``, ``trainer``, ``output_dir``).
        place: Says where the run was; empty if unknown.

    Raises:
        UserError: In place of that exception.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            raise
        if failed := write_failure(error):
            raise UserError(_disk(failed, config.output_dir)) from error
        if not ran_out(error):
            raise
        where = f" in {place()}" if place() else ""
        raise UserError(f"out of memory{where}; {_advice(config, error)}") from error


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
