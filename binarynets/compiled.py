"""Entry points of kernels: compiled by numba once, and kept on disk where there is a place for it."""

# mypy: ignore-errors
# (numba has no types)

import numba


def entry(function):
    """Compile ``function`` when it is first called; it lets go of Python's lock.

    The machine code is kept beside the module, or in the user's cache. Where neither can be written (a read-only
    installation without a home) each process compiles anew; the environment variable NUMBA_CACHE_DIR names a place.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba's word for no place to keep it
        return numba.njit(nogil=True)(function)
