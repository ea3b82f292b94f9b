r"""Triton kernels of decaying fast weights for states at chunk ends: what each chunk writes, then all of them in turn.

With b and a the decays of a chunk, start to end, and k_t, v_t decayed from their step to the end,

    W = sum_t k_t v_t^T            S <- (b a^T) * S + W

All chunks' W are computed at once, and each is then replaced, where it is written, by the S that enters its chunk.
Backward, the gradients of the states that leave the chunks are the same with q and d_o, decayed to the start, from the
last chunk on.

Products are tf32x3 whatever the inputs: what is carried through all chunks keeps the digits of float32.
"""

from seqzoo.kernels.decaying_fast_weights_tiles import (
    MIN_HALF_CHUNK,
    after,
    chunk_start,
    exp,
    half_sums,
    load_gates,
    load_tile,
    sums,
    up_to,
)
from seqzoo.kernels.triton_chunks import product, sequences, tl, triton


@triton.jit
def _decayed(x, gates, C: tl.constexpr, REVERSE: tl.constexpr):
    """x decayed to the end of the chunk (REVERSE: to its start), the chunk's decays, and the lowest half sum."""
    first, second = half_sums(gates, C)
    decayed = x * exp(sums(up_to(C) if REVERSE else after(C), gates))
    return decayed, exp(first + second), tl.min(tl.minimum(first, second), 0)


@triton.jit
def writes_kernel(
    x,
    y,
    gx,
    gy,
    reset,
    states,
    x_decays,
    y_decays,
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
    REVERSE: tl.constexpr,
    EVEN: tl.constexpr,
):
    """W of every chunk, into `states` [chunks, B, H, K, D], and decays into `x_decays` [..., K], `y_decays` [..., D].

    x is of size K, y of size D and multiplied by `scale`: k and v, or q and d_o. Where a sequence begins in the chunk,
    `x_decays` are 0. The forward pass sets `mild` [chunks, B, H] to 0 where the gates are not.
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
    lowest = 0.0
    x_decay = tl.full([BK], 1.0, tl.float32)
    if HAS_GK:
        gates = load_gates(chunk_start(gx, gx_strides, batch, head, chunk, C), gx_strides, i, steps, C, K, EVEN)
        x_tile, x_decay, lowest = _decayed(x_tile, gates, C, REVERSE)
    if HAS_RESET:
        sequence, last = sequences(reset + batch * T, chunk, T, C, HAS_RESET)
        x_tile = tl.where((sequence == (0 if REVERSE else last))[:, None], x_tile, 0.0)
        x_decay = tl.where(last == 0, x_decay, 0.0)
    if HAS_GK or HAS_RESET:
        tl.store(x_decays + place * K + i, x_decay, mask=i < K)
    if HAS_GV:
        gates = load_gates(chunk_start(gy, gy_strides, batch, head, chunk, C), gy_strides, d, steps, C, D, EVEN)
        y_tile, y_decay, lowest_y = _decayed(y_tile, gates, C, REVERSE)
        tl.store(y_decays + place * D + d, y_decay, mask=d < D)
        lowest = tl.minimum(lowest, lowest_y)
    if not REVERSE:
        tl.store(mild + place, 0, mask=lowest < MIN_HALF_CHUNK)
    places = i[:, None] * D + d[None, :]
    inside = (i < K)[:, None] & (d < D)[None, :]
    tl.store(states + place * (K * D) + places, product(tl.trans(x_tile), y_tile, "tf32x3"), mask=inside)


@triton.jit
def carry_kernel(
    states,
    initial,
    final,
    x_decays,
    y_decays,
    chunks,
    K: tl.constexpr,
    D: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    HAS_X_DECAYS: tl.constexpr,
    HAS_Y_DECAYS: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Replaces every W in `states` by the S before it, REVERSE from the last chunk on; `final` is the last S."""
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
    for n in tl.range(chunks, num_stages=4):  # loads are ahead of the chunk, of other places than stores
        place = (chunks - 1 - n if REVERSE else n) * heads + index
        written = tl.load(states + place * (K * D) + places, mask=inside, other=0.0)
        tl.store(states + place * (K * D) + places, state, mask=inside)
        if HAS_X_DECAYS:
            state *= tl.load(x_decays + place * K + i, mask=i < K, other=0.0)[:, None]
        if HAS_Y_DECAYS:
            state *= tl.load(y_decays + place * D + d, mask=d < D, other=0.0)[None, :]
        state += written
    tl.store(final + index * (K * D) + places, state, mask=inside)
