"""The GPU benchmark: every part runs, here on a CPU with tiny sizes and a clock that counts calls."""

import pytest
import torch

from seqzoo.benchmarks import gpu
from seqzoo.benchmarks.gpu import CONTENDERS, OURS, PAPER, draw, run, to_markdown
from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights


def count(function):
    function()
    return 2.0


def test_all_parts_are_measured_and_reported(tmp_path):
    model = {"n_embd": 32, "n_layer": 1, "n_head": 2}
    result = run(
        lambda line: None,
        device="cpu",
        sizes=(1, 2, 16),
        times=(64, 4096),
        model_times=(64,),
        model_tokens=128,
        model_sizes=model,
        context=70,
        batches=(1, 2),
        generation_batches=(1,),
        measure=count,
        copied=1024,
    )
    assert result["ops"][OURS]["4096"] == {"forward": 2.0, "forward_backward": 2.0}
    assert "fla, chunk_gla (key side only)" in result["left_out"] | result["ops"]
    assert result["floors"]["64"]["forward"] == 6 * 2 * 64 * 2 * 16 / 1024
    assert (
        set(result["training"]) == set(result["generation"]) == {"GPT-2", "ours, full gates", "ours, low-rank gates"}
    )
    assert result["training"]["GPT-2"]["64"] == 64_000
    text = to_markdown(result)
    for name in (*result["ops"], *result["left_out"], "byte floor", "share of the bandwidth"):
        assert name in text
    draw(result, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


def test_the_papers_kernels_are_given_what_they_take():
    q, k, v, gk, gv = inputs = gpu._inputs(5, 2, 3, 8, "cpu", torch.float32)
    values, value_gates, queries, keys, key_gates, state = CONTENDERS[PAPER].prepare(inputs)
    outputs = []
    for t in range(5):  # their rule: states are [values, keys], outputs are not scaled
        state = state * value_gates[:, t, :, None] * key_gates[:, t, None, :]
        state = state + values[:, t, :, None] * keys[:, t, None, :]
        outputs.append((state * queries[:, t, None, :]).sum(-1))
    output = torch.stack(outputs, 1).unflatten(0, (2, 3)).transpose(1, 2)
    expected, _ = decaying_fast_weights(q, k, v, gk, gv, scale=1.0)
    torch.testing.assert_close(output.float(), expected, atol=3e-2, rtol=3e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused():
    assert gpu.NEEDS_GPU
    with pytest.raises(ValueError, match="needs a GPU, and torch sees none"):
        run()
