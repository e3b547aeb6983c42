"""What can be wrong with a question about conserved quantities."""

from compare.errors import CompareError


class ConservedError(CompareError, ValueError):
    """A quantity, a descent or a scheme that makes no sense as asked for."""
