"""The songs of a data set in memory, by split: all of NES-MDB is some 50 MB."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seqzoo.data.nes.dataset import load_nesmdb
from seqzoo.data.nes.scores import PUBLISHED_RATE


def load_songs(source: str | Path, *splits: str, verify: bool = True) -> dict[str, list[np.ndarray]]:
    """Expressive scores at 24 steps a second, uint8 `[step, voice, (note, velocity, timbre)]`.

    Args:
        source (`str` or `Path`):
            Archive, folder, copy or id, as [`load_nesmdb`] takes them.
        *splits (`str`):
            Of `train`, `validation` and `test`, those that are needed.
        verify (`bool`):
            As in [`load_nesmdb`].

    Raises:
        `ValueError`: the source does not have one of the splits, or there is no step in it.
        And what [`load_nesmdb`] raises.
    """
    songs = load_nesmdb(source, "exprsco", rate=PUBLISHED_RATE, verify=verify)
    result = {}
    for split in splits:
        result[split] = [row["score"] for row in songs[split] if len(row["score"])] if split in songs else []
        if not result[split]:
            raise ValueError(
                f"{source} has no songs of the split {split}: put them into folders named train, valid and test"
            )
    return result


def first_songs(songs: Sequence[np.ndarray], max_steps: int) -> list[np.ndarray]:
    """Songs, the last one cut, that have `max_steps` steps together; all of them if they have fewer."""
    first = []
    for song in songs:
        if max_steps <= 0:
            break
        first.append(song[:max_steps])
        max_steps -= len(song)
    return first
