"""Packing by cumulative lengths: what each sequence gives alone, by the definition in float64, gradients included."""

import warnings
from itertools import accumulate, pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from triton_kernels import DEVICE

from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights
from seqzoo.kernels.delta_fast_weights import delta_fast_weights


OPS = [decaying_fast_weights, delta_fast_weights]
LENGTHS = [0, 5, 0, 70, 1, 0]  # some empty, one longer than a chunk, one of a single step
both_ops = pytest.mark.parametrize("op", OPS)
every_form = pytest.mark.parametrize("implementation", ["auto", "recurrent", "chunked", "triton"])


def edges_of(lengths, dtype=torch.int32):
    return torch.tensor([0, *accumulate(lengths)], dtype=dtype)


def make_inputs(op, lengths=LENGTHS, states=True, heads=2, K=16, D=9):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    time = sum(lengths)
    q, k = (F.normalize(normal(1, time, heads, K), dim=-1) for _ in range(2))
    inputs = {"q": q, "k": k, "v": normal(1, time, heads, D)}
    if op is delta_fast_weights:
        inputs["beta"] = normal(1, time, heads).sigmoid()
    else:
        inputs["gk"] = F.logsigmoid(normal(1, time, heads, K) + 2)
        inputs["gv"] = F.logsigmoid(normal(1, time, heads, D) + 2)
    if states:
        inputs["initial_state"] = normal(len(lengths), heads, K, D)
    return inputs


def one_by_one(op, lengths, initial_state=None, output_final_state=False, **inputs):
    """Each sequence alone, by the definition."""
    given = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor)}
    options = {name: x for name, x in inputs.items() if name not in given}
    outputs, states = [], []
    for i, (start, end) in enumerate(pairwise([0, *accumulate(lengths)])):
        state = torch.zeros(1, 2, 16, 9, dtype=torch.float64) if initial_state is None else initial_state[i : i + 1]
        if end > start:
            piece = {name: x[:, start:end] for name, x in given.items()}
            output, state = op(
                **piece, **options, initial_state=state, output_final_state=True, implementation="recurrent"
            )
            outputs.append(output)
        states.append(state)
    return torch.cat(outputs, 1), torch.cat(states) if output_final_state else None


def results(function, inputs, dtype, device="cpu", **options):
    """Output, final states if asked for, and the gradients of a fixed weighting of them, by name."""
    leaves = {name: x.to(device, dtype).requires_grad_() for name, x in inputs.items()}
    output, states = function(**leaves, **options)
    found = {"output": output} | ({} if states is None else {"states": states})
    loss = sum((x * torch.linspace(-1, 1, x.numel()).view_as(x).to(x)).sum() for x in found.values())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return found | {f"d_{name}": x for name, x in zip(leaves, gradients, strict=True)}


def assert_same(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, x in actual.items():
        assert x.shape == expected[name].shape, name
        # A gate's gradient is a difference of flows, of few steps next to nothing: docs/decaying_fast_weights.md.
        is_gate = name in ("d_gk", "d_gv")
        scale = max(expected[y].abs().max() for y in ([name, "d_q"] if is_gate else [name]))
        error = (x.cpu().double() - expected[name]).abs().max() / scale.clamp(min=1e-300)
        assert error <= tolerance * (2.5 if is_gate else 1), f"{name}: {error:.1e}"


def assert_packed(op, implementation, lengths, given, returned, **options):
    dtype, device = torch.float64, "cpu"
    if implementation == "triton":
        pytest.importorskip("triton", reason="needs Triton")
        dtype, device = torch.float32, DEVICE
    inputs = make_inputs(op, lengths, given)
    options["output_final_state"] = returned
    expected = results(lambda **inputs: one_by_one(op, lengths, **inputs), inputs, torch.float64, **options)
    options |= {"cu_seqlens": edges_of(lengths), "implementation": implementation}
    assert_same(results(op, inputs, dtype, device, **options), expected, 2e-6 if dtype == torch.float32 else 1e-12)


@every_form
@both_ops
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("returned", [False, True])
def test_sequences_do_not_see_each_other(op, implementation, given, returned):
    assert_packed(op, implementation, LENGTHS, given, returned, scale=0.5)


@pytest.mark.parametrize("implementation", ["recurrent", "chunked", "triton"])
@pytest.mark.parametrize("given", [False, True])
def test_reading_before_writing(implementation, given):
    assert_packed(delta_fast_weights, implementation, LENGTHS, given, given, read_before_write=True)


@both_ops
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20) | st.integers(60, 70), min_size=1, max_size=6).filter(any),
    implementation=st.sampled_from(["auto", "recurrent", "chunked"]),
    given=st.booleans(),
    returned=st.booleans(),
)
@example(lengths=[1], implementation="auto", given=False, returned=False)
def test_any_lengths(op, lengths, implementation, given, returned):
    assert_packed(op, implementation, lengths, given, returned)


@both_ops
@settings(max_examples=5, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9) | st.just(65), min_size=1, max_size=3).filter(any),
    given=st.booleans(),
    returned=st.booleans(),
)
def test_any_lengths_triton(op, lengths, given, returned):
    assert_packed(op, "triton", lengths, given, returned)


