"""Many files at once: every core, memory for a few songs, and no file that stops the others."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqzoo.data.nes.conversion import convert
from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits
from seqzoo.data.nes.files import FORMATS, read_song, song_suffix, write_song


@dataclass(frozen=True)
class Job:
    """What to do with every file.

    Args:
        to (`str`):
            The format.
        options (`dict[str, Any]`):
            Of [`seqzoo.data.nes.conversion.convert`].
        limits (`Limits`):
            What to refuse.
    """

    to: str
    options: dict[str, Any] = field(default_factory=dict)
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Args:
        source (`str`):
            The file.
        error (`str`, *optional*):
            The file and the reason, where it could not be converted.
    """

    source: str
    error: str | None = None


def convert_files(
    inputs: list[str], out: str | Path, job: Job, *, processes: int | None = None
) -> tuple[Iterator[Outcome], int]:
    """Convert files, and folders with all songs in them, into the folder `out`.

    The part of a file's path below the folder that was named is kept.

    Returns:
        The outcomes as they come, in no order, and their number.

    Raises:
        `FileNotFoundError`: an input does not exist.
        `ValueError`: a folder has no songs, or two files would become the same one.
    """
    targets = _targets(inputs, Path(out), FORMATS[job.to].suffix)
    processes = min(processes or os.cpu_count() or 1, len(targets))
    if processes <= 1:
        return (_convert_file(source, target, job) for source, target in targets), len(targets)
    return _outcomes(targets, job, processes), len(targets)


def _targets(inputs: list[str], out: Path, suffix: str) -> list[tuple[Path, Path]]:
    targets = []
    for name in inputs:
        source = Path(name)
        if source.is_dir():
            songs = sorted(path for path in source.rglob("*") if path.is_file() and song_suffix(path))
            if not songs:
                raise ValueError(f"there are no songs in {source}")
            targets += [(path, out / path.relative_to(source).with_name(_renamed(path, suffix))) for path in songs]
        elif source.exists():
            targets.append((source, out / _renamed(source, suffix)))
        else:
            raise FileNotFoundError(f"there is no file or folder {source}")
    first: dict[Path, Path] = {}
    for source, target in targets:
        if first.setdefault(target, source) != source:
            raise ValueError(f"{first[target]} and {source} would both become {target}; convert them apart")
    return targets


def _renamed(path: Path, suffix: str) -> str:
    return path.name[: -len(song_suffix(path) or path.suffix) or None] + suffix


def _outcomes(targets: list[tuple[Path, Path]], job: Job, processes: int) -> Iterator[Outcome]:
    """A few files a process are under way at a time, so the number of files costs no memory.

    Where a process dies, out of memory for instance, the files under way are done again one by one: the culprit is
    named, the others are converted.
    """
    waiting = deque(targets)
    suspects: deque[tuple[Path, Path]] = deque()
    context = multiprocessing.get_context("spawn")  # safe whatever threads this process has
    while waiting or suspects:
        alone = bool(suspects)
        queue = suspects if alone else waiting
        most = 1 if alone else 4 * processes
        running: dict[Future, tuple[Path, Path]] = {}
        try:
            with ProcessPoolExecutor(1 if alone else processes, mp_context=context) as pool:
                while queue or running:
                    while queue and len(running) < most:
                        future = pool.submit(_convert_file, *queue[0], job)
                        running[future] = queue.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        outcome = future.result()
                        del running[future]
                        yield outcome
        except BrokenProcessPool:
            if alone:
                for source, _ in running.values():
                    yield Outcome(str(source), f"{source}: the process that converted it died, perhaps of memory")
            else:
                suspects.extend(running.values())


def _convert_file(source: Path, target: Path, job: Job) -> Outcome:
    try:
        if target.exists() and target.samefile(source):
            raise ValueError(f"{source}: the result would replace the file itself; choose another folder")
        song = convert(read_song(source, job.limits), job.to, **job.options)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_song(song, target)
    except Exception as error:  # whatever is wrong with one file, the others go on
        text = str(error) or "no reason given"
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        return Outcome(str(source), kind + text if str(source) in text else f"{source}: {kind}{text}")
    return Outcome(str(source))
