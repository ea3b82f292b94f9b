import pytest
import torch

from seqzoo.trainers.loop import new_accelerator
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import run
from seqzoo.trainers.transfer.distillation import Distillation, sum_of_divergences


def test_divergence_and_its_gradient_are_the_formulas():
    """In float64: T^2 sum p (log p - log q), whose gradient is T (q - p)."""
    teacher, student = 3 * torch.randn(2, 2, 5, 17, dtype=torch.float64)
    student.requires_grad_(True)
    targets = torch.zeros(2, 5, dtype=torch.long)
    targets[0, 2] = targets[1, 4] = -100
    temperature = 2.5
    value = sum_of_divergences(student.float(), teacher.float(), targets, temperature)
    (gradient,) = torch.autograd.grad(value, student)
    with torch.no_grad():
        p, q = ((logits / temperature).exp() for logits in (teacher, student))
        p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
        counts = (targets != -100)[..., None]
        expected = temperature**2 * (p * (p / q).log() * counts).sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, temperature * (q - p) * counts, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_loss_mixes_both_over_the_targets_of_packed_documents(
    conversion, held_out, teacher, student, batch, weight
):
    overrides = [f"training.distill_weight={weight}", "training.distill_temperature=2"]
    recipe = load_recipe(conversion, ["training.objective=distill", *overrides])
    objective = Distillation(new_accelerator(recipe.training), held_out, recipe, teacher)
    total = 0.0
    for part in (slice(0, 7), slice(7, 20)):
        ids = batch["input_ids"][:, part]
        q, p = (model(ids).logits[:, :-1].double() for model in (student, teacher))
        language_modeling = -q.log_softmax(-1).gather(-1, ids[:, 1:, None]).sum()
        p, q = (p / 2).log_softmax(-1), (q / 2).log_softmax(-1)
        total += (1 - weight) * language_modeling + weight * 4 * (p.exp() * (p - q)).sum()
    assert objective.count_targets(batch) == 2 * (6 + 12)
    assert objective.loss(student, batch).item() == pytest.approx(total.item(), rel=1e-5)


def test_the_teacher_has_nothing_to_learn_from_itself(conversion, held_out, teacher, batch):
    recipe = load_recipe(conversion, ["training.objective=distill", "training.distill_weight=1"])
    objective = Distillation(new_accelerator(recipe.training), held_out, recipe, teacher)
    assert objective.loss(teacher, batch).item() == pytest.approx(0, abs=1e-5)


def test_without_weight_it_is_language_modeling_bit_by_bit(conversion, tmp_path):
    plain = run(load_recipe(conversion, [f"training.output_dir={tmp_path / 'plain'}"]))
    distilled = run(load_recipe(conversion, ["training.objective=distill", "training.distill_weight=0"]))
    assert plain["history"] == distilled["history"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "run")]
    assert weights[0] == weights[1]
    assert distilled["training"]["objective"] == "distill"


def test_a_run_comes_closer_to_its_teacher(conversion):
    overrides = ["training.objective=distill", "training.distill_weight=1", "training.steps=40"]
    losses = [loss for _, loss in run(load_recipe(conversion, overrides))["history"]["train"]]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
