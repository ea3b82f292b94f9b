"""The op against its definition in float64: outputs, final state and every gradient, at any gates, shape and split."""

import pytest
import torch
from decay_rule import NAMES, assert_close, make_inputs, random_reset, run
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights


def assert_exact(inputs, reset=None, **options):
    """`chunked` in float32 against the definition in float64."""
    expected = run(inputs, "recurrent", torch.float64, reset, **options)
    assert_close(run(inputs, "chunked", torch.float32, reset, **options), expected)


@pytest.mark.parametrize("logits", [1.0, 8.0, 60.0, 1000.0])
@pytest.mark.parametrize("bias", [3.0, 0.0])
def test_any_gates(logits, bias):
    assert_exact(make_inputs(time=500, heads=3, K=64, D=64, logits=logits, bias=bias))


@pytest.mark.parametrize("logits", [1.0, 8.0])
def test_long_sequence(logits):
    assert_exact(make_inputs(time=2048, heads=1, K=32, D=32, logits=logits))


@pytest.mark.parametrize("logits", [1.0, 60.0])
@pytest.mark.parametrize(
    ("batch", "time", "heads", "K", "D"),
    [
        pytest.param(*shape, id="B{}-T{}-H{}-K{}-D{}".format(*shape))
        for shape in [
            (1, 1, 1, 4, 3),
            (2, 1, 3, 8, 4),
            (1, 2, 2, 5, 7),
            (3, 31, 2, 16, 8),
            (1, 63, 1, 8, 24),
            (2, 64, 2, 8, 8),
            (1, 65, 2, 8, 8),
            (1, 129, 25, 64, 64),  # heads in unequal parts
            (70, 70, 3, 16, 16),  # rows in unequal parts
        ]
    ],
)
def test_shapes(batch, time, heads, K, D, logits):
    assert_exact(make_inputs(batch, time, heads, K, D, logits))


@pytest.mark.parametrize("logits", [1.0, 60.0])
@pytest.mark.parametrize("data", [1e-9, 1e8])
def test_small_and_large_data(data, logits):
    assert_exact(make_inputs(time=150, logits=logits, data=data))


@pytest.mark.parametrize("logits", [1.0, 60.0])
@pytest.mark.parametrize("missing", ["gk", "gv", "initial_state", "gk gv", "gk gv initial_state"])
def test_missing_inputs(missing, logits):
    inputs = make_inputs(logits=logits)
    assert_exact(inputs | dict.fromkeys(missing.split()))


@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
def test_gates_of_exactly_one_are_no_gates(implementation):
    inputs = make_inputs()
    ones = inputs | {"gk": torch.zeros_like(inputs["gk"]), "gv": torch.zeros_like(inputs["gv"])}
    without = run(inputs | {"gk": None, "gv": None}, "recurrent", torch.float64)
    results = run(ones, implementation, torch.float32)
    assert_close({name: results[name] for name in without}, without)
    assert_exact(ones)


def test_gates_of_exactly_zero():
    inputs = make_inputs(time=150)
    closed = random_reset(1, 150, 0.1)[:, :, None, None]
    closed[:, 80] = False
    for name in ("gk", "gv"):
        inputs[name] = inputs[name].masked_fill(closed, -torch.inf)
        inputs[name][:, 70:75] = -1e30
        inputs[name][:, 80] = -86.5
    assert_exact(inputs)
    gradient = run(inputs, "chunked", torch.float32)["d_gk"]
    assert (gradient[closed.expand_as(gradient)] == 0).all()


@pytest.mark.parametrize("gate", [-0.34, -0.1, -1e-2, -1e-4])
def test_constant_gates(gate):
    inputs = make_inputs(time=500, K=64, D=64)
    assert_exact(inputs | {name: torch.full_like(inputs[name], gate) for name in ("gk", "gv")})


@pytest.mark.parametrize(("log_gate", "limit"), [(-2.0, 2e-5), (-3.0, 3e-4), (-5.0, 1e-2)])
def test_gradients_of_gates_that_are_strong_throughout(log_gate, limit):
    """Differences of flows a thousand times and more as large: what docs/decaying_fast_weights.md says of them."""
    inputs = make_inputs(time=300, K=64, D=64)
    noise = make_inputs(time=300, K=64, D=64, logits=0.1, bias=0.0, seed=1)
    for name in ("gk", "gv"):
        inputs[name] = log_gate + noise[name] - noise[name].mean()
    expected = run(inputs, "recurrent", torch.float64)
    actual = run(inputs, "chunked", torch.float32)
    for name, x in actual.items():
        error = ((x.double() - expected[name]).abs().max() / expected[name].abs().max()).item()
        assert error <= (limit if name in ("d_gk", "d_gv") else 2e-6), f"{name}: {error:.1e}"


@pytest.mark.parametrize("drop", [-2.5, -5.0, -30.0])
def test_strong_gates_before_many_near_one(drop):
    """Sums of log gates become large first, then have to keep the digits of small ones."""
    inputs = make_inputs(time=256, K=64, D=64)
    for name in ("gk", "gv"):
        inputs[name] = torch.full_like(inputs[name], -1e-3)
        inputs[name][:, 36:40] = drop
    assert_exact(inputs)


def test_one_sided_saturation():
    """Mild and any gates in one sequence, on different sides, heads and rows."""
    inputs = make_inputs(batch=2, time=400)
    inputs["gk"][0, 100:130, 0] = -50.0
    inputs["gv"][1, 300:, 1, 3] = -5.0
    assert_exact(inputs)


@pytest.mark.parametrize("logits", [1.0, 60.0])
def test_gradient_through_the_final_state_only(logits):
    assert_exact(make_inputs(logits=logits), only_state=True)


