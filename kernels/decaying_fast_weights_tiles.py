r"""What the Triton kernels of decaying fast weights do with a tile: the products of a chunk whose factors decay.

A side of the rule has log gates `g` [C, B] of the C steps of a chunk (B of its channels). From step j to a later
step t a channel decays by exp(g_{j+1} + ... + g_t). Two products of a chunk are made of that,

    scores:  P_tj = sum_c x_tc exp(g_{j+1,c} + ... + g_tc) y_jc                                       for j <= t
    apply:   z_tc = sum_j M_tj exp(g_{j+1,c} + ... + g_tc) y_jc         or its transpose, summed over t,

and each takes one of two forms:

- mild gates: sums are counted from the middle of the chunk, exp(c_t - c_j) = exp(c_t) exp(-c_j), one matrix product;
- any gates: step t and step j meet at the boundary of two neighbouring blocks of h = 1, 2, 4, ... C / 2 steps. The
  sums from there to t and from j to there are of numbers <= 0: nothing overflows, no digit is lost in a difference.
  One matrix product for each h, of which the pairs of steps are kept that meet there.

A chunk is MILD where the log gates of both of its halves sum to at least [`MIN_HALF_CHUNK`]. Which chunks are is
decided on the device; the two forms are separate kernels, for the second one needs many registers.
"""

from seqzoo.kernels.triton_chunks import load_tile, product, tl, triton


# Below, exp(-c) of the mild form costs float32 more than its last digit.
MIN_HALF_CHUNK = tl.constexpr(-11.0)
# exp of less is 0 in float32. Log gates are not taken lower, so that -inf is a number to calculate with.
MIN_LOG_GATE = tl.constexpr(-128.0)


@triton.jit
def load_gates(pointer, strides, rows, columns, valid):
    return tl.maximum(load_tile(pointer, strides, rows, columns, valid), MIN_LOG_GATE)


@triton.jit
def end_factors(g, strides, rows, columns, size, end, T, C: tl.constexpr, START: tl.constexpr):
    """Decays from a chunk's start to each step and with it (START), or from after it to the end; of the whole; and the
    lowest sum of log gates of a half of the chunk (0 with START), which says whether it is mild."""
    within = (columns < size)[None, :]
    if START:
        gates = load_gates(g, strides, rows, columns, (rows < T)[:, None] & within)
        return tl.exp(tl.cumsum(gates, 0)), tl.exp(tl.sum(gates, 0)), 0.0
    else:
        # The gates of the steps after each: a difference of sums would lose digits.
        after = rows + 1
        valid = (after < tl.minimum(T, end))[:, None] & within
        gates = load_gates(g, strides, after, columns, valid)
        first = load_gates(g, strides, rows, columns, (tl.arange(0, C) == 0)[:, None] & within)
        second_half = (tl.arange(0, C) >= C // 2)[:, None]
        first_sum = tl.sum(tl.where(second_half, 0.0, gates), 0)
        second_sum = tl.sum(tl.where(second_half, gates, 0.0), 0)
        lowest = tl.min(tl.minimum(first_sum, second_sum), 0)
        return tl.exp(tl.cumsum(gates, 0, reverse=True)), tl.exp(tl.sum(first, 0) + first_sum + second_sum), lowest


@triton.jit
def centred_sums(g, C: tl.constexpr):
    """Sums of log gates from the middle, after step C / 2: of those up to t and with it behind it, minus those after t
    before it. The first gate of a chunk is not among them: no product within the chunk goes over it."""
    t = tl.arange(0, C)[:, None]
    second = t > C // 2
    first_half = tl.where(second | (t == 0), 0.0, g)
    return tl.cumsum(tl.where(second, g, 0.0), 0) - (tl.cumsum(first_half, 0, reverse=True) - first_half)


@triton.jit
def boundary_factors(g, level, C: tl.constexpr):
    """Decays between each step and the boundary that the blocks of 2^(level - 1) steps meet at, 1 at level 0.

    Rows of second blocks: from the boundary to the step and with it. Rows of first blocks: from after the step to the
    boundary. The sums are a product with a matrix of 0 and 1, which three TF32 products give to float32's digits.
    """
    t = tl.arange(0, C)[:, None]
    i = tl.arange(0, C)[None, :]
    shift = tl.maximum(level - 1, 0)
    second = ((t >> shift) & 1) == 1
    summed = ((t >> shift) == (i >> shift)) & tl.where(second, i <= t, i > t) & (level > 0)
    return tl.exp(product(summed.to(tl.float32), g, "tf32x3"))


@triton.jit
def meets(level, C: tl.constexpr):
    """[t, j]: the pairs of steps j <= t that meet at a boundary of this level; t = j at level 0."""
    t = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    return (t >= j) & (((t ^ j) << 1) >> level == 1) | ((t == j) & (level == 0))


@triton.jit
def scores(
    x, y, g, C: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr, MILD: tl.constexpr, PRECISION: tl.constexpr
):
    """P [t, j] of the module docstring, 0 for j > t. C is 2^(LEVELS - 1)."""
    if GATED and not MILD:
        result = tl.zeros([C, C], tl.float32)
        for level in range(LEVELS):
            factors = boundary_factors(g, level, C)
            result += tl.where(meets(level, C), product(x * factors, tl.trans(y * factors), PRECISION), 0.0)
        return result
    else:
        if GATED:
            sums = centred_sums(g, C)
            x *= tl.exp(sums)
            y *= tl.exp(-sums)
        causal = tl.arange(0, C)[:, None] >= tl.arange(0, C)[None, :]
        return tl.where(causal, product(x, tl.trans(y), PRECISION), 0.0)


@triton.jit
def apply(
    m, y, g, C: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr, MILD: tl.constexpr, PRECISION: tl.constexpr
):
    """z [t, c] of the module docstring; `m` [t, j] is 0 for j > t."""
    if GATED and not MILD:
        result = tl.zeros_like(y)
        for level in range(LEVELS):
            factors = boundary_factors(g, level, C)
            result += product(tl.where(meets(level, C), m, 0.0), y * factors, PRECISION) * factors
        return result
    elif GATED:
        sums = centred_sums(g, C)
        return product(m, y * tl.exp(-sums), PRECISION) * tl.exp(sums)
    else:
        return product(m, y, PRECISION)


@triton.jit
def apply_both(
    m, x, y, g, C: tl.constexpr, LEVELS: tl.constexpr, GATED: tl.constexpr, MILD: tl.constexpr, PRECISION: tl.constexpr
):
    """`apply` of y, and its transpose of x: for every j, what steps t >= j have of it."""
    if GATED and not MILD:
        of_y, of_x = tl.zeros_like(y), tl.zeros_like(x)
        for level in range(LEVELS):
            factors = boundary_factors(g, level, C)
            kept = tl.where(meets(level, C), m, 0.0)
            of_y += product(kept, y * factors, PRECISION) * factors
            of_x += product(tl.trans(kept), x * factors, PRECISION) * factors
        return of_y, of_x
    elif GATED:
        sums = centred_sums(g, C)
        rise, fall = tl.exp(sums), tl.exp(-sums)
        return product(m, y * fall, PRECISION) * rise, product(tl.trans(m), x * rise, PRECISION) * fall
    else:
        return product(m, y, PRECISION), product(tl.trans(m), x, PRECISION)
