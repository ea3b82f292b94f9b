"""The op beside its definition and causal attention: time forward and with backward, peak memory against time.

Float32, one thread, batch 1, 12 heads of 64. Gates are logsigmoid of logits drawn from scale * N(0, 1) + 3: scale 1 is
mild and takes the fast form of a chunk, the others take the exact one.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe, interleaved_medians, one_thread
from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights


HEADS, SIZE = 12, 64
SCALES = (1, 8, 60, 1000)
ATTENTION, RECURRENT = "attention", "recurrent"
# time -> (repeats forward, repeats with backward, whether the loop runs, too)
TIMES = {1024: (31, 15, True), 4096: (9, 7, False), 16_384: (3, 0, False)}
MEMORY_TIMES = (2048, 4096, 8192, 16_384)


def chunked(scale: int) -> str:
    return f"chunked, gate logits x {scale}"


def make_inputs(time: int, scale: float) -> list[torch.Tensor]:
    """q, k, v, gk, gv, [1, time, 12, 64]."""
    q, k, v = torch.randn(3, 1, time, HEADS, SIZE)
    gk, gv = F.logsigmoid(scale * torch.randn(2, 1, time, HEADS, SIZE) + 3)
    return [q, k, v, gk, gv]


def op(inputs: list[torch.Tensor], implementation: str) -> torch.Tensor:
    return decaying_fast_weights(*inputs, implementation=implementation)[0]


def attention(inputs: list[torch.Tensor]) -> torch.Tensor:
    q, k, v = (x.transpose(1, 2) for x in inputs[:3])
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def forward(function: Callable, inputs: list[torch.Tensor]) -> None:
    with torch.no_grad():
        function(inputs)


def forward_backward(function: Callable, inputs: list[torch.Tensor]) -> None:
    output = function([x.detach().requires_grad_() for x in inputs])
    output.backward(torch.ones_like(output))


def measure(time: int, measured: Callable, repeats: int, with_loop: bool) -> dict[str, float]:
    """Median CPU milliseconds of every contender at this length."""
    torch.manual_seed(0)
    inputs = {scale: make_inputs(time, scale) for scale in SCALES}
    contenders = {}
    if with_loop:
        contenders[RECURRENT] = partial(measured, partial(op, implementation="recurrent"), inputs[1])
    contenders[ATTENTION] = partial(measured, attention, inputs[1])
    for scale in SCALES:
        contenders[chunked(scale)] = partial(measured, partial(op, implementation="chunked"), inputs[scale])
    return interleaved_medians(contenders, repeats)


def peak_megabytes(time: int) -> float:
    """Growth of a fresh process's peak memory by one forward and backward pass, inputs and gradients included."""
    program = f"from {__spec__.name} import print_peak_growth; print_peak_growth({time})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak_growth(time: int) -> None:
    torch.set_num_threads(1)
    step = partial(forward_backward, partial(op, implementation="chunked"))
    step(make_inputs(128, 8))  # what libraries set up once
    before = _peak_kilobytes()
    step(make_inputs(time, 8))
    print((_peak_kilobytes() - before) / 1024)


def _peak_kilobytes() -> int:
    # Not `ru_maxrss`, which a child process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def run(progress: Callable[[str], None] = print) -> dict:
    """All measurements as plain values.

    Args:
        progress: is told what is about to be measured.

    Returns:
        `machine`; `forward` and `forward_backward` as time -> contender -> CPU milliseconds; `peak_megabytes` as
        time -> MiB; `bars`.
    """
    result = {"machine": describe(), "forward": {}, "forward_backward": {}, "peak_megabytes": {}}
    with one_thread():
        for time, (repeats, repeats_backward, with_loop) in TIMES.items():
            progress(f"T={time:,} forward, {repeats} times each")
            result["forward"][str(time)] = measure(time, forward, repeats, with_loop)
            if repeats_backward:
                progress(f"T={time:,} forward and backward, {repeats_backward} times each")
                result["forward_backward"][str(time)] = measure(time, forward_backward, repeats_backward, with_loop)
    for time in MEMORY_TIMES:
        progress(f"T={time:,} peak memory")
        result["peak_megabytes"][str(time)] = peak_megabytes(time)
    return result | {"bars": _bars(result)}


def _bars(result: dict) -> list[dict]:
    mild = chunked(1)
    bars = []
    for kind, what, over_loop in (("forward", "forward", 4.0), ("forward_backward", "forward + backward", 10.0)):
        short, long = result[kind]["1024"], result[kind]["4096"]
        bars.append(bar(f"recurrent / chunked, {what}, T=1,024", short[RECURRENT] / short[mild], ">=", over_loop))
        bars.append(bar(f"attention / chunked, {what}, T=4,096", long[ATTENTION] / long[mild], ">=", 5.0))
    for scale in SCALES[1:]:
        exact = chunked(scale)
        for kind, what in (("forward", "forward"), ("forward_backward", "forward + backward")):
            times = result[kind]["4096"]
            bars.append(bar(f"exact x {scale} / mild, {what}, T=4,096", times[exact] / times[mild], "<=", 3.0))
        bars.append(
            bar(
                f"attention / exact x {scale}, forward + backward, T=4,096", times[ATTENTION] / times[exact], ">=", 2.5
            )
        )
    peaks = result["peak_megabytes"]
    # Linear in time is 8; what a process needs once makes it less, pages and tiles a little more.
    bars.append(bar("peak memory, T=16,384 / T=2,048", peaks["16384"] / peaks["2048"], "<=", 8.5))
    return bars


def to_markdown(result: dict) -> str:
    """Tables of times, memory and bars."""
    lines = [
        "Float32, one thread, batch 1, 12 heads of 64; gates are logsigmoid of scaled N(0, 1) + 3. Logits x 1 take "
        "the fast form of a chunk, the others the exact one. Peak memory is Linux's, of a fresh process.",
    ]
    for kind, what in (("forward", "forward"), ("forward_backward", "forward + backward")):
        times = result[kind]
        lines += ["", f"| CPU ms, {what} | " + " | ".join(f"T={int(time):,}" for time in times) + " |"]
        lines.append("|---|" + "---|" * len(times))
        names = dict.fromkeys(name for entries in times.values() for name in entries)
        for name in names:
            cells = [f"{entries[name]:,.1f}" if name in entries else "" for entries in times.values()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    peaks = result["peak_megabytes"]
    lines += ["", "| peak MiB, forward + backward | " + " | ".join(f"T={int(time):,}" for time in peaks) + " |"]
    lines.append("|---|" + "---|" * len(peaks))
    lines.append("| chunked | " + " | ".join(f"{megabytes:,.0f}" for megabytes in peaks.values()) + " |")
    return "\n".join(lines) + "\n\n" + bars_to_markdown(result["bars"])
