"""The linear layer for a single row against torch's own, in blocks and not, and the choice between the two."""

import builtins
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.kernels import single_row
from seqzoo.kernels.single_row import BLOCK_ROWS, MIN_ELEMENTS, linear


@pytest.fixture(scope="module", params=[True, False], ids=["in_blocks", "at_once"], autouse=True)
def in_blocks(request):
    """Both ways of multiplying, whatever this machine's is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_row, "IN_BLOCKS", request.param)
        yield request.param


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


def test_a_single_row_is_multiplied_in_blocks_only_where_that_is_faster(in_blocks, monkeypatch):
    products = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *operands: products.append(operands) or bmm(*operands))
    linear(torch.randn(1, 1024), torch.randn(1024, 1024))
    assert len(products) == in_blocks
    linear(torch.randn(2, 1024), torch.randn(1024, 1024))
    assert len(products) == in_blocks


@pytest.mark.parametrize(
    ("cpuinfo", "with_mkl", "expected"),
    [
        pytest.param("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t: 1\n", True, True, id="AMD"),
        pytest.param("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t: 1\n", False, False, id="AMD-without-MKL"),
        pytest.param("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t: 1\n", True, False, id="Intel"),
        pytest.param("processor\t: 0\nBogoMIPS\t: 50.00\n", True, False, id="ARM"),
        pytest.param("vendor_id\n", True, False, id="no-value"),
        pytest.param("", True, False, id="empty"),
        pytest.param(None, True, False, id="no-file"),
    ],
)
def test_blocks_where_mkl_meets_a_cpu_that_is_not_intels(cpuinfo, with_mkl, expected, monkeypatch):
    def read(path, *args, **kwargs):
        if path != "/proc/cpuinfo":
            return open_file(path, *args, **kwargs)
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return io.StringIO(cpuinfo)

    open_file = builtins.open
    monkeypatch.setattr(builtins, "open", read)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: with_mkl)
    assert single_row.blocks_are_faster() is expected


def test_compiles_as_one_graph():
    x, weight = torch.randn(1, 1024), torch.randn(1024, 1024)
    compiled = torch.compile(linear, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-4)
