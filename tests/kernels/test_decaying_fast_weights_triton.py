"""The Triton kernels of the decay rule against its definition in float64: on a GPU, or small in Triton's interpreter.

The interpreter multiplies with the digits of tensor cores, see `triton_kernels.py`. The larger sizes are for a GPU.
"""

import re

import pytest
import torch
from decay_rule import make_inputs, random_reset, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from triton_kernels import (  # noqa: F401
    DEVICE,
    HALF_TOLERANCE,
    SIZES_OF_MODELS,
    TOLERANCE,
    errors,
    fresh,
    mean_errors,
    poisoned,
    tensor_cores,
)
from triton_memory import memory_faults  # noqa: F401

from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights, decaying_fast_weights_step


triton = pytest.importorskip("triton", reason="needs Triton")
gpu = pytest.mark.gpu


@pytest.fixture(scope="module")
def module():
    from seqzoo.kernels import decaying_fast_weights_triton

    return decaying_fast_weights_triton


def assert_exact(inputs, reset=None, tolerance=TOLERANCE, **options):
    expected = run(inputs, "recurrent", torch.float64, reset, **options)
    if reset is not None:
        reset = reset.to(DEVICE)
    actual = run(inputs, "triton", torch.float32, reset, device=DEVICE, **options)
    for name, error in errors(actual, expected).items():
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("logits", [1.0, 8.0, 60.0, 1000.0])
@pytest.mark.parametrize("bias", [3.0, 0.0])
def test_any_gates(logits, bias):
    assert_exact(make_inputs(time=130, heads=2, logits=logits, bias=bias))


@pytest.mark.parametrize("logits", [1.0, 60.0])
@pytest.mark.parametrize("time", [1, 2, 15, 16, 17, 63, 64, 65])
def test_lengths(time, logits):
    assert_exact(make_inputs(time=time, heads=1, logits=logits))


@pytest.mark.parametrize(("K", "D"), [(16, 32), (32, 16), (33, 16), (16, 33), (64, 96), (128, 64), (1, 5)])
def test_sizes(K, D):
    assert_exact(make_inputs(time=66, heads=1, K=K, D=D), reset=random_reset(1, 66, 0.05))


@pytest.mark.parametrize("missing", ["", "gk gv"])
@pytest.mark.parametrize(("K", "D"), [(16, 144), (144, 16)])
def test_sizes_of_several_tiles(K, D, missing):
    assert_exact(make_inputs(time=66, heads=1, K=K, D=D) | dict.fromkeys(missing.split()))


def test_small_tiles_of_mild_gates(module, monkeypatch):
    monkeypatch.setattr(module, "_mild_block", lambda k, v: 32)  # of GPUs with little shared memory
    assert_exact(make_inputs(time=66, heads=1, K=96, D=40), reset=random_reset(1, 66, 0.05))


@gpu
@pytest.mark.parametrize("logits", [1.0, 8.0, 60.0, 1000.0])
@pytest.mark.parametrize("time", [1000, 4097])
@pytest.mark.parametrize(("K", "D"), SIZES_OF_MODELS)
def test_sizes_of_models(K, D, time, logits):
    assert_exact(make_inputs(time=time, heads=2, K=K, D=D, logits=logits))


@pytest.mark.parametrize("logits", [1.0, 60.0])
@pytest.mark.parametrize("missing", ["gk", "gv", "initial_state", "gk gv", "gk gv initial_state"])
def test_missing_inputs(missing, logits):
    assert_exact(make_inputs(time=70, logits=logits) | dict.fromkeys(missing.split()))


def test_gates_of_exactly_zero_and_one():
    inputs = make_inputs(time=150)
    closed = random_reset(1, 150, 0.1)[:, :, None, None]
    for name in ("gk", "gv"):
        inputs[name] = inputs[name].masked_fill(closed, -torch.inf)
        inputs[name][:, 30:34] = -1e30
        inputs[name][:, 100:130] = 0
    assert_exact(inputs)


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_resets(share):
    for logits in (1.0, 60.0):
        assert_exact(make_inputs(2, 140, 1, logits=logits), reset=random_reset(2, 140, share))


@pytest.mark.parametrize("gate", ["gk", "gv"])
def test_a_gate_that_is_not_a_number_shows(gate):
    inputs = {name: x.to(DEVICE) for name, x in make_inputs(time=70, heads=1).items()}
    inputs[gate][:, 65, :, 0] = torch.nan
    inputs[gate][:, 66, :, 1] = -100.0  # not the form for mild gates
    output, state = decaying_fast_weights(**inputs, output_final_state=True, implementation="triton")
    assert output[:, 65:].isnan().any()
    assert state.isnan().any()


