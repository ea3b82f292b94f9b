r"""Alignment: each layer's memory learns to give what the teacher's attention gives.

    loss = mean over layers l of  mean over tokens and features of  (memory_l(x_l) - attention_l(x_l))^2 / m_l

x_l is the teacher's own input of that attention (its layer norm's output), so no layer has to make up for the errors
of those below it. m_l is the mean square of attention_l on the first held-out windows: layers weigh alike, a memory
that gives nothing has a loss near 1, and, being constant, it leaves the loss a sum over tokens that pieces and
processes can share.

The memories alone learn. Dropout is off, in the teacher and in the student: what is matched is a function.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from seqzoo.data.text_packing import TokenRow, held_out_windows
from seqzoo.trainers.language_modeling import CausalLanguageModeling
from seqzoo.trainers.recipe import Recipe
from seqzoo.trainers.recipe_parsing import RecipeError


# Held-out windows that say how large the outputs of the teacher's layers are.
_WINDOWS = 16


def train_only_memories(model: PreTrainedModel) -> None:
    """Freeze all but the memories in attention's place; what is frozen already stays so.

    A layer that kept softmax attention has nothing to learn: its error is 0, and weight decay would only spoil it.

    Raises:
        `RecipeError`: the model has no memory.
    """
    attention = [block.attn for block in getattr(model.base_model, "h", ()) if hasattr(block, "attn")]
    memories = [module for module in attention if not isinstance(module, GPT2Attention)]
    if not memories:
        raise RecipeError(
            f"training.objective align needs a memory in the place of GPT-2's attention; a {model.config.model_type} "
            "has none"
        )
    learning = {parameter for memory in memories for parameter in memory.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter in learning)


class Alignment(CausalLanguageModeling):
    """The loss above; as a language model the student is measured too.

    Args:
        accelerator (`Accelerator`), held_out (`TokenRow`), recipe (`Recipe`):
            As for [`CausalLanguageModeling`].
        teacher (`GPT2LMHeadModel`):
            From [`seqzoo.trainers.transfer.teacher.load_teacher`], on the accelerator's device.
    """

    def __init__(self, accelerator: Accelerator, held_out: TokenRow, recipe: Recipe, teacher: GPT2LMHeadModel):
        super().__init__(accelerator, held_out, recipe)
        self.teacher = teacher
        self.mean_squares = self._mean_squares()  # [layers]

    def count_targets(self, batch: Mapping[str, Tensor]) -> int:
        return batch["input_ids"].numel()

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return self.errors(model, {key: value for key, value in batch.items() if key != "labels"}).sum()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """`loss` is the alignment's, on inputs that have a target; the other measures are the language model's."""

        def losses(inputs: Tensor, targets: Tensor) -> Tensor:
            return self.errors(model, {"input_ids": inputs})[targets != -100].sum()

        return super().evaluate(model) | {"loss": self.held_out_mean(losses, self.sequence_length)}

    def errors(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Squared error of every token, `[batch, sequence]`: a mean over layers and features, relative to `m_l`.

        The whole student runs, so that it handles packed documents, mixed precision and several processes as it
        always does; only the input and the output of each memory are exchanged for the teacher's.
        """
        attention = self._attention(inputs)
        errors = []

        def give_teachers_input(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
            given, _ = attention[len(errors)]
            return (given, *args[1:]), kwargs

        def compare(module: nn.Module, args: tuple, output: Any) -> Any:
            _, wanted = attention[len(errors)]
            error = (_hidden_states(output).float() - wanted.float()).square().mean(-1)
            errors.append(error / self.mean_squares[len(errors)])
            # What comes above goes on from the teacher's output, and needs no gradient.
            return (wanted, *output[1:]) if isinstance(output, tuple) else wanted

        model.eval()
        with _hooks() as hooks:
            for block in self.accelerator.unwrap_model(model).base_model.h:
                hooks.append(block.attn.register_forward_pre_hook(give_teachers_input, with_kwargs=True))
                hooks.append(block.attn.register_forward_hook(compare))
            model(**inputs, use_cache=False, logits_to_keep=1)
        return torch.stack(errors).mean(0)

    @torch.no_grad()
    def _attention(self, inputs: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Input and output of the attention of every layer of the teacher, `[batch, sequence, width]` each."""
        passed = []
        with _hooks() as hooks, self.accelerator.autocast():
            for block in self.teacher.transformer.h:
                hooks.append(
                    block.attn.register_forward_hook(
                        lambda module, args, output: passed.append((args[0], _hidden_states(output)))
                    )
                )
            self.teacher.transformer(**inputs, use_cache=False)
        return passed

    def _mean_squares(self) -> Tensor:
        length = self.sequence_length
        inputs, targets = held_out_windows(self.held_out, length, _WINDOWS * length)
        device = self.accelerator.device
        attention = self._attention({"input_ids": torch.from_numpy(inputs).to(device)})
        counts = torch.from_numpy(targets != -100).to(device)
        return torch.stack([output[counts].float().square().mean() for _, output in attention])


def _hidden_states(output: Any) -> Tensor:
    """What a module in attention's place gives; softmax attention gives its weights beside it."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _hooks() -> Iterator[list]:
    """A list of hooks, all of which are removed at the end."""
    hooks = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()
