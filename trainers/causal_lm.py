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
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import PartialState
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqzoo.data.text import Corpus, load_corpus
from seqzoo.data.text_packing import PackedBatches, TokenRow, held_out_windows, tokenize
from seqzoo.data.text_tokenizer import load_tokenizer, train_tokenizer
from seqzoo.hub_cards.export import export
from seqzoo.hub_cards.publish import PushError, check_target, push
from seqzoo.metrics.language_modeling import bits_per_byte, perplexity, unigram_loss
from seqzoo.trainers.checkpointing import replacing_files, write_text
from seqzoo.trainers.loop import TrainingDiverged, TrainingState, new_accelerator, note, train
from seqzoo.trainers.recipe import Recipe, load_recipe
from seqzoo.trainers.recipe_model import build_model, dry_run
from seqzoo.trainers.run_folder import check_run_folder, flat, open_run_folder


_LIBRARIES = ("seqzoo", "torch", "transformers", "accelerate", "datasets", "tokenizers")


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

    def __init__(self, accelerator: Accelerator, held_out: TokenRow, recipe: Recipe):
        if len(held_out) < 2:
            raise ValueError(
                f"the held-out text has {len(held_out)} tokens, but 2 are the least that can be evaluated"
            )
        self.accelerator = accelerator
        self.held_out = held_out
        self.evaluation = recipe.evaluation
        self.sequence_length = recipe.data.sequence_length

    def count_targets(self, batch: Mapping[str, Tensor]) -> int:
        return int((batch["labels"][:, 1:] != -100).sum())

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits = model(**inputs, use_cache=False).logits  # [batch, sequence, vocabulary]
        return _sum_of_losses(logits[:, :-1], batch["labels"][:, 1:])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return self.evaluate_at(model, self.sequence_length)

    @torch.no_grad()
    def evaluate_at(self, model: nn.Module, length: int) -> dict[str, float]:
        """Loss (nats a token), perplexity and bits per byte in windows of `length` tokens that do not overlap."""
        inputs, targets = held_out_windows(self.held_out, length, self.evaluation.max_tokens)
        accelerator = self.accelerator
        # As many tokens in a pass at every length, and as many passes on every process.
        rows = max(1, self.evaluation.batch_size * self.sequence_length // length // accelerator.num_processes)
        missing = -len(inputs) % (rows * accelerator.num_processes)
        inputs = np.concatenate([inputs, np.repeat(inputs[:1], missing, axis=0)])
        targets = np.concatenate([targets, np.full((missing, length), -100)])
        total = torch.zeros((), dtype=torch.float64)
        model.eval()
        for start in range(accelerator.process_index * rows, len(inputs), rows * accelerator.num_processes):
            window = torch.from_numpy(inputs[start : start + rows]).to(accelerator.device)
            target = torch.from_numpy(targets[start : start + rows]).to(accelerator.device)
            total += _sum_of_losses(model(input_ids=window, use_cache=False).logits, target).cpu()
        count = int((targets != -100).sum())
        return self.measures(accelerator.reduce(total.to(accelerator.device)).item() / count)

    def measures(self, loss: float) -> dict[str, float]:
        return {
            "loss": loss,
            "bits_per_byte": bits_per_byte(loss, len(self.held_out), self.held_out.bytes),
            "perplexity": perplexity(loss),
        }


def _sum_of_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of logits `[..., vocabulary]` against the tokens they predict; -100 does not count."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=-100, reduction="sum")


def run(recipe: Recipe) -> dict[str, Any]:
    """Train by a recipe, evaluate, and leave the finished model in `training.output_dir`.

    It may be called any number of times in one process.

    Returns:
        What `metrics.json` holds.

    Raises:
        `RecipeError`: the recipe does not fit the model, or the run that is to be resumed.
        `FileExistsError`: the folder holds something, and neither `training.resume` nor `training.overwrite` is set.
        `FileNotFoundError`, `ValueError`: see [`seqzoo.data.text.load_corpus`].
        `TrainingDiverged`, `WriteError`, `CheckpointError`: see [`seqzoo.trainers.loop.train`].
        `PushError`: `hub.repo_id` is set and the push failed; the finished model is in the folder nevertheless.
    """
    tracker = None if recipe.tracking.tracker == "none" else recipe.tracking.tracker
    folder = Path(recipe.training.output_dir)
    accelerator = new_accelerator(recipe.training, log_with=tracker, project_dir=str(folder))
    check_run_folder(folder, recipe)
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
        f"{recipe.name}: {model.num_parameters():,} parameters, {len(row):,} training tokens, "
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
    objective = CausalLanguageModeling(accelerator, held_out, recipe)
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
    evaluation = _final_evaluation(objective, model, row, len(tokenizer))
    weights = accelerator.get_state_dict(model)
    model = accelerator.unwrap_model(model)
    metrics = _metrics(recipe, model, corpus, row, held_out, state, evaluation)
    if accelerator.is_main_process:
        with replacing_files(folder) as unfinished:
            model.save_pretrained(unfinished, state_dict=weights)
            tokenizer.save_pretrained(unfinished)
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        note(accelerator, f"{recipe.name}: finished, the model is in {folder}")
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    if recipe.hub.repo_id and accelerator.is_main_process:
        _push(folder, recipe)
        metrics["hub"] = recipe.hub.repo_id
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        note(accelerator, f"{recipe.name}: pushed to {recipe.hub.repo_id}")
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
    corpus: Corpus,
    row: TokenRow,
    held_out: TokenRow,
    state: TrainingState,
    evaluation: dict[str, Any],
) -> dict[str, Any]:
    """What cards, tables and benchmarks read."""
    license = recipe.data.license or corpus.license
    base_model = recipe.model.init_from or recipe.model.convert_gpt2
    on_hub = base_model and not Path(base_model).exists()  # a folder of this machine says nothing to others
    positions = getattr(model.config, "position_embedding_type", None)
    return {
        "schema": 1,
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "recipe": recipe.name,
        **({"base_model": base_model} if on_hub else {}),
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
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
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
    except (OSError, ValueError, TrainingDiverged) as error:
        # Each of these says what to do; a traceback would only hide it.
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
