"""Work done by threads beside the one that uses it; for what lets go of Python's lock (numpy, pandas, torch)."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def ahead(work: Callable[[_In], _Out], items: Iterable[_In], threads: int) -> Iterator[_Out]:
    """Yield what ``work`` makes of items, in their order, while ``threads`` are at work on the next ones.

    An error of ``work`` is raised in its item's place. No more results lie ready than there are threads.

    Examples:
        >>> list(ahead(abs, [-1, 2, -3], threads=2))
        [1, 2, 3]
    """
    pending: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
