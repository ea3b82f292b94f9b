"""Train a model that composes NES scores, by a recipe.

    seqzoo train nes_score/quartet data.source=nesmdb24_exprsco.tar.gz
    seqzoo train nes_score/transformer data.source=songs       # a folder with train, valid and test
    seqzoo train nes_score/soloists --dry-run

Songs are learned in windows. Held-out ones are measured from their first step to their last: while training the first
of the validation songs, `evaluation.max_tokens` steps of them; at the end all of validation and test.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from seqzoo.trainers.nes.composition import CompositionObjective, composition_windows, notes_of
from seqzoo.trainers.nes.songs import first_songs, load_songs
from seqzoo.trainers.recipe import Recipe
from seqzoo.trainers.recipe_model import check_config_keys, new_config, new_or_loaded_model
from seqzoo.trainers.run import Prepared, main


SPLITS = ("train", "validation", "test")


def prepare(accelerator: Accelerator, recipe: Recipe) -> Prepared:
    """Songs, model and objective of a recipe; see [`seqzoo.trainers.run.Prepared`].

    Raises:
        What [`new_or_loaded_model`] and [`load_songs`] raise.
    """
    model = new_or_loaded_model(recipe.model, AutoModel)
    blended = model.config.architecture == "blended"
    # One process reads the songs and fills the cache; the others find it.
    with accelerator.main_process_first():
        songs = load_songs(recipe.data.source, *SPLITS, verify=recipe.data.verify)
    notes = {split: [notes_of(score, blended) for score in scores] for split, scores in songs.items()}
    objective = CompositionObjective(model, first_songs(notes["validation"], recipe.evaluation.max_tokens))
    steps = {split: sum(map(len, some)) for split, some in notes.items()}

    def evaluate(model: nn.Module) -> dict[str, Any]:
        tables = {split: objective.measure(model, notes[split]) for split in notes if split != "train"}
        return {"loss": tables["validation"]["total"]["nll"]} | tables

    return Prepared(
        model=model,
        batches=composition_windows(
            notes["train"],
            steps=recipe.data.sequence_length,
            batch_size=recipe.training.batch_size,
            seed=recipe.training.seed,
        ),
        objective=objective,
        processor=None,
        summary=f"{len(notes['train']):,} songs, {steps['train']:,} steps to train on",
        data={
            "source": recipe.data.source,
            **({"license": recipe.data.license} if recipe.data.license else {}),
            **{f"{split}_songs": len(some) for split, some in notes.items()},
            **{f"{split}_steps": count for split, count in steps.items()},
        },
        training={"sequence_length": recipe.data.sequence_length},
        evaluate=evaluate,
    )


def weightless_model(recipe: Recipe) -> PreTrainedModel:
    """The model of a recipe on the meta device: its shapes and nothing else, without data, weights or network."""
    section = recipe.model
    if section.init_from and Path(section.init_from).is_dir():
        check_config_keys(section)
        config = AutoConfig.from_pretrained(section.init_from, **section.config)
    else:
        config = new_config(section, {})
    with torch.device("meta"):
        return AutoModel.from_config(config)


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """One batch of full shape through a model without storage.

    Returns:
        `model_type`, `parameters`, `batch` (`[windows, steps, voices]`), `steps` of scores in the whole training, and
        `logits` (shape).
    """
    model = weightless_model(recipe)
    shape = (recipe.training.batch_size, recipe.data.sequence_length, model.voices)
    notes = torch.zeros(shape, dtype=torch.long, device="meta")
    # With a cache, transformers does not look for packed songs: it would have to read positions without storage.
    output = model(notes, use_cache=True)
    return {
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "batch": list(shape),
        "steps": shape[0] * shape[1] * recipe.training.steps,
        "logits": list(output.logits.shape),
    }


if __name__ == "__main__":
    sys.exit(main())
