import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from seqzoo.trainers.causal_lm import dry_run
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.recipe_parsing import RecipeError
from seqzoo.trainers.run import main, run
from seqzoo.trainers.transfer.lora import add_lora, merge_lora


MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def test_updates_change_nothing_at_first_and_stay_when_they_are_merged(conversion, student):
    ids = torch.randint(0, 300, (2, 20))
    names = set(student.state_dict())
    plain = student(ids).logits
    add_lora(student, load_recipe(conversion, ["training.lora_rank=4"]).training)
    assert torch.equal(student(ids).logits, plain)
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    updated = student(ids).logits
    assert (updated - plain).abs().max() > 0.1
    merge_lora(student)
    assert set(student.state_dict()) == names
    torch.testing.assert_close(student(ids).logits, updated, rtol=1e-5, atol=1e-5)


def test_what_low_ranks_cannot_mend_is_refused(conversion, student):
    with pytest.raises(RecipeError, match=r"c_attn.* random but for a low rank.*leave state_size out"):
        run(load_recipe(conversion, ["training.lora_rank=2", "model.config={state_size: 5}"]))
    with pytest.raises(RecipeError, match=r"lora_rank is 32, no less than the smaller side \(32\)"):
        add_lora(student, load_recipe(conversion, ["training.lora_rank=32"]).training)
    with pytest.raises(RecipeError, match="lora_alpha is inf, but must be a number greater than 0"):
        load_recipe(conversion, ["training.lora_rank=2", "training.lora_alpha=.inf"])


def test_an_update_counts_alpha_over_rank_times(conversion, student):
    training = load_recipe(
        conversion, ["training.lora_rank=2", "training.lora_alpha=6", "training.lora_targets=[c_fc]"]
    )
    before = student.transformer.h[0].mlp.c_fc.weight.clone()
    add_lora(student, training.training)
    layer = student.transformer.h[0].mlp.c_fc
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    merge_lora(student)
    torch.testing.assert_close(student.transformer.h[0].mlp.c_fc.weight - before, 3 * (b @ a).T)


@pytest.mark.parametrize("objective", ["language_modeling", "align", "distill"])
def test_a_run_trains_updates_and_gates_and_leaves_a_plain_model(conversion, tmp_path, objective):
    overrides = ["training.lora_rank=2", f"training.objective={objective}", "training.lr=1e-2"]
    metrics = run(load_recipe(conversion, overrides))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    source = GPT2LMHeadModel.from_pretrained(conversion["model"]["convert_gpt2"]).state_dict()
    for name, weight in merged.state_dict().items():
        adapted = name.endswith(MATRICES) and not (objective == "align" and ".mlp." in name)
        if name not in source:
            assert "gate" in name
        else:
            assert torch.equal(weight, source[name]) != adapted, name
    # Two blocks of width 32. An update of rank 2 has 2 (rows + columns) parameters.
    attention = 2 * (32 + 96) + 2 * (32 + 32) + 2 * (32 * 32 + 32)
    mlp = 2 * (32 + 128) + 2 * (128 + 32)
    expected = 2 * (attention + (0 if objective == "align" else mlp))
    assert metrics["training"]["trained_parameters"] == expected
    assert metrics["parameters"] == merged.num_parameters()
    assert dry_run(load_recipe(conversion, [*overrides, "model.config={n_embd: 32, n_layer: 2, n_head: 2}"])) == {
        "model_type": "decay_fast_weight_gpt2",
        "parameters": dry_run(load_recipe(conversion, ["model.config={n_embd: 32, n_layer: 2, n_head: 2}"]))[
            "parameters"
        ],
        "trained_parameters": expected,
        "batch": [8, 32],
        "tokens": 12 * 8 * 32,
        "logits": [8, 32, 300],
    }


def test_recomputed_activations_change_roundings_only(conversion, tmp_path):
    """The embeddings need no gradient here, which some ways to recompute take for a reason to give none."""
    runs = []
    for name in ("false", "true"):
        overrides = [
            "training.lora_rank=2",
            f"training.gradient_checkpointing={name}",
            "model.config={resid_pdrop: 0.0}",
        ]
        metrics = run(load_recipe(conversion, [*overrides, f"training.output_dir={tmp_path / name}"]))
        runs.append(dict(metrics["history"]["train"]))
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            "[c_attn, c_proi]",
            "lora_targets is c_proi; a decay_fast_weight_gpt2 has c_attn, c_fc, c_proj, k_gate, v_gate",
        ),
        ("[lm_head]", "lora_targets is lm_head"),  # tied to the embedding
    ],
)
def test_modules_that_cannot_have_updates_are_refused(conversion, targets, message):
    with pytest.raises(RecipeError, match=message):
        run(load_recipe(conversion, ["training.lora_rank=2", f"training.lora_targets={targets}"]))


def test_without_peft_the_extra_is_named(conversion, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "peft", None)
    command = ["gpt2/demo", "--dry-run", "training.lora_rank=2", "model.init_from=x", "tokenizer.vocab_size=null"]
    assert main(command) == 1
    assert capsys.readouterr().err == "error: training.lora_rank needs peft: pip install 'seqzoo[lora]'\n"
