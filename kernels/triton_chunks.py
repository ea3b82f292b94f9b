"""What the Triton kernels of both fast-weight ops share: tiles of a chunk of steps, and how a kernel is launched.

Sums and products are float32, on tensor cores by `PRECISION`: "tf32x3" for `v` in float32, "tf32" for `v` of half
precision. That has all digits of half precision; anything else is rounded to it.
"""

import re
from contextlib import nullcontext
from functools import wraps

import torch

from seqzoo.kernels.argument_checks import MAX_TRITON_TIME, can_use_triton


try:
    import triton
    import triton.language as tl
except ImportError as error:  # found by whoever asks for implementation='triton'; nothing else imports this file
    raise ImportError("implementation='triton' needs Triton: pip install triton") from error


CHUNK = 64  # steps; MAX_TRITON_TIME is counted in them
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # TRITON_INTERPRET=1, which runs kernels on a CPU


@triton.jit
def _rounded(x):
    """To the 11 binary digits of TF32. A tensor core would cut off the others, always towards 0, which adds up.

    (2^13 + 1) x is rounded to where 11 digits of x end, and 2^13 x is exact. NaN stays NaN. As a difference it would
    be fused the other way round, into x itself.
    """
    return tl.fma(x, -8192.0, x * 8193.0)


@triton.jit
def product(x, y, PRECISION: tl.constexpr):
    if PRECISION == "tf32":
        x, y = _rounded(x), _rounded(y)
    return tl.dot(x, y, input_precision=PRECISION, out_dtype=tl.float32)


@triton.jit
def sequences(reset, chunk, T, C: tl.constexpr, HAS_RESET: tl.constexpr):
    """Of each step of a chunk, how many sequences have begun in the chunk; and at its last step."""
    if HAS_RESET:
        rows = chunk * C + tl.arange(0, C)
        begins = tl.load(reset + rows, mask=rows < T, other=0).to(tl.int32)
        return tl.cumsum(begins, 0), tl.sum(begins, 0)
    else:
        return tl.zeros([C], tl.int32), 0


def namespace(module):
    """Of a file's custom ops. A copy of it that is loaded beside it, as remote code, has ops of its own."""
    return re.sub(r"\W", "_", module)


def on_its_device(op):
    """Triton launches on the current device, whichever has the tensors: makes that of the first one current."""

    @wraps(op)
    def launch(q, *others):
        with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
            return op(q, *others)

    return launch


def strides_of(x):
    return (0, 0, 0, 0) if x is None else x.stride()


def precision_of(v):
    """Of products: TF32 has the digits of half precision, three of them those of float32."""
    return "tf32x3" if v.dtype == torch.float32 else "tf32"


def check(k, v):
    """Refuses what the kernels cannot run on."""
    if v.dtype == torch.float64:
        raise ValueError("implementation='triton' computes in float32 and v is float64; use 'auto'")
    if k.shape[1] > MAX_TRITON_TIME:
        raise ValueError(
            f"implementation='triton' takes at most {MAX_TRITON_TIME:,} steps at once, got {k.shape[1]:,}: split them "
            "and hand the final state on, or use 'auto'"
        )
    if not (INTERPRETED or can_use_triton(v)):
        raise ValueError(
            f"implementation='triton' needs an NVIDIA GPU of compute capability 8.0 or newer, and the tensors are on "
            f"{v.device}; use 'auto'"
        )
