r"""Triton kernels of decaying fast weights for chunks with stronger gates: products in blocks, and between them.

From step j to a later step t a channel decays by exp(g_{j+1} + ... + g_t), with g its log gates. Two products of a
chunk are made of that,

    scores:  P_tj = sum_c x_tc exp(g_{j+1,c} + ... + g_tc) y_jc                                       for j <= t
    apply:   z_tc = sum_j M_tj exp(g_{j+1,c} + ... + g_tc) y_jc         or its transpose, summed over t,

and both become matrix products where x and y bring factors of their own:

- Steps t and j of two neighbouring blocks of h = 2^LEVEL, ... C / 4, C / 2 steps meet at the boundary: sums from there
  to t and from j to there are of numbers <= 0, nothing overflows. One product for each h, of which the pairs of steps
  are kept that meet there.
- Steps of the same block of 2^LEVEL: sums from its middle, positive ones too, as in the form for mild gates. So its
  halves must not sum to less than [`MIN_HALF_BLOCK`]; but LEVEL = 0, a step with itself, is for any gates.

Backward, the key side (q, k, gk, and the scores of d_o and v) and the value side (d_o, v, gv, and the scores of q and
k) are the same computation. The gradient of a log gate is all that flows over it: from its step to the end of the
chunk q dq - k dk (o d_o - v dv), and S * E there.
"""

from seqzoo.kernels.decaying_fast_weights_tiles import (
    MIN_LOG_GATE,
    after,
    chunk_start,
    exp,
    load_gates,
    load_state,
    load_tile,
    rise_and_fall,
    store_tile,
    sums,
    until_end,
    up_to,
)
from seqzoo.kernels.triton_chunks import product, sequences, tl, triton


@triton.jit
def _within(LEVEL: tl.constexpr, C: tl.constexpr):
    """[t, j]: the pairs of steps j <= t of the same block of 2^LEVEL."""
    t = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    return (t >= j) & (t >> LEVEL == j >> LEVEL)


@triton.jit
def _meets(level, C: tl.constexpr):
    """[t, j]: the pairs of steps j < t that meet where two blocks of 2^level steps do."""
    t = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    return (t > j) & ((t ^ j) >> level == 1)


@triton.jit
def _boundary_factors(gates, level, C: tl.constexpr):
    """Decays between each step and the boundary that its block of 2^level steps has with its partner.

    Rows of second blocks: from the boundary to the step and with it. Rows of first blocks: from after the step to the
    boundary.
    """
    t = tl.arange(0, C)[:, None]
    i = tl.arange(0, C)[None, :]
    second = ((t >> level) & 1) == 1
    return exp(sums((t >> level == i >> level) & tl.where(second, i <= t, i > t), gates))


