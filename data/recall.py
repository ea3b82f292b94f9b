"""Multi-query associative recall (MQAR): pairs of a key and a value, then keys, each to be answered by its value.

The synthetic task on which attention and models with a state of fixed size differ most (Arora et al. 2023, "Zoology:
Measuring and Improving Recall in Efficient Language Models", arXiv 2312.04927). A sequence of two pairs is

    input     k1 v1 k2 v2  .  k2  .  .  k1  .
    target     .  .  .  .  . v2   .  .  v1  .

Keys are distinct, values are not; token 0 fills the gaps (here a dot), then come the ids of all keys, then those of
all values. As in the paper every key is asked once, and the gap between the pairs and a query follows a power law: the
g-th place behind them has a weight of g^(0.01 - 1), so that most queries come early and some late.

A sequence may have fewer pairs than there is room for: the pairs come first, filler takes the rest of their room, and
queries begin where they always do.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


FILLER = 0
IGNORED = -100
_POWER = 0.01


@dataclass(frozen=True)
class RecallTask:
    """The sizes of the task.

    Args:
        pairs (`tuple[int, ...]`):
            Pairs a sequence: a model trains on the largest number and is measured on each.
        length (`int`):
            Tokens of a sequence; three times the largest number of pairs at least.
        keys (`int`):
            Distinct keys, and as many distinct values.

    Raises:
        `ValueError`: the pairs fit neither the sequence nor the keys.
    """

    pairs: tuple[int, ...] = (2, 4, 8)
    length: int = 32
    keys: int = 16

    def __post_init__(self):
        if not self.pairs or min(self.pairs) < 1:
            raise ValueError(f"pairs is {self.pairs}, but takes numbers of 1 or more")
        if 3 * self.most > self.length:
            raise ValueError(f"{self.most} pairs and as many queries do not fit into a length of {self.length}")
        if self.most > self.keys:
            raise ValueError(f"{self.most} pairs need as many distinct keys, but there are {self.keys}")

    @property
    def most(self) -> int:
        return max(self.pairs)

    @property
    def vocab_size(self) -> int:
        return 1 + 2 * self.keys


def recall_sequences(task: RecallTask, pairs: int, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw sequences.

    Returns:
        `input_ids` and `targets`, int64 `[rows, length]`. A target stands at its query, not behind it; elsewhere it
        is -100.
    """
    keys = rng.permuted(np.tile(np.arange(1, task.keys + 1), (rows, 1)), axis=1)[:, :pairs]
    values = rng.integers(task.keys + 1, task.vocab_size, (rows, pairs))
    room = 2 * task.most
    gaps = np.arange(1, task.length - room + 1)
    # The largest of log-weights with Gumbel noise are a draw without replacement by these weights.
    noisy = (_POWER - 1) * np.log(gaps) + rng.gumbel(size=(rows, len(gaps)))
    queries = room + np.argsort(-noisy, axis=1)[:, :pairs]
    input_ids = np.full((rows, task.length), FILLER, dtype=np.int64)
    input_ids[:, 0 : 2 * pairs : 2] = keys
    input_ids[:, 1 : 2 * pairs : 2] = values
    np.put_along_axis(input_ids, queries, keys, axis=1)
    targets = np.full((rows, task.length), IGNORED, dtype=np.int64)
    np.put_along_axis(targets, queries, values, axis=1)
    return {"input_ids": input_ids, "targets": targets}


class RecallBatches:
    """An endless stream of batches that can be stopped anywhere: batch `n` is drawn from `(seed, n)`.

    Args:
        task (`RecallTask`):
            What to draw.
        batch_size (`int`):
            Sequences of a batch over all processes.
        seed (`int`):
            Of the draw.
    """

    def __init__(self, task: RecallTask, *, batch_size: int, seed: int = 0):
        self.task = task
        self.batch_size = batch_size
        self.seed = seed
        self.step = 0

    def __iter__(self) -> "RecallBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, self.step))
        self.step += 1
        return recall_sequences(self.task, self.task.most, self.batch_size, rng)

    def _identity(self) -> dict[str, Any]:
        task = asdict(self.task) | {"pairs": list(self.task.pairs)}  # as JSON gives it back
        return {"task": task, "batch_size": self.batch_size, "seed": self.seed}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "identity": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken.

        Raises:
            `ValueError`: it belongs to another task, batch size or seed.
        """
        if state["identity"] != self._identity():
            raise ValueError(
                f"the checkpoint's recall task is {state['identity']}, this one is {self._identity()}; "
                "set it back, or start another run in another folder"
            )
        self.step = state["step"]