@both_ops
def test_optional_tensors_may_be_missing(op):
    inputs = {name: x for name, x in make_inputs(op).items() if name in "qkv"}
    for returned in (False, True):
        expected = one_by_one(op, LENGTHS, output_final_state=returned, **{n: x.double() for n, x in inputs.items()})
        output, states = op(**inputs, cu_seqlens=edges_of(LENGTHS, torch.int64), output_final_state=returned)
        torch.testing.assert_close(output.double(), expected[0], rtol=1e-5, atol=1e-5)
        assert (states is None) == (not returned)
        if returned:
            torch.testing.assert_close(states.double(), expected[1], rtol=1e-5, atol=1e-5)


@both_ops
def test_half_precision_has_states_of_float32(op):
    inputs = {name: x.bfloat16() for name, x in make_inputs(op).items()}
    output, states = op(**inputs, cu_seqlens=edges_of(LENGTHS), output_final_state=True)
    assert (output.dtype, states.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(states[0], inputs["initial_state"][0].float())  # of an empty sequence


@both_ops
@pytest.mark.parametrize("given", [False, True])
def test_lengths_on_a_cpu_go_with_tensors_elsewhere(op, given):
    inputs = {name: x.to("meta") for name, x in make_inputs(op, states=given).items()}
    output, states = op(**inputs, cu_seqlens=edges_of(LENGTHS), output_final_state=given)
    assert (output.shape, output.is_meta) == ((1, 76, 2, 9), True)
    assert states is None or (states.shape, states.is_meta) == ((6, 2, 16, 9), True)


@pytest.mark.gpu
@both_ops
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cuda(op, given, device):
    inputs = make_inputs(op, states=given)
    options = {"output_final_state": given}
    expected = results(lambda **inputs: one_by_one(op, LENGTHS, **inputs), inputs, torch.float64, **options)
    options["cu_seqlens"] = edges_of(LENGTHS).to(device)
    assert_same(results(op, inputs, torch.float32, "cuda", **options), expected, 2e-6)


@both_ops
@pytest.mark.parametrize("given", [False, True])
def test_compiled_code_takes_other_lengths(op, given):
    """Reading the lengths breaks the graph: no error, no warning, and nothing kept of the lengths seen before."""

    def model(cu_seqlens, **inputs):
        inputs["v"] = inputs["v"] * 2
        output, states = op(**inputs, cu_seqlens=cu_seqlens, output_final_state=given)
        return output * 2, states

    compiled = torch.compile(model, backend="aot_eager")
    with warnings.catch_warnings(record=True) as caught:
        for lengths in (LENGTHS, [1, 2, 0, 3, 69, 1], [76, 0, 0, 0, 0, 0], [10, 66]):
            inputs, edges = make_inputs(op, lengths, given), edges_of(lengths)
            expected = results(model, inputs, torch.float64, cu_seqlens=edges)
            assert_same(results(compiled, inputs, torch.float64, cu_seqlens=edges), expected, 1e-12)
    assert not caught, caught[0].message


@both_ops
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"cu_seqlens": [0, 76]}, TypeError, "cu_seqlens must be a tensor of int32 or int64, got list"),
        ({"cu_seqlens": torch.tensor([0.0, 76.0])}, TypeError, "int32 or int64, got a torch.float32 tensor"),
        ({"cu_seqlens": torch.tensor([[0, 76]])}, ValueError, r"be \[sequences \+ 1\], got the shape \[1, 2\]"),
        ({"cu_seqlens": torch.tensor([76])}, ValueError, r"be \[sequences \+ 1\], got the shape \[1\]"),
        ({"cu_seqlens": torch.tensor([0, 9, 8, 76])}, ValueError, r"rise from 0 .*76, got \[0, 9, 8, 76\]"),
        ({"cu_seqlens": torch.tensor([1, 76])}, ValueError, r"rise from 0 .*76, got \[1, 76\]"),
        ({"cu_seqlens": torch.tensor([0, 75])}, ValueError, r"rise from 0 to the number of steps, 76, got \[0, 75\]"),
        ({"cu_seqlens": torch.tensor([0, 77])}, ValueError, r"rise from 0 to the number of steps, 76, got \[0, 77\]"),
        ({"cu_seqlens": torch.tensor([0, 76], device="meta")}, ValueError, "be on cpu like k or on the CPU, got meta"),
        ({"reset": torch.zeros(1, 76, dtype=torch.bool)}, ValueError, "cu_seqlens and reset both say where"),
        (
            {"initial_state": torch.zeros(1, 2, 16, 9)},
            ValueError,
            r"initial_state must have the shape \[6, 2, 16, 9\] to go with k and cu_seqlens, got \[1, 2, 16, 9\]",
        ),
        ({"q": torch.zeros(1, 77, 2, 16)}, ValueError, r"q must have the shape \[1, 76, 2, 16\] to go with k, got"),
        ({"implementation": "fast"}, ValueError, "implementation must be"),
    ],
)
def test_refusals(op, change, error, match):
    with pytest.raises(error, match=match):
        op(**make_inputs(op, states=False) | {"cu_seqlens": edges_of(LENGTHS)} | change)


@both_ops
def test_a_batch_of_rows_is_refused(op):
    inputs = {name: x.expand(2, *x.shape[1:]) for name, x in make_inputs(op, states=False).items()}
    with pytest.raises(ValueError, match="cu_seqlens describes one packed row, the batch has 2: use reset"):
        op(**inputs, cu_seqlens=edges_of(LENGTHS))
