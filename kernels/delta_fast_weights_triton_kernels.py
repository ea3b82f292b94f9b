r"""Triton kernels of delta-rule fast weights, forward and backward.

Rows are steps of a chunk that the state S enters, B the write strengths, L and M the lower triangles of K K^T (strict)
and scale * Q K^T (strict when reading before the write), E the gradient of the state that leaves the chunk, dO that of
the output. Of the chunk's triangular system, whose right side is V - K S, the strictly lower triangular

    G = -(I + L B)^-1 L          with (I + L B)^-1 = I + G B and its counterpart (I + B L)^-1 = I + B G

is kept, from which both passes take the same shape. Z are the errors of what the steps find under their keys:

    Z = X + G B X, X = V - K S            O = scale * Q S + M B Z            S <- S + K^T B Z
    R = Y + G^T B Y, Y = M^T dO + K E     dV = B R                           E <- E + scale * Q^T dO - K^T B R

Forward and backward are three steps each:

1. all chunks at once, what needs no state of other chunks: Z = own + weights S, or R = own + weights E;
2. `states_kernel` goes through the chunks of a part of a head's state: Z and the states that enter the chunks, or R
   and E;
3. all chunks at once: outputs or gradients.

Of a forward pass only the states that enter the chunks are kept, in float32; Z is computed again. own and weights,
float32, live as long as the pass. Where sequences begin, products between steps of different ones are left out, only
steps of the first sequence of a chunk see S, only those of its last one write to the next state.
docs/delta_fast_weights.md derives all that.
"""

from seqzoo.kernels.triton_chunks import product, sequences, tl, triton


# Not specialized: where they are 1 or multiples of 16, Triton would compile a kernel again, for nothing.
SIZES = ["T", "H"]


# Tiles of a chunk


