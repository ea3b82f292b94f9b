"""The matrix form of the delta rule: chunks of 64 steps, one triangular system each (the WY form).

Within a chunk that starts from the state S, rows being steps and A the strict lower triangle of (beta * K) K^T,

    (I + A) U = beta * (V - K S)          O = Q S + tril(Q K^T) U          S <- S + K^T U

so that U = (I + A)^-1 (beta * V) - [(I + A)^-1 (beta * K)] S: the systems of all chunks are solved at once, and only
two products a chunk wait for the state before it. Where sequences begin inside a chunk, products between steps of
different sequences are left out. docs/delta_fast_weights.md has the derivation.
"""

import torch
import torch.nn.functional as F


CHUNK = 64
# Steps whose systems are solved together: enough for batched products, few enough for memory that is used again.
SPAN = 8 * CHUNK


def chunked_delta_fast_weights(q, k, v, beta, initial_state, reset, read_before_write):
    """The op of `delta_fast_weights` in matrix form; takes its arguments as prepared there."""
    state, outputs = initial_state, []
    operands = (q, k, v, beta, *([] if reset is None else [reset]))
    for q_i, k_i, v_i, beta_i, *reset_i in zip(*(x.split(SPAN, dim=1) for x in operands)):
        output, state = _span(q_i, k_i, v_i, beta_i, state, *(reset_i or [None]), read_before_write)
        outputs.append(output)
    return torch.cat(outputs, dim=1), state


def _span(q, k, v, beta, state, reset, read_before_write):
    time = k.shape[1]
    length = min(CHUNK, time)
    missing = -time % length

    def chunks(x):
        """[batch, time, heads, size] as [batch, heads, chunks, C, size], with zeros behind the last step."""
        return F.pad(x, (0, 0, 0, 0, 0, missing)).unflatten(1, (-1, length)).permute(0, 3, 1, 2, 4)

    q, k, v, beta = chunks(q), chunks(k), chunks(v), chunks(beta.unsqueeze(-1))
    visible = torch.ones(length, length, dtype=torch.bool, device=k.device).tril()
    entering_q, entering_k, leaving_k, through = q, k, k, None
    if reset is not None:
        begins = F.pad(reset, (0, missing)).unflatten(1, (-1, length))[:, None]  # [batch, 1, chunks, C]
        sequence = begins.cumsum(-1)[..., None]  # 0: of the sequence that enters the chunk
        last = sequence[..., -1:, :]
        visible = visible & (sequence == sequence.mT)
        entering_q, entering_k = (x * (sequence == 0) for x in (q, k))
        leaving_k = k * (sequence == last)
        through = (last == 0).to(k.dtype)  # [batch, 1, chunks, 1, 1]

    before = visible & ~torch.eye(length, dtype=torch.bool, device=k.device)
    system = ((beta * k) @ k.mT).masked_fill(~before, 0)  # the unit diagonal is implied
    solved = torch.linalg.solve_triangular(
        system, beta * torch.cat([v, entering_k], dim=-1), upper=False, unitriangular=True
    )
    own, weights = solved.split([v.shape[-1], k.shape[-1]], dim=-1)  # [..., C, D], [..., C, K]

    states, writes = [], []
    for i in range(k.shape[2]):
        states.append(state)
        writes.append(own[:, :, i] - weights[:, :, i] @ state)
        kept = state if through is None else state * through[:, :, i]
        state = kept + leaving_k[:, :, i].mT @ writes[-1]
    scores = (q @ k.mT).masked_fill(~(before if read_before_write else visible), 0)
    output = entering_q @ torch.stack(states, dim=2) + scores @ torch.stack(writes, dim=2)
    return output.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time], state
