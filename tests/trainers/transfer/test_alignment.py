import pytest
import torch
from transformers import GPT2LMHeadModel

from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel
from seqzoo.trainers.causal_lm import dry_run
from seqzoo.trainers.language_modeling import CausalLanguageModeling
from seqzoo.trainers.loop import new_accelerator
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.recipe_parsing import RecipeError
from seqzoo.trainers.run import run
from seqzoo.trainers.transfer.alignment import Alignment, train_only_memories


@pytest.fixture
def recipe(conversion):
    return load_recipe(conversion, ["training.objective=align", "evaluation.max_tokens=512"])


@pytest.fixture
def alignment(recipe, held_out, teacher) -> Alignment:
    return Alignment(new_accelerator(recipe.training), held_out, recipe, teacher)


def perturb(module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_the_loss_is_the_formula_of_each_layer_on_the_teachers_input(alignment, teacher, student, batch):
    """Layer by layer and document by document; what else the student's layers compute plays no part."""
    for block in student.transformer.h:
        perturb(block.mlp)
        perturb(block.ln_1)
    total = 0.0
    for part in (slice(0, 7), slice(7, 20)):
        hidden_states = teacher.transformer(batch["input_ids"][:, part], output_hidden_states=True).hidden_states
        for layer, block in enumerate(teacher.transformer.h):
            given = block.ln_1(hidden_states[layer])
            error = student.transformer.h[layer].attn(given) - block.attn(given)[0]
            total += (error.square().mean(-1).sum() / alignment.mean_squares[layer]).item()
    assert alignment.count_targets(batch) == 40
    assert alignment.loss(student, batch).item() == pytest.approx(total / 2, rel=1e-5)


def test_attention_itself_is_aligned(alignment, teacher, batch):
    assert alignment.loss(teacher, batch) == 0


def test_a_memory_that_gives_nothing_has_a_loss_of_one(alignment, student):
    """On the windows that the scale of each layer was measured on."""
    for block in student.transformer.h:
        torch.nn.init.zeros_(block.attn.c_proj.weight)
        torch.nn.init.zeros_(block.attn.c_proj.bias)
    assert alignment.evaluate(student)["loss"] == pytest.approx(1, rel=1e-5)


def test_the_student_is_measured_as_the_language_model_that_it_is(alignment, recipe, held_out, student, batch):
    alone = CausalLanguageModeling(alignment.accelerator, held_out, recipe).evaluate(student)
    alignment.loss(student, batch)
    measures = alignment.evaluate(student)
    assert {key: measures[key] for key in ("bits_per_byte", "perplexity")} == {
        key: alone[key] for key in ("bits_per_byte", "perplexity")
    }
    assert measures["loss"] < 5 < alone["loss"]


def test_dropout_is_no_part_of_what_is_matched(alignment, student, batch):
    assert student.config.resid_pdrop > 0
    student.train()
    assert alignment.loss(student, batch) == alignment.loss(student, batch)


@pytest.mark.parametrize("packing", ["concatenate", "separate"])
def test_a_run_aligns_the_memories_and_leaves_the_rest_alone(conversion, tmp_path, packing):
    overrides = ["training.objective=align", "training.steps=40", "training.lr=1e-2", f"data.packing={packing}"]
    metrics = run(load_recipe(conversion, [*overrides, "evaluation.every=20"]))
    losses = [loss for _, loss in metrics["history"]["train"]]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert metrics["evaluation"]["loss"] == metrics["history"]["validation"][-1][1]
    assert metrics["evaluation"]["perplexity"] > 5
    assert metrics["training"]["objective"] == "align"
    assert metrics["start"] == "convert_gpt2"
    assert "teacher" not in metrics  # a folder of this machine says nothing to others

    source = GPT2LMHeadModel.from_pretrained(conversion["model"]["convert_gpt2"])
    aligned = DecayFastWeightGPT2LMHeadModel.from_pretrained(tmp_path / "run")
    before = DecayFastWeightGPT2LMHeadModel.from_gpt2(source).state_dict()
    learned = {name for name, weight in aligned.state_dict().items() if ".attn." in name}
    for name, weight in aligned.state_dict().items():
        if name in learned:
            assert not torch.equal(weight, before[name]), name
        else:
            assert torch.equal(weight, before[name]), name
    assert metrics["training"]["trained_parameters"] == sum(before[name].numel() for name in learned)
    assert metrics["parameters"] == aligned.num_parameters()


def test_the_next_stage_starts_from_the_aligned_model(conversion, tmp_path):
    first = run(load_recipe(conversion, ["training.objective=align", "training.steps=3"]))
    overrides = ["model.convert_gpt2=null", f"model.init_from={tmp_path / 'run'}", "training.lr=1e-9"]
    second = run(load_recipe(conversion, [*overrides, f"training.output_dir={tmp_path / 'second'}"]))
    assert second["start"] == "init_from"
    assert second["training"]["objective"] == "language_modeling"
    assert second["evaluation"]["perplexity"] == pytest.approx(first["evaluation"]["perplexity"], rel=1e-5)


def test_layers_that_kept_attention_are_not_trained(student, teacher):
    student.transformer.h[1].attn = teacher.transformer.h[1].attn.requires_grad_(True)
    train_only_memories(student)
    learning = {name for name, weight in student.named_parameters() if weight.requires_grad}
    assert learning == {f"transformer.h.0.attn.{name}" for name, _ in student.transformer.h[0].attn.named_parameters()}


def test_without_a_memory_there_is_nothing_to_align(conversion):
    overrides = ["training.objective=align", "model.model_type=gpt2", "model.convert_gpt2=null"]
    with pytest.raises(RecipeError, match="align needs a memory in the place of GPT-2's attention; a gpt2 has none"):
        dry_run(load_recipe(conversion, [*overrides, "model.init_from=x", "model.teacher=x"]))
