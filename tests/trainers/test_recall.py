"""Training on associative recall: the shared loop, resumable; chance before it, recall after it."""

import pytest
from transformers import GPT2Config

from seqzoo.data.recall import RecallTask
from seqzoo.trainers.recall import run
from seqzoo.trainers.recipe import TrainingSection


TASK = RecallTask(pairs=(1, 2), length=8, keys=2)


def config(**changes) -> GPT2Config:
    sizes = {"vocab_size": TASK.vocab_size, "n_positions": TASK.length, "n_embd": 32, "n_layer": 2, "n_head": 1}
    options = {"initializer_range": 0.2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2Config(**(sizes | options | changes), bos_token_id=None, eos_token_id=None)


def test_an_untrained_model_guesses_and_a_trained_one_recalls(tmp_path):
    measures = {}
    for steps, lr in ((1, 1e-9), (250, 5e-3)):
        training = TrainingSection(steps=steps, lr=lr, batch_size=32, output_dir=str(tmp_path))
        measures[steps] = run(config(), TASK, training)
    assert measures[1]["accuracy"] < 0.6
    assert measures[250]["accuracy"] > 0.95
    assert measures[250]["loss"] < 0.2
    # 128 sequences of each number of pairs, so that of two pairs weighs twice.
    expected = (measures[1]["accuracy_1"] + 2 * measures[1]["accuracy_2"]) / 3
    assert measures[1]["accuracy"] == pytest.approx(expected)


def test_a_stopped_run_goes_on_as_if_it_never_stopped(tmp_path):
    def train(folder, **changes):
        options = {"steps": 6, "lr": 5e-3, "batch_size": 4, "schedule": "constant", "checkpoint_every": 3} | changes
        return run(config(), TASK, TrainingSection(output_dir=str(tmp_path / folder), **options))

    unbroken = train("unbroken")
    train("broken", steps=3)
    assert train("broken", resume=True) == unbroken


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the task has 5 tokens, but the config a vocab_size of 4"):
        run(config(vocab_size=4), TASK, TrainingSection(steps=1, output_dir=str(tmp_path)))
