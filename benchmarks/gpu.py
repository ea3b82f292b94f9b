"""Decaying fast weights on a GPU: the Triton kernels beside attention, other kernels for such rules, and the floor.

bfloat16, batch 8, 12 heads of 64, unless said otherwise. Times are medians of `triton.testing.do_bench`, which empties
the second-level cache before each call. The floor is what it takes to read inputs and write outputs once, at the
bandwidth that a copy of 1 GiB reaches in the same run.

Peers are found by import, and left out with the reason where they are not there: `pip install flash-linear-attention`,
and a checkout of github.com/jenni-ai/T2FW, the paper's own CUDA kernels, on PYTHONPATH (built when imported).
"""

import inspect
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedConfig, PreTrainedModel

from seqzoo.benchmarks.figures import draw_gpu_times
from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe
from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights, decaying_fast_weights_step
from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config
from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel


NEEDS_GPU = True
BATCH, HEADS, SIZE = 8, 12, 64
TIMES = (1024, 2048, 4096, 8192, 16_384)
SLOW_TIMES = (1024, 4096)  # of loops over time
DECODING_BATCHES = (1, 64, 512)
OURS = "ours"
MODEL_TIMES = (1024, 4096, 16_384)
MODEL_TOKENS = 16_384  # of a training step
# Ratio of tokens a second to GPT-2's that is asked of low-rank gates.
MODEL_BARS = {1024: 0.95, 4096: 1.1, 16_384: 1.8}
GENERATION_CONTEXT, GENERATION_STEPS, GENERATION_BATCHES = 16_384, 20, (1, 64)

Measure = Callable[[Callable[[], object]], float]


