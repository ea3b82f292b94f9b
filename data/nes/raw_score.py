"""The raw score: timer, volume and timbre of each voice, at every sample or at the steps of a score."""

from dataclasses import dataclass

import numpy as np

from seqzoo.data.nes.errors import NESFormatError
from seqzoo.data.nes.function_log import FUNCTION, FunctionLog
from seqzoo.data.nes.pitch import SWEEP_SHIFT
from seqzoo.data.nes.register_log import WAITING, RegisterLog
from seqzoo.data.nes.register_machine import run_machine
from seqzoo.data.nes.runs import SAMPLE_RATE, Runs, check_rate, written_bounds
from seqzoo.data.nes.vgm import CLOCKS


# Sets all voices up: off; constant volume 0, no length; a sweep shift that does not mute low notes.
_PREAMBLE = (
    (("ch_p1", 0), ("ch_p2", 0), ("ch_tr", 0), ("ch_no", 0)),
    (("p1_du", 0), ("p1_lh", 1), ("p1_cv", 1), ("p1_vo", 0)),
    (("p1_ss", SWEEP_SHIFT),),
    (("p2_du", 0), ("p2_lh", 1), ("p2_cv", 1), ("p2_vo", 0)),
    (("p2_ss", SWEEP_SHIFT),),
    (("tr_lh", 1), ("tr_lr", 127)),
    (("no_lh", 1), ("no_cv", 1), ("no_vo", 0)),
)


@dataclass(frozen=True, eq=False)
class RawScore:
    """What the chip is set to, in runs of equal rows.

    Args:
        runs (`Runs`):
            Rows `[step, voice, (timer high, timer low, volume, timbre)]` of P1, P2, TR, NO. Timer high has three
            bits, timer low eight; the timer of NO is 16 minus its period. Timer and volume are 0 in silence.
        rate (`float`):
            Rows a second.
        num_samples (`int`):
            Length of the song in samples of 44.1 kHz.
        clock (`int`):
            Of the CPU, in Hz.

    Raises:
        `NESFormatError`: rows, rate, length or clock are not what they should be.
    """

    runs: Runs
    rate: float
    num_samples: int
    clock: int

    def __post_init__(self):
        if self.clock not in CLOCKS:
            raise NESFormatError(f"the clock is {self.clock} Hz, not one of {CLOCKS}")
        check_time(self.runs.length, self.rate, self.num_samples)
        if self.runs.value.dtype != np.uint8 or self.runs.value.shape[1:] != (4, 4):
            raise NESFormatError(
                f"a raw score is uint8 [step, 4, 4], not {self.runs.value.dtype} {self.runs.value.shape}"
            )
        most = np.full((4, 4), [7, 255, 15, 3])
        most[2, 2:] = 0
        most[3] = [0, 16, 15, 1]
        check_most(self.runs.value, most, ("timer high", "timer low", "volume", "timbre"))

    @property
    def score(self) -> np.ndarray:
        """uint8 `[step, voice, (timer high, timer low, volume, timbre)]`: all rows, 16 bytes each."""
        return self.runs.rows()

    @classmethod
    def from_register_log(cls, log: RegisterLog) -> "RawScore":
        """What the chip does at every sample of 44.1 kHz, see [`seqzoo.data.nes.register_machine`]."""
        runs = run_machine(log)
        return cls(runs, SAMPLE_RATE, runs.length, log.clock)

    def to_function_log(self) -> FunctionLog:
        """Write what changes from row to row; the low notes' mute by the sweep unit is switched off.

        It is written as the reference does, a wait for every row. Lengths (`ll`) of the pulses are left to their
        registers: [`FunctionLog.to_register_log`] writes a 0 beside each `th`.
        """
        function = [FUNCTION[name] for group in _PREAMBLE for name, _ in group]
        value = [value for group in _PREAMBLE for _, value in group]
        atom = [number for number, group in enumerate(_PREAMBLE) for _ in group]
        head = len(function)
        steps = []  # of every command after the preamble
        previous = np.zeros((4, 4), dtype=np.uint8).tolist()
        for step, row in zip(self.runs.start.tolist(), self.runs.value.tolist(), strict=True):
            for name, number in _changes(previous, row):
                function.append(FUNCTION[name])
                value.append(number)
                steps.append(step)
            previous = row
        waits = self._waits()
        # Commands of a step come before its wait.
        places = head + np.arange(len(steps)) + np.array(steps, dtype=np.int64)
        total = len(function) + len(waits)
        is_wait = np.ones(total, dtype=bool)
        is_wait[:head] = False
        is_wait[places] = False
        functions = np.full(total, WAITING, dtype=np.int16)
        functions[~is_wait] = function
        values = np.zeros(total, dtype=np.int64)
        values[~is_wait] = value
        values[is_wait] = waits
        atoms = np.zeros(total, dtype=np.int64)
        atoms[:head] = atom
        return FunctionLog(self.clock, functions, values, atoms)

    def _waits(self) -> np.ndarray:
        """Samples of every step; the last one, where needed, is the rest of the song."""
        bounds = np.minimum(written_bounds(self.runs.length, self.rate), self.num_samples)
        return np.diff(bounds if bounds[-1] == self.num_samples else np.append(bounds, self.num_samples))


def check_time(steps: int, rate: float, num_samples: int) -> None:
    """Steps, rate and length of a score fit together."""
    check_rate(rate)
    if not 0 <= num_samples < 2**32:
        raise NESFormatError(f"num_samples is {num_samples}, but takes a number from 0 to {2**32 - 1}")
    if abs(num_samples / SAMPLE_RATE * rate - steps) >= 2:
        raise NESFormatError(f"{steps} steps of {rate} Hz do not fit to {num_samples} samples of {SAMPLE_RATE} Hz")


def check_most(value: np.ndarray, most: np.ndarray, fields: tuple[str, ...]) -> None:
    """No value of `[row, voice, field]` is above `most` `[voice, field]`."""
    wrong = np.argwhere(value > most)
    if len(wrong):
        row, voice, place = wrong[0]
        name = ("P1", "P2", "TR", "NO")[voice]
        raise NESFormatError(
            f"the {fields[place]} of {name} is {value[row, voice, place]} in row {row}, above {most[voice, place]}"
        )


def _changes(previous: list[list[int]], row: list[list[int]]) -> list[tuple[str, int]]:
    """The functions that lead from one row to the next, in the reference's order."""
    changes = []
    for voice, old, new in zip(("p1", "p2", "tr", "no"), previous, row, strict=True):
        was_on, is_on = any(old[:2]), any(new[:2])
        if was_on != is_on:
            changes.append((f"ch_{voice}", int(is_on)))
        if voice == "tr":
            if old[:2] != new[:2]:
                changes += [("tr_tl", new[1]), ("tr_th", new[0])]
            continue
        loudness = [(f"{voice}_vo", new[2])] if old[2] != new[2] > 0 else []
        if voice == "no":
            changes += loudness
            if old[3] != new[3]:
                changes.append(("no_nl", new[3]))
            if old[1] != new[1] > 0:
                changes += [("no_np", 16 - new[1]), ("no_ll", 0)]
            continue
        if old[3] != new[3]:
            changes.append((f"{voice}_du", new[3]))
        changes += loudness
        if old[1] != new[1]:
            changes.append((f"{voice}_tl", new[1]))
        if old[0] != new[0] or (is_on and not was_on):
            changes.append((f"{voice}_th", new[0]))
    return changes
