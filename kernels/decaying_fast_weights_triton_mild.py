r"""Triton kernels of decaying fast weights for chunks with mild gates: plain matrix products around the middle.

Sums of log gates are counted from the middle of a chunk, between its halves. With c_t such a sum, rise_t = exp(c_t)
and fall_t = exp(-c_t), what step t keeps of step j decays by rise_t fall_j on either side. So everything is scaled to
the middle once,

    Qs = q rise_k     Ks = k fall_k     Vs = v fall_v     S~ = S decayed to the middle

and the outputs of a chunk are rise_v (tril(Qs Ks^T) Vs + Qs S~). Backward, with dOs = d_o rise_v and E~ the gradient
of the state that leaves the chunk, decayed back to the middle,

    P = tril(Qs Ks^T)     dP = tril(dOs Vs^T)
    dq = rise_k (dP Ks + dOs S~^T)     dk = fall_k (dP^T Qs + Vs E~^T)     dv = fall_v (P^T dOs + Ks E~)

and over a key-side gate flows Qs * (dP Ks + dOs S~^T) - Ks * (dP^T Qs + Vs E~^T), over a value-side gate the same of
dOs and Vs, summed from its step to the end of the chunk, and beyond that S * E at the end.

fall grows to exp(-sum of half a chunk): a chunk is mild where no half sums to less than [`MIN_HALF_BLOCK`].
"""

from seqzoo.kernels.decaying_fast_weights_tiles import (
    chunk_start,
    load_raw,
    load_state,
    load_tile,
    rise_and_fall,
    store_tile,
    until_end,
)
from seqzoo.kernels.triton_chunks import product, sequences, tl, triton


