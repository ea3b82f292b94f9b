"""Cards of ReZero models say which model it is, and what was measured of its kind."""

import json
import math
import re
from pathlib import Path
from statistics import median_high

import pytest
from huggingface_hub import ModelCard
from model_table import IMAGE_MODELS, TINY_TRANSFORMER
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from seqzoo import ReZeroTransformerConfig
from seqzoo.hub_cards import rezero_claims
from seqzoo.hub_cards.card import figures, model_card
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
    assert text.count('repository = "."  # this folder, or its id on the Hub\n') == 1


RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "rezero_claims.json"


def claims_of(text: str) -> dict[str, list[str]]:
    """Name of the claim -> the other cells of its line."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| (lm|resnet)\d+: ", line)]
    return {row[0].partition(":")[0]: row[1:] for row in rows}


def image_card() -> str:
    model = IMAGE_MODELS[0].build()
    model.config.auto_map = {}
    return str(model_card(model, "my-model", license="mit", metrics=None, recipe=None))


@pytest.mark.parametrize(
    ("make", "names"), [(card, ["lm12", "lm64", "lm128"]), (image_card, ["resnet56"])], ids=["transformer", "resnet"]
)
def test_claims_in_cards_are_those_that_were_recorded(make, names):
    recorded = json.loads(RECORDED.read_text())
    claims = claims_of(make())
    assert list(claims) == names
    for name, (target, own, best, ratio, bars, seeds) in claims.items():
        claim = recorded["claims"][name]
        assert float(target) == claim["target"]
        steps = {
            method: median_high([math.inf if step is None else step for step in entry["steps"][str(claim["target"])]])
            for method, entry in claim["summary"].items()
        }
        ours = steps.pop("rezero")
        peer, theirs = min(steps.items(), key=lambda item: item[1])
        assert own == (f"not in {claim['steps']}" if ours == math.inf else str(ours))
        assert best == (f"none in {claim['steps']}" if theirs == math.inf else f"{theirs} ({peer.replace('_', ' ')})")
        if ours == math.inf:
            assert ratio == "-"
        else:
            assert float(ratio.removeprefix("> ")) == pytest.approx(min(theirs, claim["steps"]) / ours, abs=0.005)
        verdicts = [(bar["bar"], bar["met"]) for bar in recorded["bars"] if bar["what"].startswith(f"{name}: ")]
        assert verdicts
        for (bar, met), shown in zip(verdicts, bars.split("; "), strict=True):
            assert shown.endswith(f" {bar}: {'met' if met else '**missed**'}")
        assert seeds.split(" and ")[0] == str(len(claim["summary"]["rezero"]["seeds"]))


def test_claims_that_nobody_or_only_rezero_reached(tmp_path, monkeypatch):
    def entry(steps):
        return {"lr": 0.01, "rates": {"0.001": 1, "0.01": steps}, "seeds": [0, 1, 2]}

    def claim(**steps):
        return {"about": "x", "steps": 120, "target": 2.75, "summary": {name: entry(of) for name, of in steps.items()}}

    bar = {"what": "lm2: steps of pre_norm over ReZero's, to 2.75 (not reached)", "bar": ">= 2", "met": True}
    recorded = {
        "machine": {"date": "2026-01-02", "torch": "2.13"},
        "claims": {"lm1": claim(rezero=None, pre_norm=None), "lm2": claim(rezero=40, pre_norm=None)},
        "bars": [bar],
        "missing": 7,
    }
    (tmp_path / "rezero_claims.json").write_text(json.dumps(recorded))
    monkeypatch.setattr(rezero_claims, "RESULTS", tmp_path)
    text = rezero_claims.rezero_claims("lm1", "lm2")
    assert claims_of(text) == {
        "lm1": ["2.75", "not in 120", "none in 120", "-", "", "3"],
        "lm2": ["2.75", "40", "none in 120", "> 3.00", "steps of pre norm over ReZero's >= 2: met", "3"],
    }
    assert "7 runs of the whole comparison are still missing." in text


@pytest.mark.parametrize(("make", "kind"), [(card, "lm"), (image_card, "resnet")], ids=["transformer", "resnet"])
def test_figures_of_a_card_are_those_of_its_own_kind(make, kind):
    shown = figures(ModelCard(make()))
    assert [figure.name for figure in shown] == [f"rezero_claims_{kind}.png", f"rezero_claims_{kind}_alpha.png"]
    assert all(figure.is_file() for figure in shown)
