"""The decay rule for tests: inputs, results with all gradients, and how far they are from those in float64."""

import torch
import torch.nn.functional as F

from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights


NAMES = ("q", "k", "v", "gk", "gv", "initial_state")
# The largest error of float32, relative to the largest entry of the float64 result.
TOLERANCE = 2e-6


def make_inputs(batch=1, time=100, heads=2, K=16, D=16, logits=1.0, bias=3.0, data=1.0, dtype=torch.float32, seed=0):
    """The six tensors of the op by name, with values that `dtype` represents."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {
        "q": normal(batch, time, heads, K) * data,
        "k": normal(batch, time, heads, K) * data,
        "v": normal(batch, time, heads, D) * data,
        "gk": F.logsigmoid(normal(batch, time, heads, K) * logits + bias),
        "gv": F.logsigmoid(normal(batch, time, heads, D) * logits + bias),
        "initial_state": normal(batch, heads, K, D) * data**2,
    }
    return {name: x.to(dtype) for name, x in inputs.items()}


def run(inputs, implementation, dtype, reset=None, only_state=False, device="cpu", **options):
    """Output, final state and the gradients of a fixed random weighting of both, by name."""
    inputs = {name: None if x is None else x.detach().to(device, dtype).requires_grad_() for name, x in inputs.items()}
    output, state = decaying_fast_weights(
        **inputs, reset=reset, output_final_state=True, implementation=implementation, **options
    )
    generator = torch.Generator().manual_seed(99)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (output, state)]
    # Weighted so that neither the output nor the state dominates the gradients whatever the size of the data.
    weights[1] *= output.abs().max().item() / state.abs().max().item()
    targets = [(output, weights[0]), (state, weights[1])][only_state:]
    loss = sum((x * weight.to(x)).sum() for x, weight in targets)
    given = {name: x for name, x in inputs.items() if x is not None}
    gradients = torch.autograd.grad(loss, list(given.values()), materialize_grads=True)
    results = {"output": output, "state": state} | {f"d_{name}": x for name, x in zip(given, gradients)}
    return {name: x.cpu() for name, x in results.items()}


def assert_close(actual, expected, tolerance=TOLERANCE):
    assert actual.keys() == expected.keys()
    for name, x in actual.items():
        assert torch.isfinite(x).all(), name
        error = (x.double() - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-300)
        assert error <= tolerance, f"{name}: {error:.1e}"


def random_reset(batch, time, share, seed=0):
    return torch.rand(batch, time, generator=torch.Generator().manual_seed(seed)) < share
