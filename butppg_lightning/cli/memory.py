"""Running out of memory, told in one line that says what to change."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@contextmanager
def out_of_memory_told(config: Any, place: Callable[[], str]) -> Iterator[None]:
    """Turn an exception that means "no memory left" into a line for the user.

    Args:
        config: The resolved configuration of a training command (``data``, ``trainer``).
        place: Says where the run was; empty if unknown.

    Raises:
        UserError: In place of that exception.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not ran_out(error):
            raise
        where = f" in {place()}" if place() else ""
        raise UserError(f"out of memory{where}; {_advice(config, error)}") from error


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
