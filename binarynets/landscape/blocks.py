"""Work on many blocks of samples in parallel threads; kernels let go of Python's lock."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

from compare.progress import progress

Task = TypeVar("Task")
Found = TypeVar("Found")


def in_threads(
    work: Callable[[Task], Found], tasks: Sequence[Task], *, threads: int | None, describe: str | None
) -> Iterable[Found]:
    """``work`` on each task, results as they come.

    Ctrl-C lets the tasks that are running end, at most one for each thread, and drops the others.

    Args:
        work: Called with one task.
        tasks: All of them.
        threads: How many at a time; None for as many as torch uses.
        describe: Text before the progress line; None shows none.

    Yields:
        What each call returns, in any order.

    Raises:
        ValueError: If ``threads`` is not positive.
    """
    count = torch.get_num_threads() if threads is None else threads
    if count < 1:
        raise ValueError(f"threads: expected a positive number, or None for as many as torch uses, got {threads}")
    pool = ThreadPoolExecutor(max_workers=count)
    try:
        # Nothing here holds a future once it is done: results may be large.
        done = as_completed([pool.submit(work, task) for task in tasks])
        for future in progress(done, describe, unit="block", total=len(tasks)):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
