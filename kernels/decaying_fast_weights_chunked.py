"""The matrix form of decaying fast weights: chunks of 64 steps, own backward, memory linear in time.

A chunk takes one of two forms (docs/decaying_fast_weights.md derives both):

- mild gates: one reference point in the middle of the chunk, a few plain products (`decaying_fast_weights_mild`);
- any gates: a tree of halves, about twice the time and never out of range (`decaying_fast_weights_exact`).

Which one is decided from the gates, once per call. Both compute the same function between the same states at the ends
of the chunk, so one sequence may mix them. A tile is what one pass works on: some rows of the batch, some heads and
one chunk, few enough for the operands to stay in a CPU's cache.
"""

import math
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from seqzoo.kernels.decaying_fast_weights_exact import MIN_LOG_GATE, ExactTile
from seqzoo.kernels.decaying_fast_weights_mild import MIN_HALF_CHUNK, MildTile


CHUNK = 64
# Elements of one operand of a tile on a CPU: 192 KiB in float32, 12 heads of 64.
TILE_ELEMENTS = 12 * 64 * 64


def autocast_off(device_type):
    """A context in which torch computes in the dtypes that it is given."""
    return torch.autocast(device_type, enabled=False) if _has_autocast(device_type) else nullcontext()


@torch.compiler.assume_constant_result  # torch.compile of torch 2.11 does not trace it
def _has_autocast(device_type):
    return torch.amp.is_autocast_available(device_type)


@torch.compiler.disable
def chunked_decaying_fast_weights(q, k, v, gk, gv, scale, initial_state, reset):
    """The op of `decaying_fast_weights` in matrix form; takes its arguments as checked there."""
    tensors = (q, k, v, gk, gv, initial_state)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return _Chunked.apply(*tensors, reset, scale, differentiable)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, gk, gv, initial_state, reset, scale, differentiable):
        plan = _Plan(k, v, gk, gv)
        ctx.plan, ctx.scale, ctx.units = plan, scale, None
        ctx.dtypes = [None if x is None else x.dtype for x in (q, k, v, gk, gv, initial_state)]
        (batch, _, heads, key_size), value_size = k.shape, v.shape[-1]
        last = len(plan.lengths)
        output = torch.empty_like(v, dtype=plan.dtype, memory_format=torch.contiguous_format)
        # states[i] enters chunk i. Only the backward pass needs all of them; without it they share one memory.
        states = v.new_empty(
            last + 1 if differentiable else 1, batch, heads, key_size, value_size, dtype=plan.dtype
        ).expand(last + 1, -1, -1, -1, -1)
        states[0].zero_() if initial_state is None else states[0].copy_(initial_state)
        if not plan.all_mild:
            ctx.units = {"q": _unit(q), "k": _unit(k), "v": _unit(v)}
        operands = plan.operands(q, k, v, gk, gv)
        for rows, tile in plan.tiles(scale, backward=False, units=ctx.units):
            chunks = zip(*(rows.padded_chunks(x) for x in operands), rows.chunks(output), rows.segments(reset))
            entering, *leaving = rows.states(states)
            for i, (*operands_i, o, segments) in enumerate(chunks):
                tile(i).forward(*operands_i, entering, segments, output=o, next_state=leaving[i])
                entering = leaving[i]
        if differentiable:
            ctx.save_for_backward(q, k, v, gk, gv, reset, output, states)
        return output.to(v.dtype), states[last].clone()

    @staticmethod
    def backward(ctx, d_output, d_final_state):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the chunked implementation of decaying_fast_weights has no second derivatives (create_graph=True); "
                "implementation='recurrent' has"
            )
        with autocast_off(d_output.device.type):
            return _Chunked._backward(ctx, d_output, d_final_state)

    @staticmethod
    def _backward(ctx, d_output, d_final_state):
        q, k, v, gk, gv, reset, output, states = ctx.saved_tensors
        plan, device = ctx.plan, v.device
        units = None
        if not plan.all_mild:
            units = {**ctx.units, "d_output": _unit(d_output)}
        operands = plan.operands(q, k, v, gk, gv)
        grads = [
            None if x is None else torch.empty(x.shape, dtype=plan.dtype, device=device) for x in (q, k, v, gk, gv)
        ]
        d_gk, d_gv = grads[3:]
        d_state = d_final_state.to(plan.dtype).clone(memory_format=torch.contiguous_format)
        for rows, tile in plan.tiles(ctx.scale, backward=True, units=units):
            chunks = zip(
                *(rows.padded_chunks(x) for x in (*operands, output, d_output)),
                rows.segments(reset),
                *(rows.chunks(x) for x in grads),
            )
            entering, leaving = rows.states(states)[:-1], rows.states(states)[1:]
            d_carry = rows.states(d_state)
            for i, (*operands_i, segments, d_q_i, d_k_i, d_v_i, d_gk_i, d_gv_i) in reversed(list(enumerate(chunks))):
                # What crosses the chunk's end flows over all its gates: S * E, summed over the other side.
                crossing = leaving[i] * d_carry
                flow_k, flow_v = tile(i).backward(*operands_i, entering[i], segments, d_carry, d_q_i, d_k_i, d_v_i)
                if gk is not None:
                    _gate_gradient(flow_k, crossing.sum(-1), plan.until_end, segments, d_gk_i)
                if gv is not None:
                    _gate_gradient(flow_v, crossing.sum(-2), plan.until_end, segments, d_gv_i)
        for gate, d_gate in ((gk, d_gk), (gv, d_gv)):
            if gate is not None and not plan.all_mild:
                # 0 where the exact form clamps. Filling a mask takes five times as long, 14 where half of it is set.
                lowest = MIN_LOG_GATE[plan.dtype]
                torch.ops.aten.threshold_backward.grad_input(d_gate, gate.to(plan.dtype), lowest, grad_input=d_gate)
            if gate is not None and reset is not None:
                d_gate.masked_fill_(reset[:, :, None, None], 0)
        grads.append(d_state)
        wanted = zip(grads, ctx.dtypes, ctx.needs_input_grad)
        return *(grad.to(dtype) if needed else None for grad, dtype, needed in wanted), None, None, None


