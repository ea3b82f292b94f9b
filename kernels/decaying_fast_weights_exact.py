"""One chunk of decaying fast weights with any gates: a tree of halves, factors merged by multiplication.

Two neighbouring blocks of h steps meet at a boundary. With the decay of every step of the second block since the
boundary (prefix) and of every step of the first block until the boundary (suffix), the second block reads the first by
two products; every exponent is of a sum of log gates <= 0, so nothing overflows whatever the gates. For
h = 1, 2, 4, ..., C / 2 the blocks double, and prefixes and suffixes grow by multiplication with the neighbour's total.
At the end they reach to the chunk's ends, which is what entering and leaving states need.

Factors that decay for long become denormal numbers, on which CPUs are many times slower. Two cures keep them out: log
gates are clamped where exp becomes denormal, and after every merge factors too small to matter are set to zero. What
is too small is relative to the largest q, k, v and gradient: these enter divided by a power of two near it.
"""

import math
from typing import NamedTuple

import torch


LOG2_E = 1 / math.log(2)
# exp of less is a denormal number.
MIN_LOG_GATE = {torch.float32: -87.0, torch.float64: -708.0}
# exp of a log gate nearer to 0 is 1; logsigmoid of a large logit is a denormal number.
NO_DECAY = 1e-30
# Factors and scaled operands (<= 1) below are set to zero; products of two of them are still normal numbers.
NEGLIGIBLE = {torch.float32: 1e-18, torch.float64: 1e-150}


class _Side(NamedTuple):
    """Operands that a merge multiplies by the same totals: side by side in the last dimension, one multiplication."""

    steps: tuple[torch.Tensor, ...]  # each [nb, nh, C, size]
    rows: tuple[torch.Tensor, ...]  # the same memory as [nb * nh, C, size]
    memory: torch.Tensor  # [nb * nh, C, sum of the sizes]


class _Result(NamedTuple):
    """What is summed over the levels."""

    steps: torch.Tensor  # [nb, nh, C, size]
    rows: torch.Tensor  # the same memory as [nb * nh, C, size]
    blocks: list[torch.Tensor]  # and, for each level, the blocks that it adds to, [pairs, h, size]


