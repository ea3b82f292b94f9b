"""NDF, the functional log: register writes taken apart into what they do, such as `p1 vo`, the volume of P1.

Functions have names of five letters, voice and function: `p1_vo`. A voice is p1, p2 (pulses), tr (triangle), no
(noise), dm (sample channel), ch (on and off of the five) or fc (frame counter). Functions: du duty, lh length halt,
cv constant volume, vo volume or envelope period, se sweep on, sp sweep period, sn sweep negate, ss sweep shift,
tl timer low, th timer high, ll length load, lr linear reload, nl noise loop, np noise period, mo five-step mode,
iq interrupt, and iq lo fr lc sa sl of the sample channel.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seqzoo.data.nes import command_text
from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits, NESFormatError
from seqzoo.data.nes.jit import compiled
from seqzoo.data.nes.register_log import WAITING, RegisterLog, check_commands, command_time


class Function(NamedTuple):
    """Some bits of a register."""

    name: str
    register: int
    mask: int

    @property
    def shift(self) -> int:
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def most(self) -> int:
        """The largest value."""
        return self.mask >> self.shift


_PULSE = (
    ("du", 0, 0xC0),
    ("lh", 0, 0x20),
    ("cv", 0, 0x10),
    ("vo", 0, 0x0F),
    ("se", 1, 0x80),
    ("sp", 1, 0x70),
    ("sn", 1, 0x08),
    ("ss", 1, 0x07),
    ("tl", 2, 0xFF),
    ("ll", 3, 0xF8),
    ("th", 3, 0x07),
)
_TRIANGLE = (("lh", 0, 0x80), ("lr", 0, 0x7F), ("tl", 2, 0xFF), ("ll", 3, 0xF8), ("th", 3, 0x07))
_NOISE = (("lh", 0, 0x20), ("cv", 0, 0x10), ("vo", 0, 0x0F), ("nl", 2, 0x80), ("np", 2, 0x0F), ("ll", 3, 0xF8))
_SAMPLES = (("iq", 0, 0x80), ("lo", 0, 0x40), ("fr", 0, 0x0F), ("lc", 1, 0x7F), ("sa", 2, 0xFF), ("sl", 3, 0xFF))
_STATUS = (("dm", 0, 0x10), ("no", 0, 0x08), ("tr", 0, 0x04), ("p2", 0, 0x02), ("p1", 0, 0x01))
_FRAME_COUNTER = (("mo", 0, 0x80), ("iq", 0, 0x40))
# By register, within it from high to low bits: the order in which one write becomes several commands.
FUNCTIONS = tuple(
    Function(f"{voice}_{name}", base + offset, mask)
    for voice, base, functions in (
        ("p1", 0x00, _PULSE),
        ("p2", 0x04, _PULSE),
        ("tr", 0x08, _TRIANGLE),
        ("no", 0x0C, _NOISE),
        ("dm", 0x10, _SAMPLES),
        ("ch", 0x15, _STATUS),
        ("fc", 0x17, _FRAME_COUNTER),
    )
    for name, offset, mask in functions
)
FUNCTION = {function.name: number for number, function in enumerate(FUNCTIONS)}
REGISTER = np.array([function.register for function in FUNCTIONS])
MASK = np.array([function.mask for function in FUNCTIONS])
SHIFT = np.array([function.shift for function in FUNCTIONS])
MOST = np.array([function.most for function in FUNCTIONS])
# Register within the voice: the voices' registers begin at multiples of 4, those of ch and fc are alone.
OFFSET = np.where(REGISTER < 0x14, REGISTER & 3, 0)
# How many functions a register has, and which is its first.
_COUNT = np.bincount(REGISTER, minlength=0x18)
_FIRST = np.searchsorted(REGISTER, np.arange(0x18))
_UNKNOWN_REGISTERS = (0x14, 0x16)


@dataclass(frozen=True, eq=False)
class FunctionLog:
    """Changes of functions and waits in order.

    Args:
        clock (`int`):
            Of the CPU, in Hz.
        function (`np.ndarray`):
            int16 `[command]`: which of `FUNCTIONS`, -1 for a wait.
        value (`np.ndarray`):
            int64 `[command]`: its new value, or the samples (of 44.1 kHz) to wait.
        atom (`np.ndarray`):
            int64 `[command]`: which register write since the last wait it belongs to, 0 for a wait.

    Raises:
        `NESFormatError`: the clock, a function, a value or an atom is not one.
    """

    clock: int
    function: np.ndarray
    value: np.ndarray
    atom: np.ndarray

    def __post_init__(self):
        check_commands(self.clock, self.function, self.value, len(FUNCTIONS) - 1)
        check_function_values(self.function, self.value)
        if self.atom.shape != self.function.shape or (len(self.atom) and self.atom.min() < 0):
            raise NESFormatError("atoms are not one number from 0 for each command")

    @property
    def num_samples(self) -> int:
        """Length in samples of 44.1 kHz: all waits."""
        return int(self.value[self.function == WAITING].sum())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FunctionLog)
            and self.clock == other.clock
            and np.array_equal(self.function, other.function)
            and np.array_equal(self.value, other.value)
            and np.array_equal(self.atom, other.atom)
        )

    @classmethod
    def from_register_log(cls, log: RegisterLog) -> "FunctionLog":
        """A write becomes as many commands as its register has functions. Memory blocks are left out.

        Raises:
            `NESFormatError`: a register does not exist.
        """
        wait = log.register == WAITING
        wrong = np.flatnonzero((log.register > 0x17) | np.isin(log.register, _UNKNOWN_REGISTERS))
        if len(wrong):
            raise NESFormatError(f"command {wrong[0]} writes to {log.register[wrong[0]]:#04x}, which is no register")
        places = np.arange(len(wait))
        since_wait = places - np.maximum.accumulate(np.where(wait, places + 1, 0))
        counts = np.where(wait, 1, _COUNT[log.register])
        command = np.repeat(places, counts)
        within = np.arange(len(command)) - np.repeat(np.cumsum(counts) - counts, counts)
        wait = wait[command]
        function = np.where(wait, WAITING, _FIRST[log.register[command]] + within)
        value = np.where(wait, log.value[command], (log.value[command] & MASK[function]) >> SHIFT[function])
        atom = np.where(wait, 0, since_wait[command])
        return cls(log.clock, function.astype(np.int16), value, atom)

    def to_register_log(self) -> RegisterLog:
        """Commands of one register and one atom between two waits become one write, with the other bits as they were.

        Bits that were never set are 0.
        """
        wait = self.function == WAITING
        segment = np.cumsum(wait)
        # A wait is a group by itself, at the end of its segment.
        register = np.where(wait, 0x18, REGISTER[self.function])
        keys = np.stack([np.where(wait, segment - 1, segment), register, self.atom], axis=1)
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        by_first = np.argsort(first)
        rank[by_first] = np.arange(len(first))
        group = rank[group.reshape(-1)]
        order = np.argsort(group, kind="stable")
        bits = np.where(wait, 0, self.value << SHIFT[self.function])
        written = _merge_writes(
            group[order], register[order], np.where(wait, 0, MASK[self.function])[order], bits[order]
        )
        first = first[by_first]
        register = np.where(wait[first], WAITING, register[first]).astype(np.int16)
        return RegisterLog(self.clock, register, np.where(wait[first], self.value[first], written[: len(first)]))

    @classmethod
    def from_text(cls, text: str, file: str | None = None, limits: Limits = DEFAULT_LIMITS) -> "FunctionLog":
        """Read lines `clock,N`, then `apu,VOICE,FUNCTION,VALUE,ATOM,OFFSET` and `wait,N`.

        Raises:
            `NESFormatError`: a line is not one of these; the offset is its number.
        """
        commands = command_text.read_commands(text, file)
        clock = command_text.read_clock(commands, file)
        function, value, atom = [], [], []
        for line, fields in commands:
            if fields[0] == "apu" and len(fields) == 6:
                number = FUNCTION.get(f"{fields[1]}_{fields[2]}")
                if number is None:
                    raise NESFormatError(f"{fields[1][:9]},{fields[2][:9]} is no function", file, line)
                function.append(number)
                value.append(command_text.read_number(fields[3], FUNCTIONS[number].most, file, line))
                atom.append(command_text.read_number(fields[4], 2**31, file, line))
                if fields[5] != str(OFFSET[number]):
                    raise NESFormatError(
                        f"{FUNCTIONS[number].name} is at offset {OFFSET[number]}, not {fields[5][:9]}", file, line
                    )
            elif fields[0] == "wait" and len(fields) == 2:
                function.append(WAITING)
                value.append(command_text.read_number(fields[1], 2**32 - 1, file, line))
                atom.append(0)
            else:
                cause = "this is neither `apu,VOICE,FUNCTION,VALUE,ATOM,OFFSET` nor `wait,N`"
                raise NESFormatError(cause, file, line)
        numbers = (np.array(value, dtype=np.int64), np.array(atom, dtype=np.int64))
        log = cls(clock, np.array(function, dtype=np.int16), *numbers)
        limits.check_samples(log.num_samples, file)
        return log

    def to_text(self) -> str:
        """The same lines, without a line end after the last."""
        head = [f"apu,{function.name[:2]},{function.name[3:]}" for function in FUNCTIONS]
        offset = OFFSET.tolist()
        lines = [f"clock,{self.clock}"]
        for function, value, atom in zip(self.function.tolist(), self.value.tolist(), self.atom.tolist(), strict=True):
            if function == WAITING:
                lines.append(f"wait,{value}")
            else:
                lines.append(f"{head[function]},{value},{atom},{offset[function]}")
        return "\n".join(lines)

    @property
    def time(self) -> np.ndarray:
        """int64 `[command]`: the sample at which each command happens; a wait begins there."""
        return command_time(self.function, self.value)


def check_function_values(function: np.ndarray, value: np.ndarray) -> None:
    """Every value fits into the bits of its function."""
    wrong = np.flatnonzero((function != WAITING) & (value > MOST[function]))
    if len(wrong):
        name, most = FUNCTIONS[function[wrong[0]]].name, MOST[function[wrong[0]]]
        raise NESFormatError(f"the value {value[wrong[0]]} of {name} (command {wrong[0]}) is above {most}")


@compiled
def _merge_writes(group, register, mask, bits):
    """The content of the register after each group of changes; register 0x18 stands for a wait."""
    content = np.zeros(0x19, dtype=np.int64)
    written = np.zeros(len(group), dtype=np.int64)
    for place in range(len(group)):
        number = register[place]
        content[number] = (content[number] & ~mask[place]) | bits[place]
        written[group[place]] = content[number]
    return written
