"""The APU writes of a VGM file, for tests of the synthesizer: just enough of the format, and no check of any kind."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Writes:
    """`times` in samples at 44.1 kHz, one entry a write."""

    times: np.ndarray
    registers: np.ndarray
    values: np.ndarray
    num_samples: int
    clock: int

    def only(self, voice: str) -> "Writes":
        """As it sounds with the other voices filtered out: their registers are never written."""
        first = {"p1": 0x00, "p2": 0x04, "tr": 0x08, "no": 0x0C}[voice]
        kept = ((self.registers >= first) & (self.registers < first + 4)) | (self.registers >= 0x14)
        return Writes(self.times[kept], self.registers[kept], self.values[kept], self.num_samples, self.clock)

    def __iter__(self):
        """In the order of `render`'s arguments."""
        return iter((self.times, self.registers, self.values, self.num_samples, self.clock))


def read_writes(path: Path) -> Writes:
    """Writes of the four voices, their switches and the frame counter; data blocks and the sample channel fall out."""
    data = path.read_bytes()
    clock = int.from_bytes(data[0x84:0x88], "little") & 0x3FFFFFFF
    place = 0x34 + int.from_bytes(data[0x34:0x38], "little")
    time, writes = 0, []
    while data[place] != 0x66:
        command = data[place]
        if command == 0x61:
            time += int.from_bytes(data[place + 1 : place + 3], "little")
            place += 3
        elif command in (0x62, 0x63):
            time += {0x62: 735, 0x63: 882}[command]
            place += 1
        elif command >> 4 == 7:
            time += (command & 15) + 1
            place += 1
        elif command == 0x67:
            place += 7 + int.from_bytes(data[place + 3 : place + 7], "little")
        else:
            if command == 0xB4 and (data[place + 1] < 0x10 or data[place + 1] in (0x15, 0x17)):
                writes.append((time, data[place + 1], data[place + 2]))
            place += 3
    times, registers, values = np.array(writes).T
    return Writes(times, registers.astype(np.uint8), values.astype(np.uint8), time, clock)
