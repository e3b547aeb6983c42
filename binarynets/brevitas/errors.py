"""What can be wrong with a Brevitas model."""

from compare.errors import CompareError


class BrevitasError(CompareError, ValueError):
    """A Brevitas model, its parameters or its state that cannot be used as it is; the message says what to do."""
