"""From expressive rows at 44.1 kHz to steps: the values that sound longest, and the rate that fits the notes best."""

import numpy as np

from seqzoo.data.nes.errors import NESFormatError
from seqzoo.data.nes.runs import SAMPLE_RATE, Runs


_SHORTEST_INTERVAL = 44  # samples; what is not longer is an artefact of writing registers one after the other
_FEWEST_INTERVALS = 10


def sample_runs(runs: Runs, bounds: np.ndarray) -> np.ndarray:
    """uint8 `[step, voice, (note, velocity, timbre)]`, step `i` from the samples `bounds[i]:bounds[i + 1]`.

    A voice that sounds anywhere in a step has, each for itself, the note, velocity and timbre that sound longest (of
    several the smallest); one that does not has the timbre that lasts longest, and no note.
    """
    frames = len(bounds) - 1
    frame, run, weight = runs.cut(bounds)
    score = np.zeros((frames, 4, 3), dtype=np.uint8)
    for voice in range(4):
        value = runs.value[run, voice]
        sounds = value[:, 0] > 0
        sounding_frame = np.zeros(frames, dtype=bool)
        sounding_frame[frame[sounds]] = True
        counts = sounds | ~sounding_frame[frame]
        for place in range(3):
            _put_modes(score[:, voice, place], frame[counts], value[counts, place], weight[counts])
        score[~sounding_frame, voice, :2] = 0
    return score


def _put_modes(column: np.ndarray, frame: np.ndarray, value: np.ndarray, weight: np.ndarray) -> None:
    """Into each step of a column, the value with the greatest weight."""
    keys, which = np.unique(frame * 256 + value, return_inverse=True)
    total = np.bincount(which, weights=weight)
    order = np.lexsort((keys, -total, keys >> 8))
    first = order[np.append(True, np.diff(keys[order] >> 8) > 0)[: len(order)]]
    column[keys[first] >> 8] = keys[first] & 0xFF


def adaptive_rate(runs: Runs) -> float:
    """The rate of 1.000 to 24.000 Hz, in steps of a thousandth, whose steps meet the onsets of the notes best.

    The intervals between the onsets of each voice count; an interval's error at a rate is its distance to the last
    step before its end. What the reference means to do: its own attempt stops with an error.

    Raises:
        `NESFormatError`: there are fewer than ten intervals.
    """
    intervals = []
    for voice in range(4):
        note = runs.value[:, voice, 0]
        onset = np.flatnonzero((note > 0) & (note != np.append(0, note)[:-1]))
        intervals.append(np.diff(runs.start[onset]))
    pooled = np.concatenate(intervals)
    pooled = pooled[pooled > _SHORTEST_INTERVAL]
    if len(pooled) < _FEWEST_INTERVALS:
        raise NESFormatError(
            f"an adaptive rate needs {_FEWEST_INTERVALS} intervals between notes, this has {len(pooled)}; set a rate"
        )
    length, count = np.unique(pooled, return_counts=True)
    seconds = length / SAMPLE_RATE
    rates = 1 + np.arange(23001) * (1.001 - 1)
    errors = np.zeros(len(rates))
    for interval, times in zip(seconds, count, strict=True):
        errors += times * (interval - np.floor(interval * rates + 1e-8) / rates)
    return float(rates[np.argmin(errors)])
