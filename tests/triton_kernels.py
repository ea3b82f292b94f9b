"""What the tests of all Triton kernels share: where they run, with which digits, and memory that shows its gaps."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = 1e-6
HALF_TOLERANCE = 1e-2
# (K, D): all kernels are compiled for each, and once more where strides change between multiples of 16 and others.
SIZES_OF_MODELS = [(16, 256), (33, 64), (64, 64), (96, 32), (128, 64), (256, 256)]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that is not written to shows."""
    empty, new_empty, empty_like = torch.empty, torch.Tensor.new_empty, torch.empty_like

    def poison(x):
        return x.fill_(torch.nan if x.is_floating_point() else 0) if not x.is_meta else x

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k)))


def _to_tf32(x, round_first):
    """A float32 array with what is behind the 10th bit cut off, or rounded."""
    bits = x.view(np.uint32)
    return ((bits + 0x1000 * round_first) & 0xFFFFE000).view(np.float32)


@pytest.fixture(autouse=DEVICE == "cpu")
def tensor_cores(monkeypatch):
    """The interpreter multiplies with the digits of tensor cores, which cut factors off, and rounds to bfloat16.

    "tf32x3" is a rounded factor and what it lacks, three products of the four. Sums stay float32.
    """
    from triton import language as tl
    from triton.runtime import interpreter

    def dot(builder, x, y, d, input_precision, max_num_imprecise_acc):
        x, y = x.data, y.data
        if x.dtype == np.float32 and input_precision.name == "TF32":
            result = _to_tf32(x, False) @ _to_tf32(y, False)
        elif x.dtype == np.float32 and input_precision.name == "TF32x3":
            big_x, big_y = _to_tf32(x, True), _to_tf32(y, True)
            small_x, small_y = _to_tf32(x - big_x, True), _to_tf32(y - big_y, True)
            result = small_x @ big_y + big_x @ small_y + big_x @ big_y
        else:
            result = np.matmul(x, y, dtype=d.data.dtype)
        return interpreter.TensorHandle(result + d.data, d.dtype.scalar)

    cast = interpreter.InterpreterBuilder.cast_impl

    def rounded(builder, x, dtype):
        if x.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
            bits = x.data.view(np.uint32)
            bits = np.where(np.isnan(x.data), bits, bits + 0x7FFF + ((bits >> 16) & 1))
            return interpreter.TensorHandle((bits >> 16).astype(np.uint16), dtype.scalar)
        return cast(builder, x, dtype)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fp_trunc", rounded)


def errors(actual, expected):
    """The largest error of each result, relative to its largest entry."""
    assert actual.keys() == expected.keys()
    return {
        name: ((x.double() - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-300)).item()
        for name, x in actual.items()
    }


def mean_errors(actual, expected):
    """The root mean square error of each result, relative to that of its entries."""
    return {name: ((x.double() - expected[name]).norm() / expected[name].norm()).item() for name, x in actual.items()}


def fresh(program, **environment):
    """A program in a process of its own."""
    environment = os.environ | environment
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
