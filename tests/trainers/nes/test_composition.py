"""What the composition task learns from and measures: batches, and songs that are read in pieces and side by side."""

import numpy as np
import pytest
import torch

from seqzoo.metrics.nes_scores import ScoreSums
from seqzoo.modeling.nes_score.configuration_nes_score import ARCHITECTURES, NESScoreConfig
from seqzoo.modeling.nes_score.modeling_nes_score import NESScoreModel
from seqzoo.trainers.nes import composition
from seqzoo.trainers.nes.composition import (
    CompositionObjective,
    baselines,
    composition_batch,
    composition_windows,
    measure,
    predict,
)


def random_songs(*lengths: int, voices: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    songs = [rng.integers(33, 40, (length, voices)).astype(np.uint8) for length in lengths]
    for song in songs:
        song[:, 3:] -= 32
        song[rng.random(song.shape) < 0.3] = 0
    return songs


def small_model(architecture: str) -> NESScoreModel:
    torch.manual_seed(0)
    config = NESScoreConfig(architecture=architecture, hidden_size=16, num_hidden_layers=1, context=4)
    return NESScoreModel(config).eval()


def voices_of(architecture: str) -> int:
    return 3 if architecture == "blended" else 4


def test_a_batch_keeps_the_step_before_apart_and_masks_what_is_beyond_the_end():
    windows = np.array([[[9, 9], [1, 2], [3, 4], [0, 0]]], dtype=np.uint8)
    batch = composition_batch(windows, np.array([[False, True, True, False]]))
    assert batch["before"].tolist() == [[[9, 9]]]
    assert batch["notes"].tolist() == [[[1, 2], [3, 4], [0, 0]]]
    assert batch["labels"].tolist() == [[[1, 2], [3, 4], [-100, -100]]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_songs_side_by_side_and_in_pieces_are_measured_as_each_by_itself(architecture, monkeypatch):
    model, blended = small_model(architecture), architecture == "blended"
    songs = random_songs(5, 23, 1, 14, voices=voices_of(architecture))
    monkeypatch.setattr(composition, "_ROWS", 3)
    monkeypatch.setattr(composition, "_STEPS", 7)
    found = {len(nll): (nll, correct) for nll, correct, _ in predict(model, songs, blended)}
    for song in songs:
        notes = torch.from_numpy(song.astype(np.int64))[None]
        nll, correct = found[len(song)]
        with torch.no_grad():
            assert nll == pytest.approx(model.nll(model(notes).logits, notes)[0].numpy(), rel=1e-4, abs=1e-5)
        if blended:
            sure = nll < np.log(2)  # of two options, the one with the greater probability
            assert (correct == sure)[abs(nll - 0.6931) > 1e-3].all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_objective_is_the_mean_over_steps(architecture):
    model = small_model(architecture)
    songs = random_songs(5, 9, voices=voices_of(architecture))
    objective = CompositionObjective(model, songs)
    batches = composition_windows(songs, steps=16, batch_size=4)
    batch = {key: torch.from_numpy(value) for key, value in next(batches).items()}
    total = objective.loss(model, batch)
    rows = [{key: value[row : row + 1] for key, value in batch.items()} for row in range(4)]
    assert total.item() == pytest.approx(sum(objective.loss(model, row).item() for row in rows), rel=1e-5)
    measures = objective.evaluate(model)
    steps = sum(map(len, songs))
    nll = sum(nll.sum() for nll, _, _ in predict(model, songs, architecture == "blended"))
    assert measures["loss"] == pytest.approx(nll / steps, rel=1e-5)


def test_a_chord_is_one_class_of_the_blended_measures():
    """Keys are added up, and points of interest are where the chord changes, from silence before the song."""
    target = np.array([[0, 0], [1, 0], [1, 0], [0, 1]])
    nll = np.array([[0.5, 0.25], [1, 2], [3, 4], [5, 6]])
    correct = np.array([[True, True], [True, False], [True, True], [True, True]])
    result = measure([(nll, correct, target)], blended=True)["blended"]
    assert result == {
        "nll": 21.75 / 4, "accuracy": 3 / 4, "nll_poi": 14 / 2, "accuracy_poi": 1 / 2, "steps": 4, "poi": 2
    }  # fmt: skip


def test_baselines_of_a_piano_roll_count_each_key():
    held_out = [np.array([[60, 0, 0], [60, 0, 72]], dtype=np.uint8)]
    result = baselines([np.array([[60, 60, 0]] * 3, dtype=np.uint8)], held_out, blended=True)
    assert result["uniform"]["blended"]["nll"] == pytest.approx(88 * np.log(2))
    likely, unlikely = -np.log(4 / 5), -np.log(1 / 5)  # every key was on, or off, in 3 of 3 steps
    first, second = 88 * likely, 87 * likely + unlikely
    assert result["unigram"]["blended"]["nll"] == pytest.approx((first + second) / 2)
    assert result["unigram"]["blended"]["accuracy"] == 0.5


def test_separated_measures_are_those_of_the_columns():
    songs = random_songs(12)
    sums = ScoreSums(["P1", "P2", "TR", "NO"])
    result = baselines(songs, songs, blended=False)
    assert list(result) == ["uniform", "unigram", "bigram"]
    assert result["bigram"].keys() == sums.result().keys()
    assert result["uniform"]["NO"]["nll"] == pytest.approx(np.log(17))
