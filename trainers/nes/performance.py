"""Expressive performance: learn to play notes, and measure how well songs are predicted."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from seqzoo.data.nes.score_batches import Batch, ScoreWindows
from seqzoo.data.nes.score_classes import PERFORMANCE, classes_of
from seqzoo.metrics.nes_scores import ScoreSums
from seqzoo.modeling.nes_performance.modeling_nes_performance import split_columns
from seqzoo.trainers.nes.counts import KINDS, ColumnCounts


_VOICES = [column.voice for column in PERFORMANCE]
_FIELDS = [column.field for column in PERFORMANCE]

Measures = dict[str, dict[str, float]]


def performance_windows(songs: Sequence[np.ndarray], *, steps: int, batch_size: int, seed: int = 0) -> ScoreWindows:
    """Batches of a [`NESPerformanceModel`] out of expressive scores, uint8 `[step, voice, 3]`."""
    return ScoreWindows(songs, steps=steps, batch_size=batch_size, form=performance_batch, seed=seed)


def performance_batch(windows: np.ndarray, counts: np.ndarray) -> Batch:
    """What a model takes, of `windows` `[batch, steps + 1, voice, 3]` and `counts` as [`ScoreWindows`] has them."""
    played = windows[:, :, _VOICES, _FIELDS].astype(np.int64)
    return {
        "notes": windows[:, 1:, :, 0].astype(np.int64),
        "previous": played[:, :-1],
        "attention_mask": counts[:, 1:].astype(np.int64),
        "labels": np.where(counts[:, 1:, None], played[:, 1:], -100),
    }


@torch.no_grad()
def predict(model: nn.Module, score: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What [`ScoreSums.add`] needs of a song: `nll`, `correct` and `target`, each `[step, column]`.

    The song is one sequence, whatever its length; an autoregressive model is given what was really played before.
    """
    windows = np.concatenate([np.zeros_like(score[:1]), score])[None]
    batch = performance_batch(windows, np.arange(len(score) + 1)[None] > 0)
    labels = torch.from_numpy(batch.pop("labels"))[0]
    logits = model(**{key: torch.from_numpy(value).to(device) for key, value in batch.items()}).logits[0].float().cpu()
    nll = torch.empty(labels.shape)
    correct = torch.empty(labels.shape, dtype=torch.bool)
    for column, options in enumerate(split_columns(logits)):
        nll[:, column] = nn.functional.cross_entropy(options, labels[:, column], reduction="none")
        correct[:, column] = options.argmax(-1) == labels[:, column]
    return nll.numpy(), correct.numpy(), labels.numpy()


def measure(predictions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Measures:
    """Measures of songs, each `nll`, `correct` and target as [`ScoreSums.add`] takes them, of every column."""
    sums = ScoreSums([column.name for column in PERFORMANCE])
    for song in predictions:
        sums.add(*song)
    return sums.result()


def performance_baselines(train: Iterable[np.ndarray], held_out: Sequence[np.ndarray]) -> dict[str, Measures]:
    """Measures of each count baseline on held-out scores; it is told no notes."""
    counts = ColumnCounts(
        (classes_of(song, PERFORMANCE) for song in train), [column.classes for column in PERFORMANCE]
    )
    targets = [classes_of(song, PERFORMANCE) for song in held_out]
    return {kind: measure((*counts.predict(kind, song), song) for song in targets) for kind in KINDS}


class PerformanceObjective:
    """Velocities and timbres given notes: the loss, and the measures of held-out songs.

    Args:
        accelerator (`Accelerator`):
            Says where the model is. Every process measures all songs.
        held_out (`Sequence[np.ndarray]`):
            Expressive scores to measure while training.
    """

    unit = "steps"

    def __init__(self, accelerator: Accelerator, held_out: Sequence[np.ndarray]):
        self.accelerator = accelerator
        self.held_out = held_out

    def count_inputs(self, batch: Mapping[str, np.ndarray]) -> int:
        return int(batch["attention_mask"].sum())

    def count_targets(self, batch: Mapping[str, Tensor]) -> int:
        return int((batch["labels"][..., 0] != -100).sum())

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return model(**batch).loss * self.count_targets(batch)

    def measure(self, model: nn.Module, songs: Sequence[np.ndarray]) -> Measures:
        model.eval()
        return measure(predict(model, song, self.accelerator.device) for song in songs)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """`loss` is nats a step over all columns, `loss_poi` the same at points of interest, if all columns have some.

        The timbre of the noise changes in few songs.
        """
        total = self.measure(model, self.held_out)["total"]
        measures = {"loss": total["nll"], "loss_poi": total["nll_poi"], "accuracy_poi": total["accuracy_poi"]}
        return {key: value for key, value in measures.items() if not math.isnan(value)}
