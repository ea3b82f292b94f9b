r"""Decaying fast weights on a GPU: Triton kernels, forward and backward, and the custom ops around them.

Forward, in chunks of C steps:

1. what each chunk writes to the state, and how mild its gates are, all at once; then the state that enters each chunk,
   one after the other;
2. outputs, all chunks at once, by one kernel for chunks with mild gates and two for the others.

Backward:

3. the gradient of the state that leaves each chunk, by the kernels of 1, with q and d_o in the place of k and v;
4. gradients, all chunks at once, by three kernels again.

Nothing of a single step is stored but inputs, outputs and gradients; states of chunk ends are kept, in float32. The
host reads no value. docs/decaying_fast_weights.md derives all that. Log gates that are not given are 0 and cost
nothing.
"""

import torch
import torch.nn.functional as F

from seqzoo.kernels.decaying_fast_weights_triton_blocks import blocks_gradients_kernel, blocks_output_kernel
from seqzoo.kernels.decaying_fast_weights_triton_mild import mild_gradients_kernel, mild_output_kernel
from seqzoo.kernels.decaying_fast_weights_triton_states import carry_kernel, writes_kernel
from seqzoo.kernels.triton_chunks import (
    CHUNK,
    check,
    namespace,
    on_its_device,
    precision_of,
    strides_of,
    tl,
    triton,
)


NAMESPACE = namespace(__name__)
# Channels of a tile at most: of what a chunk writes, of a chunk with mild gates, and with stronger ones.
WRITES_BLOCK, MILD_BLOCK, STRONG_BLOCK = 64, 64, 32
LEVELS = CHUNK.bit_length() - 1
BLOCK_LEVEL = 4  # stronger gates: blocks of 16 steps, or of single ones
GROUP = 4  # chunks that a program for stronger gates looks at
CARRY_SIZE = 1024  # numbers of a state that a program takes through the chunks
# All registers that a thread can have, said because left to itself the assembler gives some kernels 32 on sm_80.
OPTIONS = {"num_warps": 4, "maxnreg": 255}
STEP_BLOCK = 32  # of the value channels that a program of a single step has


@triton.jit(do_not_specialize=["H"])
def _step_kernel(
    q,
    k,
    v,
    gk,
    gv,
    state,
    next_state,
    output,
    q_strides,
    k_strides,
    v_strides,
    gk_strides,
    gv_strides,
    scale,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_STATE: tl.constexpr,
):
    """Gates, write and read-out of one step. A program has BD columns of the state, so it may overwrite them.

    BK x BD are at least as many as its threads: of fewer, several threads load the same number, each on its own time,
    and one of them stores it.
    """
    head = tl.program_id(0).to(tl.int64)
    batch, h = head // H, head % H
    # Channels of a view may be so far apart that 32 bits do not count it.
    i = tl.arange(0, BK).to(tl.int64)
    d = (tl.program_id(1) * BD + tl.arange(0, BD)).to(tl.int64)
    q_t = tl.load(q + batch * q_strides[0] + h * q_strides[2] + i * q_strides[3], mask=i < K, other=0.0)
    k_t = tl.load(k + batch * k_strides[0] + h * k_strides[2] + i * k_strides[3], mask=i < K, other=0.0)
    v_t = tl.load(v + batch * v_strides[0] + h * v_strides[2] + d * v_strides[3], mask=d < D, other=0.0)
    written = k_t.to(tl.float32)[:, None] * v_t.to(tl.float32)[None, :]
    places = head * K * D + i[:, None] * D + d[None, :]
    inside = (i < K)[:, None] & (d < D)[None, :]
    if HAS_STATE:
        s = tl.load(state + places, mask=inside, other=0.0)
        if HAS_GK:
            gk_t = tl.load(gk + batch * gk_strides[0] + h * gk_strides[2] + i * gk_strides[3], mask=i < K, other=0.0)
            s *= tl.exp(gk_t.to(tl.float32))[:, None]
        if HAS_GV:
            gv_t = tl.load(gv + batch * gv_strides[0] + h * gv_strides[2] + d * gv_strides[3], mask=d < D, other=0.0)
            s *= tl.exp(gv_t.to(tl.float32))[None, :]
        written += s
    tl.store(next_state + places, written, mask=inside)
    o = tl.sum(q_t.to(tl.float32)[:, None] * written, 0) * scale
    tl.store(output + head * D + d, o.to(output.dtype.element_ty), mask=d < D)