class ExactTile:
    """Work space for `nb` rows of the batch x `nh` heads x one chunk of C steps.

    Args:
        sizes: (nb, nh, C, K, D), C a power of two >= 2.
        scale: factor of the output.
        backward: whether for the backward pass or for the forward one.
        units: powers of two near the largest magnitude of "q", "k", "v" and, for the backward pass, "d_output".
        options: dtype and device.
    """

    def __init__(self, sizes, scale, backward, units, **options):
        nb, nh, length, key_size, value_size = sizes
        self.scale, self.units = scale, units
        self.min_log_gate, self.negligible = MIN_LOG_GATE[options["dtype"]], NEGLIGIBLE[options["dtype"]]

        def side(*sizes):
            x = torch.empty(nb, nh, length, sum(sizes), **options)
            rows = x.flatten(0, 1)
            return _Side(x.split(sizes, -1), rows.split(sizes, -1), rows)

        def result(size, which):
            x = torch.empty(nb, nh, length, size, **options)
            rows = x.flatten(0, 1)
            return _Result(x, rows, [_blocks(rows, level.half, which) for level in self.levels])

        both = (value_size, key_size)
        if backward:
            self.gates = side(*both, key_size)  # a, b, b
            self.prefix = side(*both, key_size)  # d_o, q, b
            self.suffix = side(*both, *both)  # v, k, a, b
        else:
            self.gates = side(*both)  # a, b
            self.prefix = side(*both)  # a, q
            self.suffix = side(*both)  # v, k
        self.levels = []
        totals = self.gates.memory.flatten(0, 1)  # one for each block
        for half in (1 << i for i in range(length.bit_length() - 1)):
            self.levels.append(_Level(half, totals, self.prefix, self.suffix, self.negligible))
            totals = self.levels[-1].totals
        # The decay of the whole chunk, to multiply states [nb * nh, K, D].
        self.total_a, self.total_b = totals[:, None, :value_size], totals[:, value_size : sum(both), None]
        if backward:
            self.d_q, self.d_k, self.d_v = result(key_size, 1), result(key_size, 0), result(value_size, 0)
            # Time before heads: what flows over gates is summed over time.
            self.flow_k = torch.empty(nb, length, nh, key_size, **options).transpose(1, 2)
            self.flow_v = torch.empty(nb, length, nh, value_size, **options).transpose(1, 2)
        else:
            self.o = result(value_size, 1)

    def forward(self, q, k, v, gk, gv, state, segments, output, next_state):
        """As `MildTile.forward`."""
        scale, units = self.scale, self.units
        a, b = self._activate(gk, gv, segments)
        prefix, suffix = self.prefix.steps, self.suffix.steps
        prefix[0].copy_(a)
        torch.mul(q, 1 / units["q"], out=prefix[1]).mul_(b)
        torch.mul(v, 1 / units["v"], out=suffix[0])
        torch.mul(k, 1 / units["k"], out=suffix[1])

        # Every step reads its own write undecayed.
        torch.mul(_dot(q, k).mul_(scale), v, out=self.o.steps)
        unit_o = scale * units["q"] * units["k"] * units["v"]
        for level, o2 in zip(self.levels, self.o.blocks):
            (a2, q2), (v1, k1) = level.second, level.first
            o2.addcmul_(a2, _apply(level.scores(q2, k1), v1), value=unit_o)
            level.merge()
        (a2, q2), (v1, k1) = self.prefix.rows, self.suffix.rows
        self.o.rows.addcmul_(a2, torch.bmm(q2, state), value=scale * units["q"])
        output.copy_(self.o.steps[:, :, : output.shape[2]])
        self._decay(state, out=next_state).baddbmm_(k1.mT, v1, alpha=units["k"] * units["v"])

    def backward(self, q, k, v, gk, gv, o, d_o, state, segments, d_carry, d_q, d_k, d_v):
        """As `MildTile.backward`."""
        scale, units = self.scale, self.units
        a, b = self._activate(gk, gv, segments)
        prefix, suffix = self.prefix.steps, self.suffix.steps
        self.gates.steps[2].copy_(b)
        torch.mul(d_o, 1 / units["d_output"], out=prefix[0]).mul_(a)
        torch.mul(q, 1 / units["q"], out=prefix[1]).mul_(b)
        prefix[2].copy_(b)
        torch.mul(v, 1 / units["v"], out=suffix[0])
        torch.mul(k, 1 / units["k"], out=suffix[1])
        suffix[2].fill_(1)
        suffix[3].fill_(1)

        own = _dot(d_o, v).mul_(scale)
        torch.mul(own, k, out=self.d_q.steps)
        torch.mul(own, q, out=self.d_k.steps)
        torch.mul(_dot(q, k).mul_(scale), d_o, out=self.d_v.steps)
        unit_q = scale * units["d_output"] * units["v"] * units["k"]
        unit_k = scale * units["d_output"] * units["v"] * units["q"]
        unit_v = scale * units["d_output"] * units["q"] * units["k"]
        for level, d_q2, d_k1, d_v1 in zip(self.levels, self.d_q.blocks, self.d_k.blocks, self.d_v.blocks):
            (d_o2, q2, b2), (v1, k1, a1, b1) = level.second, level.first
            scores, d_scores = level.scores(q2, k1), level.scores(d_o2, v1)
            d_q2.addcmul_(b2, _apply(d_scores, k1), value=unit_q)
            d_k1.addcmul_(b1, _apply(d_scores.mT, q2), value=unit_k)
            d_v1.addcmul_(a1, _apply(scores.mT, d_o2), value=unit_v)
            level.merge()
        (d_o2, q2, b2), (v1, k1, a1, b1) = self.prefix.rows, self.suffix.rows
        self.d_q.rows.addcmul_(b2, torch.bmm(d_o2, state.mT), value=scale * units["d_output"])
        self.d_k.rows.addcmul_(b1, torch.bmm(v1, d_carry.mT), value=units["v"])
        self.d_v.rows.addcmul_(a1, torch.bmm(k1, d_carry), value=units["k"])
        self._decay(d_carry, out=d_carry).baddbmm_(q2.mT, d_o2, alpha=scale * units["q"] * units["d_output"])

        for gradient, result in ((d_q, self.d_q), (d_k, self.d_k), (d_v, self.d_v)):
            gradient.copy_(result.steps[:, :, : gradient.shape[2]])
        torch.mul(q, self.d_q.steps, out=self.flow_k).addcmul_(k, self.d_k.steps, value=-1)
        torch.mul(o, d_o, out=self.flow_v).addcmul_(v, self.d_v.steps, value=-1)
        return self.flow_k, self.flow_v

    def _activate(self, gk, gv, segments):
        """Fills and returns a and b from clamped log gates, 0 where a sequence begins. exp2 is faster than exp."""
        a, b = self.gates.steps[:2]
        for gate, log_gate in ((a, gv), (b, gk)):
            torch.hardshrink(log_gate, NO_DECAY, out=gate)
            gate.mul_(LOG2_E).clamp_(min=self.min_log_gate * LOG2_E).exp2_()
            if segments is not None:
                gate.mul_(segments.keep)
            torch.hardshrink(gate, self.negligible, out=gate)
        return a, b

    def _decay(self, state, out):
        return torch.mul(state, self.total_b, out=out).mul_(self.total_a)


