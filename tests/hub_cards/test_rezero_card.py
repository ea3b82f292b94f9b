"""Cards of ReZero Transformers say which model it is."""

import pytest
from model_table import TINY_TRANSFORMER
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from seqzoo import ReZeroTransformerConfig
from seqzoo.hub_cards.card import model_card
from seqzoo.modeling.rezero_transformer.configuration_rezero_transformer import CHOICES


def card(auto_class=AutoModelForCausalLM, **fields) -> str:
    model = auto_class.from_config(ReZeroTransformerConfig(**TINY_TRANSFORMER, **fields))
    model.config.auto_map = {}
    return str(model_card(model, "my-model", license="mit", metrics=None, recipe=None))


def test_every_kind_of_residual_has_an_equation_of_its_own():
    equations = {
        card(residual=kind).partition("residual stream as\n")[2].partition("\n\n")[0] for kind in CHOICES["residual"]
    }
    assert len(equations) == len(CHOICES["residual"])
    assert all(equation.startswith("`") for equation in equations)


def test_it_says_how_many_weights_there_are_and_whether_they_were_folded():
    assert "one residual weight a layer, shared by its branches" in card()
    assert "one residual weight a branch" in card(residual_weight_per_branch=True)
    assert "residual weight" not in card(residual="post_norm").partition("## How to use it")[0]
    assert "multiplied into the output projections" in card(residual_weights_folded=True)
    assert "Wang et al. 2022" in card(residual="deepnorm")


@pytest.mark.parametrize(
    ("auto_class", "what"),
    [
        (AutoModelForCausalLM, "reads from left to right"),
        (AutoModelForMaskedLM, "reads both sides"),
        (AutoModelForSeq2SeqLM, "An encoder-decoder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_it_says_what_the_model_reads_and_how_it_is_loaded(auto_class, what):
    text = card(auto_class)
    assert what in text
    assert f"{auto_class.__name__}.from_pretrained" in text
    assert text.count("## How to use it") == 1
