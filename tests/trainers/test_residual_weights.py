"""Residual weights in the shared loop: a group, a rate and betas of their own, and no decay."""

import pytest
import torch
from model_table import TINY_TRANSFORMER
from transformers import AutoModelForCausalLM

from seqzoo import ReZeroTransformerConfig, ReZeroTransformerForCausalLM
from seqzoo.trainers.causal_lm import dry_run
from seqzoo.trainers.loop import new_optimizer
from seqzoo.trainers.recipe import RecipeError, load_recipe
from seqzoo.trainers.run import run


@pytest.fixture
def rezero_sections(sections):
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = {"model_type": "rezero_transformer", "config": config | {"max_position_embeddings": 32}}
    return sections | {"model": model}


def test_the_optimizer_takes_the_groups_of_the_model(rezero_sections):
    model = ReZeroTransformerForCausalLM(ReZeroTransformerConfig(**TINY_TRANSFORMER))
    options = ["training.lr=1e-2", "training.residual_lr=0.3", "training.residual_betas=[0.5, 0.6]"]
    training = load_recipe(rezero_sections, options).training
    decayed, others, residual = new_optimizer(model, training).param_groups
    assert residual["params"] == [layer.residual.resweight for layer in model.model.layers]
    assert (residual["lr"], residual["betas"], residual["weight_decay"]) == (0.3, (0.5, 0.6), 0.0)
    assert (decayed["lr"], decayed["betas"], decayed["weight_decay"]) == (1e-2, (0.9, 0.95), 0.1)
    assert others["weight_decay"] == 0.0
    training = load_recipe(rezero_sections, ["training.lr=1e-2"]).training
    assert [group["lr"] for group in new_optimizer(model, training).param_groups] == [1e-2] * 3


def test_a_run_trains_residual_weights_by_their_own_rate_and_is_resumed(rezero_sections, tmp_path):
    options = ["training.steps=8", "training.lr=1e-3", "training.residual_lr=0.05", "training.checkpoint_every=4"]
    whole = run(load_recipe(rezero_sections, [*options, f"training.output_dir={tmp_path / 'whole'}"]))
    weights = {
        name: parameter
        for name, parameter in AutoModelForCausalLM.from_pretrained(tmp_path / "whole").named_parameters()
        if name.endswith("resweight")
    }
    assert len(weights) == 2
    assert all(0.01 < parameter.abs().item() < 0.4 for parameter in weights.values())

    stopped = [*options, f"training.output_dir={tmp_path / 'stopped'}"]
    run(load_recipe(rezero_sections, stopped))
    (tmp_path / "stopped" / "checkpoints" / "step_00000008").rename(tmp_path / "gone")
    again = run(load_recipe(rezero_sections, [*stopped, "training.resume=true"]))
    assert again["history"]["train"] == whole["history"]["train"]


def test_unused_and_wrong_settings_of_residual_weights_are_refused(sections, rezero_sections):
    with pytest.raises(RecipeError, match="residual_lr is for residual weights, which this gpt2 lacks"):
        dry_run(load_recipe(sections, ["training.residual_lr=1e-3"]))
    with pytest.raises(RecipeError, match="residual_betas is for residual weights"):
        dry_run(load_recipe(rezero_sections, ["training.residual_betas=[0.5, 0.6]", "model.config.residual=pre_norm"]))
    with pytest.raises(RecipeError, match=r"residual_betas is \[0.5\]"):
        load_recipe(sections, ["training.residual_betas=[0.5]"])
    with pytest.raises(RecipeError, match="residual_lr is 0"):
        load_recipe(sections, ["training.residual_lr=0"])


def test_sinusoidal_positions_have_no_limit(rezero_sections):
    options = ["model.config.max_position_embeddings=8", "data.sequence_length=16"]
    with pytest.raises(RecipeError, match="8 positions"):
        dry_run(load_recipe(rezero_sections, options))
    assert dry_run(load_recipe(rezero_sections, [*options, "model.config.position_embedding_type=sinusoidal"]))


def test_kinds_of_residual_are_checked_before_anything_is_read(rezero_sections):
    with pytest.raises(RecipeError, match="residual='rezeroo' is not supported"):
        dry_run(load_recipe(rezero_sections, ["model.config.residual=rezeroo"]))
    model = torch.nn.Linear(2, 2)
    assert len(new_optimizer(model, load_recipe(rezero_sections).training).param_groups) == 2
