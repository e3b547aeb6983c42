"""Progress on long work: rate and remaining time on a terminal, nothing where the output is not one."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], describe: str | None, *, unit: str = "it", total: int | None = None
) -> Iterable[Item]:
    """``items``, with a progress line on standard error while they are used.

    Args:
        items: What is worked through.
        describe: Text before the bar; None shows no progress at all.
        unit: What one item is.
        total: Number of items, where ``items`` cannot tell.

    Returns:
        An iterable over the same items.
    """
    if describe is None:
        return items
    # disable=None asks tqdm to be quiet unless standard error is a terminal.
    return tqdm(items, desc=describe, unit=unit, total=total, disable=None, leave=False, dynamic_ncols=True)
