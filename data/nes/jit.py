"""Loops that cannot be told in whole arrays: compiled by numba where it is installed, plain Python where it is not.

`pip install 'seqzoo[nes]'` brings numba. The same source runs either way, and with `NUMBA_DISABLE_JIT=1`; only the
time differs.
"""

from collections.abc import Callable


try:
    from numba import njit
except ImportError:
    njit = None


def compiled(function: Callable) -> Callable:
    """Decorates a function of numbers, tuples and arrays that calls no others but decorated ones.

    It is compiled at its first call, and kept on disk for other processes. Values of arrays other than int64 and
    float64 have to be made `int(...)` before arithmetic that could leave their type: without numba they are NumPy
    scalars.
    """
    if njit is None:
        return function
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # nowhere to write
        return njit(function)
