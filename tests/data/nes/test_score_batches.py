"""Windows of scores: every step once an epoch, at its place, and a stream that can be stopped anywhere."""

import json

import numpy as np
import pytest

from seqzoo.data.nes.score_batches import ScoreWindows


def songs(*lengths: int) -> list[np.ndarray]:
    """Songs in which every step says which song and step it is; no step is 0."""
    return [
        np.stack([np.full(length, number + 1), np.arange(length) + 1], axis=1) for number, length in enumerate(lengths)
    ]


def stream(lengths=(7, 1, 12, 0), steps=4, batch_size=3, seed=0) -> ScoreWindows:
    return ScoreWindows(
        songs(*lengths),
        steps=steps,
        batch_size=batch_size,
        form=lambda windows, counts: {"windows": windows, "counts": counts},
        seed=seed,
    )


def test_an_epoch_has_every_step_once_behind_the_step_before_it():
    batches = stream(batch_size=1)
    shifts = set()
    for epoch in range(20):
        seen = []
        while batches.epoch == epoch and batches.offset < len(batches._windows):
            batch = next(batches)
            window, counts = batch["windows"][0], batch["counts"][0]
            assert window.shape == (5, 2)
            assert not counts[0]
            steps = window[counts].tolist()
            seen += map(tuple, steps)
            song, first = steps[0]
            assert window[0].tolist() == ([song, first - 1] if first > 1 else [0, 0])
            assert not window[1 + len(steps) :].any()
            if song == 3 and first == 1:
                shifts.add(len(steps))
        assert sorted(seen) == [(1, step) for step in range(1, 8)] + [(2, 1)] + [(3, step) for step in range(1, 13)]
        batches.epoch, batches.offset = epoch + 1, 0
        batches._windows = batches._draw_windows()
    assert shifts == {1, 2, 3, 4}


def test_a_stream_goes_on_from_its_state_over_the_end_of_epochs():
    first = stream()
    for _ in range(5):
        next(first)
    state = json.loads(json.dumps(first.state_dict()))
    second = stream()
    second.load_state_dict(state)
    for _ in range(10):
        expected, found = next(first), next(second)
        assert all(np.array_equal(expected[key], found[key]) for key in ("windows", "counts"))
    assert second.epoch > state["epoch"]


@pytest.mark.parametrize("other", [{"lengths": (7, 1, 11)}, {"steps": 5}, {"seed": 1}])
def test_a_state_of_other_songs_or_windows_is_refused(other):
    with pytest.raises(ValueError, match="not those of the checkpoint"):
        stream(**other).load_state_dict(stream().state_dict())


def test_songs_without_steps_are_refused():
    with pytest.raises(ValueError, match="no songs"):
        stream(lengths=(0,))
