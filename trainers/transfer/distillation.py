r"""Distillation: next-token prediction, mixed with the divergence from the teacher's predictions.

    loss = (1 - w) * LM + w * T^2 * KL( softmax(teacher / T) || softmax(student / T) )

a mean over the targets of next-token prediction. w is `training.distill_weight`, T `training.distill_temperature`;
T^2 keeps the size of the gradient when T changes (Hinton et al. 2015, arXiv 1503.02531). Held-out measures are those
of next-token prediction.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from seqzoo.data.text_packing import TokenRow
from seqzoo.trainers.language_modeling import CausalLanguageModeling, sum_of_losses
from seqzoo.trainers.recipe import Recipe


class Distillation(CausalLanguageModeling):
    """The loss above.

    Args:
        accelerator (`Accelerator`), held_out (`TokenRow`), recipe (`Recipe`):
            As for [`CausalLanguageModeling`].
        teacher (`GPT2LMHeadModel`):
            From [`seqzoo.trainers.transfer.teacher.load_teacher`], on the accelerator's device.
    """

    def __init__(self, accelerator: Accelerator, held_out: TokenRow, recipe: Recipe, teacher: GPT2LMHeadModel):
        super().__init__(accelerator, held_out, recipe)
        self.teacher = teacher
        self.weight = recipe.training.distill_weight
        self.temperature = recipe.training.distill_temperature

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        targets = batch["labels"][:, 1:]
        with torch.no_grad(), self.accelerator.autocast():
            teacher = self.teacher(**inputs, use_cache=False).logits[:, :-1]
        student = model(**inputs, use_cache=False).logits[:, :-1]
        divergence = sum_of_divergences(student, teacher, targets, self.temperature)
        return (1 - self.weight) * sum_of_losses(student, targets) + self.weight * divergence


def sum_of_divergences(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Summed `T^2 * KL(teacher || student)` of logits `[..., vocabulary]` where the target is not -100."""
    counts = targets != -100
    student, teacher = (F.log_softmax(logits[counts].float() / temperature, dim=-1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)
