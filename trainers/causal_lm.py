"""Train a causal language model by a recipe.

    seqzoo train gpt2/demo training.output_dir=runs/teacher
    accelerate launch -m seqzoo.trainers.causal_lm configs/gpt2/demo.yaml training.lr=3e-4
    accelerate launch --config_file configs/accelerate/multi_gpu_ddp.yaml -m seqzoo.trainers.causal_lm gpt2/wikitext103
    python -m seqzoo.trainers.causal_lm gpt2/wikitext103 --dry-run

On texts of one's own (plain, jsonl, parquet, also compressed; a plain text can be cut in bytes or per cent):

    seqzoo train gpt2/demo data.source=wikitext2/valid.txt data.validation=wikitext2/test.txt
    seqzoo train gpt2/demo data.source=train.jsonl.xz data.validation=valid.jsonl.xz tokenizer.vocab_size=8192
    seqzoo train gpt2/enwik8 'data.source=dump.xml[:90%]' 'data.validation=dump.xml[90%:95%]'
    seqzoo train rezero_transformer/wikitext2_words data.source=valid.txt data.validation=test.txt
    seqzoo train gpt2/demo data.streaming=true data.source=huge.jsonl.gz data.validation=valid.jsonl

On two CPU processes; the other files of configs/accelerate are for one or several GPUs and machines:

    ACCELERATE_USE_CPU=true accelerate launch --config_file configs/accelerate/two_cpu_processes.yaml \\
        -m seqzoo.trainers.causal_lm gpt2/demo

The run's folder ends up with the model, its tokenizer, `recipe.yaml` and `metrics.json`, ready for `seqzoo export`.
"""

import platform
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from seqzoo.data.text import Corpus, load_corpus
from seqzoo.data.text_packing import PackedBatches, TokenRow, tokenize
from seqzoo.data.text_stream import PackedStream, first_tokens, stream_corpus
from seqzoo.data.text_tokenizer import load_tokenizer, train_tokenizer, train_word_tokenizer
from seqzoo.metrics.language_modeling import unigram_loss
from seqzoo.modeling.decay_fast_weight_gpt2.convert_gpt2_decay_fast_weight_gpt2 import config_from_gpt2
from seqzoo.trainers.language_modeling import CausalLanguageModeling
from seqzoo.trainers.recipe import Recipe
from seqzoo.trainers.recipe_model import (
    build_model,
    check_config_keys,
    check_lengths,
    choose_parameters,
    known_config,
    trained_parameters,
)
from seqzoo.trainers.run import Prepared, main
from seqzoo.trainers.transfer.alignment import Alignment
from seqzoo.trainers.transfer.distillation import Distillation
from seqzoo.trainers.transfer.teacher import load_teacher


# Of a stream, what a tokenizer of one's own is trained on: data.streaming of the recipe says so.
_TOKENIZER_ROWS = 100_000


def prepare(accelerator: Accelerator, recipe: Recipe) -> Prepared:
    """Text, tokenizer, model and objective of a recipe; see [`seqzoo.trainers.run.Prepared`].

    Raises:
        `RecipeError`: the recipe does not fit the model, its teacher, or what is installed.
        `ImportError`: `training.lora_rank` without peft.
        `FileNotFoundError`, `ValueError`: see [`seqzoo.data.text.load_corpus`].
    """
    # One process reads, trains the tokenizer and fills the caches; the others find them.
    with accelerator.main_process_first():
        corpus, tokenizer, row, held_out = _prepare_text(recipe)
    model = build_model(recipe, tokenizer)
    objective = _objective(accelerator, held_out, recipe, model, tokenizer)
    lora_rank = recipe.training.lora_rank
    return Prepared(
        model=model,
        batches=_batches(recipe, corpus, tokenizer, row),
        objective=objective,
        processor=tokenizer,
        summary=f"{len(row):,} training tokens" if row is not None else "streamed text",
        data=_data(recipe, corpus, row, held_out),
        training={
            "objective": recipe.training.objective,
            **({"lora_rank": lora_rank} if lora_rank else {}),
            "sequence_length": recipe.data.sequence_length,
        },
        evaluate=lambda model: _final_evaluation(objective, model, row, len(tokenizer)),
        libraries=["tokenizers", *(["peft"] if lora_rank else [])],
    )


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
        train = {"bpe": train_tokenizer, "words": train_word_tokenizer}[recipe.tokenizer.kind]
        tokenizer = train(texts, recipe.tokenizer.vocab_size)
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
    positions = getattr(objective.accelerator.unwrap_model(model).config, "position_embedding_type", None)
    return result | ({"position_embedding_type": positions} if positions else {})


def _data(recipe: Recipe, corpus: Corpus, row: TokenRow | None, held_out: TokenRow) -> dict[str, Any]:
    validation, license = recipe.data.validation, recipe.data.license or corpus.license
    return {
        "source": corpus.source,
        **({"dataset": corpus.dataset} if corpus.dataset else {}),
        **({"validation": [validation] if isinstance(validation, str) else validation} if validation else {}),
        "streaming": row is None,
        "sha256": corpus.sha256,
        "python": platform.python_version(),
        "train_tokens": None if row is None else len(row),
        "train_bytes": None if row is None else row.bytes,
        "validation_tokens": len(held_out),
        "validation_bytes": held_out.bytes,
        **({"license": license} if license else {}),
    }


def weightless_model(recipe: Recipe) -> PreTrainedModel:
    """The model of a recipe on the meta device: its shapes and nothing else, without data, weights or network."""
    section = recipe.model
    defaults = {}
    if recipe.tokenizer.vocab_size:  # the end of text comes first in a vocabulary of one's own
        defaults = {"vocab_size": recipe.tokenizer.vocab_size, "bos_token_id": 0, "eos_token_id": 0}
    if section.convert_gpt2 and Path(section.convert_gpt2).is_dir():
        check_config_keys(section)
        config = config_from_gpt2(AutoConfig.from_pretrained(section.convert_gpt2), **section.config)
    else:
        config = known_config(section, defaults)
    check_lengths(recipe, config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """One batch of full shape through a model without storage.

    Returns:
        `model_type`, `parameters`, `trained_parameters`, `batch` (`[sequences, tokens]` of a step over all processes),
        `tokens` of the whole training, and `logits` (shape).
    """
    model = weightless_model(recipe)
    parameters = model.num_parameters()
    with torch.device("meta"):
        choose_parameters(model, recipe)
    shape = (recipe.training.batch_size, recipe.data.sequence_length)
    tokens = torch.zeros(shape, dtype=torch.long, device="meta")
    inputs = {"input_ids": tokens, "labels": tokens}
    if recipe.data.packing == "separate":
        inputs["position_ids"] = tokens
    # With a cache, transformers does not look for packed documents: it would have to read positions without storage.
    output = model(**inputs, use_cache=True)
    return {
        "model_type": model.config.model_type,
        "parameters": parameters,
        "trained_parameters": trained_parameters(model),
        "batch": list(shape),
        "tokens": shape[0] * shape[1] * recipe.training.steps,
        "logits": list(output.logits.shape),
    }


if __name__ == "__main__":
    sys.exit(main())
