"""Train a model of how notes are played, by a recipe.

    seqzoo train nes_performance/transformer_past data.source=nesmdb24_exprsco.tar.gz
    seqzoo train nes_performance/lstm_notes data.source=songs       # a folder with train, valid and test
    python -m seqzoo.trainers.run nes_performance/transformer_notes --dry-run

The run's folder ends up with the model, `recipe.yaml` and `metrics.json`, ready for `seqzoo export`.
"""

from accelerate import Accelerator
from transformers import PreTrainedModel

from seqzoo.modeling.nes_performance.modeling_nes_performance import NESPerformanceModel
from seqzoo.trainers.nes.performance import PerformanceObjective, performance_windows
from seqzoo.trainers.nes.songs import load_songs
from seqzoo.trainers.recipe import Recipe
from seqzoo.trainers.recipe_model import check_config_keys
from seqzoo.trainers.run import Prepared


def prepare(accelerator: Accelerator, recipe: Recipe) -> Prepared:
    """Songs, model and objective of a recipe; see [`seqzoo.trainers.run.Prepared`].

    Raises:
        `RecipeError`: a config that is none, or a `model.init_from` of another model.
        `FileNotFoundError`, `ValueError`: see [`seqzoo.trainers.nes.songs.load_songs`].
    """
    with accelerator.main_process_first():
        songs = load_songs(recipe.data.source, "train", "validation")
    objective = PerformanceObjective(accelerator, songs["validation"])
    return Prepared(
        model=_model(recipe),
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
        evaluate=lambda model: objective.evaluate(model) | {"by_column": objective.measure(model)},
    )


def _model(recipe: Recipe) -> PreTrainedModel:
    section = recipe.model
    if not section.init_from:
        return NESPerformanceModel(_config(recipe))
    check_config_keys(section)
    return NESPerformanceModel.from_pretrained(section.init_from, **section.config)
