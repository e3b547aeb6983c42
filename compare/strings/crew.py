"""Independent work on one landscape, on one core or several: the same bits however many there are."""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import joblib
import torch

from compare.strings.landscape import Landscape, StringError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Crew:
    """What does the work of a generation.

    Attributes:
        landscape: The landscape, copied into each process.
        jobs: Number of processes as joblib takes it; 1 stays in this one.
    """

    landscape: Landscape
    jobs: int = 1

    def __post_init__(self) -> None:
        """Check the number of processes.

        Raises:
            StringError: If it is 0.
        """
        if self.jobs == 0:
            raise StringError("jobs: expected a number of processes, or -1 for one for each core, got 0")

    def map(self, work: Callable[[Landscape, Item], Result], items: Sequence[Item]) -> list[Result]:
        """``work(landscape, item)`` for each item, in the order of the items.

        Raises:
            StringError: If the work is for several processes, and the landscape cannot be sent to them.
        """
        processes = min(joblib.effective_n_jobs(self.jobs), len(items))
        if processes <= 1:
            return _done(work, self.landscape, items)
        # In as many parts as processes, so that the landscape, with all its samples, travels once to each.
        try:
            parts = joblib.Parallel(n_jobs=processes)(
                joblib.delayed(_done)(work, self.landscape, items[first::processes]) for first in range(processes)
            )
        except pickle.PicklingError as error:
            raise StringError("this landscape cannot be sent to other processes: use jobs=1") from error
        return [parts[number % processes][number // processes] for number in range(len(items))]


def _done(work: Callable[[Landscape, Item], Result], landscape: Landscape, items: Sequence[Item]) -> list[Result]:
    with _one_thread():
        return [work(landscape, item) for item in items]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are rounded otherwise on another number of threads, and a bead would depend on where it was trained."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
