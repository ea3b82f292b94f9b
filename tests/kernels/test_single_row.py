"""The linear layer for a single row against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.kernels.single_row import BLOCK_ROWS, MIN_ELEMENTS, linear


@settings(deadline=None, max_examples=40)
@given(
    features=st.integers(1, 700),
    size=st.integers(1, 900),
    bias=st.booleans(),
    leading=st.sampled_from([(1,), (1, 1), (2, 1), (1, 3), ()]),
    seed=st.integers(0, 2**31),
)
def test_equals_torch(features, size, bias, leading, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*leading, features, generator=generator)
    weight = torch.randn(size, features, generator=generator)
    b = torch.randn(size, generator=generator) if bias else None
    expected = F.linear(x.double(), weight.double(), None if b is None else b.double())
    assert linear(x, weight, b).shape == expected.shape
    torch.testing.assert_close(linear(x, weight, b).double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [BLOCK_ROWS * 8, BLOCK_ROWS * 8 + 1, BLOCK_ROWS * 9 - 1, 5])
def test_blocks_cover_every_row_and_carry_gradients(size):
    features = MIN_ELEMENTS // size + 1
    x, weight, bias = torch.randn(1, 1, features), torch.randn(size, features), torch.randn(size)
    results = []
    for function in (linear, F.linear):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        output = function(*inputs)
        output.square().sum().backward()
        results.append([output.detach(), *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
