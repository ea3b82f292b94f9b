"""What surrounds the op: dtypes, devices, torch's machinery, refusals, and the house rules of kernels/."""

import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from seqzoo.kernels import argument_checks
from seqzoo.kernels.argument_checks import MAX_TRITON_TIME, can_use_triton
from seqzoo.kernels.decaying_fast_weights import MAX_RECURRENT_STEPS, decaying_fast_weights


ROOT = Path(__file__).parents[2]


def make_inputs(batch=2, time=70, heads=2, K=8, D=6, bias=3.0, **options):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = {
        "q": normal(batch, time, heads, K),
        "k": normal(batch, time, heads, K),
        "v": normal(batch, time, heads, D),
        "gk": F.logsigmoid(normal(batch, time, heads, K) + bias),
        "gv": F.logsigmoid(normal(batch, time, heads, D) + bias),
        "initial_state": normal(batch, heads, K, D),
    }
    return {name: x.to(**options).requires_grad_() for name, x in inputs.items()}


def gradients(inputs, **options):
    output, state = decaying_fast_weights(**inputs, output_final_state=True, **options)
    return output, state, *torch.autograd.grad(output.float().sum() + state.sum(), list(inputs.values()))


@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
@pytest.mark.parametrize("bias", [3.0, -3.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype, bias, implementation):
    inputs = make_inputs(bias=bias, dtype=dtype)
    output, state, *grads = gradients(inputs, implementation=implementation)
    assert output.dtype == dtype
    assert state.dtype == torch.float32
    assert [x.dtype for x in grads] == [dtype] * 6
    full = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    expected, expected_state, *expected_grads = gradients(full, implementation=implementation)
    torch.testing.assert_close(state, expected_state)
    # Rounded once, at the end.
    torch.testing.assert_close(output, expected.to(dtype), rtol=1e-2, atol=1e-6)
    for x, y in zip(grads, expected_grads):
        torch.testing.assert_close(x, y.to(dtype), rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
@pytest.mark.parametrize("bias", [3.0, -3.0])
def test_autocast_changes_nothing(bias, implementation):
    inputs = make_inputs(bias=bias)
    expected = gradients(inputs, implementation=implementation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = decaying_fast_weights(**inputs, output_final_state=True, implementation=implementation)
    results = torch.autograd.grad(output.sum() + state.sum(), list(inputs.values()))
    for x, y in zip((output, state, *results), expected):
        assert torch.equal(x, y)


@pytest.mark.parametrize("bias", [3.0, -3.0])
def test_chunked_backward_under_autocast(bias):
    inputs = make_inputs(bias=bias)
    expected = gradients(inputs, implementation="chunked")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = gradients(inputs, implementation="chunked")
    for x, y in zip(results, expected):
        assert torch.equal(x, y)


@pytest.mark.parametrize("implementation", ["recurrent", "chunked", "auto"])
def test_meta_device(implementation):
    inputs = make_inputs(device="meta")
    reset = torch.zeros(2, 70, dtype=torch.bool, device="meta")
    output, state, *grads = gradients(inputs, implementation=implementation, reset=reset)
    assert (output.shape, state.shape) == ((2, 70, 2, 6), (2, 2, 8, 6))
    assert [x.shape for x in grads] == [x.shape for x in inputs.values()]
    assert all(x.is_meta for x in (output, state, *grads))


@pytest.mark.gpu
@pytest.mark.parametrize("bias", [3.0, -3.0])
def test_cuda(bias):
    inputs = make_inputs(bias=bias)
    expected = gradients({name: x.detach().double().requires_grad_() for name, x in inputs.items()})
    results = gradients({name: x.detach().cuda().requires_grad_() for name, x in inputs.items()})
    for x, y in zip(results, expected):
        torch.testing.assert_close(x.cpu().double(), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [3.0, -3.0])
def test_memory_order_does_not_matter(bias):
    inputs = make_inputs(bias=bias)
    expected = gradients(inputs, implementation="chunked")
    # Heads before time, every second column, one row for all.
    strided = {name: x.detach().transpose(1, 2).contiguous().transpose(1, 2) for name, x in inputs.items()}
    strided["v"] = torch.stack([strided["v"], strided["v"]], dim=-1).flatten(-2)[..., ::2]
    strided = {name: x.requires_grad_() for name, x in strided.items()}
    for x, y in zip(gradients(strided, implementation="chunked"), expected):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
    shared = {name: x.detach()[:1].expand_as(x).requires_grad_() for name, x in inputs.items()}
    copied = {name: x.detach().clone().requires_grad_() for name, x in shared.items()}
    for x, y in zip(gradients(shared, implementation="chunked"), gradients(copied, implementation="chunked")):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_only_wanted_gradients():
    inputs = make_inputs()
    constant = {name: x.detach() for name, x in inputs.items()}
    for name, x in inputs.items():
        output, _ = decaying_fast_weights(**constant | {name: x}, implementation="chunked")
        (gradient,) = torch.autograd.grad(output.sum(), [x])
        everything, _ = decaying_fast_weights(**inputs, implementation="chunked")
        (expected,) = torch.autograd.grad(everything.sum(), [x])
        assert torch.equal(gradient, expected)


def test_inputs_are_left_alone():
    inputs = make_inputs(bias=-3.0)
    before = {name: x.detach().clone() for name, x in inputs.items()}
    gradients(inputs, implementation="chunked")
    assert all(torch.equal(x, before[name]) for name, x in inputs.items())


def test_auto_takes_the_kernels_where_they_run(monkeypatch):
    monkeypatch.setattr(argument_checks, "_look_for_triton", cache(lambda index: True))

    def takes(time, dtype=torch.float32, device="cuda"):
        return can_use_triton(torch.empty(1, time, 1, 16, dtype=dtype, device=device))

    with FakeTensorMode():
        assert all((takes(1), takes(MAX_TRITON_TIME), takes(1, torch.bfloat16)))
        assert not any((takes(MAX_TRITON_TIME + 1), takes(1, torch.float64), takes(1, device="cpu")))


def test_looking_for_triton_is_not_compiled(monkeypatch):
    monkeypatch.setattr(argument_checks, "_look_for_triton", cache(lambda index: True))
    compiled = torch.compile(lambda x: x + argument_checks._triton_runs_on(0), backend="eager", fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled(torch.ones(())) == 2


def test_auto_takes_the_loop_for_a_few_steps_only():
    for time, expected in ((1, "recurrent"), (MAX_RECURRENT_STEPS, "recurrent"), (MAX_RECURRENT_STEPS + 1, "chunked")):
        inputs = make_inputs(time=time)
        with torch.no_grad():
            output, _ = decaying_fast_weights(**inputs)
            assert torch.equal(output, decaying_fast_weights(**inputs, implementation=expected)[0])


@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
def test_no_grad_gives_the_same(implementation):
    inputs = make_inputs()
    output, state = decaying_fast_weights(**inputs, output_final_state=True, implementation=implementation)
    with torch.no_grad():
        again, again_state = decaying_fast_weights(**inputs, output_final_state=True, implementation=implementation)
    assert torch.equal(output, again)
    assert torch.equal(state, again_state)
    assert decaying_fast_weights(**inputs)[1] is None


def test_checkpointing():
    inputs = make_inputs()
    expected = gradients(inputs, implementation="chunked")
    output, state = torch.utils.checkpoint.checkpoint(
        lambda: decaying_fast_weights(**inputs, output_final_state=True), use_reentrant=False
    )
    results = torch.autograd.grad(output.sum() + state.sum(), list(inputs.values()))
    for x, y in zip((output, state, *results), expected):
        assert torch.equal(x, y)


def test_double_backward_is_refused():
    inputs = make_inputs()
    output, _ = decaying_fast_weights(**inputs, implementation="chunked")
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(output.sum(), [inputs["q"]], create_graph=True)


def test_compiled_model():
    """The op is a graph break, not an error and not a warning."""
    linear = torch.nn.Linear(8, 8)

    def model(x):
        x = linear(x).unflatten(-1, (2, 4))
        output, _ = decaying_fast_weights(x, x, x, F.logsigmoid(x), F.logsigmoid(x))
        return output.flatten(2).relu().sum()

    x = torch.randn(1, 70, 8)
    expected = torch.autograd.grad(model(x), [linear.weight])
    with warnings.catch_warnings(record=True) as caught:
        results = torch.autograd.grad(torch.compile(model, backend="eager")(x), [linear.weight])
    torch.testing.assert_close(results, expected)
    assert not caught, caught[0].message


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"q": [1.0]}, TypeError, "q must be a tensor"),
        ({"k": torch.ones(2, 70, 2, 8, dtype=torch.long)}, TypeError, r"k must be .*torch\.int64"),
        ({"v": torch.ones(2, 70, 12)}, ValueError, r"v must be \[batch, time, heads, size\].*\[2, 70, 12\]"),
        ({"q": torch.ones(2, 70, 2, 7)}, ValueError, r"q must have the shape \[2, 70, 2, 8\].*\[2, 70, 2, 7\]"),
        ({"v": torch.ones(2, 69, 2, 6)}, ValueError, r"v must have the shape \[2, 70, 2, 6\].*\[2, 69, 2, 6\]"),
        ({"gk": torch.ones(2, 70, 2, 6)}, ValueError, r"gk must have the shape \[2, 70, 2, 8\]"),
        ({"gv": torch.ones(2, 70, 2, 8)}, ValueError, r"gv must have the shape \[2, 70, 2, 6\]"),
        ({"gv": 0.5}, TypeError, "gv must be a tensor of floating point numbers, got float"),
        ({"initial_state": torch.ones(2, 2, 6, 8)}, ValueError, r"initial_state must have the shape \[2, 2, 8, 6\]"),
        ({"reset": torch.zeros(2, 70)}, TypeError, r"reset must be a tensor of bool.*torch\.float32"),
        ({"reset": torch.zeros(1, 70, dtype=torch.bool)}, ValueError, r"reset must have the shape \[2, 70\]"),
        ({"gk": torch.ones(2, 70, 2, 8, device="meta")}, ValueError, "gk must be on cpu like k, got meta"),
        ({"implementation": "fast"}, ValueError, "'auto', 'triton', 'chunked' or 'recurrent', got 'fast'"),
    ],
)
def test_refusals(change, error, match):
    with pytest.raises(error, match=match):
        decaying_fast_weights(**make_inputs() | change)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="must not be 0"):
        decaying_fast_weights(*(torch.ones(1, 0, 2, 4) for _ in range(3)))


def test_kernels_is_no_regular_package():
    """transformers imports a PyPI package named `kernels`: a regular package here would take its place."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from transformers import AutoModelForCausalLM"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_kernels_import_torch_and_each_other_only():
    program = (
        "import sys; import seqzoo.kernels.decaying_fast_weights;"
        "assert 'transformers' not in sys.modules, 'transformers was imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