# Launches and custom ops


def _sizes(k, v, block):
    key_size, value_size = k.shape[-1], v.shape[-1]
    # Matrix products need at least 16.
    key_block, value_block = (min(block, max(16, triton.next_power_of_2(size))) for size in (key_size, value_size))
    even = k.shape[1] % CHUNK == 0 and key_size % key_block == 0 and value_size % value_block == 0
    return {"K": key_size, "D": value_size, "BK": key_block, "BD": value_block, "EVEN": even}


def _through_chunks(x, y, gx, gy, reset, initial, scale, states, decays, mild, reverse):
    """Writes the states before each chunk and returns that behind the last one; `reverse` as in [`writes_kernel`]."""
    batch, time, heads, key_size = x.shape
    value_size, chunks = y.shape[-1], len(states)
    final = torch.empty_like(states[0])
    sizes, flags = _sizes(x, y, WRITES_BLOCK), _flags(gx, gy, reset)
    tiles = triton.cdiv(key_size, sizes["BK"]) * triton.cdiv(value_size, sizes["BD"])
    writes_kernel[batch * heads, chunks, tiles](
        *(x, y, gx, gy, reset, states, decays, mild),
        *map(strides_of, (x, y, gx, gy)),
        *(scale, time, heads),
        **sizes,
        **flags,
        C=CHUNK,
        BLOCK_LEVEL=BLOCK_LEVEL,
        REVERSE=reverse,
        **_options(y),
    )
    begins = None
    if reset is not None:
        begins = F.pad(reset, (0, chunks * CHUNK - time)).view(batch, chunks, CHUNK).amax(-1)
    columns = min(64, triton.next_power_of_2(value_size))
    rows = CARRY_SIZE // columns
    carry_kernel[batch * heads, triton.cdiv(key_size, rows) * triton.cdiv(value_size, columns)](
        *(states, initial, final, decays, begins),
        *(chunks, heads),
        K=key_size,
        D=value_size,
        BK=rows,
        BD=columns,
        **flags,
        HAS_INITIAL=initial is not None,
        REVERSE=reverse,
        num_warps=4,
    )
    return final


