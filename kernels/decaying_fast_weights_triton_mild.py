r"""Triton kernels of decaying fast weights for chunks with mild gates: plain matrix products around the middle.

Sums of log gates are counted from the middle of a chunk, after step M = C / 2. With c_t such a sum, rise_t = exp(c_t)
and fall_t = exp(-c_t), what step t keeps of step j decays by rise_t fall_j on either side. So everything is scaled to
the middle once,

    Qs = q rise_k     Ks = k fall_k     Vs = v fall_v     S~ = S decayed to the middle

and the outputs of a chunk are rise_v (tril(Qs Ks^T) Vs + Qs S~). Backward, with dOs = d_o rise_v and E~ the gradient
of the state that leaves the chunk, decayed back to the middle,

    P = tril(Qs Ks^T)     dP = tril(dOs Vs^T)
    dq = rise_k (dP Ks + dOs S~^T)     dk = fall_k (dP^T Qs + Vs E~^T)     dv = fall_v (P^T dOs + Ks E~)

and over a key-side gate flows Qs * (dP Ks + dOs S~^T) - Ks * (dP^T Qs + Vs E~^T), over a value-side gate the same of
dOs and Vs, summed from its step to the end of the chunk, and beyond that S * E at the end.

fall grows to exp(-sum of half a chunk): a chunk is mild where no half sums to less than [`MIN_HALF_CHUNK`].
"""

from seqzoo.kernels.decaying_fast_weights_tiles import (
    LOG2_E,
    chunk_start,
    load_raw,
    load_state,
    load_tile,
    store_tile,
    sums,
    until_end,
)
from seqzoo.kernels.triton_chunks import product, sequences, tl, triton


@triton.jit
def _centred(C: tl.constexpr):
    """Weights of the sums from the middle: 1 from behind it to t, -1 from behind t to it."""
    t = tl.arange(0, C)[:, None]
    i = tl.arange(0, C)[None, :]
    middle: tl.constexpr = C // 2 - 1
    return ((i > middle) & (i <= t)).to(tl.float32) - ((i > t) & (i <= middle)).to(tl.float32)


@triton.jit
def _rise_and_fall(gates, C: tl.constexpr):
    centred = sums(_centred(C), gates) * LOG2_E
    return tl.exp2(centred), tl.exp2(-centred)


