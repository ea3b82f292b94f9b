"""Train a small causal model from scratch on associative recall, and measure what it recalls."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from seqzoo.data.recall import RecallBatches, RecallTask, recall_sequences
from seqzoo.metrics.recall import recall_accuracy
from seqzoo.trainers.loop import new_accelerator, train
from seqzoo.trainers.recipe import ModelSection, Recipe, TrackingSection, TrainingSection


# Of the sequences that accuracy is measured on: no step of any training is drawn from it.
_HELD_OUT = 2**40
_HELD_OUT_ROWS = 128


class AssociativeRecall:
    """Answers at the queries: the loss, and the accuracy on sequences that training does not draw.

    Args:
        accelerator (`Accelerator`):
            Every process evaluates all of the few held-out sequences.
        task (`RecallTask`):
            The sizes.
    """

    unit = "tokens"

    def __init__(self, accelerator: Accelerator, task: RecallTask):
        self.accelerator = accelerator
        self.task = task

    def count_inputs(self, batch: Mapping[str, np.ndarray]) -> int:
        return batch["input_ids"].size

    def count_targets(self, batch: Mapping[str, Tensor]) -> int:
        return int((batch["targets"] != -100).sum())

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits  # [batch, length, vocabulary]
        return F.cross_entropy(
            logits.flatten(0, 1).float(), batch["targets"].flatten(), ignore_index=-100, reduction="sum"
        )

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """`loss` (nats an answer) and accuracy, both over all numbers of pairs, and `accuracy_<pairs>` of each."""
        model.eval()
        measures, total, count, hits = {}, 0.0, 0, 0.0
        for pairs in self.task.pairs:
            drawn = recall_sequences(self.task, pairs, _HELD_OUT_ROWS, np.random.default_rng((_HELD_OUT, pairs)))
            logits = model(torch.from_numpy(drawn["input_ids"]).to(self.accelerator.device), use_cache=False).logits
            logits, targets = logits.float().cpu(), torch.from_numpy(drawn["targets"])
            asked = _HELD_OUT_ROWS * pairs
            accuracy = recall_accuracy(logits.argmax(-1).numpy(), drawn["targets"])
            total += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
            measures[f"accuracy_{pairs}"] = accuracy
            hits += accuracy * asked
            count += asked
        return {"loss": total / count, "accuracy": hits / count} | measures


def run(config: PreTrainedConfig, task: RecallTask, training: TrainingSection) -> dict[str, float]:
    """Train a model of this config from scratch.

    Args:
        config (`PreTrainedConfig`):
            Of a causal model with `task.vocab_size` tokens and `task.length` positions.
        task (`RecallTask`):
            What to learn.
        training (`TrainingSection`):
            As in a recipe; `output_dir` gets the checkpoints, if any. Nothing else is written.

    Returns:
        What [`AssociativeRecall.evaluate`] returns, at the end.

    Raises:
        `ValueError`: the config has too small a vocabulary.
        `TrainingDiverged`, `WriteError`, `CheckpointError`: see [`seqzoo.trainers.loop.train`].
    """
    if config.vocab_size < task.vocab_size:
        raise ValueError(f"the task has {task.vocab_size} tokens, but the config a vocab_size of {config.vocab_size}")
    recipe = Recipe(ModelSection(config.model_type), training, tracking=TrackingSection(tracker="none"), name="recall")
    accelerator = new_accelerator(training, project_dir=str(Path(training.output_dir)))
    model = AutoModelForCausalLM.from_config(config)
    objective = AssociativeRecall(accelerator, task)
    batches = RecallBatches(task, batch_size=training.batch_size, seed=training.seed)
    model, _ = train(accelerator, model, batches, objective, recipe)
    return objective.evaluate(model)
