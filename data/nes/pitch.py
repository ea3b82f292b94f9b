"""Between timers of the chip and notes of MIDI."""

from functools import lru_cache

import numpy as np


LOWEST_NOTE, HIGHEST_NOTE = 21, 108
# A pulse's timer has eleven bits: below this note it wraps.
LOWEST_OF_PULSE = 33
SWEEP_SHIFT = 7
# CPU cycles for a timer step, of pulse and triangle: a wave of the pulse has 16, one of the triangle 32.
_CYCLES = np.array([16, 32], dtype=np.float32)


@lru_cache(maxsize=8)
def notes_of_timers(clock: int) -> np.ndarray:
    """uint8 `[timer, (pulse, triangle)]`: the nearest note, 0 outside 21 to 108."""
    frequency = np.float32(clock) / (_CYCLES * np.arange(1, 2049, dtype=np.float32)[:, None])
    note = np.round(69 + 12 * np.log(frequency / np.float32(440)) / np.float32(np.log(2)))
    table = np.where((note >= LOWEST_NOTE) & (note <= HIGHEST_NOTE), note, 0).astype(np.uint8)
    table.flags.writeable = False
    return table


def lowest_sounding_note(clock: int) -> int:
    """Of a pulse: its timer fits, and the sweep unit, at the shift that scores are written with, does not mute it."""
    timer = timers_of_notes(clock)[LOWEST_OF_PULSE:, 0]
    return LOWEST_OF_PULSE + int(np.argmax(timer + (timer >> SWEEP_SHIFT) < 0x800))


@lru_cache(maxsize=8)
def timers_of_notes(clock: int) -> np.ndarray:
    """int64 `[note, (pulse, triangle)]`: the timer nearest to a note; 0 for note 0.

    Eleven bits of it: notes that are too low get the timer of another one, and have to be kept away.
    """
    frequency = 440 * 2.0 ** ((np.arange(128) - 69) / 12)
    table = np.round(clock / (_CYCLES.astype(np.float64) * frequency[:, None]) - 1).astype(np.int64) & 0x7FF
    table[0] = 0
    table.flags.writeable = False
    return table
