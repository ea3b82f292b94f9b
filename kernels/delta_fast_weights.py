r"""Delta-rule fast weights: the op, its definition, and the choice of implementation.

Per head, with a state `S` of shape [K, D] (Schlag et al. 2021, arXiv 2102.11174; Mao 2022, arXiv 2210.04243; there
transposed):

    u_t = beta_t (v_t - S_{t-1}^T k_t)          S_t = S_{t-1} + k_t u_t^T          o_t = scale * S_t^T q_t

What is under a key is replaced by the new value to the share `beta_t` in [0, 1] (exactly so for a key of length 1; the
rule is stable while beta_t |k_t|^2 <= 2). With `read_before_write` the output is `scale * S_{t-1}^T q_t`, as in the
paper's own kernels. docs/delta_fast_weights.md derives the matrix form.
"""

import torch

from seqzoo.kernels.argument_checks import can_use_triton, check_arguments, refuse_forward_mode
from seqzoo.kernels.decaying_fast_weights_chunked import autocast_off
from seqzoo.kernels.delta_fast_weights_chunked import chunked_delta_fast_weights
from seqzoo.kernels.packed_sequences import run_packed


# Up to about this many steps the loop is faster than one short chunk (CPU, 12 heads of 64). Decoding is one step.
MAX_RECURRENT_STEPS = 8
# A program of the Triton kernels has whole columns of a state.
MAX_TRITON_KEY_SIZE = 256


def delta_fast_weights(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    reset: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    read_before_write: bool = False,
    implementation: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Runs the delta rule over a sequence; differentiable in all five tensors.

    Computes in float32 (in float64 if `v` is float64), also under autocast and for half-precision inputs.

    Args:
        q, k (`torch.Tensor`): queries and keys, [batch, time, heads, K].
        v (`torch.Tensor`): values, [batch, time, heads, D].
        beta (`torch.Tensor`, *optional*): write strength, [batch, time, heads], in [0, 1] (not checked); None is 1.
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
        read_before_write (`bool`, *optional*, defaults to `False`): whether a step reads the state as it was before
            its own write.
        implementation (`str`, *optional*, defaults to `"auto"`): "recurrent" is the definition, a loop over time;
            "chunked" the matrix form, whose memory grows linearly with time; "triton" the same form as GPU kernels, of
            keys of at most 256 channels. "auto" takes "triton" on a GPU where Triton is installed; elsewhere
            "recurrent" for a few steps, such as decoding, and "chunked" otherwise.

    Returns:
        The output [batch, time, heads, D] in the dtype of `v`, and the final state, of the shape of `initial_state`,
        in float32 (float64 if `v` is float64) or None.

    Raises:
        TypeError: an argument is of the wrong dtype or no tensor.
        ValueError: an argument has the wrong shape or device, there is no step, `cu_seqlens` does not rise from 0 to
            time or comes with `reset`, there is no such implementation, or it cannot do that ("triton" without a GPU,
            in float64 or with longer keys).
        RuntimeError: a second derivative of "triton".
        NotImplementedError: forward-mode derivatives of "triton".
        ImportError: "triton" without Triton.

    Example:
        >>> q, k = (torch.nn.functional.normalize(torch.randn(1, 100, 2, 8), dim=-1) for _ in range(2))
        >>> output, state = delta_fast_weights(q, k, torch.randn(1, 100, 2, 8), output_final_state=True)
        >>> output.shape, state.shape
        (torch.Size([1, 100, 2, 8]), torch.Size([1, 2, 8, 8]))
    """
    check_arguments(
        q,
        k,
        v,
        [
            ("beta", beta, ("batch", "time", "heads")),
            ("initial_state", initial_state, ("states", "heads", "K", "D")),
            ("reset", reset, ("batch", "time")),
        ],
        cu_seqlens,
    )
    if cu_seqlens is not None:
        return run_packed(
            delta_fast_weights,
            (q, k, v, beta),
            cu_seqlens,
            reset,
            initial_state,
            output_final_state,
            scale=scale,
            read_before_write=read_before_write,
            implementation=implementation,
        )
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if implementation == "auto":
        if can_use_triton(v) and k.shape[-1] <= MAX_TRITON_KEY_SIZE:
            implementation = "triton"
        else:
            implementation = "recurrent" if q.shape[1] <= MAX_RECURRENT_STEPS else "chunked"
    if implementation == "triton":
        if k.shape[-1] > MAX_TRITON_KEY_SIZE:
            raise ValueError(
                f"implementation='triton' takes keys of at most {MAX_TRITON_KEY_SIZE} channels, got {k.shape[-1]}; "
                "use 'auto'"
            )
        # Imported by whoever uses it: Triton is not everywhere.
        from seqzoo.kernels.delta_fast_weights_triton import triton_delta_fast_weights

        refuse_forward_mode(q, k, v, beta, initial_state)
        with autocast_off(q.device.type):
            output, state = triton_delta_fast_weights(q, k, v, beta, scale, initial_state, reset, read_before_write)
        return output, state if output_final_state else None
    forms = {"recurrent": recurrent_delta_fast_weights, "chunked": chunked_delta_fast_weights}
    if implementation not in forms:
        raise ValueError(f"implementation must be 'auto', 'triton', 'chunked' or 'recurrent', got {implementation!r}")
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
    with autocast_off(q.device.type):
        if beta is None:
            beta = k.new_ones(k.shape[:3])
        if initial_state is None:
            initial_state = v.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3])
        operands = (x.to(dtype) for x in (q, k, v, beta, initial_state))
        output, state = forms[implementation](*operands, reset, read_before_write)
        return (output * scale).to(v.dtype), state if output_final_state else None


def recurrent_delta_fast_weights(q, k, v, beta, initial_state, reset, read_before_write):
    """The recurrence of the module docstring, one step after the other: the definition that the rest is tested by."""
    state, time = initial_state, k.shape[1]
    # Unbound over time at once: indexing [:, t] in the loop makes the backward pass quadratic in time.
    resets = (None,) * time if reset is None else reset.unbind(1)
    outputs = []
    for q_t, k_t, v_t, beta_t, reset_t in zip(*(x.unbind(1) for x in (q, k, v, beta)), resets):
        if reset_t is not None:
            state = state.masked_fill(reset_t[:, None, None, None], 0)
        if read_before_write:
            outputs.append(q_t.unsqueeze(-2) @ state)
        u_t = beta_t[..., None, None] * (v_t.unsqueeze(-2) - k_t.unsqueeze(-2) @ state)
        state = torch.addcmul(state, k_t.unsqueeze(-1), u_t)
        if not read_before_write:
            outputs.append(q_t.unsqueeze(-2) @ state)
    return torch.cat(outputs, dim=2).transpose(1, 2), state
