"""How well a model predicts the columns of NES scores: the notes of each voice, or their velocities and timbres.

A score changes at few of its steps, so that repeating the step before is right most of the time. Everything is
therefore measured twice: over all steps, and over the points of interest, where a column's value differs from the one
before it. Before the first step of a song everything is 0.
"""

import math
from collections.abc import Sequence

import numpy as np


_MEANS = ("accuracy", "accuracy_poi")


def points_of_interest(target: np.ndarray) -> np.ndarray:
    """bool `[step, column]`: where the classes `[step, column]` of one song differ from those of the step before."""
    before = np.zeros_like(target)
    before[1:] = target[:-1]
    return target != before


class ScoreSums:
    """Negative log-likelihood and accuracy by column, added up song by song.

        sums = ScoreSums(["P1", "P2", "TR", "NO"])
        for song in songs:
            sums.add(nll, predicted == song, song)
        sums.result()["P1"]["nll_poi"]

    Args:
        names (`Sequence[str]`):
            Of the columns.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._sums = np.zeros((2, 3, len(self.names)))  # all steps and points of interest; count, nll, correct

    def add(self, nll: np.ndarray, correct: np.ndarray, target: np.ndarray) -> None:
        """One whole song.

        Args:
            nll (`float [step, column]`):
                What the model gave the target, `-ln p`.
            correct (`bool` or `float [step, column]`):
                Whether its most probable class was the target, or the probability that its guess is.
            target (`int [step, column]`):
                The classes.

        Raises:
            `ValueError`: the shapes do not fit together.
        """
        if not nll.shape == correct.shape == target.shape == (len(target), len(self.names)):
            raise ValueError(
                f"nll {nll.shape}, correct {correct.shape} and target {target.shape} are not all [step, "
                f"{len(self.names)}] for the columns {', '.join(self.names)}"
            )
        for place, counted in enumerate((np.ones(target.shape, dtype=bool), points_of_interest(target))):
            for row, value in enumerate((counted, nll, correct)):
                self._sums[place, row] += np.where(counted, value, 0).sum(axis=0, dtype=np.float64)

    def result(self) -> dict[str, dict[str, float]]:
        """Measures of each column, and `total`.

        Of a column: `nll` (nats a step), `accuracy`, `nll_poi` and `accuracy_poi` (at points of interest), and how
        many there are, `steps` and `poi`. Of the total: the mean of the accuracies over the columns, and the sum of
        everything else. What was never counted is `nan`; the total leaves such a column out, and is `nan` itself only
        where all of them are.
        """
        result = {}
        for column, name in enumerate(self.names):
            (steps, nll, correct), (poi, nll_poi, correct_poi) = self._sums[:, :, column].tolist()
            result[name] = {
                "nll": _ratio(nll, steps),
                "accuracy": _ratio(correct, steps),
                "nll_poi": _ratio(nll_poi, poi),
                "accuracy_poi": _ratio(correct_poi, poi),
                "steps": int(steps),
                "poi": int(poi),
            }
        total = {}
        for key in ("nll", "accuracy", "nll_poi", "accuracy_poi", "steps", "poi"):
            counted = [column[key] for column in result.values() if not math.isnan(column[key])]
            total[key] = _ratio(sum(counted), len(counted) if key in _MEANS else bool(counted))
        return result | {"total": total | {key: int(total[key]) for key in ("steps", "poi")}}


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
