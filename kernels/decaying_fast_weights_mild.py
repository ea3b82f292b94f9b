"""One chunk of decaying fast weights with mild gates: exponents from the middle of the chunk, plain products.

With c_t the log gates summed from the middle to step t (negative before the middle, so that exp(c_t - c_j) is the
decay from j to t), eb = exp(c) of the key side and ea of the value side, the operands q eb, k / eb, v / ea know no
decay: in this frame the rule is the plain sum S <- S + k v^T, o = S^T q. Each half of the chunk is then

    o = tril(q k^T) v + q S                  S <- S + k^T v

and both halves go through every product together. Accurate while no half decays by more than e^11.
"""

import math
from typing import NamedTuple

import torch


LOG2_E = 1 / math.log(2)
# Lowest sum of log gates over half a chunk. exp(c) is as exact as c is, which float32 rounds to 5e-7 just below
# 11 = 16 / LOG2_E and twice as coarsely beyond.
MIN_HALF_CHUNK = -11.0


class _Operand(NamedTuple):
    steps: torch.Tensor  # [nb, nh, C, size]
    halves: torch.Tensor  # the same memory as [nb * nh * 2, C / 2, size]


class _States(NamedTuple):
    both: torch.Tensor  # [nb * nh * 2, K, D]
    first: torch.Tensor  # the same memory of the first halves, [nb * nh, K, D]
    second: torch.Tensor


