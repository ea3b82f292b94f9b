"""Singular values of Jacobians of new networks: what initialisation lets through, by depth and method."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqzoo.metrics.jacobian import jacobian_singular_values
from seqzoo.modeling.rezero.fully_connected_rezero import KINDS, DeepFullyConnected
from seqzoo.modeling.rezero.layers_rezero import RZTXEncoderLayer


WIDTH, HEADS, TIME = 16, 4, 4


def new_networks(depths: list[int]) -> dict[str, dict[int, list[float]]]:
    """method -> depth -> singular values, the largest first: fully connected networks, and torch's encoders.

    Of an encoder, input and output are a whole sequence.

    Raises:
        ValueError: a depth below 1.
    """
    if min(depths) < 1:
        raise ValueError(f"a depth is {min(depths)}, but must be 1 or more")
    values = {}
    for kind in KINDS:
        values[f"fully connected, {kind}"] = {
            depth: _values(lambda depth=depth, kind=kind: _fully_connected(kind, depth).hidden, (1, WIDTH))
            for depth in depths
        }
    options = {"d_model": WIDTH, "nhead": HEADS, "dim_feedforward": 4 * WIDTH, "dropout": 0.0, "batch_first": True}
    layers = {
        "encoder, rezero": lambda: RZTXEncoderLayer(**options),
        "encoder, post_norm": lambda: nn.TransformerEncoderLayer(**options),
        "encoder, pre_norm": lambda: nn.TransformerEncoderLayer(**options, norm_first=True),
    }
    for method, layer in layers.items():
        values[method] = {
            depth: _values(
                lambda depth=depth, layer=layer: nn.Sequential(*(layer() for _ in range(depth))), (1, TIME, WIDTH)
            )
            for depth in depths
        }
    return values


def _fully_connected(kind: str, depth: int) -> DeepFullyConnected:
    return DeepFullyConnected(WIDTH, 1, width=WIDTH, depth=depth, residual=kind)


def _values(network: Callable[[], Callable[[Tensor], Tensor]], shape: tuple[int, ...]) -> list[float]:
    torch.manual_seed(0)
    return jacobian_singular_values(network(), torch.randn(shape)).tolist()