@triton.jit
def _load_tile(pointer, strides, rows, columns, valid):
    """[rows, columns] of a [time, size] matrix in float32, 0 where not valid."""
    places = rows[:, None].to(tl.int64) * strides[0] + columns[None, :].to(tl.int64) * strides[1]
    return tl.load(pointer + places, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def _load_strengths(beta, strides, rows, T, C: tl.constexpr, HAS_BETA: tl.constexpr):
    if HAS_BETA:
        return tl.load(beta + rows.to(tl.int64) * strides[1], mask=rows < T, other=0.0).to(tl.float32)
    else:
        return tl.full([C], 1.0, tl.float32)


@triton.jit
def _pairs(sequence, C: tl.constexpr, HAS_RESET: tl.constexpr, STRICT: tl.constexpr):
    """[t, j]: the steps j <= t, or j < t, of the same sequence."""
    t = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    pairs = t > j if STRICT else t >= j
    if HAS_RESET:
        pairs = pairs & (sequence[:, None] == sequence[None, :])
    return pairs


@triton.jit
def _scores(
    x, y, x_strides, y_strides, rows, T,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """X Y^T, over all channels."""
    result = tl.zeros([C, C], tl.float32)
    for start in range(0, SIZE, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        valid = (rows < T)[:, None] & (columns < SIZE)[None, :]
        x_tile = _load_tile(x, (x_strides[1], x_strides[3]), rows, columns, valid)
        y_tile = _load_tile(y, (y_strides[1], y_strides[3]), rows, columns, valid)
        result += product(x_tile, tl.trans(y_tile), PRECISION)
    return result


@triton.jit
def _times_state(
    x, x_strides, state, state_strides, rows, T, columns, COLUMNS: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """X times some columns of a state."""
    result = tl.zeros([C, columns.shape[0]], tl.float32)
    for start in range(0, SIZE, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tile = _load_tile(x, (x_strides[1], x_strides[3]), rows, i, (rows < T)[:, None] & (i < SIZE)[None, :])
        inside = (i < SIZE)[:, None] & (columns < COLUMNS)[None, :]
        result += product(tile, _load_tile(state, state_strides, i, columns, inside), PRECISION)
    return result


@triton.jit
def _quadrants(a, HALF: tl.constexpr):
    """Of a lower triangular matrix: upper left, lower left, lower right."""
    left, right = tl.split(tl.permute(tl.reshape(a, [2, HALF, 2, HALF]), [1, 3, 0, 2]))
    upper_left, lower_left = tl.split(left)
    _, lower_right = tl.split(right)
    return upper_left, lower_left, lower_right


@triton.jit
def _between(products, later, earlier, later_strengths, earlier_strengths):
    """G between two blocks of steps, from G within each: -(I + G_2 B_2) L_21 (I + B_1 G_1)."""
    products += product(later * later_strengths[None, :], products, "tf32x3")
    return -products - product(products * earlier_strengths[None, :], earlier, "tf32x3")


@triton.jit
def _solve(products, strengths, C: tl.constexpr):
    """G from L. By substitution: powers of L overflow where keys resemble.

    Row by row within the blocks of C / 4 = 16 steps, in all four at once: g_t = -l_t - sum_j l_tj b_j g_j. Then
    between neighbouring blocks, twice.
    """
    HALF: tl.constexpr = C // 2
    QUARTER: tl.constexpr = C // 4
    t = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    within = tl.where(t // QUARTER == j // QUARTER, products, 0.0)
    solved = -within
    for i in range(2, QUARTER):
        is_row = t % QUARTER == i
        row = tl.sum(tl.where(is_row, within, 0.0), 0) * strengths
        solved -= tl.where(is_row & (t // QUARTER == j // QUARTER), tl.sum(row[:, None] * solved, 0)[None, :], 0.0)
    first_l, between_l, second_l = _quadrants(products, HALF)
    first, _, second = _quadrants(solved, HALF)
    first_b, second_b = tl.split(tl.permute(tl.reshape(strengths, [2, HALF]), [1, 0]))
    quarter = (tl.arange(0, HALF)[:, None] >= QUARTER) & (tl.arange(0, HALF)[None, :] < QUARTER)
    first += _between(tl.where(quarter, first_l, 0.0), first, first, first_b, first_b)
    second += _between(tl.where(quarter, second_l, 0.0), second, second, second_b, second_b)
    between = _between(between_l, second, first, second_b, first_b)
    solved = tl.join(tl.join(first, between), tl.join(tl.zeros_like(first), second))
    return tl.reshape(tl.permute(solved, [2, 0, 3, 1]), [C, C])


@triton.jit
def _solution(x, solved, strengths, PRECISION: tl.constexpr):
    """X + G B X, or with G transposed."""
    return x + product(solved, x * strengths[:, None], PRECISION)


# What needs no state of other chunks


@triton.jit(do_not_specialize=SIZES)
def systems_kernel(
    k,
    v,
    beta,
    reset,
    own,
    weights,
    k_strides,
    v_strides,
    beta_strides,
    own_strides,
    weights_strides,
    T,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_RESET: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Z = own + weights S: own = V + G B V, weights = -(K + G B K)."""
    batch, h = (tl.program_id(0) // H).to(tl.int64), (tl.program_id(0) % H).to(tl.int64)
    chunk = tl.program_id(1)
    rows = chunk * C + tl.arange(0, C)
    k += batch * k_strides[0] + h * k_strides[2]
    v += batch * v_strides[0] + h * v_strides[2]
    own += batch * own_strides[0] + h * own_strides[2]
    weights += batch * weights_strides[0] + h * weights_strides[2]
    if HAS_BETA:
        beta += batch * beta_strides[0] + h * beta_strides[2]
    if HAS_RESET:
        reset += batch * T
    sequence, _ = sequences(reset, chunk, T, C, HAS_RESET)
    strengths = _load_strengths(beta, beta_strides, rows, T, C, HAS_BETA)
    before = _pairs(sequence, C, HAS_RESET, True)

    k_k = tl.where(before, _scores(k, k, k_strides, k_strides, rows, T, K, BK, C, PRECISION), 0.0)
    solved = _solve(k_k, strengths, C)
    for start in range(0, K, BK):
        columns = start + tl.arange(0, BK)
        valid = (rows < T)[:, None] & (columns < K)[None, :]
        tile = _load_tile(k, (k_strides[1], k_strides[3]), rows, columns, valid)
        tile = tl.where((sequence == 0)[:, None], -tile, 0.0)
        places = rows[:, None].to(tl.int64) * weights_strides[1] + columns[None, :]
        tl.store(weights + places, _solution(tile, solved, strengths, PRECISION), mask=valid)
    for start in range(0, D, BD):
        columns = start + tl.arange(0, BD)
        valid = (rows < T)[:, None] & (columns < D)[None, :]
        tile = _load_tile(v, (v_strides[1], v_strides[3]), rows, columns, valid)
        places = rows[:, None].to(tl.int64) * own_strides[1] + columns[None, :]
        tl.store(own + places, _solution(tile, solved, strengths, PRECISION), mask=valid)


@triton.jit(do_not_specialize=SIZES)
def backward_systems_kernel(
    q,
    k,
    v,
    beta,
    reset,
    d_output,
    states,
    flows,
    errors,
    own,
    weights,
    q_strides,
    k_strides,
    v_strides,
    beta_strides,
    d_output_strides,
    value_strides,
    key_strides,
    scale,
    T,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_RESET: tl.constexpr,
    BEFORE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """R = own + weights E: own = Y + G^T B Y of Y = M^T dO, weights = K + G^T B K. flows = scale * Q^T dO, errors = Z.

    `value_strides` are those of `errors` and `own`, `key_strides` those of `weights`.
    """
    head = tl.program_id(0).to(tl.int64)
    batch, h = head // H, head % H
    chunk = tl.program_id(1)
    rows = chunk * C + tl.arange(0, C)
    q += batch * q_strides[0] + h * q_strides[2]
    k += batch * k_strides[0] + h * k_strides[2]
    v += batch * v_strides[0] + h * v_strides[2]
    d_output += batch * d_output_strides[0] + h * d_output_strides[2]
    states += (chunk * tl.num_programs(0).to(tl.int64) + head) * (K * D)
    flows += (chunk * tl.num_programs(0).to(tl.int64) + head) * (K * D)
    errors += batch * value_strides[0] + h * value_strides[2]
    own += batch * value_strides[0] + h * value_strides[2]
    weights += batch * key_strides[0] + h * key_strides[2]
    if HAS_BETA:
        beta += batch * beta_strides[0] + h * beta_strides[2]
    if HAS_RESET:
        reset += batch * T
    sequence, last = sequences(reset, chunk, T, C, HAS_RESET)
    strengths = _load_strengths(beta, beta_strides, rows, T, C, HAS_BETA)
    before = _pairs(sequence, C, HAS_RESET, True)

    # In this order as few tiles as possible are in registers at once.
    k_k = tl.where(before, _scores(k, k, k_strides, k_strides, rows, T, K, BK, C, PRECISION), 0.0)
    solved = _solve(k_k, strengths, C)
    for start in range(0, D, BD):
        columns = start + tl.arange(0, BD)
        valid = (rows < T)[:, None] & (columns < D)[None, :]
        held = _times_state(k, k_strides, states, (D, 1), rows, T, columns, D, K, BK, C, PRECISION)
        held = tl.where((sequence == 0)[:, None], held, 0.0)
        tile = _load_tile(v, (v_strides[1], v_strides[3]), rows, columns, valid) - held
        places = rows[:, None].to(tl.int64) * value_strides[1] + columns[None, :]
        tl.store(errors + places, _solution(tile, solved, strengths, PRECISION), mask=valid)
    solved = tl.trans(solved)
    for start in range(0, K, BK):
        columns = start + tl.arange(0, BK)
        valid = (rows < T)[:, None] & (columns < K)[None, :]
        tile = _load_tile(k, (k_strides[1], k_strides[3]), rows, columns, valid)
        tile = tl.where((sequence == last)[:, None], tile, 0.0)
        places = rows[:, None].to(tl.int64) * key_strides[1] + columns[None, :]
        tl.store(weights + places, _solution(tile, solved, strengths, PRECISION), mask=valid)
    q_k = _scores(q, k, q_strides, k_strides, rows, T, K, BK, C, PRECISION) * scale
    q_k = tl.trans(tl.where(_pairs(sequence, C, HAS_RESET, BEFORE), q_k, 0.0))
    for start in range(0, D, BD):
        columns = start + tl.arange(0, BD)
        valid = (rows < T)[:, None] & (columns < D)[None, :]
        tile = _load_tile(d_output, (d_output_strides[1], d_output_strides[3]), rows, columns, valid)
        places = rows[:, None].to(tl.int64) * value_strides[1] + columns[None, :]
        read = product(q_k, tile, PRECISION)
        tl.store(own + places, _solution(read, solved, strengths, PRECISION), mask=valid)
        for key_start in range(0, K, BK):
            i = key_start + tl.arange(0, BK)
            q_tile = _load_tile(q, (q_strides[1], q_strides[3]), rows, i, (rows < T)[:, None] & (i < K)[None, :])
            q_tile = tl.where((sequence == 0)[:, None], q_tile * scale, 0.0)
            flow = product(tl.trans(q_tile), tile, PRECISION)
            inside = (i < K)[:, None] & (columns < D)[None, :]
            tl.store(flows + i[:, None] * D + columns[None, :], flow, mask=inside)


# From chunk to chunk


@triton.jit(do_not_specialize=SIZES)
def states_kernel(
    k,
    beta,
    reset,
    own,
    weights,
    initial,
    states,
    final,
    k_strides,
    beta_strides,
    own_strides,
    weights_strides,
    T,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """S <- S + K^T B Z, Z = own + weights S; REVERSE: E <- E + scale * Q^T dO - K^T B R, R = own + weights E.

    Z, or R, takes the place of `own`. `states` [chunks, B, H, K, D] takes S as it enters each chunk; or E as it leaves
    it, in the place of scale * Q^T dO.
    """
    head = tl.program_id(0).to(tl.int64)
    batch, h = head // H, head % H
    i = tl.arange(0, BK)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    k += batch * k_strides[0] + h * k_strides[2]
    own += batch * own_strides[0] + h * own_strides[2]
    weights += batch * weights_strides[0] + h * weights_strides[2]
    if HAS_BETA:
        beta += batch * beta_strides[0] + h * beta_strides[2]
    if HAS_RESET:
        reset += batch * T
    places = i[:, None] * D + d[None, :]
    inside = (i < K)[:, None] & (d < D)[None, :]
    state = tl.zeros([BK, BD], tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial + head * K * D + places, mask=inside, other=0.0)

    chunks = tl.cdiv(T, C)
    heads = tl.num_programs(0).to(tl.int64)
    for step in range(chunks):
        chunk = chunks - 1 - step if REVERSE else step
        here = states + (chunk * heads + head) * (K * D) + places
        rows = chunk * C + tl.arange(0, C)
        of_keys = (rows < T)[:, None] & (i < K)[None, :]
        of_values = (rows < T)[:, None] & (d < D)[None, :]
        solution = _load_tile(own, (own_strides[1], 1), rows, d, of_values)
        solution += product(_load_tile(weights, (weights_strides[1], 1), rows, i, of_keys), state, PRECISION)
        tl.store(own + rows[:, None].to(tl.int64) * own_strides[1] + d[None, :], solution, mask=of_values)
        solution *= _load_strengths(beta, beta_strides, rows, T, C, HAS_BETA)[:, None]
        sequence, last = sequences(reset, chunk, T, C, HAS_RESET)
        k_tile = _load_tile(k, (k_strides[1], k_strides[3]), rows, i, of_keys)
        if HAS_RESET:
            k_tile = tl.where((sequence == (0 if REVERSE else last))[:, None], k_tile, 0.0)
        if REVERSE:
            solution = -solution
            read = tl.load(here, mask=inside, other=0.0)
        tl.store(here, state, mask=inside)
        if HAS_RESET:
            state = tl.where(last == 0, state, 0.0)
        if REVERSE:
            state += read
        state += product(tl.trans(k_tile), solution, PRECISION)
    tl.store(final + head * K * D + places, state, mask=inside)


# Outputs


@triton.jit(do_not_specialize=SIZES)
def output_kernel(
    q,
    k,
    beta,
    reset,
    errors,
    states,
    output,
    q_strides,
    k_strides,
    beta_strides,
    errors_strides,
    scale,
    T,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_RESET: tl.constexpr,
    BEFORE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """O = scale * Q S + M B Z; `errors` is Z."""
    head = tl.program_id(0).to(tl.int64)
    batch, h = head // H, head % H
    chunk = tl.program_id(1)
    rows = chunk * C + tl.arange(0, C)
    q += batch * q_strides[0] + h * q_strides[2]
    k += batch * k_strides[0] + h * k_strides[2]
    errors += batch * errors_strides[0] + h * errors_strides[2]
    states += (chunk * tl.num_programs(0).to(tl.int64) + head) * (K * D)
    if HAS_BETA:
        beta += batch * beta_strides[0] + h * beta_strides[2]
    if HAS_RESET:
        reset += batch * T
    strengths = _load_strengths(beta, beta_strides, rows, T, C, HAS_BETA)
    sequence, _ = sequences(reset, chunk, T, C, HAS_RESET)

    q_k = _scores(q, k, q_strides, k_strides, rows, T, K, BK, C, PRECISION)
    q_k = tl.where(_pairs(sequence, C, HAS_RESET, BEFORE), q_k * strengths[None, :], 0.0)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        valid = (rows < T)[:, None] & (d < D)[None, :]
        o = _times_state(q, q_strides, states, (D, 1), rows, T, d, D, K, BK, C, PRECISION)
        o = tl.where((sequence == 0)[:, None], o, 0.0)
        o += product(q_k, _load_tile(errors, (errors_strides[1], 1), rows, d, valid), PRECISION)
        places = (batch * T + rows[:, None].to(tl.int64)) * (H * D) + h * D + d[None, :]
        tl.store(output + places, (o * scale).to(output.dtype.element_ty), mask=valid)


# Gradients


@triton.jit(do_not_specialize=SIZES)
def gradients_kernel(
    q,
    k,
    beta,
    reset,
    d_output,
    states,
    flows,
    errors,
    residuals,
    d_q,
    d_k,
    d_v,
    d_beta,
    q_strides,
    k_strides,
    beta_strides,
    d_output_strides,
    value_strides,
    scale,
    T,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    C: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_RESET: tl.constexpr,
    BEFORE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`flows` is E, `errors` Z, `residuals` R. With U = B Z and dM and dL the triangles, as M and L are, of
    scale * dO U^T and -B R U^T,

        dQ = scale * dO S^T + dM K          dK = dM^T Q + U E^T + (dL + dL^T) K - B R S^T
        dV = B R                            dB = the sum over channels of R * Z
    """
    head = tl.program_id(0).to(tl.int64)
    batch, h = head // H, head % H
    chunk = tl.program_id(1)
    rows = chunk * C + tl.arange(0, C)
    q += batch * q_strides[0] + h * q_strides[2]
    k += batch * k_strides[0] + h * k_strides[2]
    d_output += batch * d_output_strides[0] + h * d_output_strides[2]
    errors += batch * value_strides[0] + h * value_strides[2]
    residuals += batch * value_strides[0] + h * value_strides[2]
    place = (chunk * tl.num_programs(0).to(tl.int64) + head) * (K * D)
    states += place
    flows += place
    if HAS_BETA:
        beta += batch * beta_strides[0] + h * beta_strides[2]
    if HAS_RESET:
        reset += batch * T
    sequence, last = sequences(reset, chunk, T, C, HAS_RESET)
    strengths = _load_strengths(beta, beta_strides, rows, T, C, HAS_BETA)
    times = batch * T + rows.to(tl.int64)

    d_strengths = tl.zeros([C], tl.float32)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        valid = (rows < T)[:, None] & (d < D)[None, :]
        r = _load_tile(residuals, (value_strides[1], 1), rows, d, valid)
        places = times[:, None] * (H * D) + h * D + d[None, :]
        tl.store(d_v + places, (r * strengths[:, None]).to(d_v.dtype.element_ty), mask=valid)
        if HAS_BETA:
            d_strengths += tl.sum(r * _load_tile(errors, (value_strides[1], 1), rows, d, valid), 1)
    if HAS_BETA:
        tl.store(d_beta + times * H + h, d_strengths.to(d_beta.dtype.element_ty), mask=rows < T)

    d_q_k = _scores(d_output, errors, d_output_strides, value_strides, rows, T, D, BD, C, PRECISION)
    d_q_k = tl.where(_pairs(sequence, C, HAS_RESET, BEFORE), d_q_k * strengths[None, :] * scale, 0.0)
    d_k_k = _scores(residuals, errors, value_strides, value_strides, rows, T, D, BD, C, PRECISION)
    d_k_k = tl.where(_pairs(sequence, C, HAS_RESET, True), d_k_k * strengths[None, :] * -strengths[:, None], 0.0)
    d_k_k += tl.trans(d_k_k)
    enters = tl.where(sequence == 0, 1.0, 0.0)
    leaves = tl.where(sequence == last, strengths, 0.0)
    for start in range(0, K, BK):
        i = start + tl.arange(0, BK)
        valid = (rows < T)[:, None] & (i < K)[None, :]
        q_tile = _load_tile(q, (q_strides[1], q_strides[3]), rows, i, valid)
        k_tile = _load_tile(k, (k_strides[1], k_strides[3]), rows, i, valid)
        of_q = _times_state(d_output, d_output_strides, states, (1, D), rows, T, i, K, D, BD, C, PRECISION)
        of_q = of_q * (enters * scale)[:, None] + product(d_q_k, k_tile, PRECISION)
        of_k = _times_state(errors, value_strides, flows, (1, D), rows, T, i, K, D, BD, C, PRECISION) * leaves[:, None]
        of_k -= (
            _times_state(residuals, value_strides, states, (1, D), rows, T, i, K, D, BD, C, PRECISION)
            * (enters * strengths)[:, None]
        )
        of_k += product(tl.trans(d_q_k), q_tile, PRECISION) + product(d_k_k, k_tile, PRECISION)
        places = times[:, None] * (H * K) + h * K + i[None, :]
        tl.store(d_q + places, of_q.to(d_q.dtype.element_ty), mask=valid)
        tl.store(d_k + places, of_k.to(d_k.dtype.element_ty), mask=valid)
