"""GD3, the tag of a VGM file: what the song is called and who made it."""

from dataclasses import astuple, dataclass, fields

from seqzoo.data.nes.errors import NESFormatError


MAGIC = b"Gd3 "
_VERSION = 0x100
_HEAD_BYTES = 12  # magic, version, and how many bytes follow
_END = b"\0\0"


@dataclass(frozen=True)
class GD3:
    """Eleven texts, of which any may be empty; four are there in English and in Japanese.

    Args:
        track, track_japanese (`str`):
            Name of the piece.
        game, game_japanese (`str`):
            Where it is from.
        system, system_japanese (`str`):
            The machine.
        author, author_japanese (`str`):
            Who composed it.
        date (`str`):
            When the game came out; usually year/month/day.
        converter (`str`):
            Who made the file.
        notes (`str`):
            Anything, in several lines.

    Raises:
        `NESFormatError`: a text cannot be written: it has a zero in it, which ends a text, or half a surrogate pair.
    """

    track: str = ""
    track_japanese: str = ""
    game: str = ""
    game_japanese: str = ""
    system: str = ""
    system_japanese: str = ""
    author: str = ""
    author_japanese: str = ""
    date: str = ""
    converter: str = ""
    notes: str = ""

    def __post_init__(self):
        for name, text in zip(NAMES, astuple(self), strict=True):
            try:
                text.encode("utf-16-le")
            except UnicodeEncodeError as error:
                raise NESFormatError(f"the GD3 text {name} is not Unicode: {error.reason}") from error
            if "\0" in text:
                raise NESFormatError(f"the GD3 text {name} has a zero in it, which ends a text")

    @property
    def title(self) -> str:
        """Game and track, in English where there is English."""
        return ": ".join(filter(None, (self.game or self.game_japanese, self.track or self.track_japanese)))

    @classmethod
    def from_bytes(cls, data: bytes, start: int = 0, file: str | None = None) -> "GD3":
        """Read the tag at an offset of a file. What follows the eleventh text is ignored.

        Raises:
            `NESFormatError`: there is no tag, its version is not 1, it is cut off, or it has fewer texts or other
            bytes than UTF-16.
        """
        if data[start : start + 4] != MAGIC:
            raise NESFormatError("there is no GD3 tag here: it would begin with 'Gd3 '", file, start)
        if len(data) < start + _HEAD_BYTES:
            raise NESFormatError("the file ends inside the head of the GD3 tag", file, len(data))
        version, length = (int.from_bytes(data[start + place : start + place + 4], "little") for place in (4, 8))
        if version >> 8 != 1:
            raise NESFormatError(f"the version of the GD3 tag is {version:#x}, not {_VERSION:#x}", file, start + 4)
        position = start + _HEAD_BYTES
        end = position + length
        if end > len(data):
            cause = f"the GD3 tag is said to have {length} bytes more, the file has {len(data) - position}"
            raise NESFormatError(cause, file, start + 8)
        texts = []
        for name in NAMES:
            stop = data.find(_END, position, end)
            while stop >= 0 and (stop - position) % 2:  # half of one character and half of the next
                stop = data.find(_END, stop + 1, end)
            if stop < 0:
                raise NESFormatError(f"the GD3 text {name} has no end", file, position)
            try:
                texts.append(data[position:stop].decode("utf-16-le"))
            except UnicodeDecodeError as error:
                cause = f"the GD3 text {name} is not UTF-16: {error.reason}"
                raise NESFormatError(cause, file, position + error.start) from error
            position = stop + 2
        return cls(*texts)

    def to_bytes(self) -> bytes:
        """The tag as it stands in a file."""
        texts = b"".join(text.encode("utf-16-le") + _END for text in astuple(self))
        return MAGIC + _VERSION.to_bytes(4, "little") + len(texts).to_bytes(4, "little") + texts


NAMES = tuple(field.name for field in fields(GD3))
