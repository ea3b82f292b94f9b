"""Language models of words: the packaged recipe, and what perplexity and the saved model mean by a word."""

import math
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from seqzoo.trainers.causal_lm import dry_run
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import run


RECIPE = "rezero_transformer/wikitext2_words"
TINY = ["model.config.hidden_size=16", "model.config.num_hidden_layers=2", "model.config.num_attention_heads=2"]
TINY += [
    "model.config.intermediate_size=32",
    "training.batch_size=4",
    "tracking.tracker=none",
    "evaluation.every=null",
]


@pytest.mark.parametrize("residual", ["rezero", "pre_norm"])
def test_the_packaged_recipe(residual):
    facts = dry_run(load_recipe(RECIPE, [f"model.config.residual={residual}"]))
    assert facts["logits"] == [50, 35, 33278]
    assert facts["tokens"] == 3 * 1192 * 50 * 35  # three epochs of WikiText-2


@pytest.fixture
def texts(tmp_path) -> list[str]:
    (tmp_path / "train.txt").write_text(" = Colours = \n the sky is blue . \n the grass is green . \n" * 40)
    (tmp_path / "valid.txt").write_text(" the sky is green . \n the sea is blue . \n" * 10)
    return [f"data.source={tmp_path}/train.txt", f"data.validation={tmp_path}/valid.txt"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_tiny_run(texts, tmp_path, streaming):
    options = [f"data.streaming={streaming}", f"training.output_dir={tmp_path}/run"]
    metrics = run(load_recipe(RECIPE, [*texts, *TINY, *options, "training.steps=60", "training.lr=1e-2"]))
    evaluation, data = metrics["evaluation"], metrics["data"]
    assert data["validation_tokens"] == 10 * 12 + 1
    assert data["train_tokens"] == (None if streaming else 40 * 16 + 1)
    assert evaluation["perplexity"] == math.exp(evaluation["loss"]) < 6
    bits = evaluation["loss"] / math.log(2) * data["validation_tokens"]
    assert evaluation["bits_per_byte"] == pytest.approx(bits / data["validation_bytes"])

    model, tokenizer = (auto.from_pretrained(tmp_path / "run") for auto in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer) == 11  # of at most 33,278
    assert tokenizer.unk_token_id in tokenizer(Path(tmp_path / "valid.txt").read_text())["input_ids"]
    prompt = tokenizer("the grass", return_tensors="pt")
    generated = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(generated[0]) == " the grass is green . \n"  # an end of line ends it
