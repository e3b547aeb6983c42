"""The base of all errors that tell a user what to change."""


class CompareError(Exception):
    """Something a user can mend: the message says what was expected, what came and what to do."""
