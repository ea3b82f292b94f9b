"""Loops that cannot be told in whole arrays: compiled by numba where it is installed, plain Python where it is not.

`pip install 'seqzoo[nes]'` brings numba. The same source runs either way, and with `NUMBA_DISABLE_JIT=1`; only the
time differs. numba is imported at the first call, and what it compiled is kept on disk for other processes.
"""

from collections.abc import Callable
from functools import cache, wraps


def compiled(function: Callable) -> Callable:
    """Decorates a function of numbers and int64 or uint8 arrays that calls no other decorated one.

    Values of arrays have to be made `int(...)` before arithmetic that could leave their type: without numba they are
    NumPy scalars.
    """

    @cache
    def implementation() -> Callable:
        try:
            import numba
        except ImportError:
            return function
        try:
            return numba.njit(cache=True)(function)
        except RuntimeError:  # nowhere to write
            return numba.njit(function)

    @wraps(function)
    def call(*arguments):
        return implementation()(*arguments)

    return call
