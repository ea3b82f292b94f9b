"""Packing by cumulative lengths: several sequences in one row, each with a state of its own."""

from itertools import pairwise

import torch


@torch.compiler.disable  # compiled code would be specialised to the lengths of one batch
def run_packed(op, inputs, cu_seqlens, reset, initial_state, output_final_state, **options):
    """Runs `op` on the sequences of a row: in one pass if no states go in or come out, else one after the other.

    Args:
        op: an op of this room.
        inputs: its first arguments, q, k, v and others, tensors [1, time, ...] or None.
        cu_seqlens, reset, initial_state, output_final_state: what the caller was given under these names; checked by
            [`check_arguments`] but for the values of cu_seqlens.
        options: the other arguments of the op.
    """
    _, k, v, *_ = inputs
    if reset is not None:
        raise ValueError("cu_seqlens and reset both say where sequences begin: leave one of them out")
    edges, time = cu_seqlens.tolist(), k.shape[1]
    if edges[0] != 0 or edges[-1] != time or edges != sorted(edges):
        raise ValueError(f"cu_seqlens must rise from 0 to the number of steps, {time}, got {edges}")

    if initial_state is None and not output_final_state:
        # One more than there are steps: empty sequences at the end begin there.
        begins = torch.zeros(1, time + 1, dtype=torch.bool, device=k.device)
        begins[:, cu_seqlens.to(k.device)] = True
        return op(*inputs, reset=begins[:, :time], **options)

    lengths = [end - start for start, end in pairwise(edges)]
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
    if initial_state is None:
        states = v.new_zeros(len(lengths), *k.shape[2:], v.shape[-1], dtype=dtype).split(1)
    else:
        states = initial_state.to(dtype).split(1)
    # Split at once: gradients of slices would each be as long as the row.
    pieces = zip(*((None,) * len(lengths) if x is None else x.split(lengths, dim=1) for x in inputs))
    outputs, final_states = [], []
    for length, piece, state in zip(lengths, pieces, states):
        if length:
            output, state = op(*piece, initial_state=state, output_final_state=True, **options)
            outputs.append(output)
        final_states.append(state)
    return torch.cat(outputs, dim=1), torch.cat(final_states) if output_final_state else None
