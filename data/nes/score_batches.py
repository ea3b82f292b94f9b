"""Batches of windows that scores are cut into, for training."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


Batch = dict[str, np.ndarray]


class ScoreWindows:
    """An endless stream of batches of windows, which can be stopped anywhere and continued elsewhere.

    Every song is cut at `shift`, `shift + steps`, `shift + 2 steps`, ..., with a shift that is drawn for each epoch;
    the windows of all songs come in an order drawn from `(seed, epoch)`. An epoch has every step once. Batches run on
    over the ends of epochs: each has exactly `batch_size` windows.

    Args:
        songs (`Sequence[np.ndarray]`):
            `[step, ...]`, all of one dtype and shape but for the steps: scores, or classes of their columns.
        steps, batch_size (`int`):
            Steps of a window, windows of a batch over all processes.
        form (`Callable`):
            Makes a batch of `windows` and `counts`. `windows`, `[batch, steps + 1, ...]`, begin with the step before
            the window, all 0 before a song; what is beyond a song's end is 0 too. `counts`, bool `[batch, steps +
            1]`, is where there are steps of the window, neither the step before nor what is beyond the end.
        seed (`int`):
            Of shifts and order.

    Raises:
        `ValueError`: no song has a step.
    """

    def __init__(
        self,
        songs: Sequence[np.ndarray],
        *,
        steps: int,
        batch_size: int,
        form: Callable[[np.ndarray, np.ndarray], Batch],
        seed: int = 0,
    ):
        self.songs = [song for song in songs if len(song)]
        if not self.songs:
            raise ValueError("there are no songs to train on, or none has a step")
        self.steps = steps
        self.batch_size = batch_size
        self.form = form
        self.seed = seed
        self.epoch = 0
        self.offset = 0  # windows of this epoch that were handed out
        self._windows = self._draw_windows()

    def _draw_windows(self) -> np.ndarray:
        """int64 `[window, (song, start)]`, in the order of this epoch. The first of a song may start before it."""
        rng = np.random.default_rng((self.seed, self.epoch))
        shift = int(rng.integers(self.steps))
        starts = [np.arange(shift - self.steps if shift else 0, len(song), self.steps) for song in self.songs]
        songs = np.repeat(np.arange(len(starts)), [len(some) for some in starts])
        return rng.permutation(np.stack([songs, np.concatenate(starts)], axis=1))

    def __iter__(self) -> "ScoreWindows":
        return self

    def __next__(self) -> Batch:
        first = self.songs[0]
        windows = np.zeros((self.batch_size, self.steps + 1, *first.shape[1:]), dtype=first.dtype)
        counts = np.zeros((self.batch_size, self.steps + 1), dtype=bool)
        for window, counted in zip(windows, counts, strict=True):
            song, start = self._next_window()
            stop = min(start + self.steps, len(song))
            begin = max(start, 0)
            window[1 : 1 + stop - begin] = song[begin:stop]
            counted[1 : 1 + stop - begin] = True
            if begin:
                window[0] = song[begin - 1]
        return self.form(windows, counts)

    def _next_window(self) -> tuple[np.ndarray, int]:
        if self.offset == len(self._windows):
            self.epoch += 1
            self.offset = 0
            self._windows = self._draw_windows()
        song, start = self._windows[self.offset].tolist()
        self.offset += 1
        return self.songs[song], start

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, in JSON's types. The windows themselves follow from the seed and the epoch."""
        return {"epoch": self.epoch, "offset": self.offset, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken.

        Raises:
            `ValueError`: the state belongs to other songs or windows.
        """
        if state["fingerprint"] != self._fingerprint():
            raise ValueError(
                "the songs or their windows are not those of the checkpoint: the files, the steps of a window or the "
                "seed changed. Restore them, or start another run in another folder"
            )
        self.epoch = state["epoch"]
        self.offset = state["offset"]
        self._windows = self._draw_windows()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.steps, self.seed)).encode())
        for song in self.songs:
            digest.update(repr((song.dtype.str, song.shape)).encode())
            digest.update(np.ascontiguousarray(song))
        return digest.hexdigest()
