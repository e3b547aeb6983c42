"""Seeds derived from others, so that no two uses of randomness share one by accident."""

import hashlib


def derived(*parts: object) -> int:
    """A seed of 56 bits that depends on every part, for instance ``derived(seed, "untrained")``.

    Example:
        >>> derived(0, "untrained") == derived(0, "untrained") != derived(1, "untrained")
        True
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")