class Segments(NamedTuple):
    """What may pass where in a chunk of two halves in which sequences begin; 0 or 1, in the dtype computed in."""

    keep: torch.Tensor  # [nb, 1, C, 1]: no sequence begins at this step
    same: torch.Tensor  # [nb, 1, 2, C / 2, C / 2]: both steps of the half are of one sequence
    entry: torch.Tensor  # [nb, 1, C, 1]: the step is of the sequence that enters its half
    exit: torch.Tensor  # [nb, 1, C, 1]: the step is of the sequence that leaves its half
    through: torch.Tensor  # [nb, 1, 2, 1, 1]: no sequence begins in the half


class _Rows:
    """Some rows of the batch (nb) and some heads (nh), cut into chunks along time."""

    def __init__(self, plan, batch, heads):
        self.plan, self.batch, self.heads = plan, batch, heads

    def chunks(self, x):
        """[batch, time, heads, size] as views [nb, nh, steps, size], the last one as short as it is."""
        if x is None:
            return [None] * len(self.plan.lengths)
        return x[self.batch, :, self.heads].transpose(1, 2).split(CHUNK, dim=2)

    def padded_chunks(self, x):
        """As [nb, nh, C, size] in the dtype of the computation, with zeros behind the last step."""
        *whole, last = self.chunks(x.to(self.plan.dtype))
        missing = self.plan.lengths[-1] - last.shape[2]
        return [*whole, F.pad(last, (0, 0, 0, missing)) if missing else last]

    def states(self, x):
        """[..., batch, heads, K, D] as views [..., nb * nh, K, D]: a tile is of whole rows or of a part of one."""
        return x[..., self.batch, self.heads, :, :].flatten(-4, -3)

    def segments(self, reset):
        """The `Segments` of every chunk, None without resets."""
        if reset is None:
            return [None] * len(self.plan.lengths)
        missing = sum(self.plan.lengths) - reset.shape[1]
        return [self._segments(x) for x in F.pad(reset[self.batch], (0, missing)).split(self.plan.lengths, dim=1)]

    def _segments(self, begins):
        sequence = begins.unflatten(1, (2, -1)).cumsum(2)[:, None, :, :, None]  # [nb, 1, 2, C / 2, 1], 0 enters
        last = sequence[:, :, :, -1:]
        masks = (
            ~begins[:, None, :, None],
            sequence == sequence.mT,
            (sequence == 0).flatten(2, 3),
            (sequence == last).flatten(2, 3),
            last == 0,
        )
        return Segments(*(mask.to(self.plan.dtype) for mask in masks))