def milliseconds(function: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return do_bench(function, return_mode="median")


def _inputs(steps: int, batch: int, heads: int, size: int, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v and the log gates of both sides, [batch, time, heads, size]."""
    q, k, v = torch.randn(3, batch, steps, heads, size, device=device, dtype=dtype)
    gk, gv = F.logsigmoid(torch.randn(2, batch, steps, heads, size, device=device) + 3).to(dtype)
    return [q, k, v, gk, gv]


# Contenders


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Args:
        load (`Callable`):
            Imports it and returns the function that is measured.
        times (`tuple[int, ...]`):
            The lengths it is measured at.
        prepare (`Callable`):
            Makes its arguments of q, k, v, gk, gv, unmeasured.
    """

    load: Callable[[], Callable]
    times: tuple[int, ...] = TIMES
    prepare: Callable[[list[torch.Tensor]], list[torch.Tensor]] = list


def _ours(q, k, v, gk, gv):
    return decaying_fast_weights(q, k, v, gk, gv)[0]


def _key_side(q, k, v, gk, gv):
    return decaying_fast_weights(q, k, v, gk)[0]


def _attention(backend: str) -> Callable:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def attention(q, k, v, gk, gv):
        with sdpa_kernel(getattr(SDPBackend, backend)):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return attention


def _fla(name: str, both: bool) -> Callable:
    if find_spec("fla") is None:
        raise ImportError("flash-linear-attention is not installed; pip install flash-linear-attention")
    from fla.ops import gla

    function = getattr(gla, name)
    if both and "gv" not in inspect.signature(function).parameters:
        raise ImportError(f"this release's {name} has no value-side gate")
    key = "gk" if "gk" in inspect.signature(function).parameters else "g"

    def run(q, k, v, gk, gv):
        return function(q, k, v, **{key: gk}, **({"gv": gv} if both else {}))[0]

    return run


def _paper() -> Callable:
    if find_spec("t2fw") is None:
        raise ImportError("the paper's kernels are not importable; put a checkout of jenni-ai/T2FW on PYTHONPATH")
    from t2fw.functional_lfw import LFWFunction

    return lambda *inputs: LFWFunction.apply(*inputs)[0]


def _with_stronger_gates(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gates of half-lives around a step, too strong for the form that takes a chunk at once."""
    q, k, v, gk, gv = inputs
    return [q, k, v, gk - 0.5, gv - 0.5]


def _as_the_paper(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Rows of heads in float16 and gates themselves; values first, the state last."""
    q, k, v, gk, gv = (x.transpose(1, 2).flatten(0, 1).half().contiguous() for x in inputs)
    state = v.new_zeros(v.shape[0], v.shape[-1], k.shape[-1])
    return [v, gv.exp(), q, k, gk.exp(), state]


ATTENTION = ("attention, flash", "attention, cuDNN")
CHUNK_GLA, RECURRENT_GLA = "fla, chunk_gla (key side only)", "fla, fused_recurrent_gla"
PAPER = "the paper's kernels, float16"
CONTENDERS = {
    OURS: Contender(lambda: _ours),
    "ours, key side only": Contender(lambda: _key_side),
    "ours, stronger gates": Contender(lambda: _ours, prepare=_with_stronger_gates),
    ATTENTION[0]: Contender(partial(_attention, "FLASH_ATTENTION")),
    ATTENTION[1]: Contender(partial(_attention, "CUDNN_ATTENTION")),
    CHUNK_GLA: Contender(partial(_fla, "chunk_gla", False)),
    RECURRENT_GLA: Contender(partial(_fla, "fused_recurrent_gla", True), SLOW_TIMES),
    PAPER: Contender(_paper, SLOW_TIMES, _as_the_paper),
}


def _bandwidth(device: str, measure: Measure, size: int = 2**29) -> float:
    """Bytes a millisecond of a copy, read and written."""
    x = torch.empty(size, dtype=torch.int8, device=device)
    y = torch.empty_like(x)
    return 2 * size / measure(lambda: y.copy_(x))


def _floors(steps: int, batch: int, heads: int, size: int, bandwidth: float, device: str) -> dict[str, float]:
    """Milliseconds to move 6 tensors forward, 12 more backward; and for one exponential a gate and pass."""
    numbers = batch * steps * heads * size
    floors = {"forward": 6 * 2 * numbers / bandwidth, "forward_backward": 18 * 2 * numbers / bandwidth}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        # 16 a clock and multiprocessor; the clock in kHz is its number of ticks a millisecond.
        rate = 16 * properties.multi_processor_count * getattr(properties, "clock_rate", 1_755_000)
        floors["exponentials"] = 2 * 2 * numbers / rate
    return floors


def _ops(
    sizes: dict, times: tuple[int, ...] | None, measure: Measure, say: Callable, device: str
) -> tuple[dict, dict]:
    """name -> time -> `forward`, `forward_backward` (milliseconds), `peak_bytes`; and who was left out."""
    measured, left_out = {}, {}
    for name, contender in CONTENDERS.items():
        try:
            function = contender.load()
            for steps in contender.times if times is None else times:
                inputs = contender.prepare(_inputs(steps, *sizes.values(), device, torch.bfloat16))
                leaves = [x.clone().requires_grad_() for x in inputs]
                with torch.no_grad():
                    weights = torch.randn_like(function(*inputs))

                def train(function=function, leaves=leaves, weights=weights):
                    used = function(*leaves)
                    torch.autograd.grad(used, leaves, weights, allow_unused=True)

                with torch.no_grad():
                    entry = {"forward": measure(lambda: function(*inputs))}  # noqa: B023
                if device == "cuda":
                    before = torch.cuda.memory_allocated()
                    torch.cuda.reset_peak_memory_stats()
                    train()
                    entry["peak_bytes"] = torch.cuda.max_memory_allocated() - before
                entry["forward_backward"] = measure(train)
                measured.setdefault(name, {})[str(steps)] = entry
                say(f"{name}, {steps:,} steps: {entry['forward']:.3f} and {entry['forward_backward']:.3f} ms")
        except Exception as error:  # there is no telling how a peer fails
            if name.startswith(OURS):
                raise
            left_out[name] = str(error).splitlines()[0]
            say(f"left out: {name}: {left_out[name]}")
    return measured, left_out


def _decoding(
    batches: tuple[int, ...], bandwidth: float, measure: Measure, device: str
) -> dict[str, dict[str, float]]:
    """batch -> `milliseconds` of a step, and `floor`: its state read and written."""
    result = {}
    for batch in batches:
        q, k, v, gk, gv = _inputs(1, batch, HEADS, SIZE, device, torch.bfloat16)
        state = torch.zeros(batch, HEADS, SIZE, SIZE, device=device)
        took = measure(partial(decaying_fast_weights_step, q, k, v, gk, gv, state=state))
        result[str(batch)] = {"milliseconds": took, "floor": 2 * 4 * state.numel() / bandwidth}
    return result


def _models(positions: int, sizes: dict[str, int], device: str) -> dict[str, Callable]:
    """Makers: GPT-2 and ours, with full and with low-rank gates, of GPT-2 small's size."""
    sizes = sizes | {"n_positions": positions}
    models = {
        "GPT-2": (GPT2LMHeadModel, GPT2Config(**sizes)),
        "ours, full gates": (DecayFastWeightGPT2LMHeadModel, DecayFastWeightGPT2Config(**sizes)),
        "ours, low-rank gates": (DecayFastWeightGPT2LMHeadModel, DecayFastWeightGPT2Config(**sizes, gate_rank=32)),
    }
    return {name: partial(_make, model, config, device) for name, (model, config) in models.items()}


def _make(model: type, config: PreTrainedConfig, device: str) -> PreTrainedModel:
    with torch.device(device):  # 124 million random numbers take a CPU seconds
        return model(config)


def _training(times: tuple[int, ...], tokens: int, sizes: dict, measure: Measure, say: Callable, device: str) -> dict:
    """name -> time -> tokens a second of a step of AdamW under bfloat16 autocast."""
    result = {}
    for steps in times:
        batch = max(1, tokens // steps)
        ids = torch.randint(1000, (batch, steps), device=device)
        for name, make in _models(steps, sizes, device).items():
            torch.manual_seed(0)
            model = make()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")

            def step(model=model, optimizer=optimizer, ids=ids):
                with torch.autocast(ids.device.type, torch.bfloat16):
                    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            took = measure(step)
            result.setdefault(name, {})[str(steps)] = 1000 * batch * steps / took
            say(f"training, {name}, {steps:,} steps: {result[name][str(steps)]:,.0f} tokens a second")
            del model, optimizer
    return result


@torch.inference_mode()
def _generation(context: int, batches: tuple[int, ...], sizes: dict, say: Callable, device: str) -> dict:
    """name -> batch -> `tokens_per_second` behind a context, `cache_bytes` and `parameters_bytes`."""
    from seqzoo.benchmarks.generation import cache_bytes

    result = {}
    for name, make in _models(context + GENERATION_STEPS + 2, sizes, device).items():
        model = make().to(torch.bfloat16).eval()
        for batch in batches:
            cache = None
            try:
                for _ in range(-(-context // 2048)):  # a prompt in parts, whose logits nobody needs
                    ids = torch.randint(1000, (batch, min(2048, context)), device=device)
                    cache = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
                token, laps = ids[:, :1], []
                for _ in range(GENERATION_STEPS):
                    if device == "cuda":
                        torch.cuda.synchronize()
                    start = time.perf_counter()
                    token = model(token, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
                    if device == "cuda":
                        torch.cuda.synchronize()
                    laps.append(time.perf_counter() - start)
            except torch.cuda.OutOfMemoryError:
                say(f"generation, {name}, batch {batch}: out of memory")
                continue
            entry = {"tokens_per_second": batch / statistics.median(laps), "cache_bytes": cache_bytes(cache)}
            result.setdefault(name, {})[str(batch)] = entry
            say(f"generation, {name}, batch {batch}: {entry['tokens_per_second']:,.0f} tokens a second")
    return result


def run(
    progress: Callable[[str], None] = print,
    *,
    device: str = "cuda",
    sizes: tuple[int, int, int] = (BATCH, HEADS, SIZE),
    times: tuple[int, ...] | None = None,
    model_times: tuple[int, ...] = MODEL_TIMES,
    model_tokens: int = MODEL_TOKENS,
    model_sizes: dict[str, int] | None = None,
    context: int = GENERATION_CONTEXT,
    batches: tuple[int, ...] = DECODING_BATCHES,
    generation_batches: tuple[int, ...] = GENERATION_BATCHES,
    measure: Measure = milliseconds,
    copied: int = 2**29,
) -> dict:
    """All measurements as plain values.

    Raises:
        `ValueError`: there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("this benchmark needs a GPU, and torch sees none")
    torch.manual_seed(0)
    named = dict(zip(("batch", "heads", "size"), sizes))
    bandwidth = _bandwidth(device, measure, copied)
    ops, left_out = _ops(named, times, measure, progress, device)
    result = {
        "machine": describe(),
        "bandwidth_gb_per_second": bandwidth / 1e6,
        "floors": {steps: _floors(int(steps), *sizes, bandwidth, device) for steps in ops[OURS]},
        "ops": ops,
        "left_out": left_out,
        "decoding": _decoding(batches, bandwidth, measure, device),
        "training": _training(model_times, model_tokens, model_sizes or {}, measure, progress, device),
        "generation": _generation(context, generation_batches, model_sizes or {}, progress, device),
    }
    if device == "cuda":
        import triton

        result["machine"] |= {"gpu": torch.cuda.get_device_name(), "triton": triton.__version__}
    result["bars"] = _bars(result)
    return result


def _bars(result: dict) -> list[dict]:
    ops, floors, bars = result["ops"], result["floors"], []
    ours = {int(steps): entry["forward_backward"] for steps, entry in ops[OURS].items()}
    attention = {
        steps: min(
            (ops[name][str(steps)]["forward_backward"] for name in ATTENTION if str(steps) in ops.get(name, {})),
            default=math.nan,
        )
        for steps in ours
    }
    for steps, took in ours.items():
        if steps >= 4096:
            floor = floors[str(steps)]["forward_backward"]
            bars.append(bar(f"forward and backward / byte floor, {steps:,} steps", took / floor, "<=", 4))
            limit = 6 if steps == 16_384 else 1
            bars.append(bar(f"best attention / ours, {steps:,} steps", attention[steps] / took, ">=", limit))
        for name, limit in ((CHUNK_GLA, 3), (RECURRENT_GLA, 10), (PAPER, 20)):
            if str(steps) in ops.get(name, {}):
                ratio = ops[name][str(steps)]["forward_backward"] / took
                bars.append(bar(f"{name} / ours, {steps:,} steps", ratio, ">=", limit))
    batch, entry = list(result["decoding"].items())[-1]
    share = entry["floor"] / entry["milliseconds"]
    bars.append(bar(f"a step at batch {batch}: share of the bandwidth", share, ">=", 0.8))
    for steps, limit in MODEL_BARS.items():
        if str(steps) in result["training"].get("GPT-2", {}):
            ratio = result["training"]["ours, low-rank gates"][str(steps)] / result["training"]["GPT-2"][str(steps)]
            bars.append(bar(f"training, low-rank gates / GPT-2, {steps:,} steps", ratio, ">=", limit))
    return bars


def to_markdown(result: dict) -> str:
    """Tables of times, memory and bars."""
    times = list(result["ops"][OURS])
    head = "| | " + " | ".join(f"{int(steps):,}" for steps in times) + " |\n" + "|---|" + "---|" * len(times)
    chapters = [
        f"bfloat16, batch {BATCH}, {HEADS} heads of {SIZE}; medians of triton.testing.do_bench. A copy reaches "
        f"{result['bandwidth_gb_per_second']:,.0f} GB a second, by which the byte floor is counted.",
        *(f"Left out: {name}: {reason}." for name, reason in result["left_out"].items()),
    ]
    for which, title in (("forward", "forward"), ("forward_backward", "forward and backward")):
        rows = {name: {steps: entry[which] for steps, entry in row.items()} for name, row in result["ops"].items()}
        rows["byte floor"] = {steps: entry[which] for steps, entry in result["floors"].items()}
        lines = [
            f"| {name} | " + " | ".join(f"{row[steps]:.3f}" if steps in row else "-" for steps in times) + " |"
            for name, row in rows.items()
        ]
        chapters.append(f"Milliseconds, {title}, by steps:\n\n{head}\n" + "\n".join(lines))
    peaks = {
        name: {steps: entry["peak_bytes"] for steps, entry in row.items() if "peak_bytes" in entry}
        for name, row in result["ops"].items()
    }
    lines = [
        f"| {name} | " + " | ".join(f"{row[steps] / 2**20:,.0f}" if steps in row else "-" for steps in times) + " |"
        for name, row in peaks.items()
    ]
    chapters.append(f"MiB more than the inputs at the peak of forward and backward:\n\n{head}\n" + "\n".join(lines))
    lines = ["| batch | microseconds | floor |", "|---|---|---|"]
    for batch, entry in result["decoding"].items():
        lines.append(f"| {batch} | {1000 * entry['milliseconds']:.1f} | {1000 * entry['floor']:.1f} |")
    chapters.append("One step of a layer, in place; the floor is its state read and written:\n\n" + "\n".join(lines))
    times = list(next(iter(result["training"].values())))
    head = "| | " + " | ".join(f"{int(steps):,}" for steps in times) + " |\n" + "|---|" + "---|" * len(times)
    lines = [
        f"| {name} | " + " | ".join(f"{row[steps]:,.0f}" for steps in times) + " |"
        for name, row in result["training"].items()
    ]
    chapters.append(
        f"Tokens a second of a training step of GPT-2 small's size, {MODEL_TOKENS:,} tokens, bfloat16 autocast, by "
        f"steps of a row:\n\n{head}\n" + "\n".join(lines)
    )
    lines = ["| | batch | tokens a second | MB of cache |", "|---|---|---|---|"]
    for name, row in result["generation"].items():
        for batch, entry in row.items():
            lines.append(
                f"| {name} | {batch} | {entry['tokens_per_second']:,.0f} | {entry['cache_bytes'] / 1e6:,.1f} |"
            )
    chapters.append(f"Generation behind {GENERATION_CONTEXT:,} tokens, bfloat16:\n\n" + "\n".join(lines))
    return "\n\n".join([*chapters, bars_to_markdown(result["bars"])])


def draw(result: dict, path: Path) -> None:
    draw_gpu_times(
        {
            name: {int(steps): entry["forward_backward"] for steps, entry in row.items()}
            for name, row in (result["ops"] | {"byte floor": result["floors"]}).items()
        },
        path,
    )
