"""What the three logs in text form share: one command a line, its fields separated by commas."""

from collections.abc import Iterator

from seqzoo.data.nes.errors import NESFormatError
from seqzoo.data.nes.vgm import CLOCKS


def decode(data: bytes, file: str | None = None) -> str:
    """ASCII bytes as text."""
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise NESFormatError("this is no text: it has bytes above 127", file, error.start) from error


def read_commands(text: str, file: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Number of the line (from 1) and fields of each command; blank lines and `//` lines are comments."""
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if line and not line.startswith("//"):
            yield number, line.split(",")


def read_clock(commands: Iterator[tuple[int, list[str]]], file: str | None = None) -> int:
    """The first command, which has to be the clock."""
    number, fields = next(commands, (1, []))
    if len(fields) != 2 or fields[0] != "clock" or fields[1] not in map(str, CLOCKS):
        raise NESFormatError(f"the first command is not `clock,N` with N of {CLOCKS}", file, number)
    return int(fields[1])


def read_number(text: str, most: int, file: str | None, line: int, base: int = 10) -> int:
    """A number from 0 to `most`, written with digits alone."""
    digits = "0123456789abcdef"[:base]
    if not 0 < len(text) <= 12 or text.strip(digits) or (number := int(text, base)) > most:
        raise NESFormatError(f"{text[:20]!r} is no number from 0 to {most}", file, line)
    return number
