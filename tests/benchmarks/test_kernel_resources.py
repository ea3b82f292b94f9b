"""The Triton kernels compile for GPUs that are not here, and fit into them."""

import pytest


pytest.importorskip("triton", reason="needs Triton")

from seqzoo.benchmarks.kernel_resources import run, to_markdown


@pytest.mark.slow
def test_all_kernels_compile_and_fit():
    result = run(lambda line: None)
    assert {len(kernels) for dtypes in result["kernels"].values() for kernels in dtypes.values()} == {17}
    assert all(entry["met"] for entry in result["bars"])
    assert "gradients, mild gates" in to_markdown(result)
