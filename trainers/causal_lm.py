"""Train a causal language model by a recipe.

    seqzoo train gpt2/demo training.output_dir=runs/teacher
    accelerate launch -m seqzoo.trainers.causal_lm configs/gpt2/demo.yaml training.lr=3e-4
    accelerate launch --config_file configs/accelerate/multi_gpu_ddp.yaml -m seqzoo.trainers.causal_lm gpt2/wikitext103
    python -m seqzoo.trainers.causal_lm gpt2/wikitext103 --dry-run

On texts of one's own (plain, jsonl, parquet, also compressed; a plain text can be cut in bytes or per cent):

    seqzoo train gpt2/demo data.source=wikitext2/valid.txt data.validation=wikitext2/test.txt
    seqzoo train gpt2/demo data.source=train.jsonl.xz data.validation=valid.jsonl.xz tokenizer.vocab_size=8192
    seqzoo train gpt2/enwik8 'data.source=dump.xml[:90%]' 'data.validation=dump.xml[90%:95%]'
    seqzoo train gpt2/demo data.streaming=true data.source=huge.jsonl.gz data.validation=valid.jsonl

On two CPU processes; the other files of configs/accelerate are for one or several GPUs and machines:

    ACCELERATE_USE_CPU=true accelerate launch --config_file configs/accelerate/two_cpu_processes.yaml \\
        -m seqzoo.trainers.causal_lm gpt2/demo

The run's folder ends up with the model, its tokenizer, `recipe.yaml` and `metrics.json`, ready for `seqzoo export`.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import Accelerator
from accelerate.state import PartialState
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqzoo.data.text import Corpus, load_corpus
from seqzoo.data.text_packing import PackedBatches, TokenRow, tokenize
from seqzoo.data.text_stream import PackedStream, first_tokens, stream_corpus
from seqzoo.data.text_tokenizer import load_tokenizer, train_tokenizer
from seqzoo.hub_cards.export import export
from seqzoo.hub_cards.publish import PushError, check_target, push
from seqzoo.metrics.language_modeling import unigram_loss
from seqzoo.trainers.checkpointing import replacing_files, write_text
from seqzoo.trainers.language_modeling import CausalLanguageModeling
from seqzoo.trainers.loop import TrainingDiverged, TrainingState, new_accelerator, note, train
from seqzoo.trainers.recipe import Recipe, load_recipe
from seqzoo.trainers.recipe_model import build_model, check_sources, dry_run, trained_parameters
from seqzoo.trainers.run_folder import check_run_folder, locked, open_run_folder
from seqzoo.trainers.tracking import finish_tracker, installed_tracker, start_tracker
from seqzoo.trainers.transfer.alignment import Alignment
from seqzoo.trainers.transfer.distillation import Distillation
from seqzoo.trainers.transfer.lora import merge_lora
from seqzoo.trainers.transfer.teacher import load_teacher


# Of a stream, what a tokenizer of one's own is trained on: data.streaming of the recipe says so.
_TOKENIZER_ROWS = 100_000
_LIBRARIES = ("seqzoo", "torch", "transformers", "accelerate", "datasets", "tokenizers")


def run(recipe: Recipe) -> dict[str, Any]:
    """Train by a recipe, evaluate, and leave the finished model in `training.output_dir`.

    It may be called any number of times in one process.

    Returns:
        What `metrics.json` holds.

    Raises:
        `RecipeError`: the recipe does not fit the model, its teacher, what is installed, or the run that is to be
            resumed.
        `ImportError`: `training.lora_rank` without peft.
        `FileExistsError`: the folder holds something, and neither `training.resume` nor `training.overwrite` is set;
            or another process is training in it.
        `FileNotFoundError`, `ValueError`: see [`seqzoo.data.text.load_corpus`].
        `TrainingDiverged`, `WriteError`, `CheckpointError`: see [`seqzoo.trainers.loop.train`].
        `PushError`: `hub.repo_id` is set and the push failed; the finished model is in the folder nevertheless.
    """
    tracker = installed_tracker(recipe)
    folder = Path(recipe.training.output_dir)
    accelerator = new_accelerator(recipe.training, log_with=tracker, project_dir=str(folder))
    check_run_folder(folder, recipe)
    check_sources(recipe)
    if recipe.hub.repo_id:
        check_target(recipe.hub.repo_id)  # now rather than after hours of training
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
        + (f"{len(row):,} training tokens, " if row is not None else "streamed text, ")
        + (topology if accelerator.num_processes > 1 else f"1 process ({accelerator.device})"),
    )
    batches = _batches(recipe, corpus, tokenizer, row)
    objective = _objective(accelerator, held_out, recipe, model, tokenizer)
    trained = trained_parameters(model)
    # From here on the recipe is known to be good; only now an earlier run may have to go.
    if accelerator.is_main_process:
        open_run_folder(folder, recipe)
    accelerator.wait_for_everyone()
    if tracker:
        start_tracker(accelerator, recipe)

    with locked(folder) if accelerator.is_main_process else nullcontext():
        model, state = train(accelerator, model, batches, objective, recipe)
    if recipe.training.lora_rank:
        merge_lora(accelerator.unwrap_model(model))
    evaluation = _final_evaluation(objective, model, row, len(tokenizer))
    weights = accelerator.get_state_dict(model)
    model = accelerator.unwrap_model(model)
    # FSDP gathers a tied weight under each of its names; it is stored under one.
    weights = {name: weight for name, weight in weights.items() if name not in model.all_tied_weights_keys}
    metrics = _metrics(recipe, model, trained, corpus, row, held_out, state, evaluation)
    if accelerator.is_main_process:
        with replacing_files(folder) as unfinished:
            model.save_pretrained(unfinished, state_dict=weights)
            tokenizer.save_pretrained(unfinished)
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


def _prepare_text(recipe: Recipe) -> tuple[Corpus, PreTrainedTokenizerBase, TokenRow | None, TokenRow]:
    """The text, its tokenizer, and the tokens to train on (none of a stream) and held out."""
    data = recipe.data
    running_text = data.rows == "running_text"
    options = {
        "name": data.name,
        "split": data.split,
        "validation": data.validation,
        "text_column": data.text_column,
        "running_text": running_text,
    }
    if data.streaming:
        corpus = stream_corpus(data.source, **options)
    else:
        corpus = load_corpus(data.source, validation_fraction=data.validation_fraction, **options)
    if recipe.tokenizer.vocab_size:
        texts = corpus.train.first(_TOKENIZER_ROWS) if data.streaming else corpus.train["text"]
        tokenizer = train_tokenizer(texts, recipe.tokenizer.vocab_size)
    else:
        tokenizer = load_tokenizer(recipe.tokenizer.path or recipe.model.init_from or recipe.model.convert_gpt2)
    if data.streaming:
        count = recipe.evaluation.max_tokens + 1  # nothing predicts the first one
        return corpus, tokenizer, None, first_tokens(corpus.validation, tokenizer, count, running_text=running_text)
    row, held_out = (
        tokenize(part, tokenizer, running_text=running_text, num_proc=data.num_proc)
        for part in (corpus.train, corpus.validation)
    )
    return corpus, tokenizer, row, held_out


def _batches(
    recipe: Recipe, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, row: TokenRow | None
) -> PackedBatches | PackedStream:
    options = {
        "sequence_length": recipe.data.sequence_length,
        "batch_size": recipe.training.batch_size,
        "seed": recipe.training.seed,
        "shuffle": recipe.data.shuffle,
        "separate": recipe.data.packing == "separate",
    }
    if row is not None:
        return PackedBatches(row, **options)
    return PackedStream(
        corpus.train,
        tokenizer,
        shuffle_buffer=recipe.data.shuffle_buffer,
        running_text=recipe.data.rows == "running_text",
        **options,
    )


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
    objective: CausalLanguageModeling, model: nn.Module, row: TokenRow | None, vocab_size: int
) -> dict[str, Any]:
    """Of the weights that are kept: at the training length, at other lengths, and beside a unigram model.

    The latter needs all tokens of the training text: there is none of a stream.
    """
    evaluation = objective.evaluation
    result: dict[str, Any] = objective.evaluate(model)
    predicted = objective.held_out.tokens[1 : evaluation.max_tokens + 1]
    result["tokens"] = len(predicted)
    result["bytes"] = round(len(predicted) * objective.held_out.bytes / len(objective.held_out))
    result["by_length"] = {str(length): objective.evaluate_at(model, length) for length in evaluation.lengths}
    if row is not None:
        result["unigram"] = objective.measures(unigram_loss(row.tokens, predicted, vocab_size))
    return result


def _metrics(
    recipe: Recipe,
    model: PreTrainedModel,
    trained: int,
    corpus: Corpus,
    row: TokenRow | None,
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
            "streaming": row is None,
            "sha256": corpus.sha256,
            "python": platform.python_version(),
            "train_tokens": None if row is None else len(row),
            "train_bytes": None if row is None else row.bytes,
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
