"""Composition: what a model learns from and is measured by, step by step, given the steps before.

Separated, the columns are the notes of P1, P2, TR and NO. Blended, they are the keys of a piano roll, on or off; their
sum is measured, and a step counts as correct if all keys are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from seqzoo.data.nes.score_batches import Batch, ScoreWindows
from seqzoo.data.nes.score_classes import COMPOSITION, classes_of, roll_of
from seqzoo.metrics.nes_scores import ScoreSums
from seqzoo.modeling.nes_score.modeling_nes_score import NESScoreModel
from seqzoo.trainers.nes.counts import KINDS, ColumnCounts


# Songs and steps that are read in one pass while a model is measured.
_ROWS = 16
_STEPS = 512

Measures = dict[str, dict[str, float]]


def notes_of(score: np.ndarray, blended: bool) -> np.ndarray:
    """uint8 `[step, voice]`: what a model is given of a score `[step, voice, (note, velocity, timbre)]`."""
    return np.ascontiguousarray(score[:, : 3 if blended else 4, 0])


def composition_windows(songs: Sequence[np.ndarray], *, steps: int, batch_size: int, seed: int = 0) -> ScoreWindows:
    """Batches of a [`NESScoreModel`] out of notes `[step, voice]`."""
    return ScoreWindows(songs, steps=steps, batch_size=batch_size, form=composition_batch, seed=seed)


def composition_batch(windows: np.ndarray, counts: np.ndarray) -> Batch:
    """What a model takes, of `windows` `[batch, steps + 1, voice]` and `counts` as [`ScoreWindows`] has them."""
    notes = windows.astype(np.int64)
    return {
        "notes": notes[:, 1:],
        "labels": np.where(counts[:, 1:, None], notes[:, 1:], -100),
        "before": notes[:, :1],
    }


def targets_of(notes: np.ndarray, blended: bool) -> np.ndarray:
    """int64 `[step, column]`."""
    return roll_of(notes) if blended else classes_of(notes)


def measure(predictions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], blended: bool) -> Measures:
    """Measures of songs, each `nll`, `correct` and target as [`ScoreSums.add`] takes them, of every column."""
    sums = ScoreSums(["blended"] if blended else [column.name for column in COMPOSITION])
    for nll, correct, target in predictions:
        if blended:
            nll, correct = nll.sum(1, keepdims=True), correct.prod(1, keepdims=True)
            # Each chord gets a number of its own, and silence 0.
            rolls = np.concatenate([np.zeros_like(target[:1]), target])
            target = np.unique(rolls, axis=0, return_inverse=True)[1].reshape(-1, 1)[1:]
        sums.add(nll, correct, target)
    return sums.result()


def baselines(train: Iterable[np.ndarray], held_out: Sequence[np.ndarray], blended: bool) -> dict[str, Measures]:
    """Measures of each count baseline on held-out notes `[step, voice]`."""
    classes = [2] * roll_of(held_out[0]).shape[1] if blended else [column.classes for column in COMPOSITION]
    counts = ColumnCounts((targets_of(song, blended) for song in train), classes)
    targets = [targets_of(song, blended) for song in held_out]
    return {kind: measure(((*counts.predict(kind, song), song) for song in targets), blended) for kind in KINDS}


class CompositionObjective:
    """The next step of a score: the loss, and the measures of held-out songs.

    Args:
        model (`NESScoreModel`):
            The model, before Accelerate wraps it.
        held_out (`Sequence[np.ndarray]`):
            Notes `[step, voice]` of the songs to measure while training. Every process measures all of them.
    """

    def __init__(self, model: NESScoreModel, held_out: Sequence[np.ndarray]):
        self.blended = model.config.architecture == "blended"
        self.held_out = held_out

    unit = "steps"

    def count_inputs(self, batch: Mapping[str, np.ndarray]) -> int:
        return batch["notes"][:, :, 0].size

    def count_targets(self, batch: Mapping[str, Tensor]) -> int:
        return int((batch["labels"][:, :, 0] != -100).sum())

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return model(**batch, use_cache=False).loss * self.count_targets(batch)

    def measure(self, model: nn.Module, songs: Sequence[np.ndarray]) -> Measures:
        model.eval()
        return measure(predict(model, songs, self.blended), self.blended)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """`loss` is nats a step over all voices or keys, `loss_poi` the same at points of interest."""
        total = self.measure(model, self.held_out)["total"]
        return {"loss": total["nll"], "loss_poi": total["nll_poi"], "accuracy_poi": total["accuracy_poi"]}


@torch.no_grad()
def predict(
    model: nn.Module, songs: Sequence[np.ndarray], blended: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`nll`, `correct` and target, `[step, column]`, of each song from its first step to its last, in some order."""
    inner = getattr(model, "module", model)
    device = inner.device
    order = sorted(range(len(songs)), key=lambda song: -len(songs[song]))
    for start in range(0, len(order), _ROWS):
        some = [songs[song] for song in order[start : start + _ROWS]]
        notes = np.zeros((len(some), len(some[0]), some[0].shape[1]), dtype=np.int64)
        for row, song in zip(notes, some, strict=True):
            row[: len(song)] = song
        state, nll, correct = None, [], []
        for piece in torch.from_numpy(notes).to(device).split(_STEPS, dim=1):
            output = model(piece, past_key_values=state, use_cache=True)
            state = output.past_key_values
            nll.append(inner.nll(output.logits, piece).cpu())
            correct.append(_correct(inner, output.logits, piece, blended).cpu())
        nll, correct = torch.cat(nll, dim=1).numpy(), torch.cat(correct, dim=1).numpy()
        for row, song in enumerate(some):
            yield nll[row, : len(song)], correct[row, : len(song)], targets_of(song, blended)


def _correct(model: NESScoreModel, logits: Tensor, notes: Tensor, blended: bool) -> Tensor:
    """bool `[batch, time, column]`."""
    if blended:
        return (logits > 0) == (model.roll(notes) > 0)
    chosen = torch.stack([voice.argmax(-1) for voice in model.by_voice(logits)], dim=-1)
    return chosen == model.classes(notes)
