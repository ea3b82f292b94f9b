"""What a residual weight costs: ReZero layers beside Pre-LN, and whole models beside the library's GPT-2."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe, interleaved_medians, one_thread
from seqzoo.modeling.rezero_transformer.configuration_rezero_transformer import ReZeroTransformerConfig
from seqzoo.modeling.rezero_transformer.layer_rezero_transformer import ReZeroTransformerLayer
from seqzoo.modeling.rezero_transformer.modeling_rezero_transformer import ReZeroTransformerForCausalLM


# The paper's 12-layer size. Dropout is the same code everywhere, so it is off.
SIZE = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}
SEQUENCE = 512
LAYER_BATCH, MODEL_BATCH = 8, 4
CONTEXT = 480
KINDS = ("rezero", "pre_norm", "identity")

FOLDED = "ReZero, folded"
GPT2 = "GPT-2"
ACTIVATIONS = {GPT2: "gelu_new", "GPT-2, relu": "relu"}


def config(residual: str, size: dict[str, int], sequence: int) -> ReZeroTransformerConfig:
    return ReZeroTransformerConfig(
        **size, residual=residual, max_position_embeddings=sequence, dropout=0.0, attention_dropout=0.0
    )


def randomized(module: nn.Module) -> nn.Module:
    """With residual weights that are not 0, as after training."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


def saved_bytes(layer: nn.Module, x: torch.Tensor) -> int:
    """What autograd keeps from one forward pass for the backward pass, parameters aside."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x)
    del output
    return sum(kept.values())


def compare_layers(size: dict[str, int], sequence: int, repeats: int) -> dict[str, dict[str, float]]:
    """Kind -> `ms` of a forward and backward pass of one layer, and `saved_bytes` between the two."""
    x = torch.randn(LAYER_BATCH, sequence, size["hidden_size"], requires_grad=True)
    gradient = torch.randn_like(x)
    layers = {}
    for kind in KINDS:
        own = config(kind, size, sequence)
        own._attn_implementation = "sdpa"
        layers[kind] = randomized(ReZeroTransformerLayer(own, 0, "alone")).train()

    def step(layer: nn.Module) -> None:
        layer.zero_grad()
        layer(x).backward(gradient)

    times = interleaved_medians({kind: partial(step, layer) for kind, layer in layers.items()}, repeats)
    return {kind: {"ms": times[kind], "saved_bytes": saved_bytes(layer, x)} for kind, layer in layers.items()}


def models(size: dict[str, int], sequence: int) -> dict[str, PreTrainedModel]:
    """Contenders of one size and vocabulary, with residual weights as after training."""
    found = {}
    for name, kind in (("ReZero", "rezero"), (FOLDED, "rezero"), ("Pre-LN", "pre_norm")):
        torch.manual_seed(0)
        found[name] = randomized(ReZeroTransformerForCausalLM(config(kind, size, sequence)))
    found[FOLDED].fold_residual_weights()
    for name, activation in ACTIVATIONS.items():
        options = {"bos_token_id": 0, "eos_token_id": 0, "activation_function": activation}
        options |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        gpt2 = GPT2Config(
            vocab_size=257,
            n_positions=sequence,
            n_embd=size["hidden_size"],
            n_layer=size["num_hidden_layers"],
            n_head=size["num_attention_heads"],
            n_inner=size["intermediate_size"],
            **options,
        )
        found[name] = GPT2LMHeadModel(gpt2)
    return found


def compare_models(size: dict[str, int], sequence: int, repeats: int) -> dict[str, dict[str, float]]:
    """Name -> `step_ms` of a forward and backward pass, `token_ms` of a decoded token behind a context."""
    contenders = models(size, sequence)
    ids = torch.randint(257, (MODEL_BATCH, sequence))

    def step(model: PreTrainedModel) -> None:
        model.train().zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()

    trained = {name: model for name, model in contenders.items() if name != FOLDED}
    steps = interleaved_medians({name: partial(step, model) for name, model in trained.items()}, repeats)

    def token(model: PreTrainedModel, cache) -> None:
        with torch.inference_mode():
            model(ids[:1, -1:], past_key_values=cache, logits_to_keep=1)
            cache.crop(-1)

    context = sequence * CONTEXT // SEQUENCE
    caches = {}
    with torch.inference_mode():
        for name, model in contenders.items():
            caches[name] = model.eval()(ids[:1, :context], use_cache=True).past_key_values
    tokens = interleaved_medians(
        {name: partial(token, model, caches[name]) for name, model in contenders.items()}, 10 * repeats
    )
    return {name: {"step_ms": steps.get(name), "token_ms": tokens[name]} for name in contenders}


def run(
    progress: Callable[[str], None] = print,
    size: dict[str, int] = SIZE,
    sequence: int = SEQUENCE,
    repeats: int = 7,
) -> dict:
    """The paper's 12-layer size, random weights, float32, one thread."""
    with one_thread():
        progress("one layer, forward and backward")
        layers = compare_layers(size, sequence, repeats)
        progress("whole models, training step and decoding")
        whole = compare_models(size, sequence, repeats)
    rezero, pre_norm = layers["rezero"], layers["pre_norm"]
    bars = [
        bar("layer, training step: ReZero / Pre-LN", rezero["ms"] / pre_norm["ms"], "<=", 1.02),
        bar("layer, saved for backward: ReZero / Pre-LN", rezero["saved_bytes"] / pre_norm["saved_bytes"], "<=", 0.92),
    ]
    for name, key, what in (
        ("ReZero", "step_ms", "training step"),
        ("ReZero", "token_ms", "decoded token"),
        (FOLDED, "token_ms", "decoded token"),
    ):
        bars.append(bar(f"model, {what}: {name} / {GPT2}", whole[name][key] / whole[GPT2][key], "<=", 1.0))
    return {
        "machine": describe(),
        "size": size | {"sequence": sequence},
        "layers": layers,
        "models": whole,
        "bars": bars,
    }


def to_markdown(result: dict) -> str:
    """Tables of layers, of models, and of bars."""
    size = result["size"]
    lines = [
        f"Width {size['hidden_size']}, {size['num_attention_heads']} heads, feed-forward {size['intermediate_size']}, "
        f"sequences of {size['sequence']}, no dropout, random weights, float32, one thread, all contenders in turn.",
        "",
        f"| one layer, batch {LAYER_BATCH} | forward and backward, CPU ms | saved for backward, MB |",
        "|---|---|---|",
    ]
    for kind, entry in result["layers"].items():
        lines.append(f"| {kind} | {entry['ms']:.0f} | {entry['saved_bytes'] / 1e6:.1f} |")
    lines += [
        "",
        f"| {size['num_hidden_layers']} layers | training step, batch {MODEL_BATCH}, CPU ms | decoded token, CPU ms |",
        "|---|---|---|",
    ]
    for name, entry in result["models"].items():
        step = "" if entry["step_ms"] is None else f"{entry['step_ms']:.0f}"
        lines.append(f"| {name} | {step} | {entry['token_ms']:.1f} |")
    return "\n".join(lines) + "\n\n" + bars_to_markdown(result["bars"])
