"""NDR, the register log: what was written to the chip's registers, and the waits between."""

from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from seqzoo.data.nes import command_text
from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits, NESFormatError
from seqzoo.data.nes.gd3 import GD3
from seqzoo.data.nes.vgm import (
    APU_WRITE,
    BLOCK,
    BLOCK_HEAD_BYTES,
    CLOCKS,
    END,
    HEADER_BYTES,
    NES_RAM_BLOCK,
    VGM,
    WAIT,
    WAIT_735,
    WAIT_882,
)


WAITING = -1  # in place of a register or function
_LONGEST_WAIT = 65535


@dataclass(frozen=True)
class RAMBlock:
    """Bytes that were put into the NES's memory, for its sample channel.

    Args:
        command (`int`):
            How many commands of the log come before it.
        data (`bytes`):
            Two bytes of address, and the content.
    """

    command: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class RegisterLog:
    """Register writes and waits in order, and the writes with their times for who plays them.

    Args:
        clock (`int`):
            Of the CPU, in Hz.
        register (`np.ndarray`):
            int16 `[command]`: the register of a write (0x00 is $4000), -1 for a wait.
        value (`np.ndarray`):
            int64 `[command]`: the byte written, or the samples (of 44.1 kHz) to wait.
        ram_blocks (`tuple[RAMBlock, ...]`):
            Data for the sample channel.
        tags (`GD3`, *optional*):
            Of the VGM that it was read from; no part of the music, and not compared.

    Raises:
        `NESFormatError`: the clock, a register or a value is not one.
    """

    clock: int
    register: np.ndarray
    value: np.ndarray
    ram_blocks: tuple[RAMBlock, ...] = ()
    tags: GD3 | None = None

    def __post_init__(self):
        check_commands(self.clock, self.register, self.value, 0xFF)
        write = self.value[self.register >= 0]
        if len(write) and write.max() > 0xFF:
            raise NESFormatError(f"the value {write.max()} does not fit into a register")

    @property
    def num_samples(self) -> int:
        """Length in samples of 44.1 kHz: all waits."""
        return int(self.value[self.register == WAITING].sum())

    @property
    def write_time(self) -> np.ndarray:
        """int64 `[write]`: the sample at which each register is written."""
        return command_time(self.register, self.value)[self.register != WAITING]

    @property
    def write_register(self) -> np.ndarray:
        """uint8 `[write]`."""
        return self.register[self.register != WAITING].astype(np.uint8)

    @property
    def write_value(self) -> np.ndarray:
        """uint8 `[write]`."""
        return self.value[self.register != WAITING].astype(np.uint8)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RegisterLog)
            and (self.clock, self.ram_blocks) == (other.clock, other.ram_blocks)
            and np.array_equal(self.register, other.register)
            and np.array_equal(self.value, other.value)
        )

    def shortened(self, start: int, length: int) -> "RegisterLog":
        """The `length` commands from number `start` on; memory blocks count as commands."""
        if start < 0 or length < 0:
            raise ValueError(f"start and length are {start} and {length}, but take numbers of 0 or more")
        # Numbers of the commands when blocks are counted with them.
        before = np.array([block.command for block in self.ram_blocks], dtype=np.int64)
        number = np.arange(len(self.register)) + np.searchsorted(before, np.arange(len(self.register)), side="right")
        first, stop = np.searchsorted(number, [start, start + length])
        blocks = tuple(
            RAMBlock(block.command - int(first), block.data)
            for place, block in enumerate(self.ram_blocks)
            if start <= block.command + place < start + length
        )
        return RegisterLog(self.clock, self.register[first:stop], self.value[first:stop], blocks, self.tags)

    @classmethod
    def from_vgm(cls, vgm: VGM) -> "RegisterLog":
        """Read the commands of a VGM as it is, sample channel and all. Adjacent waits become one.

        A broken tag is left out, so that the music can be read; [`VGM.tags`] says what is wrong with it.

        Raises:
            `NESFormatError`: a command is unknown or cut off, a block is not memory of the NES, or the waits do not
            add up to the length in the header.
        """
        offsets = vgm.commands()
        data = np.frombuffer(vgm.data, dtype=np.uint8)
        opcode = data[offsets]
        blocks = np.flatnonzero(opcode == BLOCK)
        for offset in offsets[blocks].tolist():
            if vgm.data[offset + 1 : offset + 3] != bytes([END, NES_RAM_BLOCK]):
                raise NESFormatError("a data block that is not memory of the NES", vgm.file, offset)
        register = np.full(len(offsets), WAITING, dtype=np.int16)
        value = np.zeros(len(offsets), dtype=np.int64)
        write = opcode == APU_WRITE
        register[write] = data[offsets[write] + 1]
        value[write] = data[offsets[write] + 2]
        long = opcode == WAIT
        value[long] = data[offsets[long] + 1] + 256 * data[offsets[long] + 2].astype(np.int64)
        value[opcode == WAIT_735] = 735
        value[opcode == WAIT_882] = 882
        short = opcode >> 4 == 7
        value[short] = (opcode[short] & 15) + 1
        total = int(value[~write].sum())
        if total != vgm.num_samples:
            raise NESFormatError(
                f"the waits add up to {total} samples, the header says {vgm.num_samples}", vgm.file, 0x18
            )
        wait = register == WAITING
        wait[blocks] = False
        goes_on = np.zeros(len(offsets), dtype=bool)  # a wait right after another
        goes_on[1:] = wait[1:] & wait[:-1]
        first = np.flatnonzero(~goes_on)
        if len(first):
            value = np.add.reduceat(value, first)
        register = register[first]
        is_block = np.isin(first, blocks)
        places = np.flatnonzero(is_block)
        contents = (
            vgm.data[offset + BLOCK_HEAD_BYTES : offset + BLOCK_HEAD_BYTES + vgm.header(offset + 3)]
            for offset in offsets[blocks].tolist()
        )
        ram_blocks = tuple(
            RAMBlock(place - number, content)
            for number, (place, content) in enumerate(zip(places.tolist(), contents, strict=True))
        )
        tags = None
        with suppress(NESFormatError):
            tags = vgm.tags
        return cls(vgm.clock, register[~is_block], value[~is_block], ram_blocks, tags)

    def to_vgm(self) -> VGM:
        """Equal to the reference's writer to the byte; memory blocks, which that one refuses, are written too.

        A wait is written in pieces of 65535 and a rest, which may be 0. The reference writes no tag:
        `log.to_vgm().with_tags(log.tags)` does.
        """
        wait = self.register == WAITING
        pieces = np.where(wait, self.value // _LONGEST_WAIT + 1, 1)
        command = np.repeat(np.arange(len(pieces)), pieces)
        last = np.cumsum(pieces) - 1
        number = np.where(wait[command], _LONGEST_WAIT, self.value[command])
        number[last] = np.where(wait, self.value % _LONGEST_WAIT, self.value)
        body = np.empty((len(command), 3), dtype=np.uint8)
        body[:, 0] = np.where(wait[command], WAIT, APU_WRITE)
        body[:, 1] = np.where(wait[command], number & 0xFF, self.register[command])
        body[:, 2] = np.where(wait[command], number >> 8, number)
        stops = np.append(0, np.cumsum(pieces))
        parts, done = [], 0
        for block in self.ram_blocks:
            stop = int(stops[block.command])
            head = bytes([BLOCK, END, NES_RAM_BLOCK]) + len(block.data).to_bytes(4, "little")
            parts += [body[done:stop].tobytes(), head, block.data]
            done = stop
        content = b"".join([*parts, body[done:].tobytes(), bytes([END])])
        if self.num_samples >= 2**32:
            raise NESFormatError(f"{self.num_samples} samples do not fit into a VGM, which ends at {2**32 - 1}")
        header = bytearray(HEADER_BYTES)
        header[0:4] = b"Vgm "
        for offset, field_value in (
            (0x04, HEADER_BYTES + len(content) - 4),
            (0x08, 0x161),
            (0x18, self.num_samples),
            (0x34, HEADER_BYTES - 0x34),
            (0x84, self.clock),
        ):
            header[offset : offset + 4] = field_value.to_bytes(4, "little")
        return VGM(bytes(header) + content)

    @classmethod
    def from_text(cls, text: str, file: str | None = None, limits: Limits = DEFAULT_LIMITS) -> "RegisterLog":
        """Read lines `clock,N`, then `apu,REGISTER,VALUE` (two hexadecimal digits each) and `wait,N`.

        Raises:
            `NESFormatError`: a line is not one of these; the offset is its number.
        """
        commands = command_text.read_commands(text, file)
        clock = command_text.read_clock(commands, file)
        register, value = [], []
        for line, fields in commands:
            if fields[0] == "apu" and len(fields) == 3:
                register.append(command_text.read_number(fields[1], 0xFF, file, line, base=16))
                value.append(command_text.read_number(fields[2], 0xFF, file, line, base=16))
            elif fields[0] == "wait" and len(fields) == 2:
                register.append(WAITING)
                value.append(command_text.read_number(fields[1], 2**32 - 1, file, line))
            else:
                raise NESFormatError("this is neither `apu,REGISTER,VALUE` nor `wait,N`", file, line)
        log = cls(clock, np.array(register, dtype=np.int16), np.array(value, dtype=np.int64))
        limits.check_samples(log.num_samples, file)
        return log

    def to_text(self) -> str:
        """The same lines, without a line end after the last; memory blocks have none."""
        lines = [f"clock,{self.clock}"]
        for register, value in zip(self.register.tolist(), self.value.tolist(), strict=True):
            lines.append(f"wait,{value}" if register == WAITING else f"apu,{register:02x},{value:02x}")
        return "\n".join(lines)


def command_time(kind: np.ndarray, value: np.ndarray) -> np.ndarray:
    """int64 `[command]`: the sample at which each command happens; a wait begins there."""
    waited = np.where(kind == WAITING, value, 0)
    return np.cumsum(waited) - waited


def check_commands(clock: int, kind: np.ndarray, value: np.ndarray, most: int) -> None:
    """What holds for all three logs."""
    if clock not in CLOCKS:
        raise NESFormatError(f"the clock is {clock} Hz, not one of {CLOCKS}")
    if kind.ndim != 1 or kind.shape != value.shape:
        raise NESFormatError(f"kinds {kind.shape} and values {value.shape} of commands are not one row each")
    if len(kind) and (kind.min() < WAITING or kind.max() > most or value.min() < 0):
        raise NESFormatError("a command is out of range")
