"""Train a model of how notes are played, by a recipe.

    seqzoo train nes_performance/transformer_past data.source=nesmdb24_exprsco.tar.gz
    seqzoo train nes_performance/lstm_notes data.source=songs       # a folder with train, valid and test
    python -m seqzoo.trainers.run nes_performance/transformer_notes --dry-run

Songs are learned in windows. Held-out ones are measured from their first step to their last: while training the first
of the validation songs, `evaluation.max_tokens` steps of them; at the end all of validation and test.
"""

import sys
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoModel, PreTrainedModel

from seqzoo.trainers.nes.performance import PerformanceObjective, performance_batch, performance_windows
from seqzoo.trainers.nes.songs import first_songs, load_songs
from seqzoo.trainers.recipe import Recipe
from seqzoo.trainers.recipe_model import known_config, new_or_loaded_model, require_type
from seqzoo.trainers.run import Prepared, main


SPLITS = ("train", "validation", "test")


def prepare(accelerator: Accelerator, recipe: Recipe) -> Prepared:
    """Songs, model and objective of a recipe; see [`seqzoo.trainers.run.Prepared`].

    Raises:
        `RecipeError`, `OSError`: see [`seqzoo.trainers.recipe_model.new_or_loaded_model`].
        `FileNotFoundError`, `ValueError`: see [`seqzoo.trainers.nes.songs.load_songs`].
    """
    require_type(recipe, "nes_performance")
    model = new_or_loaded_model(recipe.model, AutoModel)
    # One process reads the songs and fills the cache; the others find it.
    with accelerator.main_process_first():
        songs = load_songs(recipe.data.source, *SPLITS, verify=recipe.data.verify)
    objective = PerformanceObjective(accelerator, first_songs(songs["validation"], recipe.evaluation.max_tokens))
    steps = {split: sum(map(len, some)) for split, some in songs.items()}

    def evaluate(model: nn.Module) -> dict[str, Any]:
        tables = {split: objective.measure(model, songs[split]) for split in SPLITS if split != "train"}
        return {"loss": tables["validation"]["total"]["nll"]} | tables

    return Prepared(
        model=model,
        batches=performance_windows(
            songs["train"],
            steps=recipe.data.sequence_length,
            batch_size=recipe.training.batch_size,
            seed=recipe.training.seed,
        ),
        objective=objective,
        processor=None,
        summary=f"{len(songs['train']):,} songs, {steps['train']:,} steps to train on",
        data={
            "source": recipe.data.source,
            **({"license": recipe.data.license} if recipe.data.license else {}),
            **{f"{split}_songs": len(some) for split, some in songs.items()},
            **{f"{split}_steps": count for split, count in steps.items()},
        },
        training={"sequence_length": recipe.data.sequence_length},
        evaluate=evaluate,
    )


def weightless_model(recipe: Recipe) -> PreTrainedModel:
    """The model of a recipe on the meta device: its shapes and nothing else, without data, weights or network."""
    require_type(recipe, "nes_performance")
    with torch.device("meta"):
        return AutoModel.from_config(known_config(recipe.model))


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """One batch of full shape through a model without storage.

    Returns:
        `model_type`, `parameters`, `batch` (`[windows, steps]` of a training step over all processes) and `logits`
        (shape).
    """
    model = weightless_model(recipe)
    shape = (recipe.training.batch_size, recipe.data.sequence_length)
    batch = performance_batch(
        np.zeros((shape[0], shape[1] + 1, 4, 3), dtype=np.uint8), np.ones((shape[0], shape[1] + 1), dtype=bool)
    )
    output = model(**{key: torch.from_numpy(value).to("meta") for key, value in batch.items()})
    return {
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "batch": list(shape),
        "logits": list(output.logits.shape),
    }


if __name__ == "__main__":
    sys.exit(main())