@triton.jit
def _load_side(
    x, y, g, x_strides, y_strides, g_strides, tile, steps,
    C: tl.constexpr, LEVELS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Of a tile of channels: x and y scaled to the middle; rise and fall."""
    columns = tile * BLOCK + tl.arange(0, BLOCK)
    x_tile = load_tile(x, x_strides, columns, steps, C, SIZE, EVEN)
    y_tile = load_tile(y, y_strides, columns, steps, C, SIZE, EVEN)
    if GATED:
        gates = load_raw(g, g_strides, columns, steps, C, SIZE, EVEN)
        rise, fall = rise_and_fall(gates, LEVELS, C)
        return x_tile * rise, y_tile * fall, rise, fall
    else:
        return x_tile, y_tile, x_tile, y_tile


@triton.jit
def _half_decays(decays, columns, SIZE: tl.constexpr, STRIDE: tl.constexpr, GATED: tl.constexpr):
    """Of each channel from the start of the chunk to the middle, and from there to the end."""
    if GATED:
        start = tl.load(decays + columns, mask=columns < SIZE, other=0.0)
        return start, tl.load(decays + STRIDE + columns, mask=columns < SIZE, other=0.0)
    else:
        ones = tl.full(columns.shape, 1.0, tl.float32)
        return ones, ones


@triton.jit(do_not_specialize=["T", "H"])
def mild_output_kernel(
    decays,
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
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Outputs [B, T, H, D] of the chunks that are mild. `states` [chunks, B, H, K, D] enter the chunks.

    `decays` [chunks, B, H, 2, K + D] are those of half chunks.
    """
    index = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    place = chunk * tl.num_programs(0).to(tl.int64) + index
    if tl.load(mild + 2 * place) == 0:
        return
    states += place * (K * D)
    decays += place * (2 * (K + D))
    batch, head = index // H, index % H
    steps = T - chunk * C
    q = chunk_start(q, q_strides, batch, head, chunk, C)
    k = chunk_start(k, k_strides, batch, head, chunk, C)
    v = chunk_start(v, v_strides, batch, head, chunk, C)
    if HAS_GK:
        gk = chunk_start(gk, gk_strides, batch, head, chunk, C)
    if HAS_GV:
        gv = chunk_start(gv, gv_strides, batch, head, chunk, C)
    output += ((batch * T + chunk * C) * H + head) * D
    sequence, _ = sequences(reset + batch * T, chunk, T, C, HAS_RESET) if HAS_RESET else (tl.zeros([C], tl.int32), 0)
    keys: tl.constexpr = (K + BK - 1) // BK
    values: tl.constexpr = (D + BD - 1) // BD

    # Heads of more than one tile load their tiles again wherever they are needed.
    key_operands = (q, k, gk, q_strides, k_strides, gk_strides)
    if keys == 1:
        only_key = _load_side(*key_operands, 0, steps, C, LEVELS, K, BK, HAS_GK, EVEN)
    p = tl.zeros([C, C], tl.float32)
    for key in range(keys):
        key_side = only_key if keys == 1 else _load_side(*key_operands, key, steps, C, LEVELS, K, BK, HAS_GK, EVEN)
        p += product(key_side[0], tl.trans(key_side[1]), PRECISION)
    visible = tl.arange(0, C)[:, None] >= tl.arange(0, C)[None, :]
    if HAS_RESET:
        visible &= sequence[:, None] == sequence[None, :]
    p = tl.where(visible, p, 0.0)

    for value in range(values):
        d = value * BD + tl.arange(0, BD)
        # The values alone: nothing else is on their side.
        value_side = _load_side(
            v, v, gv, v_strides, v_strides, gv_strides, value, steps, C, LEVELS, D, BD, HAS_GV, EVEN
        )
        start_v = _half_decays(decays + K, d, D, K + D, HAS_GV)[0]
        o = product(p, value_side[1], PRECISION)
        for key in range(keys):
            i = key * BK + tl.arange(0, BK)
            key_side = only_key if keys == 1 else _load_side(*key_operands, key, steps, C, LEVELS, K, BK, HAS_GK, EVEN)
            start_k = _half_decays(decays, i, K, K + D, HAS_GK)[0]
            entering = key_side[0]
            if HAS_RESET:
                entering = tl.where((sequence == 0)[:, None], entering, 0.0)
            state = load_state(states, i, d, K, D, False, EVEN) * start_k[:, None] * start_v[None, :]
            o += product(entering, state, PRECISION)
        if HAS_GV:
            o *= value_side[2]
        store_tile(output, D, o * scale, d, steps, H * D, C, EVEN)


@triton.jit
def _side_gradients(
    x, y, g, other_x, other_y, other_g, decays, other_decays, d_x, d_y, d_g, entering, leaving, leaving_gradient,
    x_strides, y_strides, g_strides, other_x_strides, other_y_strides, other_g_strides,
    x_scale, other_x_scale, sequence, last, steps, stride,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, OTHER_SIZE: tl.constexpr, OTHER_BLOCK: tl.constexpr,
    TRANSPOSED: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr, OTHER_GATED: tl.constexpr,
    HAS_RESET: tl.constexpr, STORE_X: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one side: x and y are q and k, the other ones d_o and v; or the other way round.

    States are [other, own] channels, or TRANSPOSED. The gradient of d_o would be the output: it is only what the gates
    need, and not stored (STORE_X).
    """
    tiles: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    others: tl.constexpr = (OTHER_SIZE + OTHER_BLOCK - 1) // OTHER_BLOCK
    of_both: tl.constexpr = SIZE + OTHER_SIZE
    visible = tl.arange(0, C)[:, None] >= tl.arange(0, C)[None, :]
    if HAS_RESET:
        visible &= sequence[:, None] == sequence[None, :]
    other_operands = (other_x, other_y, other_g, other_x_strides, other_y_strides, other_g_strides)
    if others == 1:
        only_other = _load_side(*other_operands, 0, steps, C, LEVELS, OTHER_SIZE, OTHER_BLOCK, OTHER_GATED, EVEN)
    m = tl.zeros([C, C], tl.float32)
    for other in range(others):
        other_side = (
            only_other
            if others == 1
            else _load_side(*other_operands, other, steps, C, LEVELS, OTHER_SIZE, OTHER_BLOCK, OTHER_GATED, EVEN)
        )
        m += product(other_side[0] * other_x_scale, tl.trans(other_side[1]), PRECISION)
    m = tl.where(visible, m, 0.0)

    for tile in range(tiles):
        i = tile * BLOCK + tl.arange(0, BLOCK)
        start, end = _half_decays(decays, i, SIZE, of_both, GATED)
        of_y, of_x = tl.zeros([C, BLOCK], tl.float32), tl.zeros([C, BLOCK], tl.float32)
        crossing = tl.zeros([BLOCK], tl.float32)
        for other in range(others):
            j = other * OTHER_BLOCK + tl.arange(0, OTHER_BLOCK)
            other_side = (
                only_other
                if others == 1
                else _load_side(*other_operands, other, steps, C, LEVELS, OTHER_SIZE, OTHER_BLOCK, OTHER_GATED, EVEN)
            )
            other_start, other_end = _half_decays(other_decays, j, OTHER_SIZE, of_both, OTHER_GATED)
            flow = load_state(leaving_gradient, j, i, OTHER_SIZE, SIZE, TRANSPOSED, EVEN)
            of_x += product(other_side[1], flow * other_end[:, None] * end[None, :], PRECISION)
            if GATED:
                crossing += tl.sum(load_state(leaving, j, i, OTHER_SIZE, SIZE, TRANSPOSED, EVEN) * flow, 0)
            if GATED or STORE_X:
                state = load_state(entering, j, i, OTHER_SIZE, SIZE, TRANSPOSED, EVEN)
                state *= other_start[:, None] * start[None, :]
                of_y += product(other_side[0] * other_x_scale, state, PRECISION)
        if HAS_RESET:
            of_y = tl.where((sequence == 0)[:, None], of_y, 0.0)
            of_x = tl.where((sequence == last)[:, None], of_x, 0.0)
        xs, ys, rise, fall = _load_side(
            x, y, g, x_strides, y_strides, g_strides, tile, steps, C, LEVELS, SIZE, BLOCK, GATED, EVEN
        )
        xs *= x_scale
        of_x += product(tl.trans(m), xs, PRECISION)
        if GATED or STORE_X:
            of_y += product(m, ys, PRECISION)
        if GATED:
            flow = until_end(xs * of_y - ys * of_x, sequence, C, HAS_RESET)
            if HAS_RESET:
                flow += tl.where((sequence == last)[:, None], crossing[None, :], 0.0)
            else:
                flow += crossing[None, :]
            store_tile(d_g, SIZE, flow, i, steps, stride, C, EVEN)
            of_y *= rise
            of_x *= fall
        if STORE_X:
            store_tile(d_x, SIZE, of_y, i, steps, stride, C, EVEN)
        store_tile(d_y, SIZE, of_x, i, steps, stride, C, EVEN)


@triton.jit(do_not_specialize=["T", "H"])
def mild_gradients_kernel(
    decays,
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
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the chunks that are mild, by programs in pairs, one for each side.

    `flows` [chunks, B, H, K, D] are gradients of the states that leave the chunks.
    """
    index = (tl.program_id(0) // 2).to(tl.int64)
    chunk = tl.program_id(1)
    heads = (tl.num_programs(0) // 2).to(tl.int64)
    place = chunk * heads + index
    if tl.load(mild + 2 * place) == 0:
        return
    batch, head = index // H, index % H
    steps = T - chunk * C
    q = chunk_start(q, q_strides, batch, head, chunk, C)
    k = chunk_start(k, k_strides, batch, head, chunk, C)
    v = chunk_start(v, v_strides, batch, head, chunk, C)
    d_output = chunk_start(d_output, d_output_strides, batch, head, chunk, C)
    if HAS_GK:
        gk = chunk_start(gk, gk_strides, batch, head, chunk, C)
    if HAS_GV:
        gv = chunk_start(gv, gv_strides, batch, head, chunk, C)
    key_place = ((batch * T + chunk * C) * H + head) * K
    value_place = ((batch * T + chunk * C) * H + head) * D
    flows += place * (K * D)
    leaving = final + index * (K * D)
    if chunk + 1 < tl.num_programs(1):
        leaving = states + (place + heads) * (K * D)
    states += place * (K * D)
    decays += place * (2 * (K + D))
    sequence, last = sequences(reset + batch * T, chunk, T, C, True) if HAS_RESET else (tl.zeros([C], tl.int32), 0)
    if tl.program_id(0) % 2 == 0:
        _side_gradients(
            q, k, gk, d_output, v, gv, decays, decays + K, d_q + key_place, d_k + key_place, d_gk + key_place,
            states, leaving, flows, q_strides, k_strides, gk_strides, d_output_strides, v_strides, gv_strides,
            1.0, scale, sequence, last, steps, H * K,
            K, BK, D, BD, True, C, LEVELS, HAS_GK, HAS_GV, HAS_RESET, True, EVEN, PRECISION,
        )  # fmt: skip
    else:
        _side_gradients(
            d_output, v, gv, q, k, gk, decays + K, decays, d_output, d_v + value_place, d_gv + value_place,
            states, leaving, flows, d_output_strides, v_strides, gv_strides, q_strides, k_strides, gk_strides,
            scale, 1.0, sequence, last, steps, H * D,
            D, BD, K, BK, False, C, LEVELS, HAS_GV, HAS_GK, HAS_RESET, False, EVEN, PRECISION,
        )  # fmt: skip
