"""Every rule's op beside other people's torch code for the same rule, and a decoding step beside a Mamba's.

Float32, one thread, batch 1, 12 heads of 64. Peers are the `naive` functions of flash-linear-attention (its other
functions are Triton and need a GPU), the torch form of the gated delta rule that transformers' Qwen3-Next falls back
to, and transformers' Mamba with its torch path. Each peer's output is compared with ours before it is timed. A peer
that is not installed is left out, with the reason.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from seqzoo.benchmarks.decaying_fast_weights import HEADS, SIZE, forward, forward_backward
from seqzoo.benchmarks.generation import filled_cache
from seqzoo.benchmarks.machine import describe, interleaved_medians, one_thread
from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights
from seqzoo.kernels.delta_fast_weights import delta_fast_weights
from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config
from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel


# time -> (repeats forward, repeats with backward)
TIMES = {1024: (11, 7), 4096: (5, 3)}
CHECKED_TIME = 128
DECODING_CONTEXT, DECODING_STEPS = 4096, 11
INSTALL = "pip install --no-deps fla-core einops"

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Contender:
    """One implementation of one rule.

    Args:
        rule (`str`):
            Contenders of a rule compute the same; the first of them is ours.
        name (`str`):
            Who it is.
        inputs (`tuple[str, ...]`):
            Names of its inputs in [`make_inputs`].
        load (`Callable`):
            Gives the function of these inputs, [1, time, 12, 64] out; raises `ImportError` where it is not installed.
        loop (`bool`):
            It loops over time: timed at the shortest length alone, and without its backward pass, whose time is
            quadratic where a loop indexes its inputs.
    """

    rule: str
    name: str
    inputs: tuple[str, ...]
    load: Callable[[], Callable[..., torch.Tensor]]
    loop: bool = False


def make_inputs(time: int) -> Inputs:
    """[1, time, 12, 64]: q, k, v, unit keys and log gates; [1, time, 12]: scalar log gates `g`, no gate, `beta`."""
    q, k, v = torch.randn(3, 1, time, HEADS, SIZE)
    logits = torch.randn(2, 1, time, HEADS, SIZE)
    gk, gv = F.logsigmoid(logits + 3)
    exact_gk, exact_gv = F.logsigmoid(8 * logits + 3)
    g, beta = torch.randn(2, 1, time, HEADS)
    return {
        **{"q": q, "k": k, "v": v, "unit_k": F.normalize(k, dim=-1)},
        **{"gk": gk, "gv": gv, "exact_gk": exact_gk, "exact_gv": exact_gv},
        **{"g": F.logsigmoid(g + 3), "no_g": torch.zeros(1, time, HEADS), "beta": beta.sigmoid()},
    }


# Ours


def _decay(q, k, v, gk=None, gv=None) -> torch.Tensor:
    return decaying_fast_weights(q, k, v, gk, gv, implementation="chunked")[0]


def _scalar_decay(q, k, v, g) -> torch.Tensor:
    return _decay(q, k, v, g.unsqueeze(-1).expand_as(k))


def _delta(q, k, v, beta, implementation="chunked") -> torch.Tensor:
    return delta_fast_weights(q, k, v, beta, implementation=implementation)[0]


# Peers


def _fla(module: str, name: str) -> Callable:
    """A function of flash-linear-attention's `ops/<module>/naive.py`, without the package, which needs Triton."""
    package = find_spec("fla")
    if package is None or find_spec("einops") is None:
        raise ImportError(f"flash-linear-attention or einops is not installed; {INSTALL}")
    path = Path(package.submodule_search_locations[0]) / "ops" / module / "naive.py"
    if not path.is_file():
        raise ImportError(f"this release of flash-linear-attention has no ops/{module}/naive.py")
    spec = spec_from_file_location(f"fla_{module}_naive", path)
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def _first(load: Callable[[], Callable]) -> Callable[[], Callable[..., torch.Tensor]]:
    """For functions that return (output, state)."""

    def loaded() -> Callable[..., torch.Tensor]:
        function = load()
        return lambda *inputs: function(*inputs)[0]

    return loaded


def _fla_delta() -> Callable[..., torch.Tensor]:
    function = _fla("delta_rule", "delta_rule_chunkwise")  # heads before time

    def delta(q, k, v, beta) -> torch.Tensor:
        return function(*(x.transpose(1, 2) for x in (q, k, v, beta)))[0].transpose(1, 2)

    return delta


