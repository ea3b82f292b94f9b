"""Associative recall: targets that a dictionary confirms, and a stream that can be stopped and continued."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.data.recall import RecallBatches, RecallTask, recall_sequences
from seqzoo.metrics.recall import recall_accuracy


@settings(deadline=None)
@given(data=st.data(), most=st.integers(1, 9), spare=st.integers(0, 20), spare_keys=st.integers(0, 10))
def test_targets_are_what_a_dictionary_says(data, most, spare, spare_keys):
    task = RecallTask(pairs=(1, most), length=3 * most + spare, keys=most + spare_keys)
    pairs = data.draw(st.integers(1, most))
    drawn = recall_sequences(task, pairs, 3, np.random.default_rng(data.draw(st.integers(0, 99))))
    for tokens, targets in zip(drawn["input_ids"].tolist(), drawn["targets"].tolist(), strict=True):
        room = 2 * most
        assert tokens[2 * pairs : room] == [0] * (room - 2 * pairs)
        memory = dict(zip(tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2], strict=True))
        assert len(memory) == pairs
        assert all(1 <= key <= task.keys < value <= 2 * task.keys < task.vocab_size for key, value in memory.items())
        assert targets == [-100] * room + [memory.get(token, -100) for token in tokens[room:]]
        assert sorted(token for token in tokens[room:] if token) == sorted(memory)  # every key once, else filler


def test_gaps_follow_the_power_law():
    """With one query, the chance of the first two places is 1 : 2^-0.99."""
    task = RecallTask(pairs=(1,), length=10, keys=4)
    targets = recall_sequences(task, 1, 20_000, np.random.default_rng(0))["targets"]
    places = np.bincount((targets != -100).argmax(1), minlength=10)
    weights = np.arange(1, 9) ** -0.99
    assert places[:2].tolist() == [0, 0]
    assert places[2:] / 20_000 == pytest.approx(weights / weights.sum(), abs=0.015)


def test_guessing_is_right_as_often_as_chance():
    task = RecallTask()
    drawn = recall_sequences(task, 8, 2000, np.random.default_rng(0))
    guesses = np.random.default_rng(1).integers(task.keys + 1, task.vocab_size, drawn["targets"].shape)
    assert recall_accuracy(guesses, drawn["targets"]) == pytest.approx(1 / task.keys, abs=0.01)
    assert recall_accuracy(drawn["targets"], drawn["targets"]) == 1


def test_a_stream_is_its_seed_and_continues_where_it_stopped():
    unbroken = RecallBatches(RecallTask(), batch_size=4, seed=3)
    first = [next(unbroken)["input_ids"] for _ in range(3)]
    again = RecallBatches(RecallTask(), batch_size=4, seed=3)
    assert all((next(again)["input_ids"] == batch).all() for batch in first)
    assert Counter(batch.tobytes() for batch in first).most_common(1)[0][1] == 1  # no batch twice
    continued = RecallBatches(RecallTask(), batch_size=4, seed=3)
    continued.load_state_dict(json.loads(json.dumps(unbroken.state_dict())))
    assert (next(continued)["targets"] == next(unbroken)["targets"]).all()
    other = RecallBatches(RecallTask(), batch_size=4, seed=4)
    assert (next(other)["input_ids"] != first[0]).any()
    with pytest.raises(ValueError, match=r"'seed': 3.* this one is .*'seed': 4"):
        other.load_state_dict(unbroken.state_dict())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pairs": (2, 0)}, "1 or more"),
        ({"pairs": ()}, "1 or more"),
        ({"pairs": (11,)}, "length of 32"),
        ({"pairs": (10,), "keys": 9}, "there are 9"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        RecallTask(**sizes)
