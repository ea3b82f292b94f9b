"""The delta rule: both forms against the definition written out in float64, gradients included."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from seqzoo.kernels.delta_fast_weights import delta_fast_weights


FORMS = ("recurrent", "chunked")


def draw(batch=2, time=20, heads=2, key_size=6, value_size=5, dtype=torch.float64, seed=0, state=True, resets=False):
    """Keys and queries of length 1, as models give them; write strengths from next to 0 to next to 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    arguments = {
        "q": F.normalize(normal(batch, time, heads, key_size), dim=-1),
        "k": F.normalize(normal(batch, time, heads, key_size), dim=-1),
        "v": normal(batch, time, heads, value_size),
        "beta": (3 * normal(batch, time, heads)).sigmoid(),
        "initial_state": normal(batch, heads, key_size, value_size) if state else None,
        "reset": torch.rand(batch, time, generator=generator) < 0.1 if resets else None,
    }
    return {name: x for name, x in arguments.items() if x is not None}


def written_out(q, k, v, beta, initial_state=None, reset=None, read_before_write=False, scale=1.0):
    """The rule of the op's docstring, one number after the other, for one [time, size] at a time."""
    output = torch.zeros_like(v)
    batch, time, heads, key_size = k.shape
    states = torch.zeros(batch, heads, key_size, v.shape[-1], dtype=v.dtype)
    for b in range(batch):
        for h in range(heads):
            state = torch.zeros(key_size, v.shape[-1], dtype=v.dtype)
            if initial_state is not None:
                state = initial_state[b, h].clone()
            for t in range(time):
                if reset is not None and reset[b, t]:
                    state = torch.zeros_like(state)
                old = state
                held = torch.stack([(state[:, d] * k[b, t, h]).sum() for d in range(v.shape[-1])])
                state = state + torch.outer(k[b, t, h], beta[b, t, h] * (v[b, t, h] - held))
                output[b, t, h] = scale * ((old if read_before_write else state).T @ q[b, t, h])
            states[b, h] = state
    return output, states


def assert_close(actual, expected, relative, name="output"):
    actual, expected = actual.detach().double(), expected.detach()
    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    assert actual.isfinite().all()
    assert error <= relative, f"relative error {error:.1e} of {name}"


@pytest.mark.parametrize("read_before_write", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms_are_the_rule_written_out(form, read_before_write):
    arguments = draw(time=70, resets=True)
    expected = written_out(**arguments, read_before_write=read_before_write, scale=0.5)
    actual = delta_fast_weights(
        **arguments, read_before_write=read_before_write, scale=0.5, output_final_state=True, implementation=form
    )
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, 1e-12)


@pytest.mark.parametrize("read_before_write", [False, True])
@pytest.mark.parametrize("time", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize(("key_size", "value_size"), [(16, 16), (5, 9), (9, 1)])
def test_float32_chunks_agree_with_the_float64_loop_gradients_included(time, key_size, value_size, read_before_write):
    arguments = draw(time=time, key_size=key_size, value_size=value_size)
    exact = {name: x.clone().requires_grad_() for name, x in arguments.items()}
    single = {name: x.float().requires_grad_() for name, x in arguments.items()}
    results = []
    for inputs, form in ((exact, "recurrent"), (single, "chunked")):
        output, state = delta_fast_weights(
            **inputs, read_before_write=read_before_write, output_final_state=True, implementation=form
        )
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output).to(output.dtype)
        loss = (output * weights).sum() + (state * state).sum()
        results.append((output, state, *torch.autograd.grad(loss, list(inputs.values()))))
    for name, e, a in zip(["output", "state", *arguments], *results, strict=True):
        # Keys of few channels overlap: the systems of a chunk are worse conditioned.
        assert_close(a, e, 1.5e-6 if key_size == 16 else 5e-6, name)


@settings(max_examples=30, deadline=None)
@given(
    time=st.integers(1, 150),
    key_size=st.integers(1, 9),
    value_size=st.integers(1, 9),
    seed=st.integers(0, 1000),
    resets=st.booleans(),
    state=st.booleans(),
    read_before_write=st.booleans(),
)
def test_chunks_equal_the_loop_for_any_shape(time, key_size, value_size, seed, resets, state, read_before_write):
    arguments = draw(
        time=time, key_size=key_size, value_size=value_size, seed=seed, resets=resets, state=state, batch=1
    )
    loop, chunks = (
        delta_fast_weights(
            **arguments, read_before_write=read_before_write, output_final_state=True, implementation=form
        )
        for form in FORMS
    )
    for a, e in zip(chunks, loop, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form):
    arguments = draw(batch=1, time=9, heads=1, key_size=3, value_size=2, resets=True)
    reset = arguments.pop("reset")
    names = list(arguments)

    def op(*tensors):
        return delta_fast_weights(
            **dict(zip(names, tensors, strict=True)), reset=reset, output_final_state=True, implementation=form
        )

    assert torch.autograd.gradcheck(op, [x.requires_grad_() for x in arguments.values()])


def test_a_full_write_under_a_key_of_length_one_replaces_what_was_there():
    arguments = draw(batch=1, time=40, heads=1)
    arguments["beta"] = torch.ones_like(arguments["beta"])
    arguments["q"] = arguments["k"]
    output, _ = delta_fast_weights(**arguments, scale=1.0)
    assert_close(output, arguments["v"], 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_in_two_parts_is_the_whole(form):
    arguments = draw(time=100, state=False)
    whole, state = delta_fast_weights(**arguments, output_final_state=True, implementation=form)
    first, middle = delta_fast_weights(
        **{name: x[:, :37] for name, x in arguments.items()}, output_final_state=True, implementation=form
    )
    second, end = delta_fast_weights(
        **{name: x[:, 37:] for name, x in arguments.items()},
        initial_state=middle,
        output_final_state=True,
        implementation=form,
    )
    assert_close(torch.cat([first, second], 1), whole, 1e-12)
    assert_close(end, state, 1e-12)


def test_steps_that_write_nothing_leave_the_state_bit_equal():
    arguments = draw(time=20, dtype=torch.float32)
    arguments["k"] = torch.zeros_like(arguments["k"])
    for form in FORMS:
        _, state = delta_fast_weights(**arguments, output_final_state=True, implementation=form)
        assert torch.equal(state, arguments["initial_state"])


def test_half_precision_comes_back_in_its_dtype_with_a_float32_state():
    arguments = draw(time=20, dtype=torch.bfloat16)
    output, state = delta_fast_weights(**arguments, output_final_state=True)
    assert (output.dtype, state.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"beta": torch.ones(2, 20, 3)}, ValueError, "beta must have the shape"),
        ({"beta": torch.ones(2, 20, 2, dtype=torch.long)}, TypeError, "beta must be a tensor of floating"),
        ({"v": torch.ones(2, 19, 2, 5)}, ValueError, "v must have the shape"),
        ({"reset": torch.ones(2, 20)}, TypeError, "reset must be a tensor of bool"),
        ({"initial_state": torch.ones(2, 2, 5, 6)}, ValueError, "initial_state must have the shape"),
        ({"implementation": "fast"}, ValueError, "implementation must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, words):
    with pytest.raises(error, match=words):
        delta_fast_weights(**(draw() | change))