def _qwen3_next() -> Callable[..., torch.Tensor]:
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    # Beside an installed flash-linear-attention, the name stands for its Triton function.
    function = inspect.unwrap(torch_chunk_gated_delta_rule)
    return lambda q, k, v, g, beta: function(q, k, v, g=g, beta=beta)[0]


def _attention(q, k, v) -> torch.Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


QKV, UNIT = ("q", "k", "v"), ("q", "unit_k", "v")
BOTH, EXACT, KEY, SCALAR, NONE, DELTA, SOFTMAX = (
    "gates on both sides",
    "gates on both sides, logits x 8",
    "gate on the key side",
    "one gate a head",
    "no gate",
    "delta",
    "softmax attention",
)
CONTENDERS = (
    Contender(BOTH, "ours, chunked", (*QKV, "gk", "gv"), lambda: _decay),
    Contender(EXACT, "ours, chunked", (*QKV, "exact_gk", "exact_gv"), lambda: _decay),
    Contender(KEY, "ours, chunked", (*QKV, "gk"), lambda: _decay),
    Contender(
        KEY, "fla, naive_recurrent_gla", (*QKV, "gk"), _first(partial(_fla, "gla", "naive_recurrent_gla")), True
    ),
    Contender(SCALAR, "ours, chunked", (*QKV, "g"), lambda: _scalar_decay),
    Contender(
        SCALAR,
        "fla, naive_chunk_simple_gla",
        (*QKV, "g"),
        _first(partial(_fla, "simple_gla", "naive_chunk_simple_gla")),
    ),
    Contender(NONE, "ours, chunked", QKV, lambda: _decay),
    Contender(
        NONE, "fla, naive_chunk_linear_attn", QKV, _first(partial(_fla, "linear_attn", "naive_chunk_linear_attn"))
    ),
    Contender(DELTA, "ours, chunked", (*UNIT, "beta"), lambda: _delta),
    Contender(
        DELTA, "ours, recurrent", (*UNIT, "beta"), lambda: partial(_delta, implementation="recurrent"), loop=True
    ),
    Contender(DELTA, "fla, delta_rule_chunkwise", (*UNIT, "beta"), _fla_delta),
    Contender(DELTA, "transformers, Qwen3-Next's torch form", (*UNIT, "no_g", "beta"), _qwen3_next),
    Contender(SOFTMAX, "torch", QKV, lambda: _attention),
)


def run(
    progress: Callable[[str], None] = print,
    *,
    times: dict[int, tuple[int, int]] = TIMES,
    decoding: bool = True,
) -> dict:
    """All measurements as plain values.

    Returns:
        `machine`; `rules`: rule -> name -> `forward` and `forward_backward` (time -> CPU milliseconds) and, but for
        the first of a rule, `difference` (largest from the first, relative to its largest entry); `decoding`: model ->
        `ms_per_token`, `parameters`; `left_out`: name -> reason; no `bars`, for none was promised.
    """
    torch.manual_seed(0)
    functions, left_out = {}, {}
    for contender in CONTENDERS:
        try:
            functions[contender] = contender.load()
        except ImportError as error:
            left_out[contender.name] = str(error)
            progress(f"left out: {contender.name}: {error}")
    rules = {}
    for contender in functions:
        rules.setdefault(contender.rule, {})[contender.name] = {"forward": {}, "forward_backward": {}}
    with one_thread():
        for contender, difference in _differences(functions).items():
            rules[contender.rule][contender.name]["difference"] = difference
        for time, repeats in times.items():
            inputs = make_inputs(time)
            for kind, measured, count in zip(
                ("forward", "forward_backward"), (forward, forward_backward), repeats, strict=True
            ):
                progress(f"T={time:,} {kind.replace('_', ' and ')}, {count} times each")
                calls = {
                    contender: partial(measured, _of_a_list(function), [inputs[name] for name in contender.inputs])
                    for contender, function in functions.items()
                    if not (contender.loop and (measured is forward_backward or time > min(times)))
                }
                for contender, milliseconds in interleaved_medians(calls, count).items():
                    rules[contender.rule][contender.name][kind][str(time)] = milliseconds
        steps = _decoding_times(progress) if decoding else {}
    return {"machine": describe(), "rules": rules, "decoding": steps, "left_out": left_out, "bars": []}


