"""Real texts as they lie on a disk train without a change to them."""

import pytest

from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import run


TINY = [
    "model.config={n_positions: 64, n_embd: 32, n_layer: 1, n_head: 2}",
    "data.sequence_length=64",
    "evaluation.lengths=[]",
]
TINY += ["training.steps=3", "training.warmup_steps=0", "training.mixed_precision=no", "evaluation.every=null"]
TINY += ["training.keep_best=false", "evaluation.max_tokens=2000", "tracking.tracker=none"]


def test_enwik8(shared_data, tmp_path):
    path = shared_data / "enwik8" / "enwiki_excerpt_5m.xml"
    overrides = [
        f"data.source={path}[:90%]",
        f"data.validation={path}[90%:95%]",
        f"training.output_dir={tmp_path}/run",
    ]
    metrics = run(load_recipe("decay_fast_weight_gpt2/enwik8", [*overrides, *TINY]))
    # Bytes are the tokens, and each part ends with one end of text.
    assert metrics["data"]["train_bytes"] == pytest.approx(4_500_000, abs=3)
    assert metrics["data"]["train_tokens"] == metrics["data"]["train_bytes"] + 1
    assert metrics["data"]["validation_bytes"] == pytest.approx(250_000, abs=3)
    assert metrics["data"]["validation_tokens"] == metrics["data"]["validation_bytes"] + 1
    assert 4 < metrics["evaluation"]["bits_per_byte"] < 9
    assert 4.5 < metrics["evaluation"]["unigram"]["bits_per_byte"] < 5.5


@pytest.mark.parametrize(
    ("train", "validation"),
    [("wikitext2/valid.txt", "wikitext2/test.txt"), ("english/valid.jsonl.xz", "english/test.jsonl.xz")],
)
def test_wikitext2_and_english(shared_data, tmp_path, train, validation):
    overrides = [f"data.source={shared_data / train}", f"data.validation={shared_data / validation}"]
    overrides += [f"training.output_dir={tmp_path}/run", f"tokenizer={{path: {shared_data / 'gpt2_bpe'}}}"]
    metrics = run(load_recipe("gpt2/demo", [*overrides, *TINY]))
    size = (shared_data / train).stat().st_size
    assert metrics["data"]["train_bytes"] == size or (train.endswith(".xz") and metrics["data"]["train_bytes"] > size)
    assert 3 < metrics["data"]["train_bytes"] / metrics["data"]["train_tokens"] < 5
