"""One training run by a recipe, whatever it trains, and the command line of every trainer.

The recipe's `task` names a module of this room, which says what is particular to it in three functions:

- `prepare(accelerator, recipe) -> Prepared`: the data, the model, and what it is to learn;
- `weightless_model(recipe) -> PreTrainedModel`: its shapes on the meta device, without data, weights or network;
- `dry_run(recipe) -> dict`: what one batch of full shape through that model shows, `model_type` and `parameters` among
  it.

All else is here: folder, tracker, loop, saving, metrics, push. The run's folder ends up with the model, its tokenizer
or processor, `recipe.yaml` and `metrics.json`, ready for `seqzoo export`.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from accelerate.state import PartialState
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from seqzoo.hub_cards.export import export
from seqzoo.hub_cards.publish import PushError, check_target, push
from seqzoo.trainers.checkpointing import replacing_files, write_text
from seqzoo.trainers.loop import (
    UNFINISHED_CODE,
    Batches,
    Objective,
    TrainingDiverged,
    TrainingState,
    TrainingStopped,
    new_accelerator,
    note,
    train,
)
from seqzoo.trainers.recipe import Recipe, RecipeError, load_recipe
from seqzoo.trainers.recipe_model import check_sources, trained_parameters
from seqzoo.trainers.run_folder import RECIPE_FILE, changed_keys, check_run_folder, opened_run_folder
from seqzoo.trainers.tracking import finish_tracker, installed_tracker, start_tracker
from seqzoo.trainers.transfer.lora import merge_lora


_LIBRARIES = ("seqzoo", "torch", "transformers", "accelerate", "datasets")


@dataclass
class Prepared:
    """What a kind of training brings to a run.

    Args:
        model (`PreTrainedModel`):
            In float32 on the CPU; what is not to be trained needs no gradient.
        batches (`Batches`), objective (`Objective`):
            For the loop.
        processor (`PreTrainedTokenizerBase` or `ImageProcessingMixin`, *optional*):
            Saved beside the model.
        summary (`str`):
            Of the data, for the first line on the screen: `1,000 training tokens`.
        data (`dict`):
            For `metrics.json`: `source`, `dataset` (id on the Hub, if it is from there), `license` (if known), and
            numbers by names that a card can show.
        evaluate (`Callable`):
            From the prepared model to the final evaluation: measures by name, and tables of measures. NaN is what
            there was nothing to measure of.
        training (`dict`), libraries (`list[str]`):
            What `metrics.json` gets beside what every run has.
    """

    model: PreTrainedModel
    batches: Batches
    objective: Objective
    processor: PreTrainedTokenizerBase | ImageProcessingMixin | None
    summary: str
    data: dict[str, Any]
    evaluate: Callable[[nn.Module], dict[str, Any]]
    training: dict[str, Any] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)


def task_module(recipe: Recipe) -> ModuleType:
    """The module that trains what the recipe asks for."""
    return import_module(f"seqzoo.trainers.{recipe.task}")


def run(recipe: Recipe) -> dict[str, Any]:
    """Train by a recipe, evaluate, and leave the finished model in `training.output_dir`.

    It may be called any number of times in one process.

    Returns:
        What `metrics.json` holds.

    Raises:
        `RecipeError`: the recipe does not fit what is installed, or the run that is to be resumed.
        `FileExistsError`: the folder holds something, and neither `training.resume` nor `training.overwrite` is set;
            or another process is training in it.
        `FileNotFoundError`: the model to start from, or a tokenizer, is not there.
        `TrainingDiverged`, `TrainingStopped`, `WriteError`, `CheckpointError`: see [`seqzoo.trainers.loop.train`].
        `PushError`: `hub.repo_id` is set and the push failed; the finished model is in the folder nevertheless.
        And what `prepare` of the task raises.
    """
    started = time.monotonic()
    tracker = installed_tracker(recipe)
    folder = Path(recipe.training.output_dir)
    accelerator = new_accelerator(recipe.training, log_with=tracker, project_dir=str(folder))
    check_run_folder(folder, recipe)
    check_sources(recipe)
    if recipe.hub.repo_id:
        check_target(recipe.hub.repo_id)  # now rather than after hours of training
    prepared = task_module(recipe).prepare(accelerator, recipe)
    model = prepared.model
    if recipe.training.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise RecipeError(
                f"training.gradient_checkpointing: a {model.config.model_type} of this config has no layers that "
                "could be computed again exactly; remove it"
            )
        model.gradient_checkpointing_enable()
    trained = trained_parameters(model)
    topology = (
        f"{accelerator.num_processes} processes ({accelerator.distributed_type.value}, {accelerator.state.backend})"
    )
    note(
        accelerator,
        f"{recipe.name}: {model.num_parameters():,} parameters, {trained:,} of them trained, {prepared.summary}, "
        + (topology if accelerator.num_processes > 1 else f"1 process ({accelerator.device})"),
    )
    # From here on the recipe is known to be good; only now an earlier run may have to go.
    with opened_run_folder(folder, recipe) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        if tracker:
            start_tracker(accelerator, recipe)
        try:
            model, state = train(accelerator, model, prepared.batches, prepared.objective, recipe, started)
        except TrainingStopped:
            finish_tracker(accelerator)
            raise
        if recipe.training.lora_rank:
            merge_lora(accelerator.unwrap_model(model))
        evaluation = prepared.evaluate(model)
        weights = accelerator.get_state_dict(model)
        model = accelerator.unwrap_model(model)
        # FSDP gathers a tied weight under each of its names; it is stored under one.
        weights = {name: weight for name, weight in weights.items() if name not in model.all_tied_weights_keys}
        metrics = _metrics(recipe, prepared, trained, state, evaluation)
        if accelerator.is_main_process:
            with replacing_files(folder) as unfinished:
                model.save_pretrained(unfinished, state_dict=weights)
                if prepared.processor is not None:
                    prepared.processor.save_pretrained(unfinished)
            write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
            note(accelerator, f"{recipe.name}: finished, the model is in {folder}")
    accelerator.wait_for_everyone()
    finish_tracker(accelerator)
    if recipe.hub.repo_id and accelerator.is_main_process:
        _push(folder, recipe)
        metrics["hub"] = recipe.hub.repo_id
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        note(accelerator, f"{recipe.name}: pushed to {recipe.hub.repo_id}")
    return metrics


def run_to_the_end(recipe: Recipe) -> dict[str, Any]:
    """[`run`] for what is started again and again: a run that was begun goes on, a finished one is not done again.

    Raises:
        `RecipeError`: a finished or begun run in `training.output_dir` is that of another recipe.
        And what [`run`] raises.
    """
    folder = Path(recipe.training.output_dir)
    finished = folder / "metrics.json"
    if not finished.is_file():
        recipe.training.resume = True
        return run(recipe)
    changed = changed_keys(load_recipe(folder / RECIPE_FILE), recipe)
    if changed:
        raise RecipeError(
            f"the run in {folder} is finished, but with another {', '.join(changed)}; remove it to do it again, or "
            "choose another folder for the results"
        )
    return json.loads(finished.read_text(encoding="utf-8"))


def _metrics(
    recipe: Recipe, prepared: Prepared, trained: int, state: TrainingState, evaluation: dict[str, Any]
) -> dict[str, Any]:
    """What cards, tables and benchmarks read."""
    model, unit = prepared.model, prepared.objective.unit
    sources = {"base_model": recipe.model.init_from or recipe.model.convert_gpt2, "teacher": recipe.model.teacher}
    return {
        "schema": 1,
        "task": recipe.task,
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "recipe": recipe.name,
        # A folder of this machine says nothing to others.
        **{key: source for key, source in sources.items() if source and not Path(source).exists()},
        "start": "convert_gpt2" if recipe.model.convert_gpt2 else "init_from" if recipe.model.init_from else "random",
        "data": prepared.data,
        "training": {
            **prepared.training,
            "trained_parameters": trained,
            "steps": state.step,
            "unit": unit,
            f"{unit}_seen": state.inputs_seen,
            "seconds": round(state.seconds, 3),
            f"{unit}_per_second": round(state.inputs_seen / state.seconds, 1),
            "batch_size": recipe.training.batch_size,
            "final_loss": state.train_history[-1][1],
            "best_step": state.best_step,
            "num_processes": state.num_processes,
            "seed": recipe.training.seed,
        },
        "history": {"train": state.train_history, "validation": state.validation_history},
        "evaluation": without_nan(evaluation),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in (*_LIBRARIES, *prepared.libraries)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def without_nan(measures: dict[str, Any]) -> dict[str, Any]:
    """Measures, also in tables of them, with None for what there was nothing to measure of: JSON has no NaN."""
    plain = {}
    for key, value in measures.items():
        if isinstance(value, dict):
            plain[key] = without_nan(value)
        else:
            plain[key] = None if isinstance(value, float) and math.isnan(value) else value
    return plain


def _push(folder: Path, recipe: Recipe) -> None:
    """Export the finished model and push that; a push that fails says where the model is and how to go on."""
    hub = recipe.hub
    with TemporaryDirectory() as scratch:
        exported = Path(scratch) / hub.repo_id.rpartition("/")[2]
        try:
            export(folder, exported)
            push(exported, hub.repo_id, private=hub.private)
        except (OSError, ValueError) as error:
            private = " --private" if hub.private else ""
            raise PushError(
                f"{error}. The trained model is safe in {folder}; to push it later: "
                f"seqzoo export {folder} OUT && seqzoo push OUT {hub.repo_id}{private}"
            ) from error


def execute(recipe: str, overrides: Sequence[str], dry_run_only: bool) -> int:
    """What the command lines do: train by a recipe and print the evaluation, or try the recipe out and print that.

    Returns:
        The exit code.
    """
    checked = load_recipe(recipe, overrides)
    if dry_run_only:
        summary = {"recipe": checked.name} | task_module(checked).dry_run(checked)
        print("\n".join(f"{key}: {value}" for key, value in summary.items()))
        return 0
    code = 0
    try:
        metrics = run(checked)
        if PartialState().is_main_process:
            print(json.dumps(metrics["evaluation"], indent=2))
    except TrainingStopped as stopped:
        code = UNFINISHED_CODE
        if PartialState().is_main_process:
            print(stopped, file=sys.stderr)
    PartialState().destroy_process_group()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of every trainer: `RECIPE [section.key=value ...] [--dry-run]`."""
    parser = argparse.ArgumentParser(prog="python -m seqzoo.trainers.run", description="Train a model by a recipe.")
    parser.add_argument("recipe", help="a YAML file, or the name of a packaged recipe such as gpt2/demo")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    parser.add_argument("--dry-run", action="store_true", help="build and try the model without weights or data")
    args = parser.parse_intermixed_args(argv)
    try:
        return execute(args.recipe, args.overrides, args.dry_run)
    except (OSError, ValueError, ImportError, TrainingDiverged) as error:
        # Each of these says what to do; a traceback would only hide it.
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