class _Decay:
    """exp(c) of one side. Lies as the inputs do, time before heads, for sums over time of all heads in one product.

    Attributes:
        steps: exp(c), [nb, nh, C, size].
        at_entry, at_exit: the decays up to the middle and from it on, to multiply states: [nb * nh, K, 1] or, with
            `dim` -2, [nb * nh, 1, D].
    """

    def __init__(self, nb, length, nh, size, dim, **options):
        x = torch.empty(nb, 4, length // 4, nh, size, **options)
        self.steps = x.flatten(1, 2).transpose(1, 2)  # [nb, nh, C, size]
        self.quarters = x.view(nb * 4, length // 4, nh * size)
        self.outer = x[:, 0], x[:, 3]
        self.inner = x[:, 1, :1], x[:, 2, -1:]  # the ends of the inner quarters towards the outer ones
        self.ends = self.steps[:, :, 0], self.steps[:, :, -1]
        self.entry, self.exit = torch.empty(2, nb, nh, size, **options)
        self.at_entry, self.at_exit = (x.flatten(0, 1).unsqueeze(dim) for x in (self.entry, self.exit))

    def fill(self, gate, centre):
        """From log gates [nb, nh, C, size]."""
        gate = gate.transpose(1, 2)  # [nb, C, nh, size]
        torch.bmm(centre, gate.reshape(self.quarters.shape), out=self.quarters)
        # From an outer quarter to the middle lies all of an inner one. Short sums round less than long ones.
        quarter = self.quarters.shape[1]
        self.outer[0].add_(self.inner[0]).sub_(gate[:, quarter : quarter + 1], alpha=LOG2_E)
        self.outer[1].add_(self.inner[1])
        self.quarters.exp2_()  # faster than exp
        first, last = self.ends
        torch.exp(gate[:, 0], out=self.entry).div_(first)
        self.exit.copy_(last)


class MildTile:
    """Work space for `nb` rows of the batch x `nh` heads x one chunk of C steps.

    Args:
        sizes: (nb, nh, C, K, D), C a multiple of 4.
        scale: factor of the output.
        backward: whether for the backward pass or for the forward one.
        options: dtype and device.
    """

    def __init__(self, sizes, scale, backward, **options):
        nb, nh, length, key_size, value_size = self.sizes = sizes
        self.scale = scale
        half = length // 2

        def operand(size):
            x = torch.empty(nb, nh, length, size, **options)
            return _Operand(x, x.view(-1, half, size))

        def states():
            x = torch.empty(nb * nh, 2, key_size, value_size, **options)
            return _States(x.flatten(0, 1), x[:, 0], x[:, 1])

        # Sums within quarters: minus the gates after t before the middle, the gates up to t behind it.
        ones = torch.full((length // 4, length // 4), LOG2_E, **options)
        self.centre = torch.stack([-ones.triu(1)] * 2 + [ones.tril()] * 2).repeat(nb, 1, 1)
        self.eb = _Decay(nb, length, nh, key_size, -1, **options)
        self.ea = _Decay(nb, length, nh, value_size, -2, **options)
        self.q, self.k, self.v = operand(key_size), operand(key_size), operand(value_size)
        self.scores = torch.empty(nb * nh * 2, half, half, **options)
        # What enters each half, and what it adds to that or, in the backward pass, to the gradient of what leaves it.
        self.states, self.change = states(), states()
        if not backward:
            self.o = operand(value_size)
            return
        self.d_q, self.d_k = operand(key_size), operand(key_size)
        self.d_v, self.d_o = operand(value_size), operand(value_size)
        self.d_scores, self.d_states = torch.empty_like(self.scores), states()
        # Time before heads, too: what flows over gates is summed over time.
        self.flow_k = torch.empty(nb, length, nh, key_size, **options).transpose(1, 2)
        self.flow_v = torch.empty(nb, length, nh, value_size, **options).transpose(1, 2)

    def forward(self, q, k, v, gk, gv, state, segments, output, next_state):
        """Writes the output [nb, nh, steps, D] and the state at the chunk's end.

        Args:
            q, k, v, gk, gv: [nb, nh, C, size], in any memory order.
            state: [nb * nh, K, D], entering; may be the memory of `next_state`.
            segments: `Segments`, or None where no sequence begins.
        """
        self._enter_frame(q, k, v, gk, gv)
        states, change, v = self.states, self.change, self.v.halves
        scores = self._scores(self.q, self.k, self.scores, segments)
        torch.bmm(_leaving(self.k, segments).mT, v, out=change.both)
        self._decay_entry(state, out=states.first)
        torch.add(_through(states.first, segments, 0), change.first, out=states.second)
        change.second.add_(_through(states.second, segments, 1))
        self._decay_exit(change.second, out=next_state)
        o = torch.bmm(_entering(self.q, segments), states.both, out=self.o.halves)
        o.baddbmm_(scores, v, beta=self.scale, alpha=self.scale)
        steps = output.shape[2]
        torch.mul(self.o.steps[:, :, :steps], self.ea.steps[:, :, :steps], out=output)

    def backward(self, q, k, v, gk, gv, o, d_o, state, segments, d_carry, d_q, d_k, d_v):
        """Writes d_q, d_k, d_v; turns the gradient of the leaving state in `d_carry` into that of the entering one.

        Args:
            q, k, v, gk, gv, o, d_o: [nb, nh, C, size], in any memory order.
            state: [nb * nh, K, D], entering.
            segments: `Segments`, or None where no sequence begins.
            d_carry: [nb * nh, K, D].
            d_q, d_k, d_v: [nb, nh, steps, size], to write to.

        Returns:
            What flows over the log gates, q * d_q - k * d_k and o * d_o - v * d_v, [nb, nh, C, size].
        """
        self._enter_frame(q, k, v, gk, gv)
        torch.mul(d_o, self.ea.steps, out=self.d_o.steps)
        torch.mul(o, d_o, out=self.flow_v)
        scale, states, d_states, change = self.scale, self.states, self.d_states, self.change
        q, k, v, d_o = self.q.halves, self.k.halves, self.v.halves, self.d_o.halves
        scores = self._scores(self.q, self.k, self.scores, segments)
        d_scores = self._scores(self.d_o, self.v, self.d_scores, segments)
        leaving_k, leaving_v = _leaving(self.k, segments), _leaving(self.v, segments)
        entering_q, entering_d_o = _entering(self.q, segments), _entering(self.d_o, segments)

        self._decay_entry(state, out=states.first)
        torch.add(_through(states.first, segments, 0), torch.bmm(leaving_k[::2].mT, v[::2]), out=states.second)
        torch.bmm(entering_q.mT, d_o, out=change.both)
        self._decay_exit(d_carry, out=d_states.second)
        torch.add(_through(d_states.second, segments, 1), change.second, alpha=scale, out=d_states.first)
        torch.add(_through(d_states.first, segments, 0), change.first, alpha=scale, out=d_carry)
        self._decay_entry(d_carry, out=d_carry)

        torch.bmm(d_scores, k, out=self.d_q.halves).baddbmm_(entering_d_o, states.both.mT, beta=scale, alpha=scale)
        torch.bmm(d_scores.mT, q, out=self.d_k.halves).baddbmm_(leaving_v, d_states.both.mT, beta=scale)
        torch.bmm(scores.mT, d_o, out=self.d_v.halves).baddbmm_(leaving_k, d_states.both, beta=scale)
        torch.mul(self.q.steps, self.d_q.steps, out=self.flow_k).addcmul_(self.k.steps, self.d_k.steps, value=-1)
        self.flow_v.addcmul_(self.v.steps, self.d_v.steps, value=-1)
        steps = d_q.shape[2]
        torch.mul(self.d_q.steps[:, :, :steps], self.eb.steps[:, :, :steps], out=d_q)
        torch.div(self.d_k.steps[:, :, :steps], self.eb.steps[:, :, :steps], out=d_k)
        torch.div(self.d_v.steps[:, :, :steps], self.ea.steps[:, :, :steps], out=d_v)
        return self.flow_k, self.flow_v

    def _enter_frame(self, q, k, v, gk, gv):
        """Fills eb, ea, q, k, v."""
        self.eb.fill(gk, self.centre)
        self.ea.fill(gv, self.centre)
        torch.mul(q, self.eb.steps, out=self.q.steps)
        torch.div(k, self.eb.steps, out=self.k.steps)
        torch.div(v, self.ea.steps, out=self.v.steps)

    def _decay_entry(self, state, out):
        """The decay of a state up to the middle."""
        torch.mul(state, self.eb.at_entry, out=out).mul_(self.ea.at_entry)

    def _decay_exit(self, state, out):
        """The decay of a state from the middle on."""
        torch.mul(state, self.eb.at_exit, out=out).mul_(self.ea.at_exit)

    def _scores(self, left, right, out, segments):
        torch.bmm(left.halves, right.halves.mT, out=out)
        # A select, not a product: what lies above the diagonal may have overflown.
        out.tril_()
        if segments is not None:
            nb, nh = self.sizes[:2]
            out.view(nb, nh, 2, *out.shape[1:]).mul_(segments.same)
        return out


def _entering(x, segments):
    """The halves with only the steps that see the entering state."""
    return x.halves if segments is None else (x.steps * segments.entry).view_as(x.halves)


def _leaving(x, segments):
    """The halves with only the steps that the leaving state sees."""
    return x.halves if segments is None else (x.steps * segments.exit).view_as(x.halves)


def _through(state, segments, half):
    """A state [nb * nh, K, D], zero where it does not pass this half."""
    if segments is None:
        return state
    through = segments.through[:, :, half]  # [nb, 1, 1, 1]
    return (state.unflatten(0, (through.shape[0], -1)) * through).flatten(0, 1)
