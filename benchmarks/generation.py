"""Time a token and cache size against context: decaying fast weights beside GPT-2 with the library's caches."""

from collections.abc import Callable
from functools import partial

import torch
from transformers import Cache, DynamicCache, GPT2Config, GPT2LMHeadModel, PreTrainedModel, StaticCache

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe, interleaved_medians, one_thread
from seqzoo.modeling.decay_fast_weight_gpt2.cache_decay_fast_weight_gpt2 import (
    DecayFastWeightCache,
    FastWeightCacheLayer,
)
from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config
from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel


CONTEXTS = (128, 1024, 4096, 16_384)
STEPS = 15
CALLS = 2 * STEPS  # each timed step comes after an untimed one

OURS = "decaying fast weights"
DYNAMIC = "GPT-2, dynamic cache"
STATIC = "GPT-2, static cache"

# (peer, context, how many times faster ours has to be)
BARS = ((DYNAMIC, 4096, 3.0), (DYNAMIC, 16_384, 12.0), (STATIC, 4096, 1.6), (STATIC, 16_384, 2.7))


def cache_bytes(cache: Cache) -> int:
    """Bytes of all tensors that a cache holds."""
    tensors = [
        tensor
        for layer in cache.layers
        for tensor in ([layer.state] if isinstance(layer, FastWeightCacheLayer) else [layer.keys, layer.values])
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def filled_cache(model: PreTrainedModel, context: int, static: bool = False) -> Cache:
    """A cache as after `context` tokens, filled with noise: what a step costs does not depend on the values."""
    config = model.config
    if isinstance(model, DecayFastWeightGPT2LMHeadModel):
        cache = DecayFastWeightCache(config)
    elif static:
        cache = StaticCache(config=config, max_cache_len=context + CALLS)
    else:
        cache = DynamicCache(config=config)
    for layer_idx in range(config.n_layer):
        layer = cache.layers[layer_idx] if layer_idx < len(cache.layers) else None  # a dynamic cache grows
        if isinstance(layer, FastWeightCacheLayer):
            columns = config.head_dim + config.normalize  # the last one holds the weights' sum
            layer.update_recurrent_state(torch.rand(1, config.n_head, config.key_dim, columns), num_tokens=context)
        else:
            keys, values = torch.randn(2, 1, config.n_head, context, config.n_embd // config.n_head)
            cache.update(keys, values, layer_idx)
    return cache


def decode_times(
    contenders: dict[str, tuple[PreTrainedModel, bool]],
    contexts: tuple[int, ...] = CONTEXTS,
    steps: int = STEPS,
) -> dict[str, dict[str, dict[str, float]]]:
    """Median CPU milliseconds of one decoding step and bytes of the cache, on one thread.

    Args:
        contenders: name -> (model, whether it uses a static cache). Models need positions for the longest context.
        contexts: Tokens that are in the cache before the timed steps.
        steps: Timed steps.

    Returns:
        name -> context -> `ms_per_token`, `cache_bytes`.
    """
    token = torch.tensor([[5]])
    with one_thread(), torch.inference_mode():
        caches = {
            (name, context): filled_cache(model, context, static)
            for name, (model, static) in contenders.items()
            for context in contexts
        }

        def step(name: str, context: int) -> None:
            contenders[name][0](token, past_key_values=caches[name, context], logits_to_keep=1)

        times = interleaved_medians({key: partial(step, *key) for key in caches}, steps)
    result = {name: {} for name in contenders}
    for name, context in caches:
        result[name][str(context)] = {
            "ms_per_token": times[name, context],
            "cache_bytes": cache_bytes(caches[name, context]),
        }
    return result


def run(progress: Callable[[str], None] = print) -> dict:
    """GPT-2-small sizes, random weights, float32."""
    progress(f"a token at contexts {', '.join(f'{context:,}' for context in CONTEXTS)}, {STEPS} steps each")
    positions = max(CONTEXTS) + CALLS
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=positions)).eval()
    ours = DecayFastWeightGPT2LMHeadModel(DecayFastWeightGPT2Config(n_positions=positions)).eval()
    times = decode_times({OURS: (ours, False), DYNAMIC: (gpt2, False), STATIC: (gpt2, True)})
    milliseconds = [entry["ms_per_token"] for entry in times[OURS].values()]
    sizes = [entry["cache_bytes"] for entry in times[OURS].values()]
    bars = [
        bar("a token at any context / the cheapest", max(milliseconds) / min(milliseconds), "<=", 1.1),
        bar("cache bytes at any context / the smallest", max(sizes) / min(sizes), "<=", 1.0),
    ]
    for peer, context, factor in BARS:
        ratio = times[peer][str(context)]["ms_per_token"] / times[OURS][str(context)]["ms_per_token"]
        bars.append(bar(f"{peer} / ours, a token at {context:,}", ratio, ">=", factor))
    return {"machine": describe(), "times": times, "bars": bars}


def to_markdown(result: dict) -> str:
    """Tables of times, cache sizes and bars."""
    contexts = list(next(iter(result["times"].values())))
    lines = [
        "GPT-2-small sizes (12 layers, 12 heads of 64), random weights, float32, one thread, batch 1. The cache is "
        f"filled, then {STEPS} steps are timed, all contenders and contexts in turn.",
        "",
        "| CPU ms a token (cache MB) at context | " + " | ".join(f"{int(context):,}" for context in contexts) + " |",
        "|---|" + "---|" * len(contexts),
    ]
    for name, entries in result["times"].items():
        cells = [f"{entries[c]['ms_per_token']:.0f} ({entries[c]['cache_bytes'] / 1e6:.1f})" for c in contexts]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + bars_to_markdown(result["bars"])
