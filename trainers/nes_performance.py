"""Train a model of how notes are played, by a recipe.

    seqzoo train nes_performance/transformer_past data.source=nesmdb24_exprsco.tar.gz
    seqzoo train nes_performance/lstm_notes data.source=songs       # a folder with train, valid and test
    python -m seqzoo.trainers.run nes_performance/transformer_notes --dry-run

The run's folder ends up with the model, `recipe.yaml` and `metrics.json`, ready for `seqzoo export`.
"""

import sys
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoModel, PreTrainedModel

from seqzoo.trainers.nes.performance import PerformanceObjective, performance_batch, performance_windows
from seqzoo.trainers.nes.songs import load_songs
from seqzoo.trainers.recipe import Recipe
from seqzoo.trainers.recipe_model import known_config, new_or_loaded_model, require_type
from seqzoo.trainers.run import Prepared, main


def prepare(accelerator: Accelerator, recipe: Recipe) -> Prepared:
    """Songs, model and objective of a recipe; see [`seqzoo.trainers.run.Prepared`].

    Raises:
        `RecipeError`, `OSError`: see [`seqzoo.trainers.recipe_model.new_or_loaded_model`].
        `FileNotFoundError`, `ValueError`: see [`seqzoo.trainers.nes.songs.load_songs`].
    """
    require_type(recipe, "nes_performance")
    with accelerator.main_process_first():
        songs = load_songs(recipe.data.source, "train", "validation")
    objective = PerformanceObjective(accelerator, songs["validation"])
    return Prepared(
        model=new_or_loaded_model(recipe.model, AutoModel),
        batches=performance_windows(
            songs["train"],
            steps=recipe.data.sequence_length,
            batch_size=recipe.training.batch_size,
            seed=recipe.training.seed,
        ),
        objective=objective,
        processor=None,
        summary=f"{len(songs['train']):,} songs of {sum(map(len, songs['train'])):,} steps to train on",
        data={
            "source": recipe.data.source,
            **({"license": recipe.data.license} if recipe.data.license else {}),
            "train_songs": len(songs["train"]),
            "train_steps": sum(map(len, songs["train"])),
            "validation_songs": len(songs["validation"]),
            "validation_steps": sum(map(len, songs["validation"])),
        },
        training={"sequence_length": recipe.data.sequence_length},
        evaluate=objective.final_evaluation,
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
