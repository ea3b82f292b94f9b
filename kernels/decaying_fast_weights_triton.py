r"""Decaying fast weights on a GPU: Triton kernels, forward and backward, and the custom ops around them.

Forward, in chunks of C steps:

1. `_states_kernel` goes through the chunks of a part of a head's state and writes the state that enters each;
2. `_output_kernel`, all chunks at once: o = scale * (apply(P, v) + what comes of the entering state), P the scores
   of queries and keys.

Backward, with dP the scores of d_o and v:

3. `_states_kernel` backwards, with q and d_o in the place of k and v: E, the gradient of the state that leaves a
   chunk;
4. `_gradients_kernel`, all chunks at once. The key side (q, k, gk, dP) and the value side (d_o, v, gv, P) are the
   same computation: dq = apply(dP, k) and o = apply(P, v); dk and dv their transposes. The gradient of a log gate is
   all that flows over it: from its step to the end of the chunk q dq - k dk (o d_o - v dv), and S * E there.

Nothing of a single step is stored but inputs, outputs and gradients; states of chunk ends are kept, in float32.
docs/decaying_fast_weights.md derives all that. Log gates that are not given are 0 and cost nothing.
"""

import torch

from seqzoo.kernels.decaying_fast_weights_tiles import (
    MIN_HALF_CHUNK,
    MIN_LOG_GATE,
    apply,
    apply_both,
    end_factors,
    load_gates,
    scores,
)
from seqzoo.kernels.triton_chunks import (
    CHUNK,
    check,
    load_tile,
    namespace,
    precision_of,
    product,
    sequences,
    sizes_of,
    strides_of,
    tl,
    triton,
)


LEVELS = CHUNK.bit_length()  # blocks of 1, 2, ... CHUNK / 2 steps, and a step with itself
NAMESPACE = namespace(__name__)


# Which steps see which


@triton.jit
def _until_end(x, sequence, C: tl.constexpr, HAS_RESET: tl.constexpr):
    """Sums over the steps from each on, of its own sequence."""
    if HAS_RESET:
        t = tl.arange(0, C)
        summed = (t[:, None] <= t[None, :]) & (sequence[:, None] == sequence[None, :])
        return product(summed.to(tl.float32), x, "tf32x3")
    else:
        return tl.cumsum(x, 0, reverse=True)


# States at the ends of chunks


