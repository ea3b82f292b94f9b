"""Fully connected networks of any depth: ReZero and what it is compared with.

Bachlechner et al. 2021, arXiv 2003.04887, section 4: layer i of a network of constant width is

    rezero        x <- x + alpha_i relu(W_i x + b_i),    alpha_i = 0 at initialisation
    residual      x <- x + relu(W_i x + b_i)
    layer_norm    x <- LayerNorm(relu(W_i x + b_i))
    vanilla       x <- relu(W_i x + b_i)

The layers' weights are stacked, so that ten thousand of them are three parameters to an optimizer, and activations can
be recomputed segment by segment.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


KINDS = ("rezero", "residual", "layer_norm", "vanilla")


class DeepFullyConnected(nn.Module):
    """A linear layer in, `depth` layers of one rule, a linear layer out.

    Args:
        in_features (`int`), out_features (`int`):
            Sizes of input and output.
        width (`int`):
            Of all layers.
        depth (`int`):
            Number of layers between the first and the last linear one.
        residual (`"rezero"`, `"residual"`, `"layer_norm"` or `"vanilla"`, defaults to `"rezero"`):
            The rule, see the head of this file.
        checkpointing (`bool`, defaults to `False`):
            Keep the activations of about sqrt(depth) layers only, and recompute those between them in the backward
            pass.

    Raises:
        ValueError: an unknown rule, or a depth below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int,
        depth: int,
        residual: str = "rezero",
        checkpointing: bool = False,
    ):
        super().__init__()
        if residual not in KINDS:
            raise ValueError(f"residual is {residual!r}, but must be one of {', '.join(KINDS)}")
        if depth < 1:
            raise ValueError(f"depth is {depth}, but must be 1 or more")
        self.residual = residual
        self.checkpointing = checkpointing
        self.input = nn.Linear(in_features, width)
        self.weight = nn.Parameter(torch.empty(depth, width, width))
        self.bias = nn.Parameter(torch.empty(depth, width))
        self.output = nn.Linear(width, out_features)
        if residual == "rezero":
            self.resweight = nn.Parameter(torch.empty(depth))
        elif residual == "layer_norm":
            self.norm_weight = nn.Parameter(torch.empty(depth, width))
            self.norm_bias = nn.Parameter(torch.empty(depth, width))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Xavier normal with the paper's gains: sqrt(2), but 0.5 for plain residual layers, which would explode."""
        width = self.bias.shape[1]
        self.weight.normal_(std=(0.5 if self.residual == "residual" else math.sqrt(2)) / math.sqrt(width))
        self.bias.zero_()
        if self.residual == "rezero":
            self.resweight.zero_()
        elif self.residual == "layer_norm":
            self.norm_weight.fill_(1.0)
            self.norm_bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_features] -> [batch, out_features]"""
        return self.output(self.hidden(self.input(x)))

    def hidden(self, x: Tensor) -> Tensor:
        """All layers of the rule, [batch, width] -> [batch, width]."""
        if self.residual == "rezero":  # under autocast the stream is as precise as alpha
            x = x.to(torch.promote_types(x.dtype, self.resweight.dtype))
        depth = len(self.weight)
        size = math.isqrt(depth) if self.checkpointing and self.training else depth
        stacks = [parameter.split(size) for parameter in self._stacks()]
        for segment in zip(*stacks, strict=True):
            if size < depth:
                x = checkpoint(self._run, x, *segment, use_reentrant=False)
            else:
                x = self._run(x, *segment)
        return x

    def _stacks(self) -> tuple[Tensor, ...]:
        """The parameters that have a row for each layer."""
        if self.residual == "rezero":
            return self.weight, self.bias, self.resweight
        if self.residual == "layer_norm":
            return self.weight, self.bias, self.norm_weight, self.norm_bias
        return self.weight, self.bias

    def _run(self, x: Tensor, *stacks: Tensor) -> Tensor:
        for weight, bias, *own in zip(*(stack.unbind() for stack in stacks), strict=True):
            y = F.relu(F.linear(x, weight, bias))
            if self.residual == "rezero":
                x = torch.addcmul(x, own[0], y)
            elif self.residual == "residual":
                x = x + y
            elif self.residual == "layer_norm":
                x = F.layer_norm(y, y.shape[-1:], *own)
            else:
                x = y
        return x
