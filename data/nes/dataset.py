"""NES music as `datasets`: the published archives, folders of songs, Arrow copies.

    songs = load_nesmdb("nesmdb24_exprsco.tar.gz", format="exprsco")
    songs["train"][0]["score"]      # uint8 [step, voice, (note, velocity, timbre)]

Nothing is downloaded but a data set on the Hub that is named by its id. The columns are those of [`features`].
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Array2D,
    Array3D,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
    load_dataset,
    load_from_disk,
)
from datasets.table import InMemoryTable

from seqzoo.data.nes import archive
from seqzoo.data.nes.conversion import Options, convert
from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits, NESFormatError
from seqzoo.data.nes.files import Song, format_of, song_to_bytes
from seqzoo.data.nes.runs import SAMPLE_RATE
from seqzoo.data.nes.scores import Rate
from seqzoo.data.nes.song_facts import composers_of, facts_of_name, facts_of_tag, read_composers
from seqzoo.data.nes.song_sources import SPLITS, Part, songs_of_archive, songs_of_folder
from seqzoo.data.nes.vgm import VGM


SCORES = {
    "exprsco": Array3D((None, 4, 3), "uint8"),
    "seprsco": Array2D((None, 4), "uint8"),
    "blndsco": Array2D((None, 3), "uint8"),
}
BYTES = ("midi", "vgm")
TEXTS = ("nlm", "ndr", "ndf")
_LAYOUT = 1  # of the rows: part of what names a cached copy, so that another layout is another copy


def features(format: str) -> Features:
    """The columns of a data set.

    `name` (of the song's file, with folders and without suffix), `game`, `game_id` (its three digits in NES-MDB),
    `composers`, `title`, `track` (number), `seconds`, `rate` (steps a second: of a score; 44100 of anything else), and
    the song: `score` is uint8 `[step, voice, (note, velocity, timbre)]` (`exprsco`), `[step, voice]` (`seprsco`) or
    `[step, place]` (`blndsco`: notes from the lowest, then zeros); `midi` and `vgm` are the bytes of the file; `nlm`,
    `ndr` and `ndf` are text. What is not known is None, composers an empty list. Names and the tags of VGM files tell
    game and title; of a song with a name of NES-MDB, the tag tells only the composers.
    """
    if format not in (*SCORES, *BYTES, *TEXTS):
        known = ", ".join((*SCORES, *BYTES, *TEXTS))
        raise ValueError(f"there is no data set of the format {format!r}; choose from {known}")
    song = SCORES.get(format) or Value("binary" if format in BYTES else "string")
    texts = {name: Value("string") for name in ("name", "game", "game_id")}
    facts = {"composers": List(Value("string")), "title": Value("string"), "track": Value("int32")}
    return Features({**texts, **facts, "seconds": Value("float64"), "rate": Value("float64"), column(format): song})


def column(format: str) -> str:
    """The column that the song is in."""
    return "score" if format in SCORES else format


def load_nesmdb(
    source: str | Path,
    format: str = "exprsco",
    *,
    rate: Rate | None = None,
    composers: str | Path | Mapping[str, Sequence[str]] | None = None,
    verify: bool = True,
    on_bad_file: Callable[[str], None] | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
    limits: Limits = DEFAULT_LIMITS,
    **conversion: Any,
) -> DatasetDict | IterableDatasetDict:
    """The songs of NES-MDB, or any others, by split: `train`, `validation` (in the data set `valid`) and `test`.

    Args:
        source (`str` or `Path`):
            A published archive (`nesmdb24_exprsco.tar.gz`); a folder of songs in any format that is read, in which
            folders `train`, `valid` (or `validation`) and `test`, in capitals or not, make splits, or everything is
            `train`; an Arrow copy,
            which is a folder that `save_to_disk` or `seqzoo nes dataset` wrote; or the id of one on the Hub.
        format (`str`):
            `exprsco`, `seprsco`, `blndsco`, `midi`, `vgm`, `nlm`, `ndr` or `ndf`: songs in other formats are
            converted, those in this one stay as they are. A copy has the format that it was made with.
        rate (`float` or `"adaptive"`, *optional*):
            Steps a second, as in [`convert`]: without it, what comes from 44.1 kHz is sampled at 24 Hz and scores keep
            their rate. A copy is checked to have it.
        composers (`str`, `Path` or `Mapping`, *optional*):
            Who composed what: names of games (`246_Mother` or `Mother`) or songs to lists of composers, or a file with
            that: a JSON object, or CSV with the columns `name` and `composers` (separated by `;`). Without it VGM
            files are known by their tags.
        verify (`bool`):
            Refuse archives that are not the published ones by their SHA-256.
        on_bad_file (`Callable`, *optional*):
            Given `file: reason` of every song that cannot be read, which is then left out. Without it the first such
            song is an error; where songs are not streamed, after the others have been read.
        streaming (`bool`):
            Read songs when they are asked for, and write no data. Every file is a shard; an archive is one.
        num_proc (`int`, *optional*):
            Processes that read songs. The result does not depend on it.
        cache_dir (`str` or `Path`, *optional*):
            Where the memory-mapped Arrow files are written, unless in the cache of `datasets`. A source that has not
            changed since is not read again.
        limits (`Limits`):
            What to refuse.
        **conversion:
            `clock`, `low_notes`, `simplify` and `as_written` of [`convert`].

    Returns:
        A `DatasetDict`, memory-mapped; scores are NumPy arrays and the rest is plain. Or an `IterableDatasetDict` of
        equal rows in the same order.

    Raises:
        `NESFormatError`: a song or archive is broken.
        `FileNotFoundError`: there is no such source.
        `ValueError`: an archive is not a published one, a copy is of another format or rate, two files are the same
            song, or a composer file says nothing about these songs.
    """
    wanted = features(format)
    Options(format, rate, **conversion)  # refused, if they mean nothing, before a song is read
    path = Path(source)
    if not path.is_file() and not _is_folder_of_songs(path):
        if composers is not None or conversion:
            raise ValueError(f"{source} is an Arrow copy: composers and conversion belong to its making")
        return _load_copy(source, wanted, format, rate, streaming, num_proc, cache_dir)
    if path.is_dir():
        parts = songs_of_folder(path)
    elif path.name.endswith(archive.SUFFIXES):
        num_parts = 1 if streaming else num_proc or 1
        parts = songs_of_archive(path, archive.check_published(path, verify), limits, num_parts)
    else:
        raise ValueError(f"{source} is no archive ({', '.join(archive.SUFFIXES)}); name the folder that songs are in")
    if not parts:
        raise ValueError(f"there are no songs in {source} (an archive has to be named itself)")
    names = (name for part in parts.values() for entry in part for name in entry.names)
    known = {} if composers is None else read_composers(composers, names)
    plan = _Plan(format, rate, conversion, limits, known, on_bad_file)
    if streaming:
        return IterableDatasetDict(
            {
                split: IterableDataset.from_generator(
                    _rows, features=wanted, gen_kwargs={"parts": part, "plan": plan}, split=split
                )
                for split, part in parts.items()
            }
        )
    songs = DatasetDict(
        {split: _build(part, plan, wanted, split, num_proc, cache_dir) for split, part in parts.items()}
    )
    return _as_arrays(songs, format)


# Songs that are files


@dataclass(frozen=True)
class _Plan:
    """What is made of every song."""

    format: str
    rate: Rate | None
    conversion: dict[str, Any]
    limits: Limits
    composers: dict[str, list[str]]
    on_bad_file: Callable[[str], None] | None
    layout: int = _LAYOUT


def _rows(parts: list[Part], plan: _Plan) -> Iterator[dict[str, Any]]:
    for part in parts:
        for name, label, read in part.songs(plan.limits):
            try:
                yield _row(name, label, read(), plan)
            except (NESFormatError, OSError) as error:
                if plan.on_bad_file is None:
                    raise
                plan.on_bad_file(str(error))


def _row(name: str, label: str, song: Song, plan: _Plan) -> dict[str, Any]:
    """Raises a `NESFormatError` that names the file."""
    if name.encode(errors="replace").decode() != name:
        raise NESFormatError("the name is not in UTF-8: rename the file", label)
    facts = _facts(name, song, plan)
    try:
        if plan.rate is not None or plan.conversion or format_of(song) != plan.format:
            song = convert(song, plan.format, rate=plan.rate, **plan.conversion)
        content = _content(song, plan.format)
    except NESFormatError as error:
        raise NESFormatError(error.cause, label, error.offset) from error
    return {
        "name": name,
        **facts,
        "seconds": song.num_samples / SAMPLE_RATE,
        "rate": song.rate if plan.format in SCORES else float(SAMPLE_RATE),
        column(plan.format): content,
    }


def _facts(name: str, song: Song, plan: _Plan) -> dict[str, Any]:
    """From the composers given, from a VGM's tag, and from the name, which is NES-MDB's own word for its songs."""
    facts = facts_of_name(name)
    given = composers_of(name, facts, plan.composers)
    tag = {}
    if isinstance(song, VGM):
        with suppress(NESFormatError):  # the music can be read all the same
            tag = facts_of_tag(song.tags)
    facts = tag | facts if facts["game_id"] else facts | tag
    return facts | {"composers": given or tag.get("composers", [])}


def _content(song: Song, format: str) -> np.ndarray | bytes | str:
    if format == "blndsco" and song.score[:, 3:].any():
        raise NESFormatError("more than three notes sound at once, which is no music of the NES")
    if format in SCORES:
        return song.score[:, :3] if format == "blndsco" else song.score
    return song_to_bytes(song) if format in BYTES else song.to_text()


def _build(parts: list[Part], plan: _Plan, wanted: Features, split: str, num_proc: int | None, cache_dir) -> Dataset:
    """The memory-mapped rows of a split.

    An error does not get out of the processes that write them, and a cache remembers none: they leave out what is bad,
    and what is missing then is read once more, for the reason.
    """
    try:
        songs = Dataset.from_generator(
            _rows,
            features=wanted,
            gen_kwargs={"parts": parts, "plan": replace(plan, on_bad_file=_pass_over)},
            split=split,
            num_proc=num_proc and min(num_proc, len(parts)),
            cache_dir=cache_dir and str(cache_dir),
        )
    except ValueError as error:  # `datasets` has no splits without rows
        for _ in _rows(parts, plan):
            raise
        raise ValueError(f"none of the songs of {split} can be read") from error
    present = set(songs["name"])
    for part in parts:
        if not present.issuperset(part.names):
            for row in _rows([part.without(present)], plan):
                where = Path(songs.cache_files[0]["filename"]).parent
                raise OSError(f"{row['name']} could not be read and now can: remove {where} and load again")
    return songs


def _pass_over(reason: str) -> None:
    pass


# Arrow copies


def _is_folder_of_songs(path: Path) -> bool:
    """Whether it is a folder, and not one that holds an Arrow copy."""
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return path.is_dir() and not saved and not any(path.rglob("*.parquet"))


def _load_copy(
    source: str | Path, wanted: Features, format: str, rate: Rate | None, streaming: bool, num_proc, cache_dir
) -> DatasetDict | IterableDatasetDict:
    path = Path(source)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        songs = load_from_disk(str(path))
        songs = songs if isinstance(songs, DatasetDict) else DatasetDict(train=songs)
        if streaming:
            songs = IterableDatasetDict(
                {split: part.with_format(None).to_iterable_dataset() for split, part in songs.items()}
            )
    else:
        options = {"streaming": True} if streaming else {"num_proc": num_proc}
        try:
            songs = load_dataset(str(source), cache_dir=cache_dir and str(cache_dir), **options)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{str(source)!r} is neither a folder here (working directory {Path.cwd()}) nor a data set that the "
                f"Hub gives: {error}"
            ) from error
    songs = type(songs)({SPLITS.get(split, split): part for split, part in songs.items()})
    for part in songs.values():
        if part.features is None or part.features.get(column(format)) != wanted[column(format)]:
            raise ValueError(
                f"{source} is no data set of the format {format}: it has the columns {part.features}; ask for the "
                "format that it was made with, or make one with `seqzoo nes dataset`"
            )
    if streaming:
        return IterableDatasetDict(
            {
                split: IterableDataset.from_generator(
                    _rows_of_copy,
                    features=part.features,
                    gen_kwargs={"shards": _shards(part), "format": format, "rate": rate},
                    split=split,
                )
                for split, part in songs.items()
            }
        )
    if rate is not None and format in SCORES:
        for part in songs.values():
            for found in part.unique("rate"):
                _check_rate(found, rate)
    return _as_arrays(songs, format)


def _check_rate(found: float, rate: Rate) -> None:
    if found != rate:
        raise ValueError(f"the copy has scores at {found:g} Hz, not {rate}; make one with rate={rate}")


def _shards(stream: IterableDataset) -> list[IterableDataset]:
    return [stream.shard(stream.num_shards, index) for index in range(stream.num_shards)]


def _rows_of_copy(shards: list[IterableDataset], format: str, rate: Rate | None) -> Iterator[dict[str, Any]]:
    """Over Arrow tables, whose scores become arrays at once; plain rows have lists of lists of lists."""
    for shard in shards:
        for table in shard.with_format("arrow").iter(batch_size=64):
            for row in _as_arrays(Dataset(InMemoryTable(table)), format):
                if rate is not None and format in SCORES:
                    _check_rate(row["rate"], rate)
                yield row


def _as_arrays(songs: Dataset | DatasetDict, format: str) -> Dataset | DatasetDict:
    if format not in SCORES:
        return songs
    return songs.with_format("numpy", columns=["score"], output_all_columns=True, dtype="uint8")
