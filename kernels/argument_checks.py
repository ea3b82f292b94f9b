"""Checks that the ops of this room share: every error names the argument, what was expected and what came."""

import importlib.util
from functools import cache

import torch
from torch.autograd import forward_ad


# Steps that the Triton kernels take: as many chunks of 64 as a GPU takes programs in a grid's second dimension.
MAX_TRITON_TIME = 65_535 * 64


def check_arguments(q, k, v, others, cu_seqlens=None):
    """Checks queries, keys and values, [batch, time, heads, size], and what goes with them.

    Args:
        q, k, v, cu_seqlens: what the caller was given under these names. Values of cu_seqlens are not read.
        others: (name, tensor or None, axes) of every other argument, axes as names: "batch", "time", "heads", "K",
            "D", and "states", as many as there are sequences. The one named "reset" is bool, the rest are floating
            point numbers.

    Raises:
        TypeError: an argument is of the wrong dtype or no tensor.
        ValueError: an argument has the wrong shape or device, or an axis is empty.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            raise TypeError(f"{name} must be a tensor of floating point numbers, got {_describe(x)}")
        if x.ndim != 4:
            raise ValueError(f"{name} must be [batch, time, heads, size], got the shape {list(x.shape)}")
    batch, time, heads, key_size = k.shape
    sizes = {"batch": batch, "time": time, "heads": heads, "K": key_size, "D": v.shape[-1], "states": batch}
    if 0 in sizes.values():
        raise ValueError(f"batch, time, heads and sizes must not be 0: k is {list(k.shape)}, v is {list(v.shape)}")
    if cu_seqlens is not None:
        sizes["states"] = _count_sequences(cu_seqlens, k)
    arguments = (("q", q, ("batch", "time", "heads", "K")), ("v", v, ("batch", "time", "heads", "D")), *others)
    for name, x, axes in arguments:
        if x is None:
            continue
        wrong = not isinstance(x, torch.Tensor) or (
            x.dtype != torch.bool if name == "reset" else not x.is_floating_point()
        )
        if wrong:
            kind = "bool" if name == "reset" else "floating point numbers"
            raise TypeError(f"{name} must be a tensor of {kind}, got {_describe(x)}")
        shape = tuple(sizes[axis] for axis in axes)
        if x.shape != shape:
            partners = "k and cu_seqlens" if cu_seqlens is not None and "states" in axes else "k"
            raise ValueError(f"{name} must have the shape {list(shape)} to go with {partners}, got {list(x.shape)}")
        if x.device != k.device:
            raise ValueError(f"{name} must be on {k.device} like k, got {x.device}")


def _count_sequences(cu_seqlens, k):
    if not isinstance(cu_seqlens, torch.Tensor) or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be a tensor of int32 or int64, got {_describe(cu_seqlens)}")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2:
        raise ValueError(f"cu_seqlens must be [sequences + 1], got the shape {list(cu_seqlens.shape)}")
    if k.shape[0] != 1:
        raise ValueError(f"cu_seqlens describes one packed row, the batch has {k.shape[0]}: use reset")
    if cu_seqlens.device.type != "cpu" and cu_seqlens.device != k.device:
        raise ValueError(f"cu_seqlens must be on {k.device} like k or on the CPU, got {cu_seqlens.device}")
    return len(cu_seqlens) - 1


def can_use_triton(v):
    """Whether the Triton kernels can take tensors like `v`: on an NVIDIA GPU with TF32, not float64, not too long."""
    fits = v.dtype != torch.float64 and v.shape[1] <= MAX_TRITON_TIME
    return v.is_cuda and fits and _triton_runs_on(v.device.index or 0)


def refuse_forward_mode(*tensors):
    """Refuses tensors with tangents: torch would run a custom op without them, as if every derivative were 0."""
    if forward_ad._current_level < 0:  # the usual case, at no cost
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(
            "implementation='triton' has no forward-mode derivatives (torch.func.jvp); implementation='recurrent' has"
        )


@torch.compiler.assume_constant_result  # torch.compile does not see the cache, and warns of it
def _triton_runs_on(index):
    return _look_for_triton(index)


@cache
def _look_for_triton(index):
    has_tf32 = torch.version.hip is None and torch.cuda.get_device_capability(index) >= (8, 0)
    return has_tf32 and importlib.util.find_spec("triton") is not None


def _describe(x):
    return f"a {x.dtype} tensor" if isinstance(x, torch.Tensor) else type(x).__name__