def test_mild_stronger_and_any_gates_in_one_call(module):
    inputs = make_inputs(time=200, heads=3)
    inputs["gk"][:, 64:128, 1, 3] -= 1.0  # 8 steps sum to more than -11, 32 to less
    inputs["gk"][:, 70, 2, 3] = -40.0
    inputs["gv"][:, 199, 2] = -400.0
    *_, mild = module._forward(*(x.to(DEVICE) for x in inputs.values()), None, 0.25)
    assert mild.sum(-1)[:, 0].tolist() == [[2, 2, 2], [2, 1, 0], [2, 2, 2], [2, 2, 0]]
    assert_exact(inputs)


@pytest.mark.parametrize(("time", "K", "D"), [(128, 64, 16), (70, 33, 20), (65, 16, 80), (1, 5, 7)])
def test_programs_keep_to_their_memory(time, K, D, memory_faults):  # noqa: F811
    inputs = make_inputs(1, time, 2, K, D)
    inputs["gk"][:, -1, 1, 0] = -40.0  # of two heads, one is not mild
    inputs["q"], inputs["v"] = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (inputs["q"], inputs["v"]))
    run(inputs, "triton", torch.float32, random_reset(1, time, 0.05))
    run(inputs | dict.fromkeys(["gv", "initial_state"]), "triton", torch.float32)
    step = {name: x[:, :1] for name, x in inputs.items() if name != "initial_state"}
    decaying_fast_weights_step(**step, state=inputs["initial_state"], implementation="triton")
    assert not memory_faults


def test_memory_that_is_not_a_programs_own_shows(memory_faults):  # noqa: F811
    from triton import language as tl

    @triton.jit
    def outside(x, y):
        tl.store(y + tl.arange(0, 4), tl.load(x + tl.arange(0, 4)))

    @triton.jit
    def unwritten(x, y):
        tl.store(y, tl.load(x))

    @triton.jit
    def shared(x, y):
        tl.store(y, tl.program_id(0).to(tl.float32))

    @triton.jit
    def neighbours(x, y):
        i = tl.program_id(0)
        tl.store(y + i, tl.load(y + 1 - i))

    x, y = torch.zeros(8)[::2], torch.zeros(4)
    outside[1,](x, y)
    unwritten[1,](torch.empty(1), y)
    shared[2,](x, y)
    neighbours[2,](x, y)
    assert memory_faults == {
        "outside: outside of its tensors",
        "unwritten: what was never written",
        "shared: programs store different numbers in the same place",
        "neighbours: a program loads what another one stores",
    }


def test_gradients_through_the_state_alone():
    assert_exact(make_inputs(time=70), only_state=True)


# On a GPU few of them: each is compiled.
RANDOM_SIZES = st.tuples(*[st.integers(3, 40)] * 2) if DEVICE == "cpu" else st.sampled_from([(16, 48), (48, 16)])


@settings(max_examples=5 if DEVICE == "cpu" else 100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(63, 140), st.integers(1, 2)),
    sizes=RANDOM_SIZES,
    logits=st.sampled_from([0.5, 3.0, 20.0, 300.0]),
    share=st.sampled_from([None, 0.05, 0.4]),
    seed=st.integers(0, 99),
)
def test_random_inputs(shape, sizes, logits, share, seed):
    reset = None if share is None else random_reset(*shape[:2], share, seed)
    # Of very few steps and channels, gate gradients are small differences of flows: docs/decaying_fast_weights.md.
    assert_exact(make_inputs(*shape, *sizes, logits=logits, seed=seed), reset, tolerance=2e-6)


@pytest.mark.parametrize(("logits", "bias"), [(1.0, 3.0), (1.0, 0.0), (8.0, 3.0), (60.0, 3.0)])
def test_bfloat16_is_as_good_as_the_chunked_form(logits, bias):
    inputs = make_inputs(time=150, heads=2, K=64, D=64, logits=logits, bias=bias, dtype=torch.bfloat16)
    expected = run(inputs, "recurrent", torch.float64)
    actual = run(inputs, "triton", torch.bfloat16, device=DEVICE)
    chunked = mean_errors(run(inputs, "chunked", torch.bfloat16), expected)
    assert max(errors(actual, expected).values()) <= HALF_TOLERANCE
    for name, error in mean_errors(actual, expected).items():
        # Gradients of gates are differences of flows, the smaller the stronger the gates are.
        limit = 1.5 if name in ("d_gk", "d_gv") and bias == 0 else 1.2
        # Of the final state, float32, the chunked form keeps all digits: so do the kernels.
        assert error <= max(limit * chunked[name], TOLERANCE), f"{name}: {error:.1e}, chunked {chunked[name]:.1e}"


