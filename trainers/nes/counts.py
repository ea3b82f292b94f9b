"""Baselines that count: each column of a score by itself, by no, one or two successive classes.

    uniform   every class is as probable as any other
    unigram   p(c) is how often class c occurs
    bigram    p(c | b) is how often c follows b; 0 is before the first step of a song

One is added to each count. See `data/nes/score_classes.py` for columns and classes.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np


Kind = Literal["uniform", "unigram", "bigram"]
KINDS: tuple[Kind, ...] = ("uniform", "unigram", "bigram")


class ColumnCounts:
    """How often each class follows each, by column.

    Args:
        songs (`Iterable` of `int [step, column]`):
            What is counted; read once, one after the other.
        classes (`Sequence[int]`):
            How many classes each column has.
    """

    def __init__(self, songs: Iterable[np.ndarray], classes: Sequence[int]):
        self.follows = [np.zeros((count, count), dtype=np.int64) for count in classes]  # [before, class]
        for song in songs:
            for follows, before, target in zip(self.follows, _before(song).T, song.T, strict=True):
                pairs = np.bincount(before * len(follows) + target, minlength=follows.size)
                follows += pairs.reshape(follows.shape)

    def log_probabilities(self, kind: Kind, column: int) -> np.ndarray:
        """`[before, class]`, natural logarithms."""
        counts = self.follows[column]
        if kind == "uniform":
            counts = np.zeros_like(counts)
        if kind == "unigram":
            counts = np.broadcast_to(counts.sum(axis=0), counts.shape)
        return np.log((counts + 1.0) / (counts + 1.0).sum(axis=1, keepdims=True))

    def predict(self, kind: Kind, song: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What [`ScoreSums.add`] needs of a song `[step, column]`.

        Returns:
            `nll`, and `correct`: whether the most probable class is the target, the first of equals; of `uniform` the
            probability of guessing it.
        """
        before = _before(song)
        nll = np.empty(song.shape)
        correct = np.empty(song.shape)
        for column in range(song.shape[1]):
            table = self.log_probabilities(kind, column)
            nll[:, column] = -table[before[:, column], song[:, column]]
            correct[:, column] = table.argmax(axis=1)[before[:, column]] == song[:, column]
            if kind == "uniform":
                correct[:, column] = 1 / len(table)
        return nll, correct


def _before(song: np.ndarray) -> np.ndarray:
    """The classes of the step before; before the first step they are 0."""
    before = np.zeros_like(song)
    before[1:] = song[:-1]
    return before