def test_scale():
    inputs = make_inputs(time=80)
    assert_exact(inputs, scale=-3.0)
    assert_exact(inputs, scale=0.5)
    default, _ = decaying_fast_weights(**inputs)
    explicit, _ = decaying_fast_weights(**inputs, scale=16**-0.5)
    assert torch.equal(default, explicit)


def test_definition():
    """A few steps written out with the paper's D x K states."""
    inputs = make_inputs(time=3, heads=1, K=4, D=2, dtype=torch.float64)
    q, k, v, gk, gv = (inputs[name][0, :, 0] for name in NAMES[:5])
    S = inputs["initial_state"][0, 0].T
    output, state = decaying_fast_weights(**inputs, scale=1.0, output_final_state=True, implementation="recurrent")
    for t in range(3):
        S = torch.outer(gv[t].exp(), gk[t].exp()) * S + torch.outer(v[t], k[t])
        torch.testing.assert_close(output[0, t, 0], S @ q[t])
    torch.testing.assert_close(state[0, 0].T, S)


@pytest.mark.parametrize("logits", [1.0, 60.0])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_reset(share, logits):
    inputs = make_inputs(batch=3, time=200, logits=logits)
    assert_exact(inputs, random_reset(3, 200, share))


@pytest.mark.parametrize("logits", [1.0, 60.0])
@pytest.mark.parametrize("start", [1, 30, 32, 50, 64, 100, 129])
def test_reset_is_a_separate_sequence(start, logits):
    inputs = make_inputs(time=130, logits=logits)
    reset = torch.zeros(1, 130, dtype=torch.bool)
    reset[:, start] = True
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    output, state = decaying_fast_weights(**inputs, reset=reset, output_final_state=True, implementation="chunked")
    second = {name: inputs[name][:, start:] for name in NAMES[:5]}
    alone, alone_state = decaying_fast_weights(**second, output_final_state=True, implementation="recurrent")
    torch.testing.assert_close(output[:, start:], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, alone_state, rtol=1e-5, atol=1e-5)

    later = torch.autograd.grad(output[:, start:].sum() + state.sum(), inputs.values(), retain_graph=True)
    for name, gradient in zip(NAMES, later):
        before = gradient if name == "initial_state" else gradient[:, :start]
        assert (before == 0).all(), f"{name} of the first sequence has a gradient from the second"
    assert (later[3][:, start] == 0).all()
    earlier = torch.autograd.grad(output[:, :start].sum(), inputs.values())
    for name, gradient in zip(NAMES[:5], earlier):
        assert (gradient[:, start:] == 0).all(), f"{name} of the second sequence has a gradient from the first"


def test_reset_at_the_first_step_drops_the_initial_state():
    inputs = make_inputs()
    reset = torch.zeros(1, 100, dtype=torch.bool)
    reset[:, 0] = True
    for implementation in ("recurrent", "chunked"):
        output, _ = decaying_fast_weights(**inputs, reset=reset, implementation=implementation)
        expected, _ = decaying_fast_weights(**inputs | {"initial_state": None}, implementation=implementation)
        assert torch.equal(output, expected)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    time=st.integers(1, 150),
    heads=st.integers(1, 3),
    K=st.integers(1, 9),
    D=st.integers(1, 9),
    logits=st.sampled_from([1.0, 8.0, 60.0, 1000.0]),
    missing=st.sets(st.sampled_from(["gk", "gv", "initial_state"])),
    share=st.sampled_from([None, 0.05, 0.5]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_any_call_and_any_split(batch, time, heads, K, D, logits, missing, share, seed, data):
    inputs = make_inputs(batch, time, heads, K, D, logits, dtype=torch.float64, seed=seed) | dict.fromkeys(missing)
    reset = None if share is None else random_reset(batch, time, share, seed)
    expected = run(inputs, "recurrent", torch.float64, reset)
    results = run(inputs, "chunked", torch.float64, reset)
    torch.testing.assert_close(results, expected, rtol=1e-10, atol=1e-10)

    split = data.draw(st.integers(0, time), label="split")
    state, outputs = inputs["initial_state"], []
    for part in (slice(0, split), slice(split, time)):
        if part.start == part.stop:
            continue
        steps = {name: None if inputs[name] is None else inputs[name][:, part] for name in NAMES[:5]}
        output, state = decaying_fast_weights(
            **steps, initial_state=state, reset=None if reset is None else reset[:, part], output_final_state=True
        )
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), expected["output"].detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, expected["state"].detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
@pytest.mark.parametrize("logits", [1.0, 30.0])
@pytest.mark.parametrize("with_reset", [False, True])
def test_gradcheck(implementation, logits, with_reset):
    inputs = make_inputs(batch=2, time=9, heads=1, K=3, D=2, logits=logits, bias=1.0, dtype=torch.float64)
    reset = random_reset(2, 9, 0.2) if with_reset else None

    def op(*tensors):
        return decaying_fast_weights(
            **dict(zip(NAMES, tensors)), reset=reset, output_final_state=True, implementation=implementation
        )

    assert torch.autograd.gradcheck(op, [x.requires_grad_() for x in inputs.values()])


def test_saved_memory_is_linear_in_time():
    def saved_bytes(time):
        sizes = {}

        def pack(x):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        inputs = {name: x.requires_grad_() for name, x in make_inputs(time=time, K=64, D=64).items()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            output, _ = decaying_fast_weights(**inputs, implementation="chunked")
        return sum(sizes.values()) / output.nbytes

    # Five inputs, the output, the states at the ends of chunks.
    assert saved_bytes(512) == pytest.approx(7, abs=0.2)
    assert saved_bytes(2048) == pytest.approx(7, abs=0.1)