@pytest.mark.parametrize("logits", [1.0, 8.0, 60.0])
def test_float16(logits):
    inputs = make_inputs(time=150, heads=2, logits=logits, dtype=torch.float16)
    expected = run(inputs, "recurrent", torch.float64)
    actual = run(inputs, "triton", torch.float16, device=DEVICE)
    assert max(mean_errors(actual, expected).values()) <= 2e-3


def test_strides_of_any_kind():
    inputs = make_inputs(2, 70, 3, 16, 16)
    expected = run(inputs, "recurrent", torch.float64)
    views = {
        "q": inputs["q"].transpose(1, 2).contiguous().transpose(1, 2),  # heads before time
        "k": torch.stack([inputs["k"], inputs["v"]], dim=-1)[..., 0],  # two apart
        "gk": inputs["gk"].flip(1).contiguous().flip(1),
        "gv": torch.cat([inputs["gv"], inputs["gv"]], dim=-1)[..., :16],
    }
    actual = run(inputs | views, "triton", torch.float32, device=DEVICE)
    assert max(errors(actual, expected).values()) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_gates_of_another_type_than_values(dtype):
    inputs = make_inputs(time=70, heads=1, logits=8.0)
    inputs |= {name: inputs[name].to(dtype) for name in ("gk", "gv")}
    expected = run(inputs, "recurrent", torch.float64)
    actual = run(inputs, "triton", None, device=DEVICE)
    assert actual["d_gk"].dtype == dtype
    limits = dict.fromkeys(expected, TOLERANCE) | dict.fromkeys(
        ["d_gk", "d_gv"], 1e-3 if dtype == torch.float16 else TOLERANCE
    )
    for name, error in errors(actual, expected).items():
        assert error <= limits[name], f"{name}: {error:.1e}"


def test_a_gate_of_a_head_as_a_view():
    inputs = make_inputs(1, 70, 2, 16, 16)
    gate = inputs["gk"][..., :1].clone().to(DEVICE).requires_grad_()
    inputs = {name: x.to(DEVICE) for name, x in inputs.items()}
    inputs["gk"] = gate.expand(-1, -1, -1, 16)
    results = []
    for implementation in ("triton", "recurrent"):
        output, _ = decaying_fast_weights(**inputs, implementation=implementation)
        results.append((output, *torch.autograd.grad(output.square().sum(), gate)))
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("missing", ["", "gk", "gv", "gk gv", "initial_state"])
def test_one_step(missing):
    inputs = make_inputs(2, 1, 3, 33, 20) | dict.fromkeys(missing.split())
    expected, expected_state = decaying_fast_weights(
        **{name: None if x is None else x.double() for name, x in inputs.items()},
        output_final_state=True,
        implementation="recurrent",
    )
    inputs = {name: None if x is None else x.to(DEVICE) for name, x in inputs.items()}
    output, state = decaying_fast_weights(**inputs, output_final_state=True, implementation="triton")
    torch.testing.assert_close(output.cpu().double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state.cpu().double(), expected_state, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", ["recurrent", "triton"])
@pytest.mark.parametrize(("missing", "K"), [("", 33), ("gk", 33), ("gv", 33), ("", 2)])
def test_steps_that_overwrite_the_state(missing, K, implementation):
    inputs = make_inputs(2, 5, 3, K, 20) | dict.fromkeys(missing.split())
    expected, expected_state = decaying_fast_weights(
        **{name: None if x is None else x.double() for name, x in inputs.items()},
        output_final_state=True,
        implementation="recurrent",
    )
    inputs = {name: None if x is None else x.to(DEVICE) for name, x in inputs.items()}
    state = inputs.pop("initial_state")
    outputs = []
    for t in range(5):
        step = {name: None if x is None else x[:, t : t + 1] for name, x in inputs.items()}
        outputs.append(decaying_fast_weights_step(**step, state=state, implementation=implementation))
    torch.testing.assert_close(torch.cat(outputs, 1).cpu().double(), expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(state.cpu().double(), expected_state, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"time": 2}, "one step at a time, got 2"),
        ({"state": torch.zeros(1, 2, 16, 16, dtype=torch.float16)}, r"contiguous and torch.float32, .* torch.float16"),
        ({"state": torch.zeros(1, 2, 16, 16).mT}, "state must be contiguous .* got torch.float32, not contiguous"),
        ({"state": torch.zeros(1, 2, 16, 16, requires_grad=True)}, r"must not require a gradient: use state.detach"),
        ({"state": torch.zeros(2, 2, 16, 16)}, r"state must have the shape \[1, 2, 16, 16\]"),
        ({"implementation": "chunked"}, "must be 'auto', 'triton' or 'recurrent', got 'chunked'"),
    ],
)
def test_steps_that_are_refused(change, match):
    change = {"state": torch.zeros(1, 2, 16, 16), "time": 1} | change
    inputs = make_inputs(time=change.pop("time"))
    del inputs["initial_state"]
    with pytest.raises(ValueError, match=match):
        decaying_fast_weights_step(**inputs | change)


