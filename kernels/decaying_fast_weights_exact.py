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

import torch


LOG2_E = 1 / math.log(2)
# exp of less is a denormal number.
MIN_LOG_GATE = {torch.float32: -87.0, torch.float64: -708.0}
# exp of a log gate nearer to 0 is 1; logsigmoid of a large logit is a denormal number.
NO_DECAY = 1e-30
# Factors and scaled operands (<= 1) below are set to zero; products of two of them are still normal numbers.
NEGLIGIBLE = {torch.float32: 1e-18, torch.float64: 1e-150}


class ExactTile:
    """Work space for `nb` rows of the batch x `nh` heads x one chunk of C steps.

    Args:
        sizes: (nb, nh, C, K, D), C a power of two >= 2.
        scale: factor of the output.
        units: powers of two near the largest magnitude of "q", "k", "v" and, for the backward pass, "d_output".
        options: dtype and device.
    """

    def __init__(self, sizes, scale, units, **options):
        nb, nh, length, key_size, value_size = sizes
        self.scale, self.units, self.sizes = scale, units, sizes
        self.min_log_gate, self.negligible = MIN_LOG_GATE[options["dtype"]], NEGLIGIBLE[options["dtype"]]
        # What a merge multiplies by the same totals lies side by side in the last dimension, to be one multiplication:
        # totals a, b(, b); prefix side a, q or d_o, q, b; suffix side v, k(, a, b). The bracketed are for gradients.
        both = value_size + key_size
        self.gates, self.prefix = (torch.empty(nb, nh, length, both + key_size, **options) for _ in range(2))
        self.suffix = torch.empty(nb, nh, length, 2 * both, **options)
        self.flow_k = torch.empty(nb, length, nh, key_size, **options).transpose(1, 2)
        self.flow_v = torch.empty(nb, length, nh, value_size, **options).transpose(1, 2)
        self.d_q, self.d_k = (torch.empty(nb, nh, length, key_size, **options) for _ in range(2))
        self.o, self.d_v = (torch.empty(nb, nh, length, value_size, **options) for _ in range(2))

    def forward(self, q, k, v, gk, gv, state, segments, output, next_state):
        """As `MildTile.forward`."""
        units, key_size, value_size = self.units, q.shape[-1], v.shape[-1]
        both = key_size + value_size
        gates, prefix, suffix = self.gates[..., :both], self.prefix[..., :both], self.suffix[..., :both]
        self._activate(gk, gv, segments, out=gates)
        prefix[..., :value_size] = gates[..., :value_size]
        torch.mul(q, 1 / units["q"], out=prefix[..., value_size:]).mul_(gates[..., value_size:])
        torch.mul(v, 1 / units["v"], out=suffix[..., :value_size])
        torch.mul(k, 1 / units["k"], out=suffix[..., value_size:])

        # Every step reads its own write undecayed.
        torch.mul((q * k).sum(-1, keepdim=True).mul_(self.scale), v, out=self.o)
        unit_o = self.scale * units["q"] * units["k"] * units["v"]
        for half, second, first in self._levels(gates, prefix, suffix):
            a, q = second.split((value_size, key_size), -1)
            v, k = first.split((value_size, key_size), -1)
            o = self.o.view(-1, 2, half, value_size)[:, 1]
            o.addcmul_(a, _apply(self._scores(q, k), v), value=unit_o)
        a, q = prefix.flatten(0, 1).split((value_size, key_size), -1)
        v, k = suffix.flatten(0, 1).split((value_size, key_size), -1)
        self.o.flatten(0, 1).addcmul_(a, torch.bmm(q, state), value=self.scale * units["q"])
        output.copy_(self.o[:, :, : output.shape[2]])
        self._decayed(state, out=next_state).baddbmm_(k.mT, v, alpha=units["k"] * units["v"])

    def backward(self, q, k, v, gk, gv, o, d_o, state, segments, d_carry, d_q, d_k, d_v):
        """As `MildTile.backward`."""
        scale, units, key_size, value_size = self.scale, self.units, q.shape[-1], v.shape[-1]
        both = key_size + value_size
        gates, prefix, suffix = self.gates, self.prefix, self.suffix
        self._activate(gk, gv, segments, out=gates[..., :both])
        gates[..., both:] = gates[..., value_size:both]
        torch.mul(d_o, 1 / units["d_output"], out=prefix[..., :value_size]).mul_(gates[..., :value_size])
        torch.mul(q, 1 / units["q"], out=prefix[..., value_size:both]).mul_(gates[..., both:])
        prefix[..., both:] = gates[..., both:]
        torch.mul(v, 1 / units["v"], out=suffix[..., :value_size])
        torch.mul(k, 1 / units["k"], out=suffix[..., value_size:both])
        suffix[..., both:] = 1

        own = (d_o * v).sum(-1, keepdim=True).mul_(scale)
        torch.mul(own, k, out=self.d_q)
        torch.mul(own, q, out=self.d_k)
        torch.mul((q * k).sum(-1, keepdim=True).mul_(scale), d_o, out=self.d_v)
        unit_q = scale * units["d_output"] * units["v"] * units["k"]
        unit_k = scale * units["d_output"] * units["v"] * units["q"]
        unit_v = scale * units["d_output"] * units["q"] * units["k"]
        sizes = (value_size, key_size, key_size), (value_size, key_size, value_size, key_size)
        for half, second, first in self._levels(gates, prefix, suffix):
            d_o2, q2, b2 = second.split(sizes[0], -1)
            v1, k1, a1, b1 = first.split(sizes[1], -1)
            scores, d_scores = self._scores(q2, k1), self._scores(d_o2, v1)
            _blocks(self.d_q, half, 1).addcmul_(b2, _apply(d_scores, k1), value=unit_q)
            _blocks(self.d_k, half, 0).addcmul_(b1, _apply(d_scores.mT, q2), value=unit_k)
            _blocks(self.d_v, half, 0).addcmul_(a1, _apply(scores.mT, d_o2), value=unit_v)
        d_o2, q2, b2 = prefix.flatten(0, 1).split(sizes[0], -1)
        v1, k1, a1, b1 = suffix.flatten(0, 1).split(sizes[1], -1)
        self.d_q.flatten(0, 1).addcmul_(b2, torch.bmm(d_o2, state.mT), value=scale * units["d_output"])
        self.d_k.flatten(0, 1).addcmul_(b1, torch.bmm(v1, d_carry.mT), value=units["v"])
        self.d_v.flatten(0, 1).addcmul_(a1, torch.bmm(k1, d_carry), value=units["k"])
        self._decayed(d_carry, out=d_carry).baddbmm_(q2.mT, d_o2, alpha=scale * units["q"] * units["d_output"])

        steps = d_q.shape[2]
        d_q.copy_(self.d_q[:, :, :steps])
        d_k.copy_(self.d_k[:, :, :steps])
        d_v.copy_(self.d_v[:, :, :steps])
        torch.mul(q, self.d_q, out=self.flow_k).addcmul_(k, self.d_k, value=-1)
        torch.mul(o, d_o, out=self.flow_v).addcmul_(v, self.d_v, value=-1)
        return self.flow_k, self.flow_v

    def _activate(self, gk, gv, segments, out):
        """[a, b] from clamped log gates, 0 where a sequence begins. exp2 is faster than exp."""
        value_size = gv.shape[-1]
        torch.hardshrink(gv, NO_DECAY, out=out[..., :value_size])
        torch.hardshrink(gk, NO_DECAY, out=out[..., value_size:])
        out.mul_(LOG2_E).clamp_(min=self.min_log_gate * LOG2_E).exp2_()
        if segments is not None:
            out.mul_(segments.keep)
        torch.hardshrink(out, self.negligible, out=out)

    def _levels(self, gates, prefix, suffix):
        """Yields (h, prefix side of second blocks, suffix side of first blocks) as [pairs, h, size] for h = 1, 2, 4...

        Afterwards prefix and suffix are those of the whole chunk, and `self.totals` its decay, [nb * nh, D + K (+ K)].
        """
        length = gates.shape[2]
        both = self.sizes[3] + self.sizes[4]
        totals = gates.flatten(0, 2)  # one for each block
        half = 1
        while half < length:
            second = _blocks(prefix, half, 1)
            first = _blocks(suffix, half, 0)
            yield half, second, first
            first_total, second_total = totals.unflatten(0, (-1, 2)).unbind(1)
            second.mul_(first_total.unsqueeze(1))
            first.unflatten(-1, (-1, both)).mul_(second_total[:, None, None, :both])
            torch.hardshrink(second, self.negligible, out=second)
            torch.hardshrink(first, self.negligible, out=first)
            totals = torch.hardshrink(first_total * second_total, self.negligible)
            half *= 2
        self.totals = totals

    def _scores(self, x, y):
        """x y^T of [pairs, h, size] blocks; products over one step are faster elementwise."""
        scores = (x * y).sum(-1, keepdim=True) if x.shape[1] == 1 else torch.bmm(x, y.mT)
        return torch.hardshrink(scores, self.negligible, out=scores)

    def _decayed(self, state, out):
        value_size, key_size = state.shape[2], state.shape[1]
        a, b = self.totals[:, :value_size], self.totals[:, value_size : value_size + key_size]
        return torch.mul(state, b.unsqueeze(-1), out=out).mul_(a.unsqueeze(-2))


def _blocks(x, half, which):
    """Of [nb, nh, C, size] the first (0) or second (1) blocks of every pair, as a view [pairs, half, size]."""
    return x.flatten(0, 1).unflatten(1, (-1, 2, half)).flatten(0, 1)[:, which]


def _apply(scores, x):
    """scores x of [pairs, h, h] and [pairs, h, size]; products over one or two steps are faster elementwise."""
    if x.shape[1] > 2:
        return torch.bmm(scores, x)
    result = scores[:, :, :1] * x[:, :1]
    return result if x.shape[1] == 1 else result.addcmul_(scores[:, :, 1:], x[:, 1:])
