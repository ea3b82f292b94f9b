"""VGM 1.61 and its gzipped form: the container, its header and tag, and what the data set calls simplifying.

The commands inside are read and written by [`seqzoo.data.nes.register_log.RegisterLog`].
"""

import zlib
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits, NESFormatError
from seqzoo.data.nes.gd3 import GD3, MAGIC
from seqzoo.data.nes.jit import compiled


HEADER_BYTES = 0xC0
NTSC_CLOCK = 1789773
CLOCKS = (1662607, 1789772, NTSC_CLOCK)

WAIT = 0x61
WAIT_735 = 0x62
WAIT_882 = 0x63
END = 0x66
BLOCK = 0x67
APU_WRITE = 0xB4
NES_RAM_BLOCK = 0xC2
BLOCK_HEAD_BYTES = 7

# Bytes of a command, 0 where it is unknown; a block is its head and as many bytes as the head says.
COMMAND_BYTES = np.zeros(256, dtype=np.int64)
COMMAND_BYTES[[WAIT_735, WAIT_882, END, *range(0x70, 0x80)]] = 1
COMMAND_BYTES[[WAIT, APU_WRITE]] = 3
COMMAND_BYTES[BLOCK] = BLOCK_HEAD_BYTES
# Writes to other chips, which simplifying deletes: YM2151 and AY8910.
_OTHER_CHIPS = (0x54, 0xA0)
_COMMAND_BYTES_WITH_OTHER_CHIPS = COMMAND_BYTES.copy()
_COMMAND_BYTES_WITH_OTHER_CHIPS[list(_OTHER_CHIPS)] = 3

VOICE_REGISTERS = {
    "p1": range(0x00, 0x04),
    "p2": range(0x04, 0x08),
    "tr": range(0x08, 0x0C),
    "no": range(0x0C, 0x10),
    "dm": range(0x10, 0x14),
}
SHARED_REGISTERS = (0x15, 0x17)