def _empty_saved(k, v):
    """What the backward pass needs: states before chunks, decays of half chunks, how mild gates are."""
    batch, time, heads, key_size = k.shape
    shape, value_size = (-(-time // CHUNK), batch, heads), v.shape[-1]
    states = v.new_empty(*shape, key_size, value_size, dtype=torch.float32)
    decays = v.new_empty(*shape, 2, key_size + value_size, dtype=torch.float32)
    return states, decays, v.new_empty(*shape, 2, dtype=torch.int8)


def _options(v):
    """Of kernels that need few registers for half precision: a third of a multiprocessor's, so that it has three."""
    return OPTIONS if v.dtype == torch.float32 else OPTIONS | {"maxnreg": 168}


def _flags(gk, gv, reset):
    return {"HAS_GK": gk is not None, "HAS_GV": gv is not None, "HAS_RESET": reset is not None}


def _mild_block(k, v):
    """Of [`MILD_BLOCK`], what fits: with several such tiles a program shares up to 104 KiB, which small GPUs lack."""
    several = max(k.shape[-1], v.shape[-1]) > MILD_BLOCK
    if several and v.is_cuda and torch.cuda.get_device_properties(v.device).shared_memory_per_block_optin < 160 * 1024:
        return MILD_BLOCK // 2
    return MILD_BLOCK


def _strong_levels(gk, gv):
    """Of the kernels that are launched beside those for mild gates."""
    return () if gk is None and gv is None else (BLOCK_LEVEL, 0)


def _constants(v, gk, gv, reset):
    return _flags(gk, gv, reset) | {"C": CHUNK, "LEVELS": LEVELS, "PRECISION": precision_of(v)}


@torch.library.custom_op(f"{NAMESPACE}::forward", mutates_args=())
@on_its_device
def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None,
    gv: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    reset: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, time, heads, _ = k.shape
    output = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    states, decays, mild = _empty_saved(k, v)
    mild.fill_(1)
    if gk is None or gv is None:
        decays.fill_(1)  # nobody reads those of a gate that is not given, but outputs of an op are not left to chance
    final = _through_chunks(k, v, gk, gv, reset, initial_state, 1.0, states, decays, mild, reverse=False)
    strides = map(strides_of, (q, k, v, gk, gv))
    arguments = (q, k, v, gk, gv, reset, states, mild, output, *strides, scale, time, heads)
    grid, constants = (batch * heads, len(states)), _constants(v, gk, gv, reset)
    mild_output_kernel[grid](
        decays, *arguments, **_sizes(k, v, _mild_block(k, v)), **constants, **_options(v), num_stages=1
    )
    for level in _strong_levels(gk, gv):
        blocks_output_kernel[batch * heads, triton.cdiv(len(states), GROUP)](
            *arguments, len(states), **_sizes(k, v, STRONG_BLOCK), **constants, **OPTIONS, LEVEL=level, GROUP=GROUP
        )
    return output, final, states, decays, mild


@_forward.register_fake
def _(q, k, v, gk, gv, initial_state, reset, scale):
    saved = _empty_saved(k, v)
    return v.new_empty(v.shape), torch.empty_like(saved[0][0]), *saved


@torch.library.custom_op(f"{NAMESPACE}::backward", mutates_args=())
@on_its_device
def _backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None,
    gv: torch.Tensor | None,
    reset: torch.Tensor | None,
    final: torch.Tensor,
    states: torch.Tensor,
    decays: torch.Tensor,
    mild: torch.Tensor,
    d_output: torch.Tensor,
    d_final: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, time, heads, _ = k.shape
    if d_final is not None:
        d_final = d_final.contiguous()
    gradients, flows = _empty_gradients(q, k, v, gk, gv), torch.empty_like(states)
    d_initial = _through_chunks(q, d_output, gk, gv, reset, d_final, scale, flows, decays, mild, reverse=True)
    tensors = (q, k, v, gk, gv, reset, d_output, states, final, flows, mild, *gradients)
    arguments = (*tensors, *map(strides_of, (q, k, v, gk, gv, d_output)), scale, time, heads)
    constants = _constants(v, gk, gv, reset)
    mild_gradients_kernel[2 * batch * heads, len(states)](
        decays, *arguments, **_sizes(k, v, _mild_block(k, v)), **constants, **OPTIONS, num_stages=1
    )
    for level in _strong_levels(gk, gv):
        blocks_gradients_kernel[2 * batch * heads, triton.cdiv(len(states), GROUP)](
            *arguments, len(states), **_sizes(k, v, STRONG_BLOCK), **constants, **OPTIONS, LEVEL=level, GROUP=GROUP
        )
    if reset is not None:
        for d_gate in gradients[3:]:
            if d_gate.numel():
                d_gate.masked_fill_(reset[:, :, None, None] != 0, 0)  # no gate where a sequence begins
    return *gradients, d_initial


@_backward.register_fake
def _(q, k, v, gk, gv, reset, final, states, decays, mild, d_output, d_final, scale):
    return *_empty_gradients(q, k, v, gk, gv), torch.empty_like(final)


def _empty_gradients(q, k, v, gk, gv):
    """As contiguous tensors; of a gate that is not given, an empty one."""
    return tuple(v.new_empty(0) if x is None else x.new_empty(x.shape) for x in (q, k, v, gk, gv))


def _setup_context(ctx, inputs, output):
    q, k, v, gk, gv, initial_state, reset, ctx.scale = inputs
    ctx.has_initial = initial_state is not None
    ctx.save_for_backward(q, k, v, gk, gv, reset, *output[1:])
    ctx.set_materialize_grads(False)


def _autograd(ctx, d_output, d_final, *_):
    q, k, v, gk, gv, reset, *saved = ctx.saved_tensors
    if d_output is None:
        d_output = torch.zeros_like(v)
    *gradients, d_initial = _backward(q, k, v, gk, gv, reset, *saved, d_output, d_final, ctx.scale)
    gradients = [None if x is None else dx for x, dx in zip((q, k, v, gk, gv), gradients)]
    return *gradients, d_initial if ctx.has_initial else None, None, None


torch.library.register_autograd(f"{NAMESPACE}::forward", _autograd, setup_context=_setup_context)


def _launch_step(q, k, v, gk, gv, state, next_state, scale):
    batch, _, heads, _ = k.shape
    output = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    key_size, value_size = k.shape[-1], v.shape[-1]
    _step_kernel[batch * heads, triton.cdiv(value_size, STEP_BLOCK)](
        *(q, k, v, gk, gv, state, next_state, output),
        *map(strides_of, (q, k, v, gk, gv)),
        *(scale, heads),
        K=key_size,
        D=value_size,
        BK=max(4, triton.next_power_of_2(key_size)),
        BD=STEP_BLOCK,
        HAS_GK=gk is not None,
        HAS_GV=gv is not None,
        HAS_STATE=state is not None,
        num_warps=4,
    )
    return output


@torch.library.custom_op(f"{NAMESPACE}::step", mutates_args=())
@on_its_device
def _step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None,
    gv: torch.Tensor | None,
    state: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    next_state = _empty_state(k, v)
    return _launch_step(q, k, v, gk, gv, state, next_state, scale), next_state


@_step.register_fake
def _(q, k, v, gk, gv, state, scale):
    return v.new_empty(v.shape), _empty_state(k, v)


@torch.library.custom_op(f"{NAMESPACE}::step_in_place", mutates_args=("state",))
@on_its_device
def _step_in_place(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None,
    gv: torch.Tensor | None,
    state: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    return _launch_step(q, k, v, gk, gv, state, state, scale)


@_step_in_place.register_fake
def _(q, k, v, gk, gv, state, scale):
    return v.new_empty(v.shape)


def _empty_state(k, v):
    return v.new_empty(k.shape[0], k.shape[2], k.shape[3], v.shape[3], dtype=torch.float32)


def triton_decaying_fast_weights_step(q, k, v, gk, gv, state, scale):
    """The op of `decaying_fast_weights_step` by a Triton kernel; takes its arguments as checked there."""
    check(k, v)
    return _step_in_place(q, k, v, gk, gv, state, scale)


def triton_decaying_fast_weights(q, k, v, gk, gv, scale, initial_state, reset):
    """The op of `decaying_fast_weights` by Triton kernels; takes its arguments as checked there."""
    check(k, v)
    # Products of float64, which sums of log gates are, come in no other type.
    gk, gv = (x.float() if x is not None and x.dtype == torch.float64 else x for x in (gk, gv))
    tensors = (q, k, v, gk, gv, initial_state)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    if initial_state is not None:
        initial_state = initial_state.to(torch.float32).contiguous()
    if k.shape[1] == 1 and reset is None and not differentiable:
        return _step(q, k, v, gk, gv, initial_state, scale)
    if reset is not None:
        reset = reset.contiguous().view(torch.uint8)
    output, final, *_ = _forward(q, k, v, gk, gv, initial_state, reset, scale)
    return output, final
