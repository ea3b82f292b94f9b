"""The GPU benchmark: every part runs, here on a CPU with tiny sizes and a clock that counts calls."""

import pytest
import torch

from seqzoo.benchmarks import gpu
from seqzoo.benchmarks.gpu import OURS, draw, run, to_markdown


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused():
    assert gpu.NEEDS_GPU
    with pytest.raises(ValueError, match="needs a GPU, and torch sees none"):
        run()
