"""The benchmark of residual weights: it runs, and its table has every contender and bar."""

import torch

from seqzoo.benchmarks.rezero import KINDS, compare_layers, models, run, to_markdown


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def test_it_runs_and_says_which_bars_are_met():
    result = run(lambda line: None, size=TINY, sequence=32, repeats=1)
    text = to_markdown(result)
    assert all(f"| {name} |" in text for name in (*KINDS, *result["models"]))
    assert text.count("<= 1.02") == text.count("<= 0.92") == 1
    assert len(result["bars"]) == 5


def test_layers_are_compared_by_what_they_keep():
    layers = compare_layers(TINY, 64, repeats=1)
    tokens, d, ff = 8 * 64, 32, 64
    scaled = 4 * (d * d + d * ff)  # the weighted output projections
    extra = layers["rezero"]["saved_bytes"] - layers["identity"]["saved_bytes"]
    assert extra == scaled
    # Two normalised inputs and what each norm remembers of a token.
    assert layers["pre_norm"]["saved_bytes"] - layers["identity"]["saved_bytes"] == 4 * tokens * (2 * d + 4)


def test_contenders_are_of_one_size_and_the_folded_one_is_the_same_model():
    contenders = models(TINY, 32)
    ids = torch.arange(9)[None]
    folded = contenders["ReZero, folded"].eval()(ids).logits
    torch.testing.assert_close(folded, contenders["ReZero"].eval()(ids).logits, rtol=1e-4, atol=1e-5)
    blocks = {name: model.num_parameters() for name, model in contenders.items()}
    assert max(blocks.values()) < 1.35 * min(blocks.values())
