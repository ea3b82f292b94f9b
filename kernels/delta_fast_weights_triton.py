"""Delta-rule fast weights on a GPU: how the Triton kernels are launched, and the custom ops around them.

`delta_fast_weights_triton_kernels.py` says what the kernels compute.
"""

import torch

from seqzoo.kernels.delta_fast_weights_triton_kernels import (
    backward_systems_kernel,
    gradients_kernel,
    output_kernel,
    states_kernel,
    systems_kernel,
)
from seqzoo.kernels.triton_chunks import (
    CHUNK,
    check,
    namespace,
    on_its_device,
    precision_of,
    strides_of,
    triton,
)


NAMESPACE = namespace(__name__)
BLOCK = 32  # channels of a tile: of 64, the kernels have too few registers
# Left to itself, the assembler gives some kernels of float32 on sm_80 32 registers, and keeps the rest in memory.
REGISTERS = 255


def _grid(k):
    return k.shape[0] * k.shape[2], triton.cdiv(k.shape[1], CHUNK)


def _sizes(k, v):
    key_size, value_size = k.shape[-1], v.shape[-1]
    # Matrix products need at least 16.
    key_block, value_block = (BLOCK if size > 16 else 16 for size in (key_size, value_size))
    return {"K": key_size, "D": value_size, "BK": key_block, "BD": value_block}


def _options(k, v, beta, reset):
    return {
        **_sizes(k, v),
        "C": CHUNK,
        "HAS_BETA": beta is not None,
        "HAS_RESET": reset is not None,
        "PRECISION": precision_of(v),
        "num_warps": 4,  # of more, warps that share a matrix instruction do the rest twice
        "maxnreg": REGISTERS,
        "num_stages": 1,  # many programs hide each other's loads; more of one program's take registers
    }


def _empty_steps(x):
    """Float32 of the shape of x [B, T, H, size], all of a head's steps together."""
    return x.new_empty(*x.transpose(1, 2).shape, dtype=torch.float32).transpose(1, 2)


def _empty_states(k, v):
    batch, time, heads, key_size = k.shape
    return v.new_empty(-(-time // CHUNK), batch, heads, key_size, v.shape[-1], dtype=torch.float32)


def _through_states(k, v, beta, reset, own, weights, initial, states, reverse):
    """Runs [`states_kernel`] and returns the state behind the last chunk."""
    _, time, heads, key_size = k.shape
    final = torch.empty_like(states[0])
    options = _options(k, v, beta, reset)
    options["BK"] = max(16, triton.next_power_of_2(key_size))
    if options["BK"] > 128:
        options["BD"] = 16
    if options["BK"] <= 64:
        options["num_stages"] = 2  # few programs, one chunk after the other; of longer keys shared memory is too small
    states_kernel[_grid(k)[0], triton.cdiv(options["D"], options["BD"])](
        *(k, beta, reset, own, weights, initial, states, final),
        *map(strides_of, (k, beta, own, weights)),
        *(time, heads),
        **options,
        HAS_INITIAL=initial is not None,
        REVERSE=reverse,
    )
    return final


@torch.library.custom_op(f"{NAMESPACE}::forward", mutates_args=())
@on_its_device
def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    reset: torch.Tensor | None,
    scale: float,
    read_before_write: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _, time, heads, _ = k.shape
    own, weights, states = _empty_steps(v), _empty_steps(k), _empty_states(k, v)
    output = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    systems_kernel[_grid(k)](
        *(k, v, beta, reset, own, weights),
        *map(strides_of, (k, v, beta, own, weights)),
        *(time, heads),
        **_options(k, v, beta, reset),
    )
    final = _through_states(k, v, beta, reset, own, weights, initial_state, states, reverse=False)
    output_kernel[_grid(k)](
        *(q, k, beta, reset, own, states, output),
        *map(strides_of, (q, k, beta, own)),
        *(scale, time, heads),
        **_options(k, v, beta, reset),
        BEFORE=read_before_write,
    )
    return output, final, states


@_forward.register_fake
def _(q, k, v, beta, initial_state, reset, scale, read_before_write):
    states = _empty_states(k, v)
    return v.new_empty(v.shape), torch.empty_like(states[0]), states


@torch.library.custom_op(f"{NAMESPACE}::backward", mutates_args=())
@on_its_device
def _backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor | None,
    reset: torch.Tensor | None,
    states: torch.Tensor,
    d_output: torch.Tensor,
    d_final: torch.Tensor | None,
    scale: float,
    read_before_write: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    _, time, heads, _ = k.shape
    if d_final is not None:
        d_final = d_final.contiguous()
    errors, own, weights = _empty_steps(v), _empty_steps(v), _empty_steps(k)
    flows = torch.empty_like(states)
    backward_systems_kernel[_grid(k)](
        *(q, k, v, beta, reset, d_output, states, flows, errors, own, weights),
        *map(strides_of, (q, k, v, beta, d_output, own, weights)),
        *(scale, time, heads),
        **_options(k, v, beta, reset),
        BEFORE=read_before_write,
    )
    d_initial = _through_states(k, v, beta, reset, own, weights, d_final, flows, reverse=True)
    gradients = _empty_gradients(q, k, v, beta)
    gradients_kernel[_grid(k)](
        *(q, k, beta, reset, d_output, states, flows, errors, own, *gradients),
        *map(strides_of, (q, k, beta, d_output, own)),
        *(scale, time, heads),
        **_options(k, v, beta, reset),
        BEFORE=read_before_write,
    )
    return *gradients, d_initial


@_backward.register_fake
def _(q, k, v, beta, reset, states, d_output, d_final, scale, read_before_write):
    return *_empty_gradients(q, k, v, beta), torch.empty_like(states[0])


def _empty_gradients(q, k, v, beta):
    """As contiguous tensors; of strengths that are not given, an empty one."""
    return tuple(v.new_empty(0) if x is None else x.new_empty(x.shape) for x in (q, k, v, beta))


def _setup_context(ctx, inputs, output):
    q, k, v, beta, initial_state, reset, ctx.scale, ctx.read_before_write = inputs
    ctx.has_initial = initial_state is not None
    ctx.save_for_backward(q, k, v, beta, reset, output[2])
    ctx.set_materialize_grads(False)


def _autograd(ctx, d_output, d_final, _):
    q, k, v, beta, reset, states = ctx.saved_tensors
    if d_output is None:
        d_output = torch.zeros_like(v)
    d_q, d_k, d_v, d_beta, d_initial = _backward(
        q, k, v, beta, reset, states, d_output, d_final, ctx.scale, ctx.read_before_write
    )
    d_beta = d_beta if beta is not None else None
    return d_q, d_k, d_v, d_beta, d_initial if ctx.has_initial else None, None, None, None


torch.library.register_autograd(f"{NAMESPACE}::forward", _autograd, setup_context=_setup_context)


def triton_delta_fast_weights(q, k, v, beta, scale, initial_state, reset, read_before_write):
    """The op of `delta_fast_weights` by Triton kernels; takes its arguments as checked there."""
    check(k, v)
    if initial_state is not None:
        initial_state = initial_state.to(torch.float32).contiguous()
    if reset is not None:
        reset = reset.contiguous().view(torch.uint8)
    output, final, _ = _forward(q, k, v, beta, initial_state, reset, scale, read_before_write)
    return output, final
