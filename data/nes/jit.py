"""The one place that knows whether numba is there: with it, decorated functions are compiled; without, they just run.

Decorated functions therefore keep to what both can do: numbers, tuples and NumPy arrays.
"""

try:
    from numba import njit as _njit
except ImportError:
    _njit = None


def njit(function):
    """Compile `function` when it is first called, and keep the machine code for the next process."""
    return function if _njit is None else _njit(cache=True)(function)
