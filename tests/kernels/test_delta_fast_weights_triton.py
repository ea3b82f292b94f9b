"""The Triton kernels of the delta rule against its definition in float64: on a GPU, or small in Triton's interpreter.

The interpreter multiplies with the digits of tensor cores, see `triton_kernels.py`. The larger sizes are for a GPU.
"""

import pytest
import torch
import torch.nn.functional as F
from decay_rule import random_reset
from torch.autograd import forward_ad
from triton_kernels import (  # noqa: F401
    DEVICE,
    HALF_TOLERANCE,
    SIZES_OF_MODELS,
    TOLERANCE,
    fresh,
    mean_errors,
    poisoned,
    tensor_cores,
)
from triton_memory import memory_faults  # noqa: F401

from seqzoo.kernels.delta_fast_weights import delta_fast_weights


triton = pytest.importorskip("triton", reason="needs Triton")
gpu = pytest.mark.gpu


@pytest.fixture(scope="module")
def module():
    from seqzoo.kernels import delta_fast_weights_triton

    return delta_fast_weights_triton


def make_inputs(batch=1, time=100, heads=2, K=16, D=16, dtype=torch.float32, seed=0):
    """Keys and queries of length 1, as models give them; write strengths from next to 0 to next to 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {
        "q": F.normalize(normal(batch, time, heads, K), dim=-1),
        "k": F.normalize(normal(batch, time, heads, K), dim=-1),
        "v": normal(batch, time, heads, D),
        "beta": (3 * normal(batch, time, heads)).sigmoid(),
        "initial_state": normal(batch, heads, K, D),
    }
    return {name: x.to(dtype) for name, x in inputs.items()}


def run(inputs, implementation, dtype, reset=None, only_state=False, device="cpu", **options):
    """Output, final state and the gradients of a fixed random weighting of both, by name."""
    inputs = {name: None if x is None else x.detach().to(device, dtype).requires_grad_() for name, x in inputs.items()}
    reset = None if reset is None else reset.to(device)
    output, state = delta_fast_weights(
        **inputs, reset=reset, output_final_state=True, implementation=implementation, **options
    )
    generator = torch.Generator().manual_seed(99)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (output, state)]
    targets = [(output, weights[0]), (state, weights[1])][only_state:]
    loss = sum((x * weight.to(x)).sum() for x, weight in targets)
    given = {name: x for name, x in inputs.items() if x is not None}
    gradients = torch.autograd.grad(loss, list(given.values()), materialize_grads=True)
    results = {"output": output.detach(), "state": state.detach()}
    results |= {f"d_{name}": x for name, x in zip(given, gradients)}
    return {name: x.cpu() for name, x in results.items()}


def errors(actual, expected):
    """The largest ones, relative to the largest entry that is expected."""
    assert actual.keys() == expected.keys()
    assert all(x.isfinite().all() for x in actual.values())
    return {
        name: ((x.double() - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-300)).item()
        for name, x in actual.items()
    }


def assert_exact(inputs, reset=None, tolerance=TOLERANCE, **options):
    expected = run(inputs, "recurrent", torch.float64, reset, **options)
    actual = run(inputs, "triton", torch.float32, reset, device=DEVICE, **options)
    for name, error in errors(actual, expected).items():
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("read_before_write", [False, True])
@pytest.mark.parametrize("time", [1, 2, 15, 16, 17, 63, 64, 65, 130])
def test_lengths(time, read_before_write):
    assert_exact(make_inputs(time=time, heads=1), read_before_write=read_before_write)


@pytest.mark.parametrize("read_before_write", [False, True])
@pytest.mark.parametrize(("K", "D"), [(16, 32), (32, 16), (33, 20), (20, 33), (64, 96), (96, 64), (256, 16)])
def test_sizes(K, D, read_before_write):
    inputs = make_inputs(time=66, heads=1, K=K, D=D)
    assert_exact(inputs, random_reset(1, 66, 0.05), read_before_write=read_before_write, scale=0.3)


@pytest.mark.parametrize(("K", "D"), [(1, 5), (5, 1), (3, 20)])
def test_sizes_below_a_tile(K, D):
    inputs = make_inputs(time=66, heads=1, K=K, D=D)
    if K == 1:
        inputs["initial_state"] = None  # what one channel has left of its gradient is next to nothing
    # Keys of few channels overlap within a chunk: the systems are worse conditioned.
    assert_exact(inputs, tolerance=5e-6)


@gpu
@pytest.mark.parametrize("time", [1000, 4097])
@pytest.mark.parametrize(("K", "D"), SIZES_OF_MODELS)
def test_sizes_of_models(K, D, time):
    assert_exact(make_inputs(time=time, K=K, D=D), tolerance=2e-6)


@pytest.mark.parametrize("missing", ["beta", "initial_state", "beta initial_state"])
def test_missing_inputs(missing):
    assert_exact(make_inputs(time=70) | dict.fromkeys(missing.split()), random_reset(1, 70, 0.05))


def test_strengths_of_exactly_zero_and_one():
    inputs = make_inputs(time=140, heads=1)
    inputs["beta"][:, 20:50] = 0
    inputs["beta"][:, 60:100] = 1
    assert_exact(inputs)


@pytest.mark.parametrize("read_before_write", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_resets(share, read_before_write):
    assert_exact(make_inputs(2, 140, 1), random_reset(2, 140, share), read_before_write=read_before_write)


@pytest.mark.parametrize(("time", "K", "D"), [(128, 64, 16), (70, 33, 20), (1, 5, 7)])
def test_programs_keep_to_their_memory(time, K, D, memory_faults):  # noqa: F811
    inputs = make_inputs(1, time, 2, K, D)
    inputs["q"], inputs["v"] = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (inputs["q"], inputs["v"]))
    run(inputs, "triton", torch.float32, random_reset(1, time, 0.05))
    run(inputs | dict.fromkeys(["beta", "initial_state"]), "triton", torch.float32, read_before_write=True)
    assert not memory_faults


def test_gradients_through_the_state_alone():
    assert_exact(make_inputs(time=70), only_state=True)


@pytest.mark.parametrize("read_before_write", [False, True])
def test_keys_that_are_all_the_same(read_before_write):
    inputs = make_inputs(time=150, heads=1, K=32)
    inputs["k"] = inputs["k"][:, :1].expand_as(inputs["k"])
    inputs["beta"] = torch.ones_like(inputs["beta"])
    assert_exact(inputs, tolerance=2e-5, read_before_write=read_before_write)


def test_two_keys_that_take_turns():
    inputs = make_inputs(time=150, heads=1, K=32)
    inputs["k"] = inputs["k"][:, :2].repeat(1, 75, 1, 1)
    inputs["k"][:, 1::2] = F.normalize(inputs["k"][:, ::2] + 0.1 * inputs["k"][:, 1::2], dim=-1)
    inputs["beta"] = None
    assert_exact(inputs, tolerance=2e-5)


@pytest.mark.parametrize("read_before_write", [False, True])
def test_bfloat16_is_as_good_as_the_chunked_form(read_before_write):
    inputs = make_inputs(time=150, K=64, D=64, dtype=torch.bfloat16)
    options = {"read_before_write": read_before_write}
    expected = run(inputs, "recurrent", torch.float64, **options)
    actual = run(inputs, "triton", torch.bfloat16, device=DEVICE, **options)
    assert max(errors(actual, expected).values()) <= HALF_TOLERANCE
    chunked = mean_errors(run(inputs, "chunked", torch.bfloat16, **options), expected)
    # Of the final state, float32, the chunked form keeps all digits and the kernels those of TF32.
    limits = {name: 1.2 * error for name, error in chunked.items()} | {"state": 1e-3}
    for name, error in mean_errors(actual, expected).items():
        assert error <= limits[name], f"{name}: {error:.1e}, chunked {chunked[name]:.1e}"


def test_float16():
    inputs = make_inputs(time=150, dtype=torch.float16)
    expected = run(inputs, "recurrent", torch.float64)
    assert max(mean_errors(run(inputs, "triton", torch.float16, device=DEVICE), expected).values()) <= 2e-3


def test_strides_of_any_kind():
    inputs = make_inputs(2, 70, 3)
    expected = run(inputs, "recurrent", torch.float64)
    views = {
        "q": inputs["q"].transpose(1, 2).contiguous().transpose(1, 2),  # heads before time
        "k": torch.stack([inputs["k"], inputs["v"]], dim=-1)[..., 0],  # two apart
        "v": torch.cat([inputs["v"], inputs["v"]], dim=-1)[..., :16],
        "beta": inputs["beta"].permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "initial_state": inputs["initial_state"].transpose(2, 3).contiguous().transpose(2, 3),
    }
    assert all(not x.is_contiguous() for x in views.values())
    leaves = {name: x.to(DEVICE).requires_grad_() for name, x in views.items()}
    assert max(errors(run(leaves, "triton", torch.float32, device=DEVICE), expected).values()) <= TOLERANCE


def test_gradients_of_expanded_tensors():
    inputs = {name: x.to(DEVICE) for name, x in make_inputs(2, 70, 2).items()}
    strength = inputs["beta"][:, :, :1].clone().requires_grad_()
    inputs["beta"] = strength.expand(-1, -1, 2)
    results = []
    for implementation in ("triton", "recurrent"):
        # Of a sum the gradients are expanded, too.
        output, state = delta_fast_weights(**inputs, output_final_state=True, implementation=implementation)
        results.append((output, state, *torch.autograd.grad(output.sum() + state.sum(), strength)))
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_pieces_are_the_whole():
    inputs = {name: x.to(DEVICE) for name, x in make_inputs(time=133).items()}
    whole, last = delta_fast_weights(**inputs, output_final_state=True, implementation="triton")
    state, pieces = inputs.pop("initial_state"), []
    for start, stop in ((0, 64), (64, 65), (65, 66), (66, 133)):
        part = {name: x[:, start:stop] for name, x in inputs.items()}
        output, state = delta_fast_weights(
            **part, initial_state=state, output_final_state=True, implementation="triton"
        )
        pieces.append(output)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", ["", "beta initial_state"])
def test_opcheck(module, missing, monkeypatch):
    monkeypatch.undo()  # opcheck traces what the poison would add
    inputs = make_inputs(1, 66, 1) | dict.fromkeys(missing.split())
    inputs = [None if x is None else x.to(DEVICE).requires_grad_() for x in inputs.values()]
    reset = random_reset(1, 66, 0.1).to(DEVICE).view(torch.uint8)
    torch.library.opcheck(module._forward, (*inputs, reset, 0.25, False))


def test_compiled_without_graph_breaks(monkeypatch):
    monkeypatch.undo()
    inputs = {name: x.to(DEVICE) for name, x in make_inputs(1, 70, 1).items()}

    def loss(inputs):
        output, state = delta_fast_weights(**inputs, output_final_state=True, implementation="triton")
        return output.square().sum() + state.sum()

    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        gradients.append(torch.autograd.grad(function(leaves), list(leaves.values())))
    for compiled, eager in zip(*gradients):
        torch.testing.assert_close(compiled, eager)


def test_second_derivatives_are_refused():
    q, k, v = (torch.randn(1, 20, 1, 16, device=DEVICE, requires_grad=True) / 4 for _ in range(3))
    output, _ = delta_fast_weights(q, k, v, implementation="triton")
    (gradient,) = torch.autograd.grad(output.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


def test_forward_mode_is_refused():
    """Torch would run a custom op without tangents, as if they were 0."""
    x = torch.randn(1, 20, 1, 16, device=DEVICE)
    with forward_ad.dual_level():
        q = forward_ad.make_dual(x, x)
        with pytest.raises(NotImplementedError, match=r"'triton' has no forward-mode .*'recurrent' has"):
            delta_fast_weights(q, x, x, implementation="triton")


def test_float64_is_refused():
    x = torch.randn(1, 20, 1, 16, dtype=torch.float64, device=DEVICE)
    with pytest.raises(ValueError, match="'triton' computes in float32 and v is float64; use 'auto'"):
        delta_fast_weights(x, x, x, implementation="triton")


def test_keys_that_are_too_long_are_refused():
    x = torch.randn(1, 2, 1, 257, device=DEVICE)
    with pytest.raises(ValueError, match="'triton' takes keys of at most 256 channels, got 257; use 'auto'"):
        delta_fast_weights(x, x, x, implementation="triton")


def test_tensors_on_a_cpu_are_refused():
    done = fresh(
        "import torch; from seqzoo.kernels.delta_fast_weights import delta_fast_weights as f\n"
        "x = torch.randn(1, 20, 1, 16)\n"
        "f(x, x, x); print('auto runs')\n"
        "f(x, x, x, implementation='triton')",
        TRITON_INTERPRET="0",
    )
    assert done.stdout == "auto runs\n"
    assert "'triton' needs an NVIDIA GPU of compute capability 8.0 or newer" in done.stderr


def test_without_triton_nothing_is_said():
    done = fresh(
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from seqzoo.kernels.delta_fast_weights import delta_fast_weights as f\n"
        "x = torch.randn(1, 20, 1, 16)\n"
        "f(x, x, x); print('auto runs')\n"
        "f(x, x, x, implementation='triton')"
    )
    assert done.stdout == "auto runs\n"
    assert "ImportError: implementation='triton' needs Triton: pip install triton" in done.stderr
    assert "Warning" not in done.stderr
