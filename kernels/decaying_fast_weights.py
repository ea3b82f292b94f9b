r"""Decaying fast weights: the op, its definition, and the choice of implementation.

Per head, with a state `S` of shape [K, D] (Mao 2022, arXiv 2210.04243; there transposed, [D, K]):

    S_t = (b_t a_t^T) * S_{t-1} + k_t v_t^T          o_t = scale * S_t^T q_t

`b_t = exp(gk_t)` in [0, 1]^K decays the key side, `a_t = exp(gv_t)` in [0, 1]^D the value side. A gate that is not
given is 1, so no gate at all is the plain sum of linear attention. The write is not multiplied by (1 - gate), and the
read-out comes after the write. docs/decaying_fast_weights.md derives the matrix form and the gradients.
"""

import torch

from seqzoo.kernels.argument_checks import can_use_triton, check_arguments, refuse_forward_mode
from seqzoo.kernels.decaying_fast_weights_chunked import autocast_off, chunked_decaying_fast_weights
from seqzoo.kernels.packed_sequences import run_packed


# Up to about this many steps the loop is faster than one short chunk (CPU, 12 heads of 64: 6 steps with gradients, 14
# without). Decoding is one step.
MAX_RECURRENT_STEPS = 8


def decaying_fast_weights(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None = None,
    gv: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    reset: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    implementation: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Runs the decay rule over a sequence; differentiable in all six tensors ("chunked" once).

    Computes in float32 (in float64 if `v` is float64), also under autocast and for half-precision inputs.

    Args:
        q, k (`torch.Tensor`): queries and keys, [batch, time, heads, K].
        v (`torch.Tensor`): values, [batch, time, heads, D].
        gk, gv (`torch.Tensor`, *optional*): logarithms of the key-side [batch, time, heads, K] and the value-side
            [batch, time, heads, D] gate, <= 0 (not checked; `logsigmoid` of a logit). -inf is a gate of zero. A gate
            of None is 1.
        scale (`float`, *optional*, defaults to `K**-0.5`): factor of the output.
        initial_state (`torch.Tensor`, *optional*): the state before the first step, [batch, heads, K, D] (with
            `cu_seqlens` [sequences, heads, K, D]), or zero.
        output_final_state (`bool`, *optional*, defaults to `False`): whether to return the state after the last step.
        reset (`torch.Tensor`, *optional*): bool, [batch, time]; where True the state is zero before that step (a new
            sequence begins; at the first step this drops `initial_state`).
        cu_seqlens (`torch.Tensor`, *optional*): int32 or int64, [sequences + 1], rising from 0 to time: sequence i is
            the steps from `cu_seqlens[i]` to before `cu_seqlens[i + 1]` of a batch of one and has a state of its own,
            which stays as it was if there are none. Instead of `reset`. With states, given or returned, the sequences
            are run one after the other; without, in one pass. The values are read: on a GPU that waits for it, so a
            tensor on the CPU will do, too; a graph of torch.compile breaks there.
        implementation (`str`, *optional*, defaults to `"auto"`): "recurrent" is the definition, a loop over time;
            "chunked" the matrix form, exact for any gate, whose memory grows linearly with time; "triton" the same
            form as GPU kernels. "auto" takes "triton" on a GPU where Triton is installed; elsewhere "recurrent" for a
            few steps, such as decoding, and "chunked" otherwise.

    Returns:
        The output [batch, time, heads, D] in the dtype of `v`, and the final state, of the shape of `initial_state`,
        in float32 (float64 if `v` is float64) or None.

    Raises:
        TypeError: an argument is of the wrong dtype or no tensor.
        ValueError: an argument has the wrong shape or device, there is no step, `cu_seqlens` does not rise from 0 to
            time or comes with `reset`, there is no such implementation, or it cannot do that (a second derivative,
            "triton" without a GPU or in float64).
        NotImplementedError: forward-mode derivatives of "triton".
        ImportError: "triton" without Triton.

    Example:
        >>> q = k = v = torch.randn(1, 100, 2, 8)
        >>> gates = torch.nn.functional.logsigmoid(torch.randn(1, 100, 2, 8) + 3)
        >>> output, state = decaying_fast_weights(q, k, v, gates, gates, output_final_state=True)
        >>> output.shape, state.shape
        (torch.Size([1, 100, 2, 8]), torch.Size([1, 2, 8, 8]))
    """
    check_arguments(
        q,
        k,
        v,
        [
            ("gk", gk, ("batch", "time", "heads", "K")),
            ("gv", gv, ("batch", "time", "heads", "D")),
            ("initial_state", initial_state, ("states", "heads", "K", "D")),
            ("reset", reset, ("batch", "time")),
        ],
        cu_seqlens,
    )
    if cu_seqlens is not None:
        return run_packed(
            decaying_fast_weights,
            (q, k, v, gk, gv),
            cu_seqlens,
            reset,
            initial_state,
            output_final_state,
            scale=scale,
            implementation=implementation,
        )
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if implementation == "auto":
        if can_use_triton(v):
            implementation = "triton"
        else:
            implementation = "recurrent" if q.shape[1] <= MAX_RECURRENT_STEPS else "chunked"
    with autocast_off(q.device.type):
        if implementation == "recurrent":
            output, state = recurrent_decaying_fast_weights(q, k, v, gk, gv, scale, initial_state, reset)
        elif implementation == "chunked":
            output, state = chunked_decaying_fast_weights(q, k, v, gk, gv, scale, initial_state, reset)
        elif implementation == "triton":
            # Imported by whoever uses it: Triton is not everywhere.
            from seqzoo.kernels.decaying_fast_weights_triton import triton_decaying_fast_weights

            refuse_forward_mode(q, k, v, gk, gv, initial_state)
            output, state = triton_decaying_fast_weights(q, k, v, gk, gv, scale, initial_state, reset)
        else:
            raise ValueError(
                f"implementation must be 'auto', 'triton', 'chunked' or 'recurrent', got {implementation!r}"
            )
    return output, state if output_final_state else None


@torch.no_grad()
def decaying_fast_weights_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor | None = None,
    gv: torch.Tensor | None = None,
    *,
    state: torch.Tensor,
    scale: float | None = None,
    implementation: str = "auto",
) -> torch.Tensor:
    """One step of the decay rule that overwrites the state, for decoding: no memory is taken for another one.

    On a GPU with Triton it is one launch, which a CUDA graph may repeat. There is no gradient.

    Args:
        q, k (`torch.Tensor`): query and key, [batch, 1, heads, K].
        v (`torch.Tensor`): value, [batch, 1, heads, D].
        gk, gv (`torch.Tensor`, *optional*): log gates, as in [`decaying_fast_weights`].
        state (`torch.Tensor`): [batch, heads, K, D], contiguous, float32 (float64 if `v` is float64); written to.
        scale (`float`, *optional*, defaults to `K**-0.5`): factor of the output.
        implementation (`str`, *optional*, defaults to `"auto"`): "recurrent" or "triton"; "auto" takes "triton" on a
            GPU where Triton is installed.

    Returns:
        The output [batch, 1, heads, D] in the dtype of `v`.

    Raises:
        TypeError, ValueError: as [`decaying_fast_weights`]; or there is more than one step, or the state is not
            contiguous, of another dtype, or requires a gradient.
    """
    check_arguments(
        q,
        k,
        v,
        [
            ("gk", gk, ("batch", "time", "heads", "K")),
            ("gv", gv, ("batch", "time", "heads", "D")),
            ("state", state, ("batch", "heads", "K", "D")),
        ],
    )
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
    if k.shape[1] != 1:
        raise ValueError(f"one step at a time, got {k.shape[1]}: use decaying_fast_weights for more")
    if state is None:
        raise TypeError("state must be a tensor to be written to, got None: zeros [batch, heads, K, D] to begin with")
    if state.dtype != dtype or not state.is_contiguous():
        came = f"{state.dtype}{'' if state.is_contiguous() else ', not contiguous'}"
        raise ValueError(f"state must be contiguous and {dtype}, to be written to; got {came}")
    if state.requires_grad:  # a parameter would be lost, and a graph that it is part of would not know of the step
        raise ValueError("state is written to and must not require a gradient: use state.detach().clone()")
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if implementation == "auto":
        implementation = "triton" if can_use_triton(v) else "recurrent"
    with autocast_off(q.device.type):
        if implementation == "triton":
            from seqzoo.kernels.decaying_fast_weights_triton import triton_decaying_fast_weights_step

            return triton_decaying_fast_weights_step(q, k, v, gk, gv, state, scale)
        if implementation != "recurrent":
            raise ValueError(f"implementation must be 'auto', 'triton' or 'recurrent', got {implementation!r}")
        q, k, value, gk, gv = (None if x is None else x[:, 0].to(dtype) for x in (q, k, v, gk, gv))
        if gk is not None:
            state.mul_(gk.exp().unsqueeze(-1))
        if gv is not None:
            state.mul_(gv.exp().unsqueeze(-2))
        state.addcmul_(k.unsqueeze(-1), value.unsqueeze(-2))
        return ((q.unsqueeze(-2) @ state).transpose(1, 2) * scale).to(v.dtype)


def recurrent_decaying_fast_weights(q, k, v, gk, gv, scale, initial_state, reset):
    """The recurrence of the module docstring, one step after the other: the definition that the rest is tested by."""
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
    batch, time, heads, key_size = k.shape
    if initial_state is None:
        state = v.new_zeros(batch, heads, key_size, v.shape[-1], dtype=dtype)
    else:
        state = initial_state.to(dtype)
    steps = (x if x is None else x.to(dtype) for x in (q, k, v, gk, gv))
    # Unbound over time at once: indexing [:, t] in the loop makes the backward pass quadratic in time.
    steps = zip(*((None,) * time if x is None else x.unbind(1) for x in (*steps, reset)))
    outputs = []
    for q_t, k_t, v_t, gk_t, gv_t, reset_t in steps:
        if reset_t is not None:
            state = state.masked_fill(reset_t[:, None, None, None], 0)
        if gk_t is not None:
            state = state * gk_t.exp().unsqueeze(-1)
        if gv_t is not None:
            state = state * gv_t.exp().unsqueeze(-2)
        state = torch.addcmul(state, k_t.unsqueeze(-1), v_t.unsqueeze(-2))
        outputs.append(q_t.unsqueeze(-2) @ state)
    output = torch.cat(outputs, dim=2).transpose(1, 2) * scale
    return output.to(v.dtype), state
