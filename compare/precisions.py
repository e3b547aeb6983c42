"""Which precisions are installed, found through entry points without importing them."""

from importlib.metadata import EntryPoint, entry_points

GROUP = "compare.families"


def installed() -> dict[str, EntryPoint]:
    """Entry points of all installed precisions, by name.

    Example:
        >>> "binary" in installed()
        True
    """
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}
