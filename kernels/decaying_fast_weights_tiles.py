r"""What the Triton kernels of decaying fast weights share: tiles of a chunk, and sums of log gates.

A chunk is C steps. A tile has the C steps of some channels, [C, B], and a log gate beside each channel. Sums of log
gates over steps are products with a matrix of 0, 1 and -1: exact for gates of half precision, three TF32 products for
float32. All exponents are such sums, counted from a middle or a boundary: a difference of two running sums would lose
digits.
"""

from seqzoo.kernels.triton_chunks import INTERPRETED, tl, triton


# exp of less is 0 in float32. Log gates are not taken lower, so that -inf is a number to calculate with.
MIN_LOG_GATE = tl.constexpr(-128.0)
# The sum of half a block below which factors from its middle cost float32 more than its last digit.
MIN_HALF_BLOCK = tl.constexpr(-11.0)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def chunk_start(pointer, strides, batch, head, chunk, C: tl.constexpr):
    """Where the steps of a chunk begin in a [batch, time, heads, size] tensor."""
    return pointer + batch * strides[0] + head * strides[2] + (chunk * C).to(tl.int64) * strides[1]


@triton.jit
def load_raw(start, strides, columns, steps, C: tl.constexpr, SIZE: tl.constexpr, EVEN: tl.constexpr):
    """[C, columns] as it is, 0 behind the last step and column. EVEN promises that there is nothing behind them."""
    t = tl.arange(0, C)[:, None]
    # A chunk of a tensor whose time or channels come first may span more than 32 bits count.
    places = start + t.to(tl.int64) * strides[1] + columns[None, :].to(tl.int64) * strides[3]
    if EVEN:
        return tl.load(places)
    else:
        return tl.load(places, mask=(t < steps) & (columns < SIZE)[None, :], other=0.0)


@triton.jit
def load_tile(start, strides, columns, steps, C: tl.constexpr, SIZE: tl.constexpr, EVEN: tl.constexpr):
    """The same in float32."""
    return load_raw(start, strides, columns, steps, C, SIZE, EVEN).to(tl.float32)


@triton.jit
def load_gates(start, strides, columns, steps, C: tl.constexpr, SIZE: tl.constexpr, EVEN: tl.constexpr):
    """Log gates, in their own type."""
    gates = load_raw(start, strides, columns, steps, C, SIZE, EVEN)
    # A GPU's maximum of NaN and a number is the number, unless it is told to keep NaN.
    return tl.maximum(gates.to(tl.float32), MIN_LOG_GATE, propagate_nan=tl.PropagateNan.ALL).to(gates.dtype)


@triton.jit
def store_tile(start, size, x, columns, steps, stride, C: tl.constexpr, EVEN: tl.constexpr):
    """[C, columns] into a contiguous tensor whose steps are `stride` apart.

    Counted in 32 bits, to spare registers: C steps of all heads are less than 2^31 numbers.
    """
    t = tl.arange(0, C)[:, None]
    places = start + t * stride + columns[None, :]
    if EVEN:
        tl.store(places, x.to(start.dtype.element_ty))
    else:
        tl.store(places, x.to(start.dtype.element_ty), mask=(t < steps) & (columns < size)[None, :])


@triton.jit
def load_state(
    start, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr, EVEN: tl.constexpr
):
    """[rows, columns] of a contiguous [ROWS, COLUMNS] matrix, or of the transpose of a [COLUMNS, ROWS] one."""
    if TRANSPOSED:
        places = start + rows[:, None] + columns[None, :] * ROWS
    else:
        places = start + rows[:, None] * COLUMNS + columns[None, :]
    if EVEN:
        return tl.load(places)
    else:
        return tl.load(places, mask=(rows < ROWS)[:, None] & (columns < COLUMNS)[None, :], other=0.0)


@triton.jit
def sums(weights, x):
    """Sums over steps of a tile, float32: `weights` [C, C] holds 0, 1 and -1."""
    if x.dtype == tl.float32:
        return tl.dot(weights.to(tl.float32), x, input_precision="tf32x3", out_dtype=tl.float32)
    elif INTERPRETED:  # there a product of bfloat16 is one of the integers that hold them
        return tl.dot(weights.to(tl.float32), x.to(tl.float32), input_precision="tf32", out_dtype=tl.float32)
    else:
        return tl.dot(weights.to(x.dtype), x, out_dtype=tl.float32)


@triton.jit
def exp(x):
    """To base 2, as a GPU has it, and 0 where that is denormal: what `tl.exp` does for those numbers costs more."""
    return tl.exp2(x * LOG2_E)


@triton.jit
def rise_and_fall(gates, LEVEL: tl.constexpr, C: tl.constexpr):
    """exp of the sums of log gates from the middle of a step's block of 2^LEVEL to the step, and of their negative."""
    t = tl.arange(0, C)[:, None]
    i = tl.arange(0, C)[None, :]
    middle = ((t >> LEVEL) << LEVEL) + ((1 << LEVEL) // 2 - 1)  # the last step of the first half
    weights = ((i > middle) & (i <= t)).to(tl.float32) - ((i > t) & (i <= middle)).to(tl.float32)
    centred = sums(weights, gates) * LOG2_E
    return tl.exp2(centred), tl.exp2(-centred)


@triton.jit
def sums_of_parts(x, PARTS: tl.constexpr):
    """[PARTS, columns]: sums over the rows of each of so many parts, float32."""
    return tl.sum(tl.reshape(x.to(tl.float32), [PARTS, x.shape[0] // PARTS, x.shape[1]]), 1)


@triton.jit
def up_to(C: tl.constexpr):
    """[t, i]: step i is t or before it."""
    return tl.arange(0, C)[None, :] <= tl.arange(0, C)[:, None]


@triton.jit
def after(C: tl.constexpr):
    """[t, i]: step i is after t."""
    return tl.arange(0, C)[None, :] > tl.arange(0, C)[:, None]


@triton.jit
def until_end(flow, sequence, C: tl.constexpr, HAS_RESET: tl.constexpr):
    """Sums over the steps from each on, of its own sequence."""
    weights = tl.arange(0, C)[None, :] >= tl.arange(0, C)[:, None]
    if HAS_RESET:
        weights &= sequence[:, None] == sequence[None, :]
    return sums(weights, flow)