@triton.jit
def _scores(
    x, y, gates, C: tl.constexpr, LEVEL: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """P [t, j] of the module docstring, 0 for j > t. C is 2^LEVELS."""
    if GATED:
        if LEVEL > 0:
            rise, fall = rise_and_fall(gates, LEVEL, C)
            result = tl.where(_within(LEVEL, C), product(x * rise, tl.trans(y * fall), PRECISION), 0.0)
        else:
            result = tl.where(_within(LEVEL, C), product(x, tl.trans(y), PRECISION), 0.0)
        for level in range(LEVEL, LEVELS):
            factors = _boundary_factors(gates, level, C)
            result += tl.where(_meets(level, C), product(x * factors, tl.trans(y * factors), PRECISION), 0.0)
        return result
    else:
        return tl.where(up_to(C), product(x, tl.trans(y), PRECISION), 0.0)


@triton.jit
def _apply(
    m, y, gates, C: tl.constexpr, LEVEL: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """z [t, c] of the module docstring; `m` [t, j] is 0 for j > t."""
    if GATED:
        kept = tl.where(_within(LEVEL, C), m, 0.0)
        if LEVEL > 0:
            rise, fall = rise_and_fall(gates, LEVEL, C)
            result = product(kept, y * fall, PRECISION) * rise
        else:
            result = product(kept, y, PRECISION)
        for level in range(LEVEL, LEVELS):
            factors = _boundary_factors(gates, level, C)
            result += product(tl.where(_meets(level, C), m, 0.0), y * factors, PRECISION) * factors
        return result
    else:
        return product(m, y, PRECISION)


@triton.jit
def _apply_both(
    m, x, y, gates, C: tl.constexpr, LEVEL: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`_apply` of y, and its transpose of x: for every j, what steps t >= j have of it."""
    if GATED:
        kept = tl.where(_within(LEVEL, C), m, 0.0)
        if LEVEL > 0:
            rise, fall = rise_and_fall(gates, LEVEL, C)
            of_y = product(kept, y * fall, PRECISION) * rise
            of_x = product(tl.trans(kept), x * rise, PRECISION) * fall
        else:
            of_y = product(kept, y, PRECISION)
            of_x = product(tl.trans(kept), x, PRECISION)
        for level in range(LEVEL, LEVELS):
            factors = _boundary_factors(gates, level, C)
            kept = tl.where(_meets(level, C), m, 0.0)
            of_y += product(kept, y * factors, PRECISION) * factors
            of_x += product(tl.trans(kept), x * factors, PRECISION) * factors
        return of_y, of_x
    else:
        return product(m, y, PRECISION), product(tl.trans(m), x, PRECISION)


@triton.jit
def _all_scores(
    x, y, g, x_strides, y_strides, g_strides, steps, SIZE: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr,
    LEVEL: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The scores of a chunk, summed over all channels."""
    result = tl.zeros([C, C], tl.float32)
    for start in range(0, SIZE, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x_tile = load_tile(x, x_strides, columns, steps, C, SIZE, EVEN)
        y_tile = load_tile(y, y_strides, columns, steps, C, SIZE, EVEN)
        gates = x_tile
        if GATED:
            gates = load_gates(g, g_strides, columns, steps, C, SIZE, EVEN)
        result += _scores(x_tile, y_tile, gates, C, LEVEL, LEVELS, GATED, PRECISION)
    return result


@triton.jit
def _of_state(
    x, g, x_strides, g_strides, state, columns, steps, COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr, GATED: tl.constexpr, START: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What steps read of the state at the chunk's start (START), or have written of the state at its end.

    sum_i x_ti decay_ti S_i,column, the decay that of the summed side, from the start to t or from after t to the end.
    """
    result = tl.zeros([C, columns.shape[0]], tl.float32)
    for start in range(0, SIZE, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tile = load_tile(x, x_strides, i, steps, C, SIZE, EVEN)
        if GATED:
            gates = load_gates(g, g_strides, i, steps, C, SIZE, EVEN)
            tile *= exp(sums(up_to(C) if START else after(C), gates))
        result += product(tile, load_state(state, i, columns, SIZE, COLUMNS, TRANSPOSED, EVEN), PRECISION)
    return result


@triton.jit
def _is_of_level(mild, place, exists, LEVEL: tl.constexpr):
    """Whether chunks are for these blocks: those whose gates are mild in them, and not in longer ones.

    `mild` [..., 2] is not 0 where the gates of the whole chunk, and of its blocks that are longer than a step, are.
    """
    blocks = tl.load(mild + 2 * place + 1, mask=exists, other=1) != 0
    if LEVEL == 0:
        return exists & (blocks == 0)
    else:
        return exists & blocks & (tl.load(mild + 2 * place, mask=exists, other=1) == 0)


@triton.jit(do_not_specialize=["T", "H", "chunks"])
def blocks_output_kernel(
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
    chunks,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    LEVEL: tl.constexpr,
    LEVELS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Outputs [B, T, H, D] of the chunks that are for LEVEL; `states` [chunks, B, H, K, D] enter the chunks.

    A program has GROUP chunks, looks at them all at once, and often has nothing to do.
    """
    index = tl.program_id(0).to(tl.int64)
    heads = tl.num_programs(0).to(tl.int64)
    batch, head = index // H, index % H
    first = tl.program_id(1) * GROUP
    group = first + tl.arange(0, GROUP)
    here = _is_of_level(mild, group.to(tl.int64) * heads + index, group < chunks, LEVEL)
    if tl.sum(here.to(tl.int32), 0) == 0:
        return
    if HAS_RESET:
        reset += batch * T
    for n in range(GROUP):
        chunk = first + n
        place = chunk * heads + index
        if _is_of_level(mild, place, chunk < chunks, LEVEL):
            steps = T - chunk * C
            entering = states + place * (K * D)
            q_start = chunk_start(q, q_strides, batch, head, chunk, C)
            k_start = chunk_start(k, k_strides, batch, head, chunk, C)
            v_start = chunk_start(v, v_strides, batch, head, chunk, C)
            gk_start, gv_start = gk, gv
            if HAS_GK:
                gk_start = chunk_start(gk, gk_strides, batch, head, chunk, C)
            if HAS_GV:
                gv_start = chunk_start(gv, gv_strides, batch, head, chunk, C)
            sequence, _ = sequences(reset, chunk, T, C, HAS_RESET)
            p = _all_scores(
                q_start, k_start, gk_start, q_strides, k_strides, gk_strides, steps, K, BK, C, LEVEL, LEVELS, HAS_GK,
                EVEN, PRECISION,
            )  # fmt: skip
            if HAS_RESET:
                p = tl.where(sequence[:, None] == sequence[None, :], p, 0.0)
            for start in range(0, D, BD):
                d = start + tl.arange(0, BD)
                o = _of_state(
                    q_start, gk_start, q_strides, gk_strides, entering, d, steps, D, False, K, BK, C, HAS_GK, True,
                    EVEN, PRECISION,
                )  # fmt: skip
                v_tile = load_tile(v_start, v_strides, d, steps, C, D, EVEN)
                gates = v_tile
                if HAS_GV:
                    gates = load_gates(gv_start, gv_strides, d, steps, C, D, EVEN)
                    o *= exp(sums(up_to(C), gates))
                if HAS_RESET:
                    o = tl.where((sequence == 0)[:, None], o, 0.0)
                o += _apply(p, v_tile, gates, C, LEVEL, LEVELS, HAS_GV, PRECISION)
                output_start = output + ((batch * T + chunk * C) * H + head) * D
                store_tile(output_start, D, o * scale, d, steps, H * D, C, EVEN)


@triton.jit
def _side_gradients(
    x, y, g, other_x, other_y, other_g, reset, d_x, d_y, d_g, entering, leaving, leaving_gradient,
    x_strides, y_strides, g_strides, other_x_strides, other_y_strides, other_g_strides,
    x_scale, other_x_scale, batch, head, chunk, T, H,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, OTHER_SIZE: tl.constexpr, OTHER_BLOCK: tl.constexpr,
    TRANSPOSED: tl.constexpr, C: tl.constexpr, LEVEL: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr,
    OTHER_GATED: tl.constexpr, HAS_RESET: tl.constexpr, STORE_X: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one side: x and y are q and k, the other ones d_o and v; or the other way round.

    States are [other, own] channels, or TRANSPOSED. The gradient of d_o would be the output: it is only what the gates
    need, and not stored (STORE_X).
    """
    steps = T - chunk * C
    x = chunk_start(x, x_strides, batch, head, chunk, C)
    y = chunk_start(y, y_strides, batch, head, chunk, C)
    other_x = chunk_start(other_x, other_x_strides, batch, head, chunk, C)
    other_y = chunk_start(other_y, other_y_strides, batch, head, chunk, C)
    if GATED:
        g = chunk_start(g, g_strides, batch, head, chunk, C)
    if OTHER_GATED:
        other_g = chunk_start(other_g, other_g_strides, batch, head, chunk, C)
    if HAS_RESET:
        reset += batch * T
    place = ((batch * T + chunk * C) * H + head) * SIZE
    sequence, last = sequences(reset, chunk, T, C, HAS_RESET)
    m = other_x_scale * _all_scores(
        other_x, other_y, other_g, other_x_strides, other_y_strides, other_g_strides, steps, OTHER_SIZE, OTHER_BLOCK,
        C, LEVEL, LEVELS, OTHER_GATED, EVEN, PRECISION,
    )  # fmt: skip
    if HAS_RESET:
        m = tl.where(sequence[:, None] == sequence[None, :], m, 0.0)
    for start in range(0, SIZE, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        of_y = other_x_scale * _of_state(
            other_x, other_g, other_x_strides, other_g_strides, entering, columns, steps, SIZE, TRANSPOSED,
            OTHER_SIZE, OTHER_BLOCK, C, OTHER_GATED, True, EVEN, PRECISION,
        )  # fmt: skip
        of_x = _of_state(
            other_y, other_g, other_y_strides, other_g_strides, leaving_gradient, columns, steps, SIZE, TRANSPOSED,
            OTHER_SIZE, OTHER_BLOCK, C, OTHER_GATED, False, EVEN, PRECISION,
        )  # fmt: skip
        x_tile = load_tile(x, x_strides, columns, steps, C, SIZE, EVEN) * x_scale
        y_tile = load_tile(y, y_strides, columns, steps, C, SIZE, EVEN)
        gates = x_tile
        if GATED:
            gates = load_gates(g, g_strides, columns, steps, C, SIZE, EVEN)
            of_y *= exp(sums(up_to(C), gates))
            of_x *= exp(sums(after(C), gates))
        if HAS_RESET:
            of_y = tl.where((sequence == 0)[:, None], of_y, 0.0)
            of_x = tl.where((sequence == last)[:, None], of_x, 0.0)
        inner_y, inner_x = _apply_both(m, x_tile, y_tile, gates, C, LEVEL, LEVELS, GATED, PRECISION)
        of_y += inner_y
        of_x += inner_x
        if STORE_X:
            store_tile(d_x + place, SIZE, of_y, columns, steps, H * SIZE, C, EVEN)
        store_tile(d_y + place, SIZE, of_x, columns, steps, H * SIZE, C, EVEN)
        if GATED:
            crossing = tl.zeros([BLOCK], tl.float32)
            for other_start in range(0, OTHER_SIZE, OTHER_BLOCK):
                i = other_start + tl.arange(0, OTHER_BLOCK)
                s = load_state(leaving, i, columns, OTHER_SIZE, SIZE, TRANSPOSED, EVEN)
                crossing += tl.sum(s * load_state(leaving_gradient, i, columns, OTHER_SIZE, SIZE, TRANSPOSED, EVEN), 0)
            flow = until_end(x_tile * of_y - y_tile * of_x, sequence, C, HAS_RESET)
            if HAS_RESET:
                flow += tl.where((sequence == last)[:, None], crossing[None, :], 0.0)
            else:
                flow += crossing[None, :]
            flow = tl.where(gates.to(tl.float32) > MIN_LOG_GATE, flow, 0.0)
            store_tile(d_g + place, SIZE, flow, columns, steps, H * SIZE, C, EVEN)


@triton.jit(do_not_specialize=["T", "H", "chunks"])
def blocks_gradients_kernel(
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
    chunks,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    LEVEL: tl.constexpr,
    LEVELS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the chunks that are for LEVEL, GROUP a program, by programs in pairs, one for each side.

    `flows` [chunks, B, H, K, D] are gradients of the states that leave the chunks.
    """
    index = (tl.program_id(0) // 2).to(tl.int64)
    heads = (tl.num_programs(0) // 2).to(tl.int64)
    batch, head = index // H, index % H
    first = tl.program_id(1) * GROUP
    group = first + tl.arange(0, GROUP)
    here = _is_of_level(mild, group.to(tl.int64) * heads + index, group < chunks, LEVEL)
    if tl.sum(here.to(tl.int32), 0) == 0:
        return
    for n in range(GROUP):
        chunk = first + n
        place = chunk * heads + index
        if _is_of_level(mild, place, chunk < chunks, LEVEL):
            flow = flows + place * (K * D)
            entering = states + place * (K * D)
            leaving = final + index * (K * D)
            if chunk + 1 < chunks:
                leaving = states + (place + heads) * (K * D)
            if tl.program_id(0) % 2 == 0:
                _side_gradients(
                    q, k, gk, d_output, v, gv, reset, d_q, d_k, d_gk, entering, leaving, flow,
                    q_strides, k_strides, gk_strides, d_output_strides, v_strides, gv_strides,
                    1.0, scale, batch, head, chunk, T, H,
                    K, BK, D, BD, True, C, LEVEL, LEVELS, HAS_GK, HAS_GV, HAS_RESET, True, EVEN, PRECISION,
                )  # fmt: skip
            else:
                _side_gradients(
                    d_output, v, gv, q, k, gk, reset, d_output, d_v, d_gv, entering, leaving, flow,
                    d_output_strides, v_strides, gv_strides, q_strides, k_strides, gk_strides,
                    scale, 1.0, batch, head, chunk, T, H,
                    D, BD, K, BK, False, C, LEVEL, LEVELS, HAS_GV, HAS_GK, HAS_RESET, False, EVEN, PRECISION,
                )  # fmt: skip