class _Plan:
    """How a call is cut into chunks and tiles, and which chunks have mild gates."""

    def __init__(self, k, v, gk, gv):
        self.dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
        self.device = v.device
        self.batch, time, self.heads, self.key_size = k.shape
        self.value_size = v.shape[-1]
        whole, rest = divmod(time, CHUNK)
        # Powers of two, and at least 4: the last chunk has quarters, too.
        self.lengths = [CHUNK] * whole + [max(4, 1 << (rest - 1).bit_length())] * (rest > 0)
        self.until_end = torch.ones(CHUNK // 2, CHUNK // 2, dtype=self.dtype, device=self.device).triu()
        self.mild = self._mild_chunks([gate for gate in (gk, gv) if gate is not None])
        self.all_mild = all(all(rows) for rows in self.mild)

    def _mild_chunks(self, gates):
        """Per chunk and row of the batch: do the log gates of each half sum to at least MIN_HALF_CHUNK?

        The only values that the host reads: not possible, and of no interest, on the meta device.
        """
        if not gates or self.device.type == "meta":
            return [[True] * self.batch for _ in self.lengths]
        lowest = []
        for gate in gates:
            whole = gate.shape[1] // CHUNK
            halves = gate[:, : whole * CHUNK].unflatten(1, (whole * 2, CHUNK // 2)).sum(2, dtype=self.dtype)
            sums = halves.amin((2, 3)).unflatten(1, (whole, 2)).amin(2)  # [batch, whole]
            if whole < len(self.lengths):
                rest = gate[:, whole * CHUNK :].sum(1, dtype=self.dtype).amin((1, 2))
                sums = torch.cat([sums, rest[:, None]], dim=1)
            lowest.append(sums)
        return (torch.stack(lowest).amin(0) >= MIN_HALF_CHUNK).T.tolist()

    def operands(self, q, k, v, gk, gv):
        """The five with gates: one that is not given is 1."""
        one = torch.zeros((), dtype=self.dtype, device=self.device)
        return q, k, v, one.expand_as(k) if gk is None else gk, one.expand_as(v) if gv is None else gv

    def tiles(self, scale, backward, units):
        """Yields (rows, tile), where `tile(i)` is the work space for chunk i of these rows."""
        fit = self.batch * self.heads
        if self.device.type == "cpu":
            fit = max(1, TILE_ELEMENTS // (self.lengths[0] * max(self.key_size, self.value_size)))
        # Several whole rows of the batch, or else equal parts of one row.
        nb = max(1, fit // self.heads)
        nh = -(-self.heads // -(-self.heads // fit))
        options = {"dtype": self.dtype, "device": self.device}
        for b in range(0, self.batch, nb):
            for h in range(0, self.heads, nh):
                batch, heads = slice(b, min(b + nb, self.batch)), slice(h, min(h + nh, self.heads))
                sizes = (batch.stop - b, heads.stop - h)

                @cache
                def work_space(mild, length, sizes=sizes):
                    sizes = (*sizes, length, self.key_size, self.value_size)
                    if mild:
                        return MildTile(sizes, scale, backward, **options)
                    return ExactTile(sizes, scale, backward, units, **options)

                def tile(i, batch=batch, work_space=work_space):
                    return work_space(all(self.mild[i][batch]), self.lengths[i])

                yield _Rows(self, batch, heads), tile


def _unit(x):
    """A power of two near the largest magnitude, by which to divide and multiply exactly."""
    low, high = x.aminmax()
    _, exponent = math.frexp(max(-float(low), float(high)))
    return 2.0 ** min(max(exponent, -120), 120)


def _gate_gradient(flow, crossing, until_end, segments, gradient):
    """The gradient of the log gates: all that flows from each step to the chunk's end, and what crosses the end.

    Args:
        flow: [nb, nh, C, size], per step q * d_q - k * d_k on the key side, o * d_o - v * d_v on the value side.
        crossing: [nb * nh, size], the sum over the other side of S * E at the chunk's end.
        until_end: ones above and on the diagonal, of at least [C / 2, C / 2].
        segments: `Segments`, or None where no sequence begins.
        gradient: view [nb, nh, steps, size], to write to.
    """
    nb, nh, length, size = flow.shape
    half = length // 2
    until_end = until_end[:half, :half]
    if segments is None:
        until_end = until_end.expand(nb * 2, half, half)
    else:
        until_end = (until_end * segments.same[:, 0]).flatten(0, 1)
    # Products over time of all heads at once, for which the flow lies time before heads.
    sums = torch.bmm(until_end, flow.transpose(1, 2).view(nb * 2, half, nh * size)).view(nb, 2, half, nh, size)
    second, crossing = sums[:, 1, :1], crossing.view(nb, 1, nh, size)
    if segments is None:
        sums[:, 0].add_(second)
    else:
        leaves = segments.exit.view(nb, 2, half, 1, 1)
        enters = segments.entry.view(nb, 2, half, 1, 1)[:, 1, :1]
        sums[:, 0].addcmul_(leaves[:, 0], second * enters)
        crossing = leaves * torch.stack([segments.through[:, 0, 1, None] * crossing, crossing], dim=1)
        crossing = crossing.view(nb, length, nh, size)
    sums, steps = sums.view(nb, length, nh, size), gradient.shape[2]
    torch.add(sums[:, :steps], crossing[:, :steps], out=gradient.transpose(1, 2))
