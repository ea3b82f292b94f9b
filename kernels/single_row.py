"""A linear layer that is fast on a single row: on a CPU, decoding is reading every weight once a token.

For one row and a weight [out, in] torch takes BLAS's matrix-vector product. MKL's reads memory as fast as an Intel CPU
can, but not an AMD one: there the same product as a batch over blocks of the weight's rows is faster. On Intel's the
blocks take twice the time.
"""

import torch
import torch.nn.functional as F
from torch import nn


BLOCK_ROWS = 96
# Smaller weights stay in a CPU's cache.
MIN_ELEMENTS = 1 << 18


def blocks_are_faster() -> bool:
    """Whether torch multiplies by MKL on an x86 CPU that is not Intel's; False where the maker is not to be read.

    A property of the machine, not a measurement: results are the same in every process.
    """
    if not torch.backends.mkl.is_available():
        return False
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            vendor = next(line.split(":")[1].strip() for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration, IndexError):
        return False
    return vendor != "GenuineIntel"


# A constant, which torch.compile can see through.
IN_BLOCKS = blocks_are_faster()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`; one float32 row on a CPU in blocks where these are faster.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out].

    Returns:
        [..., out].
    """
    size, features = weight.shape
    in_blocks = (
        IN_BLOCKS
        and x.numel() == features
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


class RowLinear(nn.Linear):
    """`nn.Linear` that is fast on a single row, as in decoding, on every CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)
