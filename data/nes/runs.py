"""Rows that stay the same for a while: how everything at 44.1 kHz is held.

A song of a minute has 2.6 million rows at 44.1 kHz, but only some thousand different ones.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np

from seqzoo.data.nes.errors import NESFormatError


SAMPLE_RATE = 44100
LOWEST_RATE = 0.001


@dataclass(frozen=True, eq=False)
class Runs:
    """Rows in run-length form.

    Args:
        start (`np.ndarray`):
            int64 `[run]`, the row at which a run starts, ascending from 0.
        value (`np.ndarray`):
            uint8 `[run, voice, field]`, the row that it repeats.
        length (`int`):
            Rows in all.
    """

    start: np.ndarray
    value: np.ndarray
    length: int

    @classmethod
    def of(cls, rows: np.ndarray) -> "Runs":
        """Rows `[row, voice, field]` in run-length form."""
        changed = (rows[1:] != rows[:-1]).any(axis=(1, 2))
        start = np.flatnonzero(np.concatenate([np.ones(min(len(rows), 1), dtype=bool), changed]))
        return cls(start, rows[start], len(rows))

    @classmethod
    def of_frames(cls, rows: np.ndarray, rate: float, num_samples: int) -> "Runs":
        """Rows at `rate`, held until the next one and the last one to the end, as runs of 44.1 kHz samples."""
        runs = cls.of(rows)
        start = frame_bounds(len(rows), rate)[runs.start]
        inside = start < num_samples
        return cls(start[inside], runs.value[inside], num_samples)

    @property
    def lengths(self) -> np.ndarray:
        """int64 `[run]`."""
        return np.diff(self.start, append=self.length)

    def rows(self) -> np.ndarray:
        """uint8 `[row, voice, field]`, every single row."""
        return np.repeat(self.value, self.lengths, axis=0)

    def merged(self) -> "Runs":
        """The same rows in the fewest runs."""
        runs = Runs.of(self.value)
        return Runs(self.start[runs.start], runs.value, self.length)

    def cut(self, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pieces of runs between bounds.

        Args:
            bounds (`np.ndarray`):
                int64 `[frame + 1]`, ascending; frame `i` has the rows `bounds[i]:bounds[i + 1]`.

        Returns:
            For each piece its frame, its run and its number of rows.
        """
        bounds = np.minimum(bounds, self.length)
        edges = np.union1d(self.start, bounds)
        edges = edges[(edges >= bounds[0]) & (edges <= bounds[-1])]
        piece = edges[:-1]
        return (
            np.searchsorted(bounds, piece, side="right") - 1,
            np.searchsorted(self.start, piece, side="right") - 1,
            np.diff(edges),
        )


def check_rate(rate: Real) -> float:
    """A rate of steps, if it is one.

    Raises:
        `NESFormatError`: it is not.
    """
    if not isinstance(rate, Real) or not LOWEST_RATE <= rate <= SAMPLE_RATE:
        raise NESFormatError(f"the rate is {rate} Hz, but takes a number from {LOWEST_RATE} to {SAMPLE_RATE}")
    return float(rate)


def num_frames(num_samples: int, rate: float) -> int:
    """How many steps of `rate` a song has: those that are complete."""
    return num_samples if rate == SAMPLE_RATE else int(num_samples / SAMPLE_RATE * rate)


def samples_of_frames(frames: int, rate: float) -> int:
    """The shortest song that has so many steps of `rate`."""
    num_samples = int(frames / rate * SAMPLE_RATE)
    while num_frames(num_samples, rate) < frames:
        num_samples += 1
    return num_samples


def frame_bounds(frames: int, rate: float) -> np.ndarray:
    """int64 `[frames + 1]`: step `i` of a rate covers the samples `bounds[i]:bounds[i + 1]`."""
    if rate == SAMPLE_RATE:
        return np.arange(frames + 1)
    return (np.arange(frames + 1) / rate * SAMPLE_RATE).astype(np.int64)


def written_bounds(frames: int, rate: float) -> np.ndarray:
    """int64 `[frames + 1]`: where the steps of a rate begin when a score is written as a log.

    The sum of step lengths decides, and its rounding error puts some steps a sample before `frame_bounds`, step 6 of
    24 Hz for one.
    """
    if rate == SAMPLE_RATE:
        return np.arange(frames + 1)
    return np.append(0, SAMPLE_RATE * np.cumsum(np.full(frames, 1 / rate))).astype(np.int64)
