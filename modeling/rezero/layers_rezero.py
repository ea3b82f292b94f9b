"""ReZero layers for torch's own `nn.TransformerEncoder`, `nn.TransformerDecoder` and `nn.Transformer`.

Bachlechner et al., "ReZero is All You Need: Fast Convergence at Large Depth", UAI 2021, arXiv 2003.04887. A branch F
of layer i adds

    x <- x + alpha_i F(x),      alpha_i = 0 at initialisation

with one alpha for all branches of the layer, and nothing is normalised:

    layer = RZTXEncoderLayer(d_model=512, nhead=8)
    encoder = nn.TransformerEncoder(layer, num_layers=12, enable_nested_tensor=False)

Names and shapes of the parameters are those of the package that the authors published (`resweight`, shape [1]), so its
state dicts load. alpha multiplies the last projection's weight and bias rather than its output: the same function and
gradient, without another activation to save. Where a projection was wrapped or replaced (LoRA, quantization, hooks) it
is called, and alpha multiplies its output. torch's layers are not subclassed: `nn.TransformerEncoder` would run those
on a fast path of its own in evaluation, which normalises and knows no alpha.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.modules.module import register_module_module_registration_hook


NORM_SETTINGS = ("norm_first", "layer_norm_eps")  # of torch's own layers
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


class _ReZeroLayer(nn.Module):
    """What encoder and decoder layers share: self-attention, the feed-forward network, and alpha."""

    attends_to_memory = False

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        *unnamed: Any,
        batch_first: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unknown: Any,
    ):
        # Python would name this class, which is not the one that was called.
        if unnamed:
            raise TypeError(
                f"{type(self).__name__} takes d_model to activation by position, but {len(unnamed)} more were given: "
                "name them, as in batch_first=True"
            )
        if unknown:
            name = next(iter(unknown))
            why = ": ReZero layers have no norms, leave it out" if name in NORM_SETTINGS else ""
            raise TypeError(f"{type(self).__name__} has no argument {name}{why}")
        super().__init__()
        if not callable(activation) and activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {activation!r}, but must be one of {', '.join(ACTIVATIONS)}, or a function of a tensor"
            )
        if nhead < 1 or d_model % nhead:
            raise ValueError(f"d_model is {d_model}, but must be a multiple of nhead, which is {nhead}")
        self.batch_first = batch_first
        self.activation = activation if callable(activation) else ACTIVATIONS[activation]
        where = {"device": device, "dtype": dtype}
        attention = {"dropout": dropout, "bias": bias, "batch_first": batch_first, **where}
        self.self_attn = nn.MultiheadAttention(d_model, nhead, **attention)
        if self.attends_to_memory:
            self.multihead_attn = nn.MultiheadAttention(d_model, nhead, **attention)
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias=bias, **where)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias=bias, **where)
        self.dropout_branch = nn.Dropout(dropout)
        # At least float32: in half precision most steps of alpha would round to none.
        precise = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        self.resweight = nn.Parameter(torch.zeros(1, device=device, dtype=precise))
        _warn_about_norms()

    def _attend(
        self,
        attention: nn.MultiheadAttention,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        key_padding_mask: Tensor | None,
        is_causal: bool,
    ) -> Tensor:
        """alpha times attention from `x` to `memory`, with dropout."""
        itself = memory is x
        swap = self.batch_first and x.dim() == 3
        if is_causal and mask is None:  # which torch's function wants beside the flag
            times = [len(y[0] if swap else y) for y in (x, memory)]
            mask = torch.ones(times, dtype=torch.bool, device=x.device).triu(1)
            # torch's encoder makes the padding mask float, and torch's function wants both of one type.
            if key_padding_mask is not None and key_padding_mask.is_floating_point():
                mask = torch.zeros_like(mask, dtype=key_padding_mask.dtype).masked_fill(mask, -math.inf)
        if not _as_built(attention, nn.MultiheadAttention):
            masks = {"attn_mask": mask, "key_padding_mask": key_padding_mask, "is_causal": is_causal}
            output, _ = attention(x, memory, memory, need_weights=False, **masks)
            return self.dropout_branch(self._weigh(output))
        if not isinstance(attention.out_proj, NonDynamicallyQuantizableLinear):
            raise ValueError(
                f"out_proj was replaced by {type(attention.out_proj).__name__}, but attention reads its weights and "
                "never calls it: adapt the whole attention module instead"
            )
        if swap:
            x = x.transpose(0, 1)
            memory = x if itself else memory.transpose(0, 1)
        weight, bias = self._weighed(attention.out_proj)
        output, _ = F.multi_head_attention_forward(
            x,
            memory,
            memory,
            attention.embed_dim,
            attention.num_heads,
            attention.in_proj_weight,
            attention.in_proj_bias,
            None,
            None,
            False,
            attention.dropout,
            weight,
            bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=False,
            attn_mask=mask,
            is_causal=is_causal,
        )
        return self.dropout_branch(output.transpose(0, 1) if swap else output)

    def _feed_forward(self, x: Tensor) -> Tensor:
        """alpha times the feed-forward network, with dropout."""
        hidden = self.dropout(self.activation(self.linear1(x)))
        if _as_built(self.linear2, nn.Linear):
            return self.dropout_branch(F.linear(hidden, *self._weighed(self.linear2)))
        return self.dropout_branch(self._weigh(self.linear2(hidden)))

    def _weighed(self, projection: nn.Linear) -> tuple[Tensor, Tensor | None]:
        bias = projection.bias
        return self._weigh(projection.weight), None if bias is None else self._weigh(bias)

    def _weigh(self, tensor: Tensor) -> Tensor:
        return (self.resweight * tensor).to(tensor.dtype)


def _as_built(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether reading its weights is the same as calling it."""
    return type(module) is kind and not (module._forward_hooks or module._forward_pre_hooks)


