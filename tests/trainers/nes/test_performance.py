"""What a model of performance learns from, and how songs are measured."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from model_table import performance_row

from seqzoo.data.nes.score_classes import PERFORMANCE, classes_of
from seqzoo.trainers.nes.performance import PerformanceObjective, performance_windows, predict


def song(time: int, seed: int) -> np.ndarray:
    """A score of random notes, velocities and timbres, uint8 [step, voice, 3]."""
    most = np.array([[108, 15, 3], [108, 15, 3], [108, 0, 0], [16, 15, 1]])
    return np.random.default_rng(seed).integers(0, most + 1, (time, 4, 3)).astype(np.uint8)


SONGS = [song(20, 0), song(7, 1), song(33, 2)]


def test_batches_hold_what_was_played_at_each_step_and_a_step_before():
    batches = performance_windows(SONGS, steps=8, batch_size=9)
    seen = 0
    for _ in range(3):
        batch = next(batches)
        counted = batch["attention_mask"] == 1
        assert (batch["labels"][~counted] == -100).all()
        assert np.array_equal(batch["previous"][:, 1:][counted[:, 1:]], batch["labels"][:, :-1][counted[:, 1:]])
        for row in range(9):
            notes, labels = batch["notes"][row][counted[row]], batch["labels"][row][counted[row]]
            whole = [np.concatenate([one[:, :, 0], classes_of(one, PERFORMANCE)], axis=1) for one in SONGS]
            piece = np.concatenate([notes, labels], axis=1)
            starts = [
                (number, start)
                for number, one in enumerate(whole)
                for start in range(len(one) - len(piece) + 1)
                if np.array_equal(one[start : start + len(piece)], piece)
            ]
            ((number, start),) = starts
            before = whole[number][start - 1, 4:] if start else np.zeros(6)
            assert np.array_equal(batch["previous"][row, 0], before)
            seen += len(piece)
    assert seen > 3 * 30


@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("architecture", ["regression", "lstm", "transformer"])
def test_a_song_is_predicted_as_the_model_predicts_it_whole(architecture, autoregressive):
    model = performance_row(architecture, autoregressive).build()
    nll, correct, target = predict(model, SONGS[0], torch.device("cpu"))
    assert np.array_equal(target, classes_of(SONGS[0], PERFORMANCE))
    notes = torch.from_numpy(SONGS[0][None, :, :, 0].astype(np.int64))
    loss = model(notes, labels=torch.from_numpy(target)[None]).loss
    assert nll.sum() / 20 == pytest.approx(loss.item(), rel=1e-5)
    assert correct.shape == (20, 6)
    assert (nll[correct] < np.log([16] * 3 + [4] * 2 + [2])[correct.nonzero()[1]]).all()  # the best is above the mean


def test_the_loss_of_a_batch_is_a_sum_over_its_steps_and_the_evaluation_a_mean_over_songs():
    model = performance_row("transformer", autoregressive=True).build()
    objective = PerformanceObjective(Accelerator(cpu=True), SONGS)
    batch = {
        key: torch.from_numpy(value) for key, value in next(performance_windows(SONGS, steps=8, batch_size=4)).items()
    }
    assert objective.count_targets(batch) == int(batch["attention_mask"].sum())
    rows = [{key: value[row : row + 1] for key, value in batch.items()} for row in range(4)]
    parts = sum(objective.loss(model, row).item() for row in rows)
    assert objective.loss(model, batch).item() == pytest.approx(parts, rel=1e-5)
    measures = objective.measure(model, SONGS)
    by_song = [predict(model, one, torch.device("cpu"))[0].sum() for one in SONGS]
    assert measures["total"]["nll"] == pytest.approx(sum(by_song) / 60, rel=1e-5)
    assert measures["P1 velocity"]["steps"] == 60
    assert objective.evaluate(model)["loss"] == measures["total"]["nll"]
