"""Train a causal language model by a recipe.

    seqzoo train gpt2/demo training.output_dir=runs/teacher
    accelerate launch -m seqzoo.trainers.causal_lm configs/gpt2/demo.yaml training.lr=3e-4
    accelerate launch --multi_gpu -m seqzoo.trainers.causal_lm decay_fast_weight_gpt2/wikitext103
    python -m seqzoo.trainers.causal_lm gpt2/wikitext103 --dry-run

On texts of one's own (plain, jsonl, parquet, also compressed; a plain text can be cut in bytes or per cent):

    seqzoo train gpt2/demo data.source=wikitext2/valid.txt data.validation=wikitext2/test.txt
    seqzoo train gpt2/demo data.source=train.jsonl.xz data.validation=valid.jsonl.xz tokenizer.vocab_size=8192
    seqzoo train gpt2/enwik8 'data.source=dump.xml[:90%]' 'data.validation=dump.xml[90%:95%]'

On two CPU processes (with `--cpu`, Accelerate would start only one):

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no \\
        --dynamo_backend no -m seqzoo.trainers.causal_lm gpt2/demo

The run's folder ends up with the model, its tokenizer, `recipe.yaml` and `metrics.json`, ready for `seqzoo export`.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import Accelerator
from accelerate.state import PartialState
from huggingface_hub import HfApi
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqzoo import MODELS
from seqzoo.data.text import Corpus, load_corpus
from seqzoo.data.text_packing import PackedBatches, TokenRow, tokenize
from seqzoo.data.text_tokenizer import load_tokenizer, train_tokenizer
from seqzoo.hub_cards.export import export
from seqzoo.metrics.language_modeling import unigram_loss
from seqzoo.trainers.checkpointing import replacing_files, write_text
from seqzoo.trainers.language_modeling import CausalLanguageModeling
from seqzoo.trainers.loop import TrainingDiverged, TrainingState, new_accelerator, note, train
from seqzoo.trainers.recipe import Recipe, load_recipe
from seqzoo.trainers.recipe_model import build_model, dry_run, trained_parameters
from seqzoo.trainers.run_folder import check_run_folder, flat, open_run_folder
from seqzoo.trainers.transfer.alignment import Alignment
from seqzoo.trainers.transfer.distillation import Distillation
from seqzoo.trainers.transfer.lora import merge_lora
from seqzoo.trainers.transfer.teacher import load_teacher


_LIBRARIES = ("seqzoo", "torch", "transformers", "accelerate", "datasets", "tokenizers")


def run(recipe: Recipe) -> dict[str, Any]:
    """Train by a recipe, evaluate, and leave the finished model in `training.output_dir`.

    It may be called any number of times in one process.

    Returns:
        What `metrics.json` holds.

    Raises:
        `RecipeError`: the recipe does not fit the model, its teacher, or the run that is to be resumed.
        `ImportError`: `training.lora_rank` without peft.
        `FileExistsError`: the folder holds something, and neither `training.resume` nor `training.overwrite` is set.
        `FileNotFoundError`, `ValueError`: see [`seqzoo.data.text.load_corpus`].
        `TrainingDiverged`, `WriteError`, `CheckpointError`: see [`seqzoo.trainers.loop.train`].
    """
    tracker = None if recipe.tracking.tracker == "none" else recipe.tracking.tracker
    folder = Path(recipe.training.output_dir)
    accelerator = new_accelerator(recipe.training, log_with=tracker, project_dir=str(folder))
    check_run_folder(folder, recipe)
    # One process reads, trains the tokenizer and fills the caches; the others find them.
    with accelerator.main_process_first():
        corpus, tokenizer, row, held_out = _prepare_text(recipe)
    model = build_model(recipe, tokenizer)
    if recipe.training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    topology = (
        f"{accelerator.num_processes} processes ({accelerator.distributed_type.value}, {accelerator.state.backend})"
    )
    note(
        accelerator,
        f"{recipe.name}: {model.num_parameters():,} parameters, {trained_parameters(model):,} of them trained, "
        f"{len(row):,} training tokens, "
        + (topology if accelerator.num_processes > 1 else f"1 process ({accelerator.device})"),
    )
    batches = PackedBatches(
        row,
        sequence_length=recipe.data.sequence_length,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        shuffle=recipe.data.shuffle,
        separate=recipe.data.packing == "separate",
    )
    objective = _objective(accelerator, held_out, recipe, model, tokenizer)
    trained = trained_parameters(model)
    # From here on the recipe is known to be good; only now an earlier run may have to go.
    if accelerator.is_main_process:
        open_run_folder(folder, recipe)
    accelerator.wait_for_everyone()
    if tracker:
        # Trackers take plain values only.
        settings = flat(recipe.as_dict()).items()
        plain = {key: value if isinstance(value, str | int | float) else str(value) for key, value in settings}
        accelerator.init_trackers("logs", config=plain)

    model, state = train(accelerator, model, batches, objective, recipe)
    if recipe.training.lora_rank:
        merge_lora(accelerator.unwrap_model(model))
    evaluation = _final_evaluation(objective, model, row, len(tokenizer))
    weights = accelerator.get_state_dict(model)
    model = accelerator.unwrap_model(model)
    metrics = _metrics(recipe, model, trained, corpus, row, held_out, state, evaluation)
    if accelerator.is_main_process:
        with replacing_files(folder) as unfinished:
            model.save_pretrained(unfinished, state_dict=weights)
            tokenizer.save_pretrained(unfinished)
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        note(accelerator, f"{recipe.name}: finished, the model is in {folder}")
        if recipe.hub.repo_id:
            _push(folder, recipe)
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    return metrics


def _prepare_text(recipe: Recipe) -> tuple[Corpus, PreTrainedTokenizerBase, TokenRow, TokenRow]:
    data = recipe.data
    corpus = load_corpus(
        data.source,
        name=data.name,
        split=data.split,
        validation=data.validation,
        validation_fraction=data.validation_fraction,
        text_column=data.text_column,
        running_text=data.rows == "running_text",
    )
    if recipe.tokenizer.vocab_size:
        tokenizer = train_tokenizer(corpus.train["text"], recipe.tokenizer.vocab_size)
    else:
        tokenizer = load_tokenizer(recipe.tokenizer.path or recipe.model.init_from or recipe.model.convert_gpt2)
    row, held_out = (
        tokenize(part, tokenizer, running_text=data.rows == "running_text", num_proc=data.num_proc)
        for part in (corpus.train, corpus.validation)
    )
    return corpus, tokenizer, row, held_out


def _objective(
    accelerator: Accelerator,
    held_out: TokenRow,
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> CausalLanguageModeling:
    if recipe.training.objective == "language_modeling":
        return CausalLanguageModeling(accelerator, held_out, recipe)
    teacher = load_teacher(recipe, model, tokenizer).to(accelerator.device)
    kind = {"align": Alignment, "distill": Distillation}[recipe.training.objective]
    return kind(accelerator, held_out, recipe, teacher)


def _final_evaluation(
    objective: CausalLanguageModeling, model: nn.Module, row: TokenRow, vocab_size: int
) -> dict[str, Any]:
    """Of the weights that are kept: at the training length, at other lengths, and beside a unigram model."""
    evaluation = objective.evaluation
    result: dict[str, Any] = objective.evaluate(model)
    predicted = objective.held_out.tokens[1 : evaluation.max_tokens + 1]
    result["tokens"] = len(predicted)
    result["bytes"] = round(len(predicted) * objective.held_out.bytes / len(objective.held_out))
    result["by_length"] = {str(length): objective.evaluate_at(model, length) for length in evaluation.lengths}
    result["unigram"] = objective.measures(unigram_loss(row.tokens, predicted, vocab_size))
    return result


def _metrics(
    recipe: Recipe,
    model: PreTrainedModel,
    trained: int,
    corpus: Corpus,
    row: TokenRow,
    held_out: TokenRow,
    state: TrainingState,
    evaluation: dict[str, Any],
) -> dict[str, Any]:
    """What cards, tables and benchmarks read."""
    license = recipe.data.license or corpus.license
    libraries = [*_LIBRARIES, "peft"] if recipe.training.lora_rank else _LIBRARIES
    sources = {"base_model": recipe.model.init_from or recipe.model.convert_gpt2, "teacher": recipe.model.teacher}
    positions = getattr(model.config, "position_embedding_type", None)
    return {
        "schema": 1,
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "recipe": recipe.name,
        # A folder of this machine says nothing to others.
        **{key: source for key, source in sources.items() if source and not Path(source).exists()},
        "start": "convert_gpt2" if recipe.model.convert_gpt2 else "init_from" if recipe.model.init_from else "random",
        "data": {
            "source": corpus.source,
            **({"dataset": corpus.dataset} if corpus.dataset else {}),
            "sha256": corpus.sha256,
            "python": platform.python_version(),
            "train_tokens": len(row),
            "train_bytes": row.bytes,
            "validation_tokens": len(held_out),
            "validation_bytes": held_out.bytes,
            **({"license": license} if license else {}),
        },
        "training": {
            "objective": recipe.training.objective,
            "trained_parameters": trained,
            **({"lora_rank": recipe.training.lora_rank} if recipe.training.lora_rank else {}),
            "steps": state.step,
            "tokens_seen": state.tokens_seen,
            "seconds": round(state.seconds, 3),
            "tokens_per_second": round(state.tokens_seen / state.seconds, 1),
            "sequence_length": recipe.data.sequence_length,
            "batch_size": recipe.training.batch_size,
            "final_loss": state.train_history[-1][1],
            "best_step": state.best_step,
            "num_processes": state.num_processes,
            "seed": recipe.training.seed,
        },
        "history": {"train": state.train_history, "validation": state.validation_history},
        "evaluation": evaluation | ({"position_embedding_type": positions} if positions else {}),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _push(folder: Path, recipe: Recipe) -> None:
    """Upload what anyone can load: of a model of the zoo its export, else the run's folder."""
    api = HfApi()
    repo_id = api.create_repo(recipe.hub.repo_id, private=recipe.hub.private, exist_ok=True).repo_id
    with TemporaryDirectory() as scratch:
        if recipe.model.model_type in MODELS:
            folder = export(folder, Path(scratch) / repo_id.rpartition("/")[2])[0].parent
        api.upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns=["checkpoints/*", "logs/*"])


def execute(recipe: str, overrides: Sequence[str], dry_run_only: bool) -> None:
    """What the command lines do: train by a recipe and print the evaluation, or try the recipe out and print that."""
    checked = load_recipe(recipe, overrides)
    if dry_run_only:
        summary = {"recipe": checked.name} | dry_run(checked)
        print("\n".join(f"{key}: {value}" for key, value in summary.items()))
        return
    metrics = run(checked)
    if PartialState().is_main_process:
        print(json.dumps(metrics["evaluation"], indent=2))
    PartialState().destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: `RECIPE [section.key=value ...] [--dry-run]`."""
    parser = argparse.ArgumentParser(prog="seqzoo.trainers.causal_lm", description="Train a causal language model.")
    parser.add_argument("recipe", help="a YAML file, or the name of a packaged recipe such as gpt2/demo")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    parser.add_argument("--dry-run", action="store_true", help="build and try the model without weights or data")
    args = parser.parse_intermixed_args(argv)
    try:
        execute(args.recipe, args.overrides, args.dry_run)
    except (OSError, ValueError, ImportError, TrainingDiverged) as error:
        # Each of these says what to do; a traceback would only hide it.
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