class RZTXEncoderLayer(_ReZeroLayer):
    """An encoder layer with ReZero: self-attention, then the feed-forward network.

    Args:
        d_model (`int`):
            Width.
        nhead (`int`):
            Attention heads; divides the width.
        dim_feedforward (`int`, defaults to 2048):
            Width of the feed-forward network.
        dropout (`float`, defaults to 0.1):
            Of attention weights, hidden units and branches.
        activation (`"relu"`, `"gelu"` or a function, defaults to `"relu"`):
            Of the feed-forward network.
        batch_first (`bool`, defaults to `False`):
            Tensors are [batch, time, width] rather than [time, batch, width].
        bias (`bool`, defaults to `True`):
            Whether projections have biases.
        device, dtype (*optional*):
            Of the parameters; alpha is float32 at least.

    Raises:
        TypeError: settings of norms (`norm_first`, `layer_norm_eps`), which torch's layers have and these do not; more
            than five arguments by position, of which torch's sixth is such a setting.
        ValueError: an activation that is neither known nor a function, or heads that do not divide the width.
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """As `nn.TransformerEncoderLayer.forward`; `is_causal` needs no mask beside it."""
        x = src
        x = x + self._attend(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal)
        return x + self._feed_forward(x)


class RZTXDecoderLayer(_ReZeroLayer):
    """A decoder layer with ReZero: self-attention, attention to the encoder's output, the feed-forward network.

    Arguments and errors are those of [`RZTXEncoderLayer`].
    """

    attends_to_memory = True

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """As `nn.TransformerDecoderLayer.forward`; the causal flags need no mask beside them."""
        x = tgt
        x = x + self._attend(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        x = x + self._attend(self.multihead_attn, x, memory, memory_mask, memory_key_padding_mask, memory_is_causal)
        return x + self._feed_forward(x)


def _warn_about_norms() -> None:
    """From the first ReZero layer on, look at every stack of torch that is given a norm. A layer cannot see it."""
    global _hook
    if _hook is None:
        _hook = register_module_module_registration_hook(_warn_about_norm)


_hook = None


def _warn_about_norm(stack: nn.Module, name: str, norm: nn.Module | None) -> None:
    if name != "norm" or norm is None or not isinstance(stack, nn.TransformerEncoder | nn.TransformerDecoder):
        return
    layer = next((layer for layer in stack.layers if isinstance(layer, _ReZeroLayer)), None)
    if layer is not None:
        warnings.warn(
            f"{type(stack).__name__} of {type(layer).__name__} was given norm={type(norm).__name__}: ReZero has no "
            "normalisation, and this one stays at the end of the stack; leave norm out unless you mean it",
            stacklevel=4,
        )
