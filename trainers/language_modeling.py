"""Next-token prediction: the objective of `causal_lm.py`, and what the objectives of `transfer/` build on."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from seqzoo.data.text_packing import TokenRow, held_out_windows
from seqzoo.metrics.language_modeling import bits_per_byte, perplexity
from seqzoo.trainers.recipe import Recipe


class CausalLanguageModeling:
    """Next-token prediction: the loss, and its measures on held-out text.

    Args:
        accelerator (`Accelerator`):
            Shares the held-out windows out.
        held_out (`TokenRow`):
            Text to evaluate on.
        recipe (`Recipe`):
            `evaluation` says how much of it, `data.sequence_length` in which windows.

    Raises:
        `ValueError`: there is nothing to predict in the held-out text.
    """

    unit = "tokens"

    def __init__(self, accelerator: Accelerator, held_out: TokenRow, recipe: Recipe):
        if len(held_out) < 2:
            raise ValueError(
                f"the held-out text has {len(held_out)} tokens, but 2 are the least that can be evaluated"
            )
        self.accelerator = accelerator
        self.held_out = held_out
        self.evaluation = recipe.evaluation
        self.sequence_length = recipe.data.sequence_length

    def count_inputs(self, batch: Mapping[str, np.ndarray]) -> int:
        return batch["input_ids"].size

    def count_targets(self, batch: Mapping[str, Tensor]) -> int:
        return int((batch["labels"][:, 1:] != -100).sum())

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits = model(**inputs, use_cache=False).logits  # [batch, sequence, vocabulary]
        return sum_of_losses(logits[:, :-1], batch["labels"][:, 1:])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return self.evaluate_at(model, self.sequence_length)

    def evaluate_at(self, model: nn.Module, length: int) -> dict[str, float]:
        """Loss (nats a token), perplexity and bits per byte in windows of `length` tokens that do not overlap."""

        def losses(inputs: Tensor, targets: Tensor) -> Tensor:
            return sum_of_losses(model(input_ids=inputs, use_cache=False).logits, targets)

        model.eval()
        return self.measures(self.held_out_mean(losses, length))

    @torch.no_grad()
    def held_out_mean(self, losses: Callable[[Tensor, Tensor], Tensor], length: int) -> float:
        """Mean loss of a held-out target, over all processes.

        Args:
            losses (`Callable`):
                The sum of the losses of `(inputs, targets)`, both `[windows, length]`; targets of -100 are none.
            length (`int`):
                Tokens of a window.
        """
        inputs, targets = held_out_windows(self.held_out, length, self.evaluation.max_tokens)
        accelerator = self.accelerator
        # As many tokens in a pass at every length, and as many passes on every process.
        rows = max(1, self.evaluation.batch_size * self.sequence_length // length // accelerator.num_processes)
        missing = -len(inputs) % (rows * accelerator.num_processes)
        inputs = np.concatenate([inputs, np.repeat(inputs[:1], missing, axis=0)])
        targets = np.concatenate([targets, np.full((missing, length), -100)])
        total = torch.zeros((), dtype=torch.float64)
        for start in range(accelerator.process_index * rows, len(inputs), rows * accelerator.num_processes):
            window = torch.from_numpy(inputs[start : start + rows]).to(accelerator.device)
            target = torch.from_numpy(targets[start : start + rows]).to(accelerator.device)
            total += losses(window, target).cpu()
        count = int((targets != -100).sum())
        return accelerator.reduce(total.to(accelerator.device)).item() / count

    def measures(self, loss: float) -> dict[str, float]:
        return {
            "loss": loss,
            "bits_per_byte": bits_per_byte(loss, len(self.held_out), self.held_out.bytes),
            "perplexity": perplexity(loss),
        }


def sum_of_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of logits `[..., vocabulary]` against the tokens they predict; -100 does not count."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=-100, reduction="sum")
