"""A state as a file: what a model has read so far, to go on from in another process.

One safetensors file with the tensors of the cache. Its metadata names the model that wrote it by config, dtype and a
digest of the weights, because a state is numbers without a meaning to any other model.
"""

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from seqzoo.modeling.decay_fast_weight_gpt2.cache_decay_fast_weight_gpt2 import (
    DecayFastWeightCache,
    FastWeightCacheLayer,
)


FORMAT = "fast-weight state 1"
# What decides the meaning of a state, beside the weights: to go on from it under another value is another computation.
FIELDS = (
    *("update_rule", "feature_map", "normalize", "gate_sides", "read_before_write", "scale", "softmax_layers"),
    *("n_layer", "n_head", "n_embd", "key_dim", "activation_function", "layer_norm_epsilon"),
    "position_embedding_type",
)


def save_state(model: PreTrainedModel, cache: DecayFastWeightCache, path: str | Path) -> None:
    """As [`DecayFastWeightGPT2PreTrainedModel.save_state`]."""
    if not isinstance(cache, DecayFastWeightCache):
        raise TypeError(f"a {type(cache).__name__} is no state of this model; give its DecayFastWeightCache")
    length = cache.get_seq_length()
    if length == 0:
        raise ValueError("the state is empty: nothing has been read yet")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save the state in")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it, such as {path / 'state.safetensors'}")
    tensors = {}
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, FastWeightCacheLayer):
            tensors[f"{index}.state"] = layer.state
        else:
            tensors |= {f"{index}.keys": layer.keys, f"{index}.values": layer.values}
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    model.base_model.check_cache(cache, next(iter(tensors.values())).shape[0])
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        save_file(tensors, unfinished, {"format": FORMAT, "tokens": str(length), **_describe(model)})
        os.replace(unfinished, path)
    except SafetensorError as error:
        raise OSError(f"the state cannot be written to {path}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def load_state(model: PreTrainedModel, path: str | Path) -> DecayFastWeightCache:
    """As [`DecayFastWeightGPT2PreTrainedModel.load_state`]."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no state {path}")
    try:
        with safe_open(path, "pt", device=str(model.device)) as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise OSError(f"the state {path} is damaged or no safetensors file ({error}); save it again") from error
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path} is not a state that save_state() wrote (format {facts.get('format')!r})")
    for name, value in _describe(model).items():
        if facts.get(name) != value:
            raise ValueError(
                f"the state {path} is another model's: its {name} is {facts.get(name)}, this model's is {value}. "
                "Load it with the model, the weights and the dtype that wrote it."
            )
    cache = DecayFastWeightCache(model.config)
    try:
        for index, layer in enumerate(cache.layers):
            if isinstance(layer, FastWeightCacheLayer):
                layer.update_recurrent_state(tensors[f"{index}.state"], num_tokens=int(facts["tokens"]))
            else:
                layer.update(tensors[f"{index}.keys"], tensors[f"{index}.values"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"the state {path} is incomplete ({error}); save it again") from error
    model.base_model.check_cache(cache, next(iter(tensors.values())).shape[0])
    return cache


def _describe(model: PreTrainedModel) -> dict[str, str]:
    """Config, dtype and a digest of the weights that a state depends on (no head's)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.base_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    facts = {name: str(getattr(model.config, name)) for name in FIELDS}
    return facts | {"dtype": str(model.dtype).removeprefix("torch."), "weights": digest.hexdigest()}
