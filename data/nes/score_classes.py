"""What a model of scores chooses from: each column of a score as classes 0, 1, 2, ...

A column is one voice's notes, velocities or timbres. This is the one place where values and classes meet: class 0 of a
note column is silence, class 1 its lowest note; velocities and timbres are classes already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqzoo.data.nes.errors import NESFormatError
from seqzoo.data.nes.pitch import HIGHEST_NOTE, LOWEST_NOTE


@dataclass(frozen=True)
class Column:
    """One column of a score.

    Args:
        name (`str`):
            As tables have it.
        voice, field (`int`):
            Where it is in a score `[step, voice, (note, velocity, timbre)]`.
        classes (`int`):
            How many there are.
        lowest (`int`):
            The value that is class 1; class 0 is the value 0.
    """

    name: str
    voice: int
    field: int
    classes: int
    lowest: int = 1


# Notes in the order in which they are composed: 33 to 108 of a pulse, 21 to 108 of the triangle, 1 to 16 of noise.
COMPOSITION = (
    Column("P1", 0, 0, 77, lowest=33),
    Column("P2", 1, 0, 77, lowest=33),
    Column("TR", 2, 0, 89, lowest=21),
    Column("NO", 3, 0, 17),
)
# How the notes are played; the triangle has neither volume nor timbre.
PERFORMANCE = (
    Column("P1 velocity", 0, 1, 16),
    Column("P2 velocity", 1, 1, 16),
    Column("NO velocity", 3, 1, 16),
    Column("P1 timbre", 0, 2, 4),
    Column("P2 timbre", 1, 2, 4),
    Column("NO timbre", 3, 2, 2),
)


def classes_of(score: np.ndarray, columns: Sequence[Column] = COMPOSITION) -> np.ndarray:
    """int64 `[step, column]`, the classes of a score.

    Args:
        score (`np.ndarray`):
            `[step, voice, (note, velocity, timbre)]`, or `[step, voice]` of notes alone.

    Raises:
        `NESFormatError`: a value is none of a column's.
    """
    fields = score[:, :, None] if score.ndim == 2 else score
    classes = np.empty((len(score), len(columns)), dtype=np.int64)
    for place, column in enumerate(columns):
        value = fields[:, column.voice, column.field].astype(np.int64)
        classes[:, place] = np.where(value == 0, 0, value - column.lowest + 1)
        wrong = (value != 0) & ((classes[:, place] < 1) | (classes[:, place] >= column.classes))
        if wrong.any():
            raise NESFormatError(
                f"the value {value[wrong][0]} of {column.name} at step {np.flatnonzero(wrong)[0]} is neither 0 nor "
                f"from {column.lowest} to {column.lowest + column.classes - 2}"
            )
    return classes


def values_of(classes: np.ndarray, columns: Sequence[Column] = COMPOSITION) -> np.ndarray:
    """uint8 `[step, column]`, the values of classes `[step, column]`; those of `COMPOSITION` are a separated score."""
    lowest = np.array([column.lowest for column in columns])
    return np.where(classes == 0, 0, classes + lowest - 1).astype(np.uint8)


def roll_of(score: np.ndarray) -> np.ndarray:
    """int64 `[step, key]`: 1 where P1, P2 or TR play one of the keys 21 to 108.

    Args:
        score (`np.ndarray`):
            `[step, voice, (note, velocity, timbre)]`, or `[step, voice]` of notes alone.
    """
    notes = score[:, :3, 0] if score.ndim == 3 else score[:, :3]
    roll = np.zeros((len(score), HIGHEST_NOTE + 1), dtype=np.int64)
    np.put_along_axis(roll, notes.astype(np.int64), 1, axis=1)
    return roll[:, LOWEST_NOTE:]