def test_a_step_without_a_state_is_refused():
    x = torch.ones(1, 1, 2, 16)
    with pytest.raises(TypeError, match=r"state must be a tensor to be written to, got None: zeros \[batch, heads"):
        decaying_fast_weights_step(x, x, x, state=None)


@gpu
def test_a_cuda_graph_of_a_step():
    inputs = {name: x.cuda() for name, x in make_inputs(2, 1, 3, 64, 64).items()}
    state = inputs.pop("initial_state")
    expected = decaying_fast_weights_step(**inputs, state=state.clone())
    decaying_fast_weights_step(**inputs, state=state.clone())  # compiled before it is captured
    captured, graph = state.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = decaying_fast_weights_step(**inputs, state=captured)
    captured.copy_(state)
    graph.replay()
    torch.testing.assert_close(output, expected)


@gpu
def test_several_streams():
    inputs = {name: x.cuda() for name, x in make_inputs(2, 1000, 8, 64, 64).items()}
    expected, _ = decaying_fast_weights(**inputs)
    torch.cuda.synchronize()
    outputs = []
    for _ in range(4):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            outputs.append(decaying_fast_weights(**inputs)[0])
    torch.cuda.synchronize()
    assert all(torch.equal(output, expected) for output in outputs)


@gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one():
    inputs = make_inputs(2, 100, 2)
    first, second = (
        decaying_fast_weights(**{name: x.to(device) for name, x in inputs.items()})[0]
        for device in ("cuda:0", "cuda:1")
    )
    torch.testing.assert_close(first.cpu(), second.cpu())


@gpu
def test_memory_does_not_grow_with_the_steps_squared_or_the_states():
    inputs = [x.cuda().bfloat16() for x in make_inputs(2, 8192, 8, 64, 64).values()][:5]
    leaves = [x.requires_grad_() for x in inputs]
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    output, _ = decaying_fast_weights(*leaves)
    output.backward(torch.ones_like(output))
    inputs_and_outputs = 2 * (len(leaves) + 1) * output.numel() * output.element_size()
    assert torch.cuda.max_memory_allocated() - before <= 1.5 * inputs_and_outputs


@gpu
def test_more_numbers_than_32_bits_count():
    q = torch.randn(3, 16384, 700, 64, device="cuda", dtype=torch.bfloat16)  # 2.2e9 numbers
    output, _ = decaying_fast_weights(q, q, q)
    last, _ = decaying_fast_weights(*[q[2:, :, -1:].contiguous()] * 3)
    torch.testing.assert_close(output[2:, :, -1:], last)


@gpu
def test_a_chunk_that_spans_more_than_32_bits_count():
    rows = torch.empty(64, 36_000_000, device="cuda", dtype=torch.bfloat16)[:, :32].normal_()  # 2.3e9 numbers
    q = rows.unflatten(1, (2, 16))[None]
    torch.testing.assert_close(decaying_fast_weights(q, q, q)[0], decaying_fast_weights(*[q.contiguous()] * 3)[0])


@gpu
def test_a_step_whose_channels_span_more_than_32_bits_count():
    q = torch.empty(32, 72_000_000, device="cuda", dtype=torch.bfloat16)[:, :2].normal_().T[:, None, None]  # 2.3e9
    state, expected_state = torch.zeros(2, 2, 1, 32, 32, device="cuda")
    output = decaying_fast_weights_step(q, q, q, state=state)
    expected = decaying_fast_weights_step(*[q.contiguous()] * 3, state=expected_state)
    torch.testing.assert_close((output, state), (expected, expected_state))


def test_pieces_are_the_whole():
    inputs = {name: x.to(DEVICE) for name, x in make_inputs(time=133).items()}
    whole, last = decaying_fast_weights(**inputs, output_final_state=True, implementation="triton")
    state, pieces = inputs.pop("initial_state"), []
    for start, stop in ((0, 64), (64, 65), (65, 66), (66, 133)):
        part = {name: x[:, start:stop] for name, x in inputs.items()}
        output, state = decaying_fast_weights(
            **part, initial_state=state, output_final_state=True, implementation="triton"
        )
        pieces.append(output)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", ["", "gk gv initial_state", "gv"])