@dataclass(frozen=True)
class VGM:
    """A VGM file with a sound header and one NES chip.

    Args:
        data (`bytes`):
            The whole file, not compressed. The header is checked here, the commands when they are read.
        file (`str`, *optional*):
            Where it came from, for errors.
        removed (`int`):
            Data blocks and register writes that [`VGM.simplified`] took out.

    Raises:
        `NESFormatError`: the header is cut off or contradicts the file, the version is not 1.61, or the chip is not
        one NES at an NTSC or PAL clock.
    """

    data: bytes = field(repr=False)
    file: str | None = field(default=None, compare=False)
    removed: int = field(default=0, compare=False)

    def __post_init__(self):
        if self.data[:4] != b"Vgm ":
            raise NESFormatError("this is no VGM file: it does not begin with 'Vgm '", self.file, 0)
        if len(self.data) < 0x88:
            raise NESFormatError(f"the file ends inside the header, after {len(self.data)} bytes", self.file)
        if self.header(0x04) + 4 != len(self.data):
            raise NESFormatError(
                f"the header says that the file has {self.header(0x04) + 4} bytes, but it has {len(self.data)}",
                self.file,
                0x04,
            )
        if self.header(0x08) & 0xFFF != 0x161:
            raise NESFormatError(f"the version is {self.header(0x08):x}, not 161", self.file, 0x08)
        if self.header(0x84) >> 30:
            what = "an FDS" if self.header(0x84) >> 31 else "two NES chips"
            raise NESFormatError(f"the song is for {what}; only one plain NES chip is known", self.file, 0x84)
        if self.clock not in CLOCKS:
            raise NESFormatError(f"the NES clock is {self.clock} Hz, not one of {CLOCKS}", self.file, 0x84)
        if not 0x88 <= self.data_start < len(self.data):
            raise NESFormatError(f"the data is said to begin at {self.data_start}", self.file, 0x34)

    def header(self, offset: int) -> int:
        """The 32-bit number at an offset of the header."""
        return int.from_bytes(self.data[offset : offset + 4], "little")

    @property
    def clock(self) -> int:
        """Of the CPU, in Hz."""
        return self.header(0x84)

    @property
    def num_samples(self) -> int:
        """Length in samples of 44.1 kHz, without the loop."""
        return self.header(0x18)

    @property
    def data_start(self) -> int:
        """Offset of the first command."""
        return self.header(0x34) + 0x34

    @property
    def loop_start(self) -> int | None:
        """The sample of 44.1 kHz from which the song repeats; None where it plays once.

        Raises:
            `NESFormatError`: the loop is said to be longer than the song.
        """
        length = self.header(0x20) if self.header(0x1C) else 0
        if length > self.num_samples:
            cause = f"the loop is said to last {length} samples, the song {self.num_samples}"
            raise NESFormatError(cause, self.file, 0x20)
        return self.num_samples - length if length else None

    @property
    def tags(self) -> GD3 | None:
        """What the song is called and who made it; None where the header names no tag.

        It is where the header says, or else right behind the end command: simplifying shortens the commands, but not
        the offset, in the published files too.

        Raises:
            `NESFormatError`: it is in neither place, or broken. The music can be read all the same.
        """
        if not self.header(0x14):
            return None
        start = self.header(0x14) + 0x14
        if self.data[start : start + 4] != MAGIC:
            start = self._walk(_COMMAND_BYTES_WITH_OTHER_CHIPS)[1] + 1
            if self.data[start : start + 4] != MAGIC:
                raise NESFormatError("there is no GD3 tag where this says, nor behind the commands", self.file, 0x14)
        return GD3.from_bytes(self.data, start, self.file)

    def with_tags(self, tags: GD3 | None) -> "VGM":
        """The same music with this tag instead of the one that it has, or with none."""
        data = bytearray(self.data[: self._walk(_COMMAND_BYTES_WITH_OTHER_CHIPS)[1] + 1])
        data[0x14:0x18] = (len(data) - 0x14 if tags else 0).to_bytes(4, "little")
        if tags:
            data += tags.to_bytes()
        data[0x04:0x08] = (len(data) - 4).to_bytes(4, "little")
        return VGM(bytes(data), self.file, self.removed)

    @classmethod
    def from_bytes(cls, data: bytes, file: str | None = None, limits: Limits = DEFAULT_LIMITS) -> "VGM":
        """From the content of a .vgm or .vgz file.

        Raises:
            `NESFormatError`: it is not a VGM that this room understands, or it exceeds a limit.
        """
        if data[:2] == b"\x1f\x8b":
            data = gunzip(data, file, limits)
        vgm = cls(data, file)
        limits.check_samples(vgm.num_samples, file, 0x18)
        return vgm

    def commands(self, with_other_chips: bool = False) -> np.ndarray:
        """int64 `[command]`: the offset of every command, the end command excluded.

        Raises:
            `NESFormatError`: a command is unknown or cut off, or the end command is missing.
        """
        return self._walk(_COMMAND_BYTES_WITH_OTHER_CHIPS if with_other_chips else COMMAND_BYTES)[0]

    def _walk(self, sizes: np.ndarray) -> tuple[np.ndarray, int]:
        """The offsets of the commands, and that of the end command."""
        data = np.frombuffer(self.data, dtype=np.uint8)
        count, _ = _scan(data, self.data_start, sizes, np.zeros(0, dtype=np.int64))
        offsets = np.zeros(count, dtype=np.int64)
        _, end = _scan(data, self.data_start, sizes, offsets)
        if end >= len(data) or not sizes[data[end]]:
            cause = "there is no end command" if end >= len(data) else f"the command {data[end]:#04x} is unknown"
            raise NESFormatError(cause, self.file, end)
        if data[end] != END:
            raise NESFormatError(f"the file ends inside the command {data[end]:#04x}", self.file, end)
        return offsets, end

    def simplified(self, voices: Collection[str] = ("p1", "p2", "tr", "no")) -> "VGM":
        """Without data blocks, writes to other chips and to voices that are not asked for; without loop and volume.

        What the published data set went through, to the byte: the offset of the GD3 tag is not corrected, and
        `removed` does not count writes to other chips. Unlike there, commands may begin elsewhere than at 0xC0.

        Args:
            voices (`Collection[str]`):
                Of `p1`, `p2`, `tr`, `no`, `dm`. Status and frame counter are always kept.
        """
        unknown = set(voices) - set(VOICE_REGISTERS)
        if unknown:
            raise ValueError(f"there is no voice {sorted(unknown)[0]!r}; choose from {', '.join(VOICE_REGISTERS)}")
        data = np.frombuffer(self.data, dtype=np.uint8)
        offsets = self.commands(with_other_chips=True)
        opcode = data[offsets]
        kept_registers = np.zeros(256, dtype=bool)
        kept_registers[[*SHARED_REGISTERS, *(register for voice in voices for register in VOICE_REGISTERS[voice])]] = 1
        write = opcode == APU_WRITE
        other = np.isin(opcode, _OTHER_CHIPS)
        counted = opcode == BLOCK
        counted[write] = ~kept_registers[data[offsets[write] + 1]]
        kept = np.ones(len(data), dtype=bool)
        short = offsets[(counted & write) | other]
        kept[(short[:, None] + np.arange(3)).ravel()] = False
        for offset in offsets[opcode == BLOCK].tolist():
            kept[offset : offset + BLOCK_HEAD_BYTES + self.header(offset + 3)] = False
        header = bytearray(self.data[: self.data_start])
        for first, stop in ((0x1C, 0x28), (0x7C, 0x80)):
            header[first:stop] = bytes(stop - first)
        header[0x84:0x88] = (self.clock & 0x3FFFFFFF).to_bytes(4, "little")
        body = data[self.data_start :][kept[self.data_start :]].tobytes()
        header[4:8] = (len(header) + len(body) - 4).to_bytes(4, "little")
        return VGM(bytes(header) + body, self.file, removed=int(counted.sum()))


def gunzip(data: bytes, file: str | None = None, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Decompress gzip, but never more than the limit.

    Raises:
        `NESFormatError`: the data is broken, cut off, followed by something, or too much.
    """
    stream = zlib.decompressobj(wbits=31)
    try:
        content = stream.decompress(data, limits.max_bytes)
    except zlib.error as error:
        raise NESFormatError(f"the gzip data is broken: {error}", file) from error
    if stream.unconsumed_tail or (not stream.eof and len(content) >= limits.max_bytes):
        raise NESFormatError(f"more than {limits.max_bytes} bytes come out of the gzip data (max_bytes)", file)
    if not stream.eof:
        raise NESFormatError("the gzip data is cut off", file, len(data))
    if stream.unused_data:
        raise NESFormatError("something follows the gzip data", file, len(data) - len(stream.unused_data))
    return content


@compiled
def _scan(data, position, sizes, offsets):
    """Walk over commands up to the end command or the first one that is unknown or cut off.

    Writes the commands' offsets into `offsets` as far as there is room; returns their number and where it stopped.
    """
    count = 0
    while position < len(data):
        opcode = int(data[position])
        size = int(sizes[opcode])
        if opcode == END or size == 0 or position + size > len(data):
            break
        if opcode == BLOCK:
            for place in range(4):
                size += int(data[position + 3 + place]) << (8 * place)
            if position + size > len(data):
                break
        if count < len(offsets):
            offsets[count] = position
        count += 1
        position += size
    return count, position
