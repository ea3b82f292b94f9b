"""Many files at once: every core, memory for a few songs, and no file that stops the others."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits
from seqzoo.data.nes.files import read_song, song_suffix
from seqzoo.data.nes.jobs import Job


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Args:
        source (`str`):
            The file.
        error (`str`, *optional*):
            The file and the reason, where the job could not be done.
    """

    source: str
    error: str | None = None


@dataclass(frozen=True)
class _Task:
    source: Path
    targets: tuple[Path, ...]


def process_files(
    inputs: list[str],
    out: str | Path,
    job: Job,
    *,
    limits: Limits = DEFAULT_LIMITS,
    processes: int | None = None,
) -> tuple[Iterator[Outcome], int]:
    """Do a job with files, and with all songs in and below folders; what it writes goes to the folder `out`.

    The part of a file's path below the folder that was named is kept.

    Returns:
        The outcomes as they come, in no order, and their number.

    Raises:
        `FileNotFoundError`: an input does not exist.
        `OSError`: nothing can be written to `out`.
        `ValueError`: a folder has no songs, two files would become the same one, or one would replace an input.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"{processes} processes do nothing; take 1 or more")
    tasks = _tasks(inputs, Path(out), job)
    _make_folder(Path(out))
    processes = min(processes or os.cpu_count() or 1, len(tasks))
    if processes == 1:
        return (_do(task, job, limits) for task in tasks), len(tasks)
    return _outcomes(tasks, job, limits, processes), len(tasks)


def _tasks(inputs: list[str], out: Path, job: Job) -> list[_Task]:
    named = []  # files, and what is kept of their paths
    for name in inputs:
        source = Path(name)
        if source.is_dir():
            songs = sorted(path for path in source.rglob("*") if path.is_file() and song_suffix(path))
            if not songs:
                raise ValueError(f"there are no songs in {source}")
            named += [(path, path.relative_to(source)) for path in songs]
        elif source.exists():
            named.append((source, Path(source.name)))
        else:
            raise FileNotFoundError(f"there is no file or folder {source}")
    tasks = []
    originals = {_identity(source): source for source, _ in named}
    first: dict[Path, Path] = {}
    for source, path in named:
        stem = path.name[: -len(song_suffix(path) or path.suffix) or None]
        targets = tuple(out / path.with_name(stem + suffix) for suffix in job.suffixes)
        for target in targets:
            if first.setdefault(target, source) != source:
                raise ValueError(f"{first[target]} and {source} would both become {target}; do them apart")
            if target.exists() and (original := originals.get(_identity(target))):
                raise ValueError(f"what {source} becomes would replace the input {original}; choose another folder")
        tasks.append(_Task(source, targets))
    return tasks


def _identity(path: Path) -> tuple[int, int]:
    """Of a file, whatever names and links lead to it."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; name a folder to write to")
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK | os.X_OK):
        raise PermissionError(f"nothing can be written to {out}; name another folder")


def _outcomes(tasks: list[_Task], job: Job, limits: Limits, processes: int) -> Iterator[Outcome]:
    """A few files a process are under way at a time, so the number of files costs no memory.

    Where a process dies, out of memory for instance, the files under way are done again one by one: the culprit is
    named, the others are done.
    """
    waiting = deque(tasks)
    suspects: deque[_Task] = deque()
    context = multiprocessing.get_context("spawn")  # safe whatever threads this process has
    while waiting or suspects:
        alone = bool(suspects)
        queue = suspects if alone else waiting
        most = 1 if alone else 4 * processes
        running: dict[Future, _Task] = {}
        try:
            with ProcessPoolExecutor(1 if alone else processes, mp_context=context) as pool:
                while queue or running:
                    while queue and len(running) < most:
                        future = pool.submit(_do, queue[0], job, limits)
                        running[future] = queue.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        outcome = future.result()
                        del running[future]
                        yield outcome
        except BrokenProcessPool:
            if alone:
                for task in running.values():
                    source = str(task.source)
                    yield Outcome(source, f"{source}: the process that worked on it died, perhaps of memory")
            else:
                suspects.extend(running.values())


def _do(task: _Task, job: Job, limits: Limits) -> Outcome:
    source = task.source
    try:
        song = read_song(source, limits)
        task.targets[0].parent.mkdir(parents=True, exist_ok=True)
        job(song, *task.targets)
    except ImportError:  # what is not installed is missing for all files
        raise
    except Exception as error:  # whatever is wrong with one file, the others go on
        text = str(error) or "no reason given"
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        return Outcome(str(source), kind + text if str(source) in text else f"{source}: {kind}{text}")
    return Outcome(str(source))