def _of_a_list(function: Callable[..., torch.Tensor]) -> Callable[[list[torch.Tensor]], torch.Tensor]:
    return lambda inputs: function(*inputs)


@torch.no_grad()
def _differences(functions: dict[Contender, Callable]) -> dict[Contender, float]:
    """How far each output is from that of the first contender of its rule, relative to its largest entry."""
    inputs = make_inputs(CHECKED_TIME)
    ours, differences = {}, {}
    for contender, function in functions.items():
        output = function(*(inputs[name] for name in contender.inputs))
        expected = ours.setdefault(contender.rule, output)
        if output is not expected:
            differences[contender] = float((output - expected).abs().max() / expected.abs().max())
            if not differences[contender] < 1e-4:
                raise ValueError(f"{contender.name} does not compute what ours does: {differences[contender]:.1e} off")
    return differences


def _decoding_times(progress: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """A token of GPT-2-small sizes, random weights."""
    progress(f"a token of models of GPT-2-small's size, {DECODING_STEPS} steps each")
    positions = DECODING_CONTEXT + 2 * DECODING_STEPS
    models = {
        **{
            f"ours, {rule}": DecayFastWeightGPT2LMHeadModel(
                DecayFastWeightGPT2Config(n_positions=positions, update_rule=rule)
            )
            for rule in ("decay", "delta", "gated", "sum")
        },
        "GPT-2, dynamic cache": GPT2LMHeadModel(GPT2Config(n_positions=positions)),
        "Mamba, torch path": MambaForCausalLM(MambaConfig(num_hidden_layers=24)),
    }
    token = torch.tensor([[5]])
    steps, caches = {}, {}
    with torch.inference_mode():
        for name, model in models.items():
            model.eval()
            if isinstance(model, MambaForCausalLM):
                caches[name] = model(token.expand(1, 8), use_cache=True).cache_params
                steps[name] = partial(model, token, cache_params=caches[name], use_cache=True, logits_to_keep=1)
            else:
                caches[name] = filled_cache(model, DECODING_CONTEXT)
                steps[name] = partial(model, token, past_key_values=caches[name], logits_to_keep=1)
        times = interleaved_medians(steps, DECODING_STEPS)
    return {
        name: {"ms_per_token": times[name], "parameters": model.num_parameters()} for name, model in models.items()
    }


def to_markdown(result: dict) -> str:
    """Tables of times and ratios."""
    times = list(next(iter(next(iter(result["rules"].values())).values()))["forward"])
    kinds = [(kind, time) for time in times for kind in ("forward", "forward_backward")]
    heads = [f"{kind.replace('_', ' + ')}, T={int(time):,}" for kind, time in kinds]
    lines = [
        "Float32, one thread, batch 1, 12 heads of 64; CPU ms, medians, all contenders in turn. In brackets: how many "
        "times as long as ours of the same rule. Loops over time are timed forward at the shortest length alone.",
        "",
        "| rule | contender | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(heads),
    ]
    for rule, contenders in result["rules"].items():
        ours = next(iter(contenders.values()))
        for name, entry in contenders.items():
            cells = []
            for kind, time in kinds:
                milliseconds = entry[kind].get(time)
                ratio = "" if entry is ours or milliseconds is None else f" ({milliseconds / ours[kind][time]:.1f}x)"
                cells.append("" if milliseconds is None else f"{milliseconds:,.1f}{ratio}")
            lines.append(f"| {rule} | {name} | " + " | ".join(cells) + " |")
    differences = [
        entry["difference"] for names in result["rules"].values() for entry in names.values() if "difference" in entry
    ]
    if differences:
        lines += ["", f"Outputs of one rule differ by {max(differences):.0e} of the largest entry at most."]
    if result["decoding"]:
        lines += [
            "",
            f"Models of GPT-2-small's size with random weights; GPT-2 and ours with {DECODING_CONTEXT:,} tokens of "
            "context.",
            "",
            "| model | parameters (millions) | CPU ms a token |",
            "|---|---|---|",
        ]
        for name, entry in result["decoding"].items():
            lines.append(f"| {name} | {entry['parameters'] / 1e6:.0f} | {entry['ms_per_token']:.0f} |")
    lines += [f"\nLeft out: {name}: {reason}." for name, reason in result["left_out"].items()]
    return "\n".join(lines)
