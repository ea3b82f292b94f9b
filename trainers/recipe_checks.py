"""What the types of a recipe cannot say: ranges, and keys that contradict each other or do not belong to its task."""

import math
from typing import TYPE_CHECKING

from seqzoo.trainers.recipe_parsing import RecipeError


if TYPE_CHECKING:
    from seqzoo.trainers.recipe import Recipe

_POSITIVE = {
    "data": ("num_proc", "shuffle_buffer", "sequence_length"),
    "training": (
        *("steps", "batch_size", "gradient_accumulation_steps", "lr", "max_grad_norm", "checkpoint_every"),
        *("distill_temperature", "lora_rank", "lora_alpha", "residual_lr", "max_minutes"),
    ),
    "evaluation": ("every", "max_tokens", "batch_size"),
    "tracking": ("log_every",),
}
_CONVERSION_KEYS = ("objective", "distill_weight", "distill_temperature", "lora_rank", "lora_alpha", "lora_targets")


def check(recipe: "Recipe") -> None:
    """Refuse what cannot be trained.

    Raises:
        `RecipeError`: it names the key and the remedy.
    """
    for section, keys in _POSITIVE.items():
        for key in keys:
            value = getattr(getattr(recipe, section), key, None)
            if value is not None and not 0 < value < math.inf:
                raise RecipeError(f"{section}.{key} is {value}, but must be a number greater than 0")
    training = recipe.training
    for key in ("betas", "residual_betas"):
        betas = getattr(training, key)
        if betas is not None and (len(betas) != 2 or not all(0 <= beta < 1 for beta in betas)):
            raise RecipeError(f"training.{key} is {betas}, but takes two numbers in [0, 1)")
    if training.residual_betas is not None and training.optimizer == "sgd":
        raise RecipeError("training.residual_betas is for AdamW, not for training.optimizer sgd; remove it")
    if not 0 <= training.warmup_steps <= training.steps:
        raise RecipeError(
            f"training.warmup_steps is {training.warmup_steps}, but training.steps is {training.steps}: lower it"
        )
    if training.batch_size % training.gradient_accumulation_steps:
        raise RecipeError(
            f"training.batch_size {training.batch_size} cannot be cut into "
            f"training.gradient_accumulation_steps {training.gradient_accumulation_steps}; make it a multiple"
        )
    if training.keep_checkpoints < 1:
        raise RecipeError(f"training.keep_checkpoints is {training.keep_checkpoints}, but one has to stay")
    if training.resume and training.overwrite:
        raise RecipeError("training.resume and training.overwrite exclude each other; keep one")
    if training.keep_best and recipe.evaluation.every is None:
        raise RecipeError("training.keep_best needs evaluation.every: the best model is chosen while training")
    if recipe.task == "causal_lm":
        _check_tokenizer(recipe)
        _check_conversion(recipe)
        if min(recipe.evaluation.lengths, default=1) < 1:
            raise RecipeError(f"evaluation.lengths is {recipe.evaluation.lengths}, but a window has at least 1 token")
    else:
        _refuse_text_keys(recipe)
    recipe.data.check()


def _refuse_text_keys(recipe: "Recipe") -> None:
    """Keys that only a language model has a use for."""
    chosen = {
        "model.convert_gpt2": recipe.model.convert_gpt2,
        "model.teacher": recipe.model.teacher,
        "tokenizer.path": recipe.tokenizer.path,
        "tokenizer.vocab_size": recipe.tokenizer.vocab_size,
        "tokenizer.kind": recipe.tokenizer.kind != "bpe",
        "evaluation.lengths": recipe.evaluation.lengths,
    }
    chosen |= {f"training.{key}": getattr(recipe.training, key) for key in _CONVERSION_KEYS}
    for key, value in chosen.items():
        if value:
            raise RecipeError(f"{key} belongs to the task causal_lm, not to {recipe.task}; remove it")


def _check_tokenizer(recipe: "Recipe") -> None:
    model, tokenizer = recipe.model, recipe.tokenizer
    if model.init_from and model.convert_gpt2:
        raise RecipeError("model.init_from and model.convert_gpt2 exclude each other; keep one")
    if tokenizer.path and tokenizer.vocab_size:
        raise RecipeError("tokenizer.path and tokenizer.vocab_size exclude each other; keep one")
    if tokenizer.kind == "words" and not tokenizer.vocab_size:
        raise RecipeError(
            "tokenizer.kind words is for a tokenizer that is to be trained: set tokenizer.vocab_size, the most words "
            "that it may know, or leave kind out"
        )
    if not (tokenizer.path or tokenizer.vocab_size or model.init_from or model.convert_gpt2):
        raise RecipeError("a model from scratch needs a tokenizer: set tokenizer.path or tokenizer.vocab_size")
    needs = {"bpe": (257, "256 bytes and the end of text"), "words": (3, "<eos>, <unk> and a word")}
    least, what = needs[tokenizer.kind]
    if tokenizer.vocab_size is not None and tokenizer.vocab_size < least:
        raise RecipeError(f"tokenizer.vocab_size is {tokenizer.vocab_size}; {what} need {least}")
    if tokenizer.vocab_size and (model.init_from or model.convert_gpt2):
        raise RecipeError("tokenizer.vocab_size would train a tokenizer that the given weights do not know; remove it")


def _check_conversion(recipe: "Recipe") -> None:
    model, training = recipe.model, recipe.training
    objective, pretrained = training.objective or "language_modeling", model.init_from or model.convert_gpt2
    if objective == "language_modeling" and model.teacher:
        raise RecipeError("model.teacher belongs to training.objective align or distill, not to language_modeling")
    if objective != "language_modeling" and not (model.teacher or model.convert_gpt2):
        raise RecipeError(f"training.objective {objective} needs model.teacher: the GPT-2 to learn from")
    for key in ("distill_weight", "distill_temperature"):
        if getattr(training, key) is not None and objective != "distill":
            raise RecipeError(f"training.{key} belongs to training.objective distill, not to {objective}; remove it")
    for key in ("lora_alpha", "lora_targets"):
        if getattr(training, key) is not None and training.lora_rank is None:
            raise RecipeError(f"training.{key} belongs to training.lora_rank, which is not set; remove it")
    if not 0 <= (training.distill_weight or 0) <= 1:
        raise RecipeError(f"training.distill_weight is {training.distill_weight}, but must lie between 0 and 1")
    for key, chosen in (("objective align", objective == "align"), ("lora_rank", training.lora_rank)):
        if chosen and not pretrained:
            raise RecipeError(
                f"training.{key} leaves most weights as they are, and these would be random: set model.convert_gpt2 "
                "or model.init_from"
            )
    if training.lora_targets == []:
        raise RecipeError("training.lora_targets is empty; name modules, or remove it for all of GPT-2's matrices")
    if training.gradient_checkpointing and objective == "align":
        raise RecipeError("training.gradient_checkpointing does nothing for training.objective align; remove it")