class _Level:
    """Pairs of neighbouring blocks of h steps; [pairs, h, size].

    Attributes:
        half: h.
        second: prefix sides of the second blocks.
        first: suffix sides of the first blocks.
        totals: after the merge, the decay of the doubled blocks, [pairs, size].
    """

    def __init__(self, half, totals, prefix, suffix, negligible):
        self.half, self.negligible = half, negligible
        self.second = [_blocks(x, half, 1) for x in prefix.rows]
        self.first = [_blocks(x, half, 0) for x in suffix.rows]
        first_total, second_total = self.block_totals = totals.unflatten(0, (-1, 2)).unbind(1)
        self.totals = torch.empty_like(first_total)
        # The decays a, b of a suffix side follow its operands v, k.
        both = suffix.rows[0].shape[-1] + suffix.rows[1].shape[-1]
        first = _blocks(suffix.memory, half, 0).unflatten(-1, (-1, both))
        self.neighbours = (
            (_blocks(prefix.memory, half, 1), first_total.unsqueeze(1)),
            (first, second_total[:, None, None, :both]),
        )

    def scores(self, x, y):
        """x y^T of [pairs, h, size] blocks; products over one step are faster elementwise."""
        scores = _dot(x, y) if self.half == 1 else torch.bmm(x, y.mT)
        return torch.hardshrink(scores, self.negligible, out=scores)

    def merge(self):
        """Doubles the blocks: what lies beyond a block's own end decays by its neighbour's total."""
        for operands, total in self.neighbours:
            operands.mul_(total)
            torch.hardshrink(operands, self.negligible, out=operands)
        torch.mul(*self.block_totals, out=self.totals)
        torch.hardshrink(self.totals, self.negligible, out=self.totals)


def _blocks(x, half, which):
    """Of [nb * nh, C, size] the first (0) or second (1) blocks of every pair, as a view [pairs, half, size]."""
    return x.unflatten(1, (-1, 2, half)).flatten(0, 1)[:, which]


def _dot(x, y):
    return (x * y).sum(-1, keepdim=True)


def _apply(scores, x):
    """scores x of [pairs, h, h] and [pairs, h, size]; products over one or two steps are faster elementwise."""
    if x.shape[1] > 2:
        return torch.bmm(scores, x)
    result = scores[:, :, :1] * x[:, :1]
    return result if x.shape[1] == 1 else result.addcmul_(scores[:, :, 1:], x[:, 1:])
