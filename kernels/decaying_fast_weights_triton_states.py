r"""Triton kernels of decaying fast weights for states at chunk ends: what each chunk writes, then all of them in turn.

With b and a the decays of a chunk, start to end, and k_t, v_t decayed from their step to the end,

    W = sum_t k_t v_t^T            S <- (b a^T) * S + W            S <- W where a sequence begins in the chunk

All chunks' W are computed at once, and each is then replaced, where it is written, by the S that enters its chunk.
Backward, the gradients of the states that leave the chunks are the same with q and d_o, decayed to the start, from the
last chunk on.

Products are tf32x3 whatever the inputs: what is carried through all chunks keeps the digits of float32.
"""

from seqzoo.kernels.decaying_fast_weights_tiles import (
    MIN_HALF_BLOCK,
    after,
    chunk_start,
    exp,
    load_gates,
    load_tile,
    sums,
    sums_of_parts,
    up_to,
)
from seqzoo.kernels.triton_chunks import product, sequences, tl, triton


@triton.jit
def _store_decays(
    decays, mild, gates, columns, C: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, BLOCK_LEVEL: tl.constexpr
):
    """Decays of either half of the chunk, STRIDE apart; and 0 where the gates of chunk or blocks are not mild."""
    first, second = tl.split(tl.permute(sums_of_parts(gates, 2), [1, 0]))
    tl.store(decays + columns, exp(first), mask=columns < SIZE)
    tl.store(decays + STRIDE + columns, exp(second), mask=columns < SIZE)
    if tl.min(tl.minimum(first, second), 0) < MIN_HALF_BLOCK:
        tl.store(mild, 0)
        lowest = tl.min(tl.min(sums_of_parts(gates, (2 * C) >> BLOCK_LEVEL), 0), 0)
        tl.store(mild + 1, 0, mask=lowest < MIN_HALF_BLOCK)


@triton.jit(do_not_specialize=["T", "H"])  # at 1 or multiples of 16 it would be compiled again, for nothing
def writes_kernel(
    x,
    y,
    gx,
    gy,
    reset,
    states,
    decays,
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
    BLOCK_LEVEL: tl.constexpr,
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    REVERSE: tl.constexpr,
    EVEN: tl.constexpr,
):
    """W of every chunk, into `states` [chunks, B, H, K, D].

    x is of size K, y of size D and multiplied by `scale`: k and v decayed to the end of the chunk, or, REVERSE, q and
    d_o to its start. The forward pass writes the decays of half chunks, `decays` [chunks, B, H, 2, K + D], and sets
    `mild` [chunks, B, H, 2] to 0 where the gates of the chunk, or of a block of 2^BLOCK_LEVEL steps in it, are not.
    """
    index = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    place = chunk * tl.num_programs(0).to(tl.int64) + index
    batch, head = index // H, index % H
    steps = T - chunk * C
    blocks: tl.constexpr = (D + BD - 1) // BD
    i = (tl.program_id(2) // blocks) * BK + tl.arange(0, BK)
    d = (tl.program_id(2) % blocks) * BD + tl.arange(0, BD)
    x_tile = load_tile(chunk_start(x, x_strides, batch, head, chunk, C), x_strides, i, steps, C, K, EVEN)
    y_tile = load_tile(chunk_start(y, y_strides, batch, head, chunk, C), y_strides, d, steps, C, D, EVEN) * scale
    decays += place * (2 * (K + D))
    mild += 2 * place
    if HAS_GK:
        gates = load_gates(chunk_start(gx, gx_strides, batch, head, chunk, C), gx_strides, i, steps, C, K, EVEN)
        x_tile *= exp(sums(up_to(C) if REVERSE else after(C), gates))
        if not REVERSE:
            _store_decays(decays, mild, gates, i, C, K, K + D, BLOCK_LEVEL)
    if HAS_GV:
        gates = load_gates(chunk_start(gy, gy_strides, batch, head, chunk, C), gy_strides, d, steps, C, D, EVEN)
        y_tile *= exp(sums(up_to(C) if REVERSE else after(C), gates))
        if not REVERSE:
            _store_decays(decays + K, mild, gates, d, C, D, K + D, BLOCK_LEVEL)
    if HAS_RESET:
        sequence, last = sequences(reset + batch * T, chunk, T, C, HAS_RESET)
        x_tile = tl.where((sequence == (0 if REVERSE else last))[:, None], x_tile, 0.0)
    places = i[:, None] * D + d[None, :]
    inside = (i < K)[:, None] & (d < D)[None, :]
    tl.store(states + place * (K * D) + places, product(tl.trans(x_tile), y_tile, "tf32x3"), mask=inside)


@triton.jit
def _of_chunk(decays, columns, SIZE: tl.constexpr, STRIDE: tl.constexpr):
    inside = columns < SIZE
    first = tl.load(decays + columns, mask=inside, other=0.0)
    return first * tl.load(decays + STRIDE + columns, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["chunks", "H"])
def carry_kernel(
    states,
    initial,
    final,
    decays,
    begins,
    chunks,
    H,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    HAS_GK: tl.constexpr,
    HAS_GV: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Replaces every W in `states` by the S before it, REVERSE from the last chunk on; `final` is the last S.

    `begins` [B, chunks] is not 0 where a sequence begins in the chunk.
    """
    index = tl.program_id(0).to(tl.int64)
    heads = tl.num_programs(0).to(tl.int64)
    blocks: tl.constexpr = (D + BD - 1) // BD
    i = (tl.program_id(1) // blocks) * BK + tl.arange(0, BK)
    d = (tl.program_id(1) % blocks) * BD + tl.arange(0, BD)
    places = i[:, None] * D + d[None, :]
    inside = (i < K)[:, None] & (d < D)[None, :]
    state = tl.zeros([BK, BD], tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial + index * (K * D) + places, mask=inside, other=0.0)
    for n in tl.range(chunks, num_stages=4):  # loads run ahead of the chunk, stores are of other places
        chunk = chunks - 1 - n if REVERSE else n
        place = chunk * heads + index
        written = tl.load(states + place * (K * D) + places, mask=inside, other=0.0)
        tl.store(states + place * (K * D) + places, state, mask=inside)
        of_chunk = decays + place * (2 * (K + D))
        if HAS_GK:
            state *= _of_chunk(of_chunk, i, K, K + D)[:, None]
        if HAS_GV:
            state *= _of_chunk(of_chunk + K, d, D, K + D)[None, :]
        if HAS_RESET:
            state = tl.where(tl.load(begins + (index // H) * chunks + chunk) == 0, state, 0.0)
        state += written
    tl.store(final + index * (K * D) + places, state, mask=inside)
