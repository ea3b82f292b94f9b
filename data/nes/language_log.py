"""NLM, the log for language models: changes of functions and waits, without what changes nothing."""

from dataclasses import dataclass

import numpy as np

from seqzoo.data.nes import command_text
from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits, NESFormatError
from seqzoo.data.nes.function_log import FUNCTION, FUNCTIONS, OFFSET, FunctionLog, check_function_values
from seqzoo.data.nes.jit import compiled
from seqzoo.data.nes.register_log import WAITING, check_commands


# The sample channel, its switch and the interrupt are not part of the language.
IN_LANGUAGE = np.array([not name.startswith("dm_") and name not in ("ch_dm", "fc_iq") for name, *_ in FUNCTIONS])
# Writing these has an effect even when the value stays the same.
_ALWAYS_KEPT = np.array([name.endswith("_ll") or name.startswith("ch_") or name == "fc_mo" for name, *_ in FUNCTIONS])


@dataclass(frozen=True, eq=False)
class LanguageLog:
    """Changes of functions and waits in order.

    Args:
        clock (`int`):
            Of the CPU, in Hz.
        function (`np.ndarray`):
            int16 `[command]`: which of [`seqzoo.data.nes.function_log.FUNCTIONS`], -1 for a wait.
        value (`np.ndarray`):
            int64 `[command]`: its new value, or the samples (of 44.1 kHz) to wait.

    Raises:
        `NESFormatError`: the clock, a function or a value is not one, or the function is not in the language.
    """

    clock: int
    function: np.ndarray
    value: np.ndarray

    def __post_init__(self):
        check_commands(self.clock, self.function, self.value, len(FUNCTIONS) - 1)
        check_function_values(self.function, self.value)
        foreign = np.flatnonzero((self.function != WAITING) & ~IN_LANGUAGE[self.function])
        if len(foreign):
            name = FUNCTIONS[self.function[foreign[0]]].name
            raise NESFormatError(f"{name} (command {foreign[0]}) is not part of the language")

    @property
    def num_samples(self) -> int:
        """Length in samples of 44.1 kHz: all waits."""
        return int(self.value[self.function == WAITING].sum())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LanguageLog)
            and self.clock == other.clock
            and np.array_equal(self.function, other.function)
            and np.array_equal(self.value, other.value)
        )

    @classmethod
    def from_function_log(cls, log: FunctionLog) -> "LanguageLog":
        """Drop what is not in the language, and what sets a function to the value that it has.

        Kept in any case is what has an effect all the same: `ll`, `ch` and `fc_mo`, and the `tl` of a pulse that
        sweeps. Waits that come to stand side by side stay apart.
        """
        kept = (log.function == WAITING) | _ALWAYS_KEPT[log.function]
        for number in range(len(FUNCTIONS)):
            places = np.flatnonzero(log.function == number)
            values = log.value[places]
            kept[places] |= values != np.append(0, values)[:-1]
        for pulse in ("p1", "p2"):
            timer = np.flatnonzero(log.function == FUNCTION[f"{pulse}_tl"])
            switch = np.flatnonzero(log.function == FUNCTION[f"{pulse}_se"])
            sweeping = np.append(0, log.value[switch])[np.searchsorted(switch, timer)]
            kept[timer] |= sweeping == 1
        kept &= (log.function == WAITING) | IN_LANGUAGE[log.function]
        return cls(log.clock, log.function[kept], log.value[kept])

    def to_function_log(self) -> FunctionLog:
        """Commands of one register become one write again, as far as that can be known."""
        atom = _atoms(self.function.astype(np.int64), OFFSET[self.function], len(FUNCTIONS))
        return FunctionLog(self.clock, self.function, self.value, atom)

    @classmethod
    def from_text(cls, text: str, file: str | None = None, limits: Limits = DEFAULT_LIMITS) -> "LanguageLog":
        """Read lines `clock,N`, then `FUNCTION,VALUE` and `w,N`.

        Raises:
            `NESFormatError`: a line is not one of these; the offset is its number.
        """
        commands = command_text.read_commands(text, file)
        clock = command_text.read_clock(commands, file)
        function, value = [], []
        for line, fields in commands:
            number = WAITING if fields[0] == "w" else FUNCTION.get(fields[0])
            if number is None or len(fields) != 2 or not (number == WAITING or IN_LANGUAGE[number]):
                raise NESFormatError("this is neither `FUNCTION,VALUE` nor `w,N`", file, line)
            function.append(number)
            most = 2**32 - 1 if number == WAITING else FUNCTIONS[number].most
            value.append(command_text.read_number(fields[1], most, file, line))
        log = cls(clock, np.array(function, dtype=np.int16), np.array(value, dtype=np.int64))
        limits.check_samples(log.num_samples, file)
        return log

    def to_text(self) -> str:
        """The same lines, without a line end after the last."""
        names = [*(function.name for function in FUNCTIONS), "w"]  # -1, a wait, is the last
        commands = zip(self.function.tolist(), self.value.tolist(), strict=True)
        return "\n".join([f"clock,{self.clock}", *(f"{names[function]},{value}" for function, value in commands)])


@compiled
def _atoms(function, offset, functions):
    """Which register write since the last wait a command belongs to, as far as that can be known.

    A new one begins where the offset of the register changes, and where a function comes a second time. Voices are not
    compared, as in the reference: two voices' commands may share an atom, which costs nothing, because writes are told
    apart by register and atom.
    """
    atoms = np.zeros(len(function), dtype=np.int64)
    seen = np.zeros(functions, dtype=np.int64)  # the last write that had this function, counted from 1 over all
    write = 1
    atom = 0
    last = -1
    for place in range(len(function)):
        number = function[place]
        if number == -1:
            write += 1
            atom = 0
            last = -1
            continue
        if last != -1 and (offset[place] != last or seen[number] == write):
            write += 1
            atom += 1
        last = offset[place]
        seen[number] = write
        atoms[place] = atom
    return atoms
