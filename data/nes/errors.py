"""The one error of this room, and the limits that files from strangers are held to."""

from dataclasses import dataclass


_LONGEST_CAUSE = 300  # characters


class NESFormatError(ValueError):
    """A file or object that is not what it should be, or that would cost too much.

    Args:
        cause (`str`):
            What is wrong; what libraries say of a broken file may quote all of it, and is cut.
        file (`str`, *optional*):
            The name of the file, where there is one.
        offset (`int`, *optional*):
            Byte (line, in a text) at which it was noticed.
    """

    def __init__(self, cause: str, file: str | None = None, offset: int | None = None):
        if len(cause) > _LONGEST_CAUSE:
            cause = f"{cause[: _LONGEST_CAUSE - 4]} ..."
        self.cause = cause
        self.file = file
        self.offset = offset
        where = [] if file is None else [str(file)]
        where += [] if offset is None else [f"at {offset}"]
        super().__init__(f"{' '.join(where)}: {cause}" if where else cause)

    def __reduce__(self):  # an error has to get from a worker process to the one that prints it
        return type(self), (self.cause, self.file, self.offset)


@dataclass(frozen=True)
class Limits:
    """What a reader refuses; a song of the data set needs a hundredth of the bytes and a tenth of the time.

    Args:
        max_bytes (`int`):
            Of a file, compressed and decompressed. Arrays in .npz files are held to `max_seconds` instead.
        max_seconds (`float`):
            Of a song.

    Raises:
        `ValueError`: a limit is no limit.
    """

    max_bytes: int = 8 * 2**20
    max_seconds: float = 1200.0

    def __post_init__(self):
        for name, value, most in (("max_bytes", self.max_bytes, 2**40), ("max_seconds", self.max_seconds, 10**5)):
            if not 0 < value <= most:
                raise ValueError(f"{name} is {value}, but takes a number above 0, {most} at most")

    def check_samples(self, num_samples: int, file: str | None = None, offset: int | None = None) -> None:
        if num_samples > self.max_seconds * 44100:
            raise NESFormatError(
                f"the song lasts {num_samples / 44100:.0f} s, the limit is {self.max_seconds:.0f} s (max_seconds)",
                file,
                offset,
            )


DEFAULT_LIMITS = Limits()