@triton.jit
def _load_side(
    x, y, g, decays, x_strides, y_strides, g_strides, tile, steps,
    C: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Of a tile of channels: x and y scaled to the middle; rise and fall; decays from the start and to the end.

    The latter are read from `decays`, STRIDE apart.
    """
    columns = tile * BLOCK + tl.arange(0, BLOCK)
    x_tile = load_tile(x, x_strides, columns, steps, C, SIZE, EVEN)
    y_tile = load_tile(y, y_strides, columns, steps, C, SIZE, EVEN)
    if GATED:
        gates = load_raw(g, g_strides, columns, steps, C, SIZE, EVEN)
        rise, fall = _rise_and_fall(gates, C)
        inside = columns < SIZE
        start = tl.load(decays + columns, mask=inside, other=0.0)
        end = tl.load(decays + STRIDE + columns, mask=inside, other=0.0)
        return x_tile * rise, y_tile * fall, rise, fall, start, end
    else:
        ones = tl.full([BLOCK], 1.0, tl.float32)
        return x_tile, y_tile, x_tile, y_tile, ones, ones


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
    if tl.load(mild + place) == 0:
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

    # Heads of more than one tile load tiles again wherever they are needed.
    key_operands = (q, k, gk, decays, q_strides, k_strides, gk_strides)
    if keys == 1:
        key_side = _load_side(*key_operands, 0, steps, C, K, K + D, BK, HAS_GK, EVEN)
    p = tl.zeros([C, C], tl.float32)
    for key in range(keys):
        key_tiles = key_side if keys == 1 else _load_side(*key_operands, key, steps, C, K, K + D, BK, HAS_GK, EVEN)
        qs, ks = key_tiles[0], key_tiles[1]
        p += product(qs, tl.trans(ks), PRECISION)
    visible = tl.arange(0, C)[:, None] >= tl.arange(0, C)[None, :]
    if HAS_RESET:
        visible &= sequence[:, None] == sequence[None, :]
    p = tl.where(visible, p, 0.0)

    for value in range(values):
        d = value * BD + tl.arange(0, BD)
        # The values alone: there is no second operand on their side.
        value_tiles = _load_side(
            v, v, gv, decays + K, v_strides, v_strides, gv_strides, value, steps, C, D, K + D, BD, HAS_GV, EVEN
        )
        vs, rise_v, start_v = value_tiles[1], value_tiles[2], value_tiles[4]
        o = product(p, vs, PRECISION)
        for key in range(keys):
            i = key * BK + tl.arange(0, BK)
            key_tiles = key_side if keys == 1 else _load_side(*key_operands, key, steps, C, K, K + D, BK, HAS_GK, EVEN)
            qs, start_k = key_tiles[0], key_tiles[4]
            state = load_state(states, i, d, K, D, False, EVEN) * start_k[:, None] * start_v[None, :]
            if HAS_RESET:
                qs = tl.where((sequence == 0)[:, None], qs, 0.0)
            o += product(qs, state, PRECISION)
        if HAS_GV:
            o *= rise_v
        store_tile(output, D, o * scale, d, steps, H * D, C, EVEN)


@triton.jit
def _store_gate_gradient(
    d_g,
    flow,
    crossing,
    sequence,
    last,
    columns,
    steps,
    stride,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    HAS_RESET: tl.constexpr,
    EVEN: tl.constexpr,
):
    gradient = until_end(flow, sequence, C, HAS_RESET)
    if HAS_RESET:
        gradient += tl.where((sequence == last)[:, None], crossing[None, :], 0.0)
    else:
        gradient += crossing[None, :]
    store_tile(d_g, SIZE, gradient, columns, steps, stride, C, EVEN)


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
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the chunks that are mild. `flows` [chunks, B, H, K, D] are those of the states that leave them."""
    index = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    heads = tl.num_programs(0).to(tl.int64)
    place = chunk * heads + index
    if tl.load(mild + place) == 0:
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
    visible = tl.arange(0, C)[:, None] >= tl.arange(0, C)[None, :]
    if HAS_RESET:
        visible &= sequence[:, None] == sequence[None, :]
        enters, leaves = (sequence == 0)[:, None], (sequence == last)[:, None]
    keys: tl.constexpr = (K + BK - 1) // BK
    values: tl.constexpr = (D + BD - 1) // BD

    # Heads of more than one tile load tiles again wherever they are needed.
    key_operands = (q, k, gk, decays, q_strides, k_strides, gk_strides)
    if keys == 1:
        key_side = _load_side(*key_operands, 0, steps, C, K, K + D, BK, HAS_GK, EVEN)
    value_operands = (d_output, v, gv, decays + K, d_output_strides, v_strides, gv_strides)
    if values == 1:
        value_side = _load_side(*value_operands, 0, steps, C, D, K + D, BD, HAS_GV, EVEN)
    p = tl.zeros([C, C], tl.float32)
    for key in range(keys):
        key_tiles = key_side if keys == 1 else _load_side(*key_operands, key, steps, C, K, K + D, BK, HAS_GK, EVEN)
        qs, ks = key_tiles[0], key_tiles[1]
        p += product(qs, tl.trans(ks), PRECISION)
    d_p = tl.zeros([C, C], tl.float32)
    for value in range(values):
        value_tiles = (
            value_side if values == 1 else _load_side(*value_operands, value, steps, C, D, K + D, BD, HAS_GV, EVEN)
        )
        dos, vs = value_tiles[0], value_tiles[1]
        d_p += product(dos * scale, tl.trans(vs), PRECISION)
    p, d_p = tl.where(visible, p, 0.0), tl.where(visible, d_p, 0.0)

    for key in range(keys):
        i = key * BK + tl.arange(0, BK)
        key_tiles = key_side if keys == 1 else _load_side(*key_operands, key, steps, C, K, K + D, BK, HAS_GK, EVEN)
        qs, ks, rise_k, fall_k, start_k, end_k = key_tiles
        read, written = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32)
        crossing = tl.zeros([BK], tl.float32)
        for value in range(values):
            d = value * BD + tl.arange(0, BD)
            value_tiles = (
                value_side if values == 1 else _load_side(*value_operands, value, steps, C, D, K + D, BD, HAS_GV, EVEN)
            )
            dos, vs, start_v, end_v = value_tiles[0], value_tiles[1], value_tiles[4], value_tiles[5]
            state = load_state(states, d, i, D, K, True, EVEN) * start_v[:, None] * start_k[None, :]
            flow = load_state(flows, d, i, D, K, True, EVEN)
            crossing += tl.sum(load_state(leaving, d, i, D, K, True, EVEN) * flow, 0)
            read += product(dos * scale, state, PRECISION)
            written += product(vs, flow * end_v[:, None] * end_k[None, :], PRECISION)
        if HAS_RESET:
            read, written = tl.where(enters, read, 0.0), tl.where(leaves, written, 0.0)
        read += product(d_p, ks, PRECISION)
        written += product(tl.trans(d_p), qs, PRECISION)
        if HAS_GK:
            _store_gate_gradient(
                d_gk + key_place, qs * read - ks * written, crossing, sequence, last, i, steps, H * K,
                C, K, HAS_RESET, EVEN,
            )  # fmt: skip
            read *= rise_k
            written *= fall_k
        store_tile(d_q + key_place, K, read, i, steps, H * K, C, EVEN)
        store_tile(d_k + key_place, K, written, i, steps, H * K, C, EVEN)

    for value in range(values):
        d = value * BD + tl.arange(0, BD)
        value_tiles = (
            value_side if values == 1 else _load_side(*value_operands, value, steps, C, D, K + D, BD, HAS_GV, EVEN)
        )
        dos, vs, fall_v, start_v, end_v = (
            value_tiles[0],
            value_tiles[1],
            value_tiles[3],
            value_tiles[4],
            value_tiles[5],
        )
        dos = dos * scale
        read, written = tl.zeros([C, BD], tl.float32), tl.zeros([C, BD], tl.float32)
        crossing = tl.zeros([BD], tl.float32)
        for key in range(keys):
            i = key * BK + tl.arange(0, BK)
            key_tiles = key_side if keys == 1 else _load_side(*key_operands, key, steps, C, K, K + D, BK, HAS_GK, EVEN)
            qs, ks, start_k, end_k = key_tiles[0], key_tiles[1], key_tiles[4], key_tiles[5]
            flow = load_state(flows, i, d, K, D, False, EVEN)
            written += product(ks, flow * end_k[:, None] * end_v[None, :], PRECISION)
            if HAS_GV:  # the output is what its gates need
                state = load_state(states, i, d, K, D, False, EVEN) * start_k[:, None] * start_v[None, :]
                crossing += tl.sum(load_state(leaving, i, d, K, D, False, EVEN) * flow, 0)
                read += product(qs, state, PRECISION)
        if HAS_RESET:
            read, written = tl.where(enters, read, 0.0), tl.where(leaves, written, 0.0)
        written += product(tl.trans(p), dos, PRECISION)
        if HAS_GV:
            read += product(p, vs, PRECISION)
            _store_gate_gradient(
                d_gv + value_place, dos * read - vs * written, crossing, sequence, last, d, steps, H * D,
                C, D, HAS_RESET, EVEN,
            )  # fmt: skip
            written *= fall_v
        store_tile(d_v + value_place, D, written, d, steps, H * D, C, EVEN)
