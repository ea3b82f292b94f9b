"""A linear layer that is fast on a single row: on a CPU, decoding is reading every weight once a token.

For one row and a weight [out, in] torch takes BLAS's matrix-vector product. The same product as a batch over blocks of
the weight's rows reads memory faster where BLAS does not keep up with the machine.
"""

import torch
import torch.nn.functional as F


BLOCK_ROWS = 96
# Smaller weights stay in a CPU's cache.
MIN_ELEMENTS = 1 << 18


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`, in blocks where there is one float32 row on a CPU.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out].

    Returns:
        [..., out].
    """
    size, features = weight.shape
    in_blocks = (
        x.numel() == features
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and weight.numel() >= MIN_ELEMENTS
        and weight.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )
    if not in_blocks:
        return F.linear(x, weight, bias)
    # The strides of a transposed row, not of a column: they decide which product torch takes.
    row = x.reshape(1, features).t()
    blocks = size // BLOCK_ROWS
    whole = blocks * BLOCK_ROWS
    y = torch.bmm(weight[:whole].view(blocks, BLOCK_ROWS, features), row.expand(blocks, -1, -1)).view(whole)
    if whole < size:
        y = torch.cat([y, weight[whole:] @ row[:, 0]])
    return (y if bias is None else y + bias).view(*x.shape[:-1], size)
