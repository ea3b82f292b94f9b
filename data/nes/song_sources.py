"""Where songs are: in a folder or an archive, by split, in parts that several processes can read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath

from seqzoo.data.nes import archive
from seqzoo.data.nes.errors import Limits
from seqzoo.data.nes.files import Song, read_song, song_from_bytes, song_suffix


# The folder of a split, in small letters -> the name that `datasets` has for it.
SPLITS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class SongFile:
    """A song in a folder."""

    path: str
    name: str
    stamp: tuple[int, int]  # size and time of the last change: a file that was changed is read again

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def songs(self, limits: Limits) -> Iterator[tuple[str, str, Callable[[], Song]]]:
        """Of every song the name, where it is from, and how to read it."""
        yield self.name, self.path, partial(read_song, self.path, limits)

    def without(self, names: set[str]) -> "SongFile":
        """The part without these songs, as long as it has others."""
        return self


@dataclass(frozen=True)
class ArchiveMembers:
    """Songs that follow each other in an archive, which is read from its beginning to the last of them."""

    path: str
    sha256: str
    members: Mapping[str, str]  # in the archive -> name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.members.values())

    def songs(self, limits: Limits) -> Iterator[tuple[str, str, Callable[[], Song]]]:
        """Of every song the name, where it is from, and how to read it before the next."""
        left = len(self.members)
        for member, read in archive.songs_in(Path(self.path), limits):
            if str(member) in self.members:
                label = f"{self.path}:{member}"
                yield self.members[str(member)], label, partial(_read_member, read, label, limits)
                left -= 1
                if not left:
                    return

    def without(self, names: set[str]) -> "ArchiveMembers":
        """The part without these songs, as long as it has others."""
        return replace(self, members={member: name for member, name in self.members.items() if name not in names})


Part = SongFile | ArchiveMembers


def songs_of_folder(folder: Path) -> dict[str, list[SongFile]]:
    """By split, each sorted by name.

    Raises:
        `ValueError`: two files have one name, or some are in folders of splits and some are not.
    """
    paths = sorted(path for path in folder.rglob("*") if song_suffix(path) and path.is_file())
    places = ((PurePosixPath(path.relative_to(folder).as_posix()), path) for path in paths)
    return {split: [_song_file(*song) for song in songs.items()] for split, songs in _by_split(places, folder).items()}


def songs_of_archive(path: Path, sha256: str, limits: Limits, num_parts: int) -> dict[str, list[ArchiveMembers]]:
    """By split, in the archive's order, in so many parts.

    Raises:
        `NESFormatError`: the archive is broken or hostile.
        `ValueError`: two songs have one name, or some are in folders of splits and some are not.
    """
    places = ((name, str(name)) for name, _ in archive.songs_in(path, limits))
    parts = {}
    for split, songs in _by_split(places, path).items():
        entries = [(member, name) for name, member in songs.items()]
        count = min(num_parts, len(entries))
        bounds = [len(entries) * part // count for part in range(count + 1)]
        parts[split] = [ArchiveMembers(str(path), sha256, dict(entries[a:b])) for a, b in pairwise(bounds)]
    return parts


def _song_file(name: str, path: Path) -> SongFile:
    facts = path.stat()
    return SongFile(str(path), name, (facts.st_size, facts.st_mtime_ns))


def _read_member(read: Callable[[], bytes], label: str, limits: Limits) -> Song:
    return song_from_bytes(read(), song_suffix(label), label, limits)


def _by_split(places: Iterable[tuple[PurePosixPath, str | Path]], source: Path) -> dict[str, dict[str, str | Path]]:
    """Split -> name of a song -> where it is, from the songs' paths in their source."""
    splits: dict[str, dict[str, str | Path]] = {name: {} for name in SPLITS.values()}
    has_splits = set()
    for path, where in places:
        if any(part.startswith(".") for part in path.parts):
            continue
        depth = next((depth for depth, part in enumerate(path.parts[:-1], 1) if part.lower() in SPLITS), 0)
        split = SPLITS[path.parts[depth - 1].lower()] if depth else "train"
        name = "/".join(path.parts[depth:])
        name = name[: -len(song_suffix(name))]
        if name in splits[split]:
            raise ValueError(
                f"{source}: {splits[split][name]} and {where} have one name in {split}; rename one of them"
            )
        splits[split][name] = where
        has_splits.add(depth > 0)
        if len(has_splits) > 1:
            raise ValueError(f"{source}: some songs are in folders of splits ({', '.join(SPLITS)}), others are not")
    return {split: songs for split, songs in splits.items() if songs}
