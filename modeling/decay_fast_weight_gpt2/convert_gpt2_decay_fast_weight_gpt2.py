"""From a GPT-2 checkpoint to the start of a Decaying Fast Weight GPT-2: the config and the weights that both share.

Swap, then fine-tune (Mao 2022): everything of GPT-2 but the softmax is kept. Embeddings, layer norms, MLPs, value and
output projections are GPT-2's, and so are query and key projections unless their size changes (`state_size`). Gates
and learned feature maps are new. Layers in `softmax_layers` stay as they are.
"""

from dataclasses import fields
from difflib import get_close_matches

import torch
from transformers import GPT2Config, PreTrainedConfig

from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config


# Variants of attention that have no counterpart in the memory: refused, for the converted model would compute
# something else than the checkpoint was trained for.
UNSUPPORTED = ("scale_attn_by_inverse_layer_idx", "add_cross_attention")

# Decided by the checkpoint's weights, or by the library.
FIXED = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "tie_word_embeddings")
WRITTEN_ON_SAVE = ("architectures", "transformers_version")


def require_gpt2(config: PreTrainedConfig) -> None:
    """Raises `ValueError` unless `config` is that of a GPT-2 that can be converted."""
    if config.model_type != "gpt2":
        raise ValueError(f"only GPT-2 checkpoints (model_type 'gpt2') convert; this one is '{config.model_type}'")
    for name in UNSUPPORTED:
        if getattr(config, name):
            raise ValueError(f"a GPT-2 with {name}=True cannot be converted")


def config_from_gpt2(gpt2: GPT2Config, **overrides) -> DecayFastWeightGPT2Config:
    """The config of the converted model: the fields that GPT-2 has too, then `overrides` by field name.

    Raises:
        ValueError: `gpt2` cannot be converted, or an override is no field of [`DecayFastWeightGPT2Config`] or is a
            size that the checkpoint's weights decide.
    """
    require_gpt2(gpt2)
    names = {field.name for field in fields(DecayFastWeightGPT2Config)}
    for name, value in overrides.items():
        if name not in names:
            nearest = get_close_matches(name, names, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(f"{name} is not a field of DecayFastWeightGPT2Config{hint}")
        if name in FIXED and value != getattr(gpt2, name):
            raise ValueError(f"{name}={value} differs from the checkpoint's {getattr(gpt2, name)}")
    shared = names & {field.name for field in fields(GPT2Config)} - set(WRITTEN_ON_SAVE)
    values = {name: getattr(gpt2, name) for name in shared}
    if not gpt2.scale_attn_weights and not (overrides.get("normalize") and not overrides.get("softmax_layers")):
        values["scale"] = 1.0  # attention normalisation would cancel it
    return DecayFastWeightGPT2Config(**(values | overrides))


def weights_from_gpt2(weights: dict[str, torch.Tensor], config: DecayFastWeightGPT2Config) -> dict[str, torch.Tensor]:
    """The part of a `GPT2LMHeadModel`'s state dict that the converted model has too, by the same names.

    With queries and keys of a size of their own, only the value third of a memory's `c_attn` is shared; it is returned
    as `c_attn` with the query and key columns left out, for [`DecayFastWeightGPT2LMHeadModel.from_gpt2`] to put at the
    end of the new projection.
    """
    kept = tuple(f"transformer.h.{layer}." for layer in config.softmax_layers)
    shared = {}
    for name, weight in weights.items():
        if "attn.c_attn" in name and config.query_dim != config.head_dim and not name.startswith(kept):
            weight = weight[..., 2 * config.n_embd :]
        if name != "transformer.wpe.weight" or config.position_embedding_type != "none":
            shared[name] = weight
    return shared
