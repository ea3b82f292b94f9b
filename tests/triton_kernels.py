"""What the tests of all Triton kernels share: where they run, how exact they are, and memory that shows its gaps."""

import os
import subprocess
import sys

import pytest
import torch


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = 1e-6
HALF_TOLERANCE = 1e-2
# Of half precision: a tensor core cuts a factor off behind the 10th bit, and a product of products has four.
PRODUCTS = 1e-6 if DEVICE == "cpu" else 4 * 2**-10


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that is not written to shows."""
    empty, new_empty, empty_like = torch.empty, torch.Tensor.new_empty, torch.empty_like

    def poison(x):
        return x.fill_(torch.nan if x.is_floating_point() else 0) if not x.is_meta else x

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k)))


def errors(actual, expected):
    """The largest error of each result, relative to its largest entry."""
    assert actual.keys() == expected.keys()
    return {
        name: ((x.double() - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-300)).item()
        for name, x in actual.items()
    }


def fresh(program, **environment):
    """A program in a process of its own."""
    environment = os.environ | environment
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
