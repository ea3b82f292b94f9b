"""The published archives, read where they lie: nothing is unpacked, and nothing in them is believed.

A `.tar.gz` (or `.tar`) is walked from its beginning; songs come in the order in which it has them. An archive is known
by the SHA-256 of the whole file, whatever its name.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits, NESFormatError
from seqzoo.data.nes.files import song_suffix


# By SHA-256, as the data set's page publishes them.
PUBLISHED = {
    "37610e2ca5fe70359c85170cf1f4982596783bb304c59d9c439f68c24ff4ee93": "nesmdb_midi.tar.gz",
    "7ca09fdf2be6db5c0767ef6ef7f3f4cac06ae23336c463d123009681b9d64d50": "nesmdb24_exprsco.tar.gz",
    "3e2dadfc0b499cc730a7d2143705215e6cf5abec9e75e6a3e6131f4f9fefeb3a": "nesmdb24_seprsco.tar.gz",
    "d72027bdbf91fd983963136199c9d60e7b2c6dca8cd461c04bd97ca14425893d": "nesmdb24_blndsco.tar.gz",
    "5e37a6fe3fa3bb96c93e0d938d89df2767ddfc9d3153b6de6c11f5b9d57bd3a3": "nesmdb_nlm.tar.gz",
    "cd44290957cd2dd22a497966f79d24d2a0cdfe135afa83857f25c0871893abc7": "nesmdb_vgm.tar.gz",
}
SUFFIXES = (".tar.gz", ".tgz", ".tar")

_MOST_BYTES = 16 * 2**30  # of an archive, decompressed
_MOST_MEMBERS = 200_000


def check_published(path: Path, verify: bool = True) -> str:
    """The SHA-256 of an archive, which has to be a published one.

    Raises:
        `ValueError`: it is none of them, and `verify` is true.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if verify and digest not in PUBLISHED:
        expected = {name: sha for sha, name in PUBLISHED.items()}.get(path.name)
        wanted = f"{path.name} has {expected}" if expected else "no published archive of NES-MDB has that"
        raise ValueError(
            f"{path} has the SHA-256 {digest}; {wanted}. Get the file again, or, if you trust it, read it all the "
            "same with verify=False (--any-archive, in recipes data.verify=false)."
        )
    return digest


def songs_in(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[tuple[PurePosixPath, Callable[[], bytes]]]:
    """The songs of an archive: their names in it, and how to read each before asking for the next.

    Files that are no songs, and hidden ones, are passed over.

    Raises:
        `NESFormatError`: the archive is broken or cut off, has more than 16 GiB or 200,000 members, or a member that
            is a link or device or whose name leads out of the archive; on reading, a song exceeds the limits.
    """
    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    with _damage_named(path), gzip.open(path) if is_compressed else path.open("rb") as content:
        stream = _Guarded(content, str(path), limits)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            yield from _songs(archive, path, limits)
        if stream.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes damage between members for the end
            raise NESFormatError("the archive is broken: no member and no end", str(path), archive.offset)
        while rest := stream.read(2**16):  # where a file that is cut off shows it
            if rest.strip(b"\0"):
                raise NESFormatError("something follows the end of the archive", str(path))


@contextmanager
def _damage_named(path: Path):
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NESFormatError(f"the archive is broken or cut off ({error})", str(path)) from error


def _songs(archive: tarfile.TarFile, path: Path, limits: Limits):
    last = -1
    for number, member in enumerate(archive):
        archive.members.clear()  # what was passed is not needed, and would grow
        if member.offset <= last or member.size < 0:  # a negative size leads back, for ever
            raise NESFormatError(f"the size of the member {member.name!r} is negative", str(path), member.offset)
        last = member.offset
        name = PurePosixPath(member.name)
        if number >= _MOST_MEMBERS:
            raise NESFormatError(f"the archive has more than {_MOST_MEMBERS} members", str(path))
        if name.is_absolute() or ".." in name.parts or "\\" in member.name:
            raise NESFormatError(f"the member {member.name!r} leads out of the archive", str(path), member.offset)
        if member.isdir():
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise NESFormatError(f"the member {member.name!r} is no plain file", str(path), member.offset)
        if song_suffix(name) is None or name.name.startswith("."):
            continue

        def read(member=member) -> bytes:
            if member.size > limits.max_bytes:
                raise NESFormatError(
                    f"the file has {member.size} bytes, the limit is {limits.max_bytes} (max_bytes)",
                    f"{path}:{member.name}",
                )
            with _damage_named(path):
                return archive.extractfile(member).read()

        yield name, read


class _Guarded:
    """A file for tarfile, which reads as much at once as a header asks for, and decompresses without end."""

    def __init__(self, content, file: str, limits: Limits):
        self.content = content
        self.file = file
        self.most = limits.max_bytes
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.most:
            raise NESFormatError(
                f"{size} bytes are to be read at once, the limit is {self.most} (max_bytes)", self.file
            )
        self.last = self.content.read(size)
        self.check(self.content.tell())
        return self.last

    def seek(self, position: int) -> int:
        self.check(position)
        return self.content.seek(position)

    def tell(self) -> int:
        return self.content.tell()

    def check(self, position: int) -> None:
        if position < 0:
            raise NESFormatError("the archive is broken: a member begins before the file", self.file)
        if position > _MOST_BYTES:
            raise NESFormatError(f"the archive has more than {_MOST_BYTES} bytes", self.file)
