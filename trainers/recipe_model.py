"""From the `model` section of a recipe to a model: new, loaded or converted; or weightless, to try a recipe out."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from seqzoo.trainers.parameter_groups import residual_weights
from seqzoo.trainers.recipe import ModelSection, Recipe, RecipeError
from seqzoo.trainers.transfer.alignment import train_only_memories
from seqzoo.trainers.transfer.lora import add_lora


def check_sources(recipe: Recipe) -> None:
    """Refuses what can only be a folder of this machine and is not there, before the Hub is asked for it.

    Raises:
        `FileNotFoundError`: it names the key and the folder.
    """
    named = {
        "model.init_from": recipe.model.init_from,
        "model.convert_gpt2": recipe.model.convert_gpt2,
        "model.teacher": recipe.model.teacher,
        "tokenizer.path": recipe.tokenizer.path,
    }
    for key, name in named.items():
        if not name or Path(name).exists():
            continue
        # An id of the Hub is `name` or `user/name`.
        if name.count("/") > 1 or name.startswith(("/", ".", "~")) or Path(name).parts[:-1] == ("runs",):
            raise FileNotFoundError(
                f"{key} is {name}, a folder that is not there (working directory {Path.cwd()}): train it first, or "
                "name another"
            )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model to train, in float32 on the CPU; what the recipe does not train needs no gradient.

    Raises:
        `ImportError`: `training.lora_rank` without peft.
        `RecipeError`: an unknown model type or config key, or a config that fits neither the tokenizer nor the
            `data.sequence_length`.
        `OSError`: `init_from` or `convert_gpt2` names nothing that can be loaded.
        `ValueError`: its weights are damaged.
    """
    section = recipe.model
    if section.convert_gpt2:
        model = _converted_model(section)
    elif section.init_from:
        model = new_or_loaded_model(section, AutoModelForCausalLM)
    else:
        model = new_or_loaded_model(section, AutoModelForCausalLM, special_tokens(tokenizer))
        # For batches of prompts. Not in the config: there GPT-2 would take each end of text for padding.
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if model.config.vocab_size < len(tokenizer):
        raise RecipeError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model a vocab_size of {model.config.vocab_size}; "
            "leave model.config.vocab_size out, or use the tokenizer that the model was trained with"
        )
    check_lengths(recipe, model.config)
    columns = [name for name in getattr(model, "new_parameters", ()) if "columns" in name]
    if recipe.training.lora_rank and columns:
        raise RecipeError(
            f"training.lora_rank would leave {columns[0]} random but for a low rank: with this "
            "model.config.state_size they do not come from GPT-2. Train in full, or leave state_size out"
        )
    choose_parameters(model, recipe)
    return model


def new_or_loaded_model(
    section: ModelSection, auto_class: type, defaults: dict[str, Any] | None = None
) -> PreTrainedModel:
    """A model in float32: the weights of `init_from`, or a new one, for whose config see [`new_config`].

    Args:
        section (`ModelSection`):
            Of the recipe, without `convert_gpt2`.
        auto_class (`type`):
            The Auto class of the model's head.
        defaults (`dict`, *optional*):
            For a new config.

    Raises:
        `RecipeError`, `OSError`, `ValueError`: see [`build_model`].
    """
    source = section.init_from
    if not source:
        return auto_class.from_config(new_config(section, defaults or {}))
    check_config_keys(section)
    config = AutoConfig.from_pretrained(source, **section.config)
    try:
        model, loaded = auto_class.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(_damaged(source, error)) from error
    if loaded["missing_keys"]:  # they would silently be random
        raise ValueError(
            f"the weights in {source} lack {', '.join(sorted(loaded['missing_keys']))}: save them again, or leave "
            "model.config as it was"
        )
    _check_type(section, model, source)
    return model


def _converted_model(section: ModelSection) -> PreTrainedModel:
    from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel

    check_config_keys(section)
    try:
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(section.convert_gpt2, **section.config)
    except SafetensorError as error:
        raise ValueError(_damaged(section.convert_gpt2, error)) from error
    _check_type(section, model, section.convert_gpt2)
    return model


def _damaged(source: str, error: SafetensorError) -> str:
    return f"the weights in {source} are damaged or incomplete ({error}); fetch them again"


def _check_type(section: ModelSection, model: PreTrainedModel, source: str) -> None:
    if model.config.model_type != section.model_type:
        raise RecipeError(f"model.model_type is {section.model_type}, but {source} is a {model.config.model_type}")


def choose_parameters(model: PreTrainedModel, recipe: Recipe) -> None:
    """Freeze what the recipe does not train, and add what it trains instead."""
    check_residual_keys(model, recipe)
    if recipe.training.lora_rank:
        add_lora(model, recipe.training)
    if recipe.training.objective == "align":
        train_only_memories(model)


def check_residual_keys(model: PreTrainedModel, recipe: Recipe) -> None:
    """Refuse what is for residual weights where there are none."""
    for key in ("residual_lr", "residual_betas"):
        if getattr(recipe.training, key) is not None and not residual_weights(model):
            raise RecipeError(f"training.{key} is for residual weights, which this {model.config.model_type} lacks")


def trained_parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """What a new config takes over from the tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def new_config(section: ModelSection, defaults: dict[str, Any]) -> PreTrainedConfig:
    """The config of a model from scratch; `defaults` fill in what the recipe does not say."""
    check_config_keys(section)
    try:
        return AutoConfig.for_model(section.model_type, **(defaults | section.config))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise RecipeError(f"model.config does not make a {section.model_type} config: {error}") from error


def known_config(section: ModelSection, defaults: dict[str, Any] | None = None) -> PreTrainedConfig:
    """The config of `init_from`, if that is a folder of this machine; else that of a model from scratch."""
    if section.init_from and Path(section.init_from).is_dir():
        check_config_keys(section)
        return AutoConfig.from_pretrained(section.init_from, **section.config)
    return new_config(section, defaults or {})


def require_type(recipe: Recipe, model_type: str) -> None:
    """Raises a `RecipeError` unless the model is of the type that the task is for."""
    if recipe.model.model_type != model_type:
        raise RecipeError(
            f"the task {recipe.task} is for a {model_type}, but model.model_type is {recipe.model.model_type}: change "
            "one of them"
        )


def check_config_keys(section: ModelSection) -> None:
    if section.model_type not in CONFIG_MAPPING:
        nearest = difflib.get_close_matches(section.model_type, list(CONFIG_MAPPING), n=1, cutoff=0.0)[0]
        raise RecipeError(f"model.model_type {section.model_type!r} is unknown; did you mean {nearest}?")
    config_class = CONFIG_MAPPING[section.model_type]
    known = {item.name for item in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    for key in section.config:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise RecipeError(f"unknown key model.config.{key}; did you mean model.config.{nearest}?")


def check_lengths(recipe: Recipe, config: PreTrainedConfig) -> None:
    """Refuse sequences and windows that the model has no positions for."""
    if getattr(config, "position_embedding_type", None) in ("none", "learned_clamped", "sinusoidal"):
        return
    limit = getattr(config, "max_position_embeddings", None)
    lengths = {"data.sequence_length": [recipe.data.sequence_length], "evaluation.lengths": recipe.evaluation.lengths}
    for key, values in lengths.items():
        if limit is not None and max(values, default=0) > limit:
            raise RecipeError(f"{key} reaches {max(values)}, but the model has {limit} positions; lower it")