def test_opcheck(module, missing, monkeypatch):
    monkeypatch.undo()  # opcheck traces what the poison would add
    inputs = make_inputs(1, 66, 1) | dict.fromkeys(missing.split())
    inputs = [None if x is None else x.to(DEVICE).requires_grad_() for x in inputs.values()]
    reset = random_reset(1, 66, 0.1).to(DEVICE).view(torch.uint8)
    torch.library.opcheck(module._forward, (*inputs, reset, 0.25))
    q, k, v, gk, gv, state = [None if x is None else x.detach()[:, :1].contiguous() for x in inputs]
    if state is not None:
        state = inputs[5].detach()
    torch.library.opcheck(module._step, (q, k, v, gk, gv, state, 0.25))
    torch.library.opcheck(module._step_in_place, (q, k, v, gk, gv, torch.zeros(1, 1, 16, 16, device=DEVICE), 0.25))


def test_compiled_without_graph_breaks(monkeypatch):
    monkeypatch.undo()
    inputs = {name: x.to(DEVICE) for name, x in make_inputs(1, 70, 1).items()}

    def loss(inputs):
        output, state = decaying_fast_weights(**inputs, output_final_state=True, implementation="triton")
        return output.square().sum() + state.sum()

    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        gradients.append(torch.autograd.grad(function(leaves), list(leaves.values())))
    for compiled, eager in zip(*gradients):
        torch.testing.assert_close(compiled, eager)


def test_second_derivatives_are_refused():
    q, k, v = (torch.randn(1, 20, 1, 16, device=DEVICE, requires_grad=True) for _ in range(3))
    output, _ = decaying_fast_weights(q, k, v, implementation="triton")
    (gradient,) = torch.autograd.grad(output.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


def test_forward_mode_is_refused():
    """Torch would run a custom op without tangents, as if they were 0."""
    x = torch.randn(1, 20, 1, 16, device=DEVICE)
    with forward_ad.dual_level():
        q = forward_ad.make_dual(x, x)
        with pytest.raises(NotImplementedError, match=r"'triton' has no forward-mode .*'recurrent' has"):
            decaying_fast_weights(q, x, x, implementation="triton")


def test_float64_is_refused():
    x = torch.randn(1, 20, 1, 16, dtype=torch.float64, device=DEVICE)
    with pytest.raises(ValueError, match="'triton' computes in float32 and v is float64; use 'auto'"):
        decaying_fast_weights(x, x, x, implementation="triton")


def test_tensors_on_a_cpu_are_refused():
    done = fresh(
        "import torch; from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights as f\n"
        "x = torch.randn(1, 20, 1, 16)\n"
        "f(x, x, x); print('auto runs')\n"
        "f(x, x, x, implementation='triton')",
        TRITON_INTERPRET="0",
    )
    assert done.stdout == "auto runs\n"
    assert (
        "'triton' needs an NVIDIA GPU of compute capability 8.0 or newer, and the tensors are on cpu; use 'auto'"
        in done.stderr
    )


def test_without_triton_nothing_is_said():
    done = fresh(
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights as f\n"
        "x = torch.randn(1, 20, 1, 16)\n"
        "f(x, x, x); print('auto runs')\n"
        "f(x, x, x, implementation='triton')"
    )
    assert done.stdout == "auto runs\n"
    assert "ImportError: implementation='triton' needs Triton: pip install triton" in done.stderr
    assert "Warning" not in done.stderr


ROUND = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from seqzoo.kernels.triton_chunks import _rounded

@triton.jit
def kernel(x, y):
    i = tl.arange(0, 128)
    tl.store(y + i, _rounded(tl.load(x + i)))

source = ASTSource(kernel, {"x": "*fp32", "y": "*fp32"}, {})
for fused in (True, False):
    print(triton.compile(source, GPUTarget("cuda", 90, 32), {"enable_fp_fusion": fused}).asm["ptx"])
"""


def test_the_compiler_leaves_rounding_as_it_is(tmp_path):
    """8193 x has to be rounded before 8192 x is taken from it: fused with it, it would be x itself."""
    program = tmp_path / "round.py"  # Triton reads the source of kernels from their file
    program.write_text(ROUND)
    done = fresh(f"import runpy; runpy.run_path({str(program)!r})", TRITON_INTERPRET="0")
    rounded = r"mul\.(rn\.)?f32\s+(%r\d+), (%r\d+), 0f46000400;.*?fma\.rn\.f32\s+%r\d+, \3, 0fC6000000, \2;"
    assert len(re.findall(rounded, done.stdout, re.DOTALL)) == 2, done.stderr