@triton.jit
def _states_kernel(
    x,
    y,
    gx,
    gy,
    reset,
    initial,
    states,
    final,
    mild,
    x_strides,
    y_strides,
    gx_strides,
    gy_strides,
    scale,
    T,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """S <- decay of the chunk * S + sum of scale * x_t y_t^T, each decayed to the end (REVERSE: to the start).

    x is of size K, y of size D: k and v, or q and d_o. `states` [chunks, B, H, K, D] takes S before each chunk, `mild`
    [chunks, B, H, blocks] of the forward pass whether the gates that this program has seen are mild in it.
    """
    head = tl.program_id(0).to(tl.int64)
    batch, h = head // H, head % H
    blocks: tl.constexpr = (D + BD - 1) // BD
    k = (tl.program_id(1) // blocks) * BK + tl.arange(0, BK)
    d = (tl.program_id(1) % blocks) * BD + tl.arange(0, BD)
    x += batch * x_strides[0] + h * x_strides[2]
    y += batch * y_strides[0] + h * y_strides[2]
    if HAS_GK:
        gx += batch * gx_strides[0] + h * gx_strides[2]
    if HAS_GV:
        gy += batch * gy_strides[0] + h * gy_strides[2]
    if HAS_RESET:
        reset += batch * T
    places = k[:, None] * D + d[None, :]
    inside = (k < K)[:, None] & (d < D)[None, :]
    state = tl.zeros([BK, BD], tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial + head * K * D + places, mask=inside, other=0.0)

    chunks = tl.cdiv(T, C)
    heads = tl.num_programs(0).to(tl.int64)
    for i in range(chunks):
        chunk = chunks - 1 - i if REVERSE else i
        tl.store(states + (chunk * heads + head) * (K * D) + places, state, mask=inside)
        rows = chunk * C + tl.arange(0, C)
        x_tile = load_tile(x, (x_strides[1], x_strides[3]), rows, k, (rows < T)[:, None] & (k < K)[None, :])
        y_tile = load_tile(y, (y_strides[1], y_strides[3]), rows, d, (rows < T)[:, None] & (d < D)[None, :]) * scale
        sequence, last = sequences(reset, chunk, T, C, HAS_RESET)
        if HAS_RESET:
            state = tl.where(last == 0, state, 0.0)
            x_tile = tl.where((sequence == (0 if REVERSE else last))[:, None], x_tile, 0.0)
        lowest = 0.0
        if HAS_GK:
            strides = (gx_strides[1], gx_strides[3])
            factors, total, lowest = end_factors(gx, strides, rows, k, K, (chunk + 1) * C, T, C, REVERSE)
            x_tile *= factors
            state *= total[:, None]
        if HAS_GV:
            strides = (gy_strides[1], gy_strides[3])
            factors, total, lowest_y = end_factors(gy, strides, rows, d, D, (chunk + 1) * C, T, C, REVERSE)
            y_tile *= factors
            state *= total[None, :]
            lowest = tl.minimum(lowest, lowest_y)
        state += product(tl.trans(x_tile), y_tile, PRECISION)
        if not REVERSE:
            place = (chunk * heads + head) * tl.num_programs(1) + tl.program_id(1)
            tl.store(mild + place, (lowest >= MIN_HALF_CHUNK).to(tl.int8))
    tl.store(final + head * K * D + places, state, mask=inside)


@triton.jit
def _is_mild(mild, place, BLOCKS: tl.constexpr, MAX_BLOCKS: tl.constexpr):
    i = tl.arange(0, MAX_BLOCKS)
    return tl.min(tl.load(mild + place * BLOCKS + i, mask=i < BLOCKS, other=1).to(tl.int32), 0) == 1


# Outputs


@triton.jit
def _inner_scores(
    x, y, g, x_strides, y_strides, g_strides, rows, T,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr,
    MILD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The scores of a chunk, summed over all channels."""
    result = tl.zeros([C, C], tl.float32)
    for start in range(0, SIZE, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        valid = (rows < T)[:, None] & (columns < SIZE)[None, :]
        x_tile = load_tile(x, (x_strides[1], x_strides[3]), rows, columns, valid)
        y_tile = load_tile(y, (y_strides[1], y_strides[3]), rows, columns, valid)
        g_tile = x_tile
        if GATED:
            g_tile = load_gates(g, (g_strides[1], g_strides[3]), rows, columns, valid)
        result += scores(x_tile, y_tile, g_tile, C, LEVELS, GATED, MILD, PRECISION)
    return result


@triton.jit
def _outer_product(
    x, g, x_strides, g_strides, state, state_strides, rows, end, T, columns, COLUMNS: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr, GATED: tl.constexpr, START: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What steps read of the state at the chunk's start, or have written of the state at its end, in some columns.

    sum_i x_ti decay_ti S_i,column, the decay that of the summed side, from the start to t or from t to the end.
    """
    result = tl.zeros([C, columns.shape[0]], tl.float32)
    for start in range(0, SIZE, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tile = load_tile(x, (x_strides[1], x_strides[3]), rows, i, (rows < T)[:, None] & (i < SIZE)[None, :])
        if GATED:
            factors, _, _ = end_factors(g, (g_strides[1], g_strides[3]), rows, i, SIZE, end, T, C, START)
            tile *= factors
        inside = (i < SIZE)[:, None] & (columns < COLUMNS)[None, :]
        result += product(tile, load_tile(state, state_strides, i, columns, inside), PRECISION)
    return result


@triton.jit
def _output_kernel(
    q,
    k,
    v,
    gk,
    gv,
    reset,
    states,
    mild,
    output,
    q_strides,
    k_strides,
    v_strides,
    gk_strides,
    gv_strides,
    scale,
    T,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    LEVELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    MAX_BLOCKS: tl.constexpr,
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    MILD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The outputs of the chunks that are mild, or of those that are not."""
    head = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    place = chunk * tl.num_programs(0).to(tl.int64) + head
    if _is_mild(mild, place, BLOCKS, MAX_BLOCKS) != MILD:
        return
    states += place * (K * D)
    batch, h = head // H, head % H
    rows = chunk * C + tl.arange(0, C)
    end = (chunk + 1) * C
    q += batch * q_strides[0] + h * q_strides[2]
    k += batch * k_strides[0] + h * k_strides[2]
    v += batch * v_strides[0] + h * v_strides[2]
    if HAS_GK:
        gk += batch * gk_strides[0] + h * gk_strides[2]
    if HAS_GV:
        gv += batch * gv_strides[0] + h * gv_strides[2]
    if HAS_RESET:
        reset += batch * T
    sequence, _ = sequences(reset, chunk, T, C, HAS_RESET)

    p = _inner_scores(q, k, gk, q_strides, k_strides, gk_strides, rows, T, K, BK, C, LEVELS, HAS_GK, MILD, PRECISION)
    if HAS_RESET:
        p = tl.where(sequence[:, None] == sequence[None, :], p, 0.0)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        valid = (rows < T)[:, None] & (d < D)[None, :]
        o = _outer_product(
            q, gk, q_strides, gk_strides, states, (D, 1), rows, end, T, d, D, K, BK, C, HAS_GK, True, PRECISION
        )
        v_tile = load_tile(v, (v_strides[1], v_strides[3]), rows, d, valid)
        g_tile = v_tile
        if HAS_GV:
            g_tile = load_gates(gv, (gv_strides[1], gv_strides[3]), rows, d, valid)
            o *= tl.exp(tl.cumsum(g_tile, 0))
        if HAS_RESET:
            o = tl.where((sequence == 0)[:, None], o, 0.0)
        o = (o + apply(p, v_tile, g_tile, C, LEVELS, HAS_GV, MILD, PRECISION)) * scale
        places = (batch * T + rows[:, None].to(tl.int64)) * (H * D) + h * D + d[None, :]
        tl.store(output + places, o.to(output.dtype.element_ty), mask=valid)


# Gradients


@triton.jit
def _side_gradients(
    x, y, g, other_x, other_y, other_g, reset, d_x, d_y, d_g, entering, leaving, leaving_gradient,
    x_strides, y_strides, g_strides, other_x_strides, other_y_strides, other_g_strides, state_strides,
    x_scale, other_x_scale, batch, h, chunk, T, H,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, OTHER_SIZE: tl.constexpr, OTHER_BLOCK: tl.constexpr,
    C: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr, OTHER_GATED: tl.constexpr,
    HAS_RESET: tl.constexpr, STORE_X: tl.constexpr, MILD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one side: x and y are q and k, the other ones d_o and v; or the other way round.

    The gradient of d_o would be the output: it is only what the gates need, and not stored (STORE_X).
    """
    rows = chunk * C + tl.arange(0, C)
    end = (chunk + 1) * C
    x += batch * x_strides[0] + h * x_strides[2]
    y += batch * y_strides[0] + h * y_strides[2]
    other_x += batch * other_x_strides[0] + h * other_x_strides[2]
    other_y += batch * other_y_strides[0] + h * other_y_strides[2]
    if GATED:
        g += batch * g_strides[0] + h * g_strides[2]
    if OTHER_GATED:
        other_g += batch * other_g_strides[0] + h * other_g_strides[2]
    if HAS_RESET:
        reset += batch * T
    sequence, last = sequences(reset, chunk, T, C, HAS_RESET)
    m = other_x_scale * _inner_scores(
        other_x, other_y, other_g, other_x_strides, other_y_strides, other_g_strides, rows, T, OTHER_SIZE, OTHER_BLOCK,
        C, LEVELS, OTHER_GATED, MILD, PRECISION,
    )  # fmt: skip
    if HAS_RESET:
        m = tl.where(sequence[:, None] == sequence[None, :], m, 0.0)
    for start in range(0, SIZE, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        valid = (rows < T)[:, None] & (columns < SIZE)[None, :]
        of_y = other_x_scale * _outer_product(
            other_x, other_g, other_x_strides, other_g_strides, entering, state_strides, rows, end, T, columns, SIZE,
            OTHER_SIZE, OTHER_BLOCK, C, OTHER_GATED, True, PRECISION,
        )  # fmt: skip
        of_x = _outer_product(
            other_y, other_g, other_y_strides, other_g_strides, leaving_gradient, state_strides, rows, end, T, columns,
            SIZE, OTHER_SIZE, OTHER_BLOCK, C, OTHER_GATED, False, PRECISION,
        )  # fmt: skip
        x_tile = load_tile(x, (x_strides[1], x_strides[3]), rows, columns, valid) * x_scale
        y_tile = load_tile(y, (y_strides[1], y_strides[3]), rows, columns, valid)
        g_tile = x_tile
        if GATED:
            strides = (g_strides[1], g_strides[3])
            g_tile = load_gates(g, strides, rows, columns, valid)
            of_y *= tl.exp(tl.cumsum(g_tile, 0))
            factors, _, _ = end_factors(g, strides, rows, columns, SIZE, end, T, C, False)
            of_x *= factors
        if HAS_RESET:
            of_y = tl.where((sequence == 0)[:, None], of_y, 0.0)
            of_x = tl.where((sequence == last)[:, None], of_x, 0.0)
        inner_y, inner_x = apply_both(m, x_tile, y_tile, g_tile, C, LEVELS, GATED, MILD, PRECISION)
        of_y += inner_y
        of_x += inner_x
        places = (batch * T + rows[:, None].to(tl.int64)) * (H * SIZE) + h * SIZE + columns[None, :]
        if STORE_X:
            tl.store(d_x + places, of_y.to(d_x.dtype.element_ty), mask=valid)
        tl.store(d_y + places, of_x.to(d_y.dtype.element_ty), mask=valid)
        if GATED:
            # Crossing the end of the chunk: S * E, summed over the other side.
            crossing = tl.zeros([BLOCK], tl.float32)
            for other_start in range(0, OTHER_SIZE, OTHER_BLOCK):
                i = other_start + tl.arange(0, OTHER_BLOCK)
                inside = (i < OTHER_SIZE)[:, None] & (columns < SIZE)[None, :]
                s = load_tile(leaving, state_strides, i, columns, inside)
                crossing += tl.sum(s * load_tile(leaving_gradient, state_strides, i, columns, inside), 0)
            flow = _until_end(x_tile * of_y - y_tile * of_x, sequence, C, HAS_RESET)
            if HAS_RESET:
                flow += tl.where((sequence == last)[:, None], crossing[None, :], 0.0)
            else:
                flow += crossing[None, :]
            flow = tl.where(g_tile > MIN_LOG_GATE, flow, 0.0)
            tl.store(d_g + places, flow.to(d_g.dtype.element_ty), mask=valid)


@triton.jit
def _gradients_kernel(
    q,
    k,
    v,
    gk,
    gv,
    reset,
    d_output,
    states,
    final,
    flows,
    mild,
    d_q,
    d_k,
    d_v,
    d_gk,
    d_gv,
    q_strides,
    k_strides,
    v_strides,
    gk_strides,
    gv_strides,
    d_output_strides,
    scale,
    T,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    LEVELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    MAX_BLOCKS: tl.constexpr,
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    MILD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of the chunks that are mild, or of those that are not; programs in pairs, one for each side.

    `flows` [chunks, B, H, K, D] are gradients of the states that leave the chunks.
    """
    head = (tl.program_id(0) // 2).to(tl.int64)
    chunk = tl.program_id(1)
    heads = (tl.num_programs(0) // 2).to(tl.int64)
    place = chunk * heads + head
    if _is_mild(mild, place, BLOCKS, MAX_BLOCKS) != MILD:
        return
    batch, h = head // H, head % H
    flows += place * (K * D)
    leaving = final + head * (K * D)
    if chunk + 1 < tl.num_programs(1):
        leaving = states + (place + heads) * (K * D)
    states += place * (K * D)
    if tl.program_id(0) % 2 == 0:
        _side_gradients(
            q, k, gk, d_output, v, gv, reset, d_q, d_k, d_gk, states, leaving, flows,
            q_strides, k_strides, gk_strides, d_output_strides, v_strides, gv_strides, (1, D),
            1.0, scale, batch, h, chunk, T, H,
            K, BK, D, BD, C, LEVELS, HAS_GK, HAS_GV, HAS_RESET, True, MILD, PRECISION,
        )  # fmt: skip
    else:
        _side_gradients(
            d_output, v, gv, q, k, gk, reset, d_output, d_v, d_gv, states, leaving, flows,
            d_output_strides, v_strides, gv_strides, q_strides, k_strides, gk_strides, (D, 1),
            scale, 1.0, batch, h, chunk, T, H,
            D, BD, K, BK, C, LEVELS, HAS_GV, HAS_GK, HAS_RESET, False, MILD, PRECISION,
        )  # fmt: skip


# One step


@triton.jit
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
    """Gates, write and read-out of one step. A program has BD columns of the state, so it may overwrite them."""
    head = tl.program_id(0).to(tl.int64)
    batch, h = head // H, head % H
    i = tl.arange(0, BK)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
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


def _blocks(sizes):
    """Parts of a state."""
    return triton.cdiv(sizes["K"], sizes["BK"]) * triton.cdiv(sizes["D"], sizes["BD"])


def _states(x, y, gx, gy, reset, initial, scale, mild, reverse):
    """What [`_states_kernel`] writes: the states before each chunk, and that behind the last one."""
    batch, time, heads, key_size = x.shape
    states = y.new_empty(triton.cdiv(time, CHUNK), batch, heads, key_size, y.shape[-1], dtype=torch.float32)
    final = torch.empty_like(states[0])
    sizes = sizes_of(x, y)
    _states_kernel[batch * heads, _blocks(sizes)](
        *(x, y, gx, gy, reset, initial, states, final, mild),
        *map(strides_of, (x, y, gx, gy)),
        *(scale, time, heads),
        **sizes,
        C=CHUNK,
        HAS_GK=gx is not None,
        HAS_GV=gy is not None,
        HAS_RESET=reset is not None,
        HAS_INITIAL=initial is not None,
        REVERSE=reverse,
        PRECISION=precision_of(y),
        num_warps=4,
        num_stages=3,
    )
    return states, final


def _each_form(k, v, gk, gv, reset):
    """Keyword arguments for a kernel that computes chunks: for those that are mild, and for the rest."""
    blocks = _blocks(sizes_of(k, v))
    for mild in (True, False) if gk is not None or gv is not None else (True,):
        yield {
            **sizes_of(k, v),
            "C": CHUNK,
            "LEVELS": LEVELS,
            "BLOCKS": blocks,
            "MAX_BLOCKS": triton.next_power_of_2(blocks),
            "HAS_GK": gk is not None,
            "HAS_GV": gv is not None,
            "HAS_RESET": reset is not None,
            "MILD": mild,
            "PRECISION": precision_of(v),
            "num_warps": 8,
        }


@torch.library.custom_op(f"{NAMESPACE}::forward", mutates_args=())
def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None,
    gv: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    reset: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, time, heads, _ = k.shape
    output, mild = torch.empty(v.shape, dtype=v.dtype, device=v.device), _empty_mild(k, v)
    states, final = _states(k, v, gk, gv, reset, initial_state, 1.0, mild, reverse=False)
    for form in _each_form(k, v, gk, gv, reset):
        _output_kernel[batch * heads, triton.cdiv(time, CHUNK)](
            *(q, k, v, gk, gv, reset, states, mild, output),
            *map(strides_of, (q, k, v, gk, gv)),
            *(scale, time, heads),
            **form,
        )
    return output, final, states, mild


@_forward.register_fake
def _(q, k, v, gk, gv, initial_state, reset, scale):
    batch, time, heads, key_size = k.shape
    states = v.new_empty(-(-time // CHUNK), batch, heads, key_size, v.shape[-1], dtype=torch.float32)
    return v.new_empty(v.shape), v.new_empty(states.shape[1:], dtype=torch.float32), states, _empty_mild(k, v)


def _empty_mild(k, v):
    """Flags of all chunks, heads and blocks of the states."""
    batch, time, heads, _ = k.shape
    return v.new_empty(-(-time // CHUNK), batch, heads, _blocks(sizes_of(k, v)), dtype=torch.int8)


@torch.library.custom_op(f"{NAMESPACE}::backward", mutates_args=())
def _backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None,
    gv: torch.Tensor | None,
    reset: torch.Tensor | None,
    states: torch.Tensor,
    final: torch.Tensor,
    mild: torch.Tensor,
    d_output: torch.Tensor,
    d_final: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, time, heads, _ = k.shape
    if d_final is not None:
        d_final = d_final.contiguous()
    flows, d_initial = _states(q, d_output, gk, gv, reset, d_final, scale, mild, reverse=True)
    gradients = _empty_gradients(q, k, v, gk, gv)
    for form in _each_form(k, v, gk, gv, reset):
        _gradients_kernel[2 * batch * heads, triton.cdiv(time, CHUNK)](
            *(q, k, v, gk, gv, reset, d_output, states, final, flows, mild, *gradients),
            *map(strides_of, (q, k, v, gk, gv, d_output)),
            *(scale, time, heads),
            **form,
        )
    if reset is not None:
        for d_gate in gradients[3:]:
            if d_gate.numel():
                d_gate.masked_fill_(reset[:, :, None, None] != 0, 0)  # no gate where a sequence begins
    return *gradients, d_initial


@_backward.register_fake
def _(q, k, v, gk, gv, reset, states, final, mild, d_output, d_final, scale):
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
    q, k, v, gk, gv, reset, final, states, mild = ctx.saved_tensors
    if d_output is None:
        d_output = torch.zeros_like(v)
    *gradients, d_initial = _backward(q, k, v, gk, gv, reset, states, final, mild, d_output, d_final, ctx.scale)
    gradients = [None if x is None else dx for x, dx in zip((q, k, v, gk, gv), gradients)]
    return *gradients, d_initial if ctx.has_initial else None, None, None


torch.library.register_autograd(f"{NAMESPACE}::forward", _autograd, setup_context=_setup_context)


@torch.library.custom_op(f"{NAMESPACE}::step", mutates_args=("next_state",))
def _step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None,
    gv: torch.Tensor | None,
    state: torch.Tensor | None,
    next_state: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    batch, _, heads, _ = k.shape
    output = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    sizes = {**sizes_of(k, v), "BK": triton.next_power_of_2(k.shape[-1])}
    _step_kernel[batch * heads, triton.cdiv(sizes["D"], sizes["BD"])](
        *(q, k, v, gk, gv, state, next_state, output),
        *map(strides_of, (q, k, v, gk, gv)),
        *(scale, heads),
        **sizes,
        HAS_GK=gk is not None,
        HAS_GV=gv is not None,
        HAS_STATE=state is not None,
        num_warps=4,
    )
    return output


@_step.register_fake
def _(q, k, v, gk, gv, state, next_state, scale):
    return v.new_empty(v.shape)


def triton_decaying_fast_weights(q, k, v, gk, gv, scale, initial_state, reset):
    """The op of `decaying_fast_weights` by Triton kernels; takes its arguments as checked there."""
    check(k, v)
    tensors = (q, k, v, gk, gv, initial_state)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    if initial_state is not None:
        initial_state = initial_state.to(torch.float32).contiguous()
    if k.shape[1] == 1 and reset is None and not differentiable:
        next_state = v.new_empty(k.shape[0], k.shape[2], k.shape[3], v.shape[3], dtype=torch.float32)
        return _step(q, k, v, gk, gv, initial_state, next_state, scale), next_state
    if reset is not None:
        reset = reset.contiguous().view(torch.uint8)
    output, final, *_ = _forward(q, k, v, gk, gv, initial_state, reset, scale)
    return output, final
