"""A layer of ReZero Transformer: attention and feed-forward branches, and the residual that joins them."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seqzoo.kernels.single_row import RowLinear
from seqzoo.modeling.rezero_transformer.configuration_rezero_transformer import ReZeroTransformerConfig
from seqzoo.modeling.rezero_transformer.residual_rezero_transformer import RESIDUALS


class WeightedLinear(RowLinear):
    """A linear map whose output is weighted by a number, or by one a channel: `w (x W^T + b)`.

    For gradients the weight is multiplied into the matrix, `x (w W)^T + w b`: autograd would have to keep the output
    for the gradient of the weight. Without them the output is what is smaller. Either product is rounded once: a
    float32 weight stays one in models of half precision and under autocast.
    """

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        if weight is None:
            return super().forward(x)
        if not torch.is_grad_enabled():
            y = super().forward(x)
            return (weight * y).to(y.dtype)
        matrix = weight.unsqueeze(-1) * self.weight
        return F.linear(x, matrix.to(self.weight.dtype), (weight * self.bias).to(self.bias.dtype))


def project(linear: nn.Module, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """`linear(x)` by `weight`. What wraps or replaces a linear map (LoRA, quantization) is weighed as a whole."""
    if isinstance(linear, WeightedLinear):
        return linear(x, weight)
    y = linear(x)
    return y if weight is None else (weight * y).to(y.dtype)


class ReZeroTransformerAttention(nn.Module):
    """Multi-head attention over the input itself, or over a memory. No bias on keys, which softmax would ignore."""

    def __init__(self, config: ReZeroTransformerConfig, layer_idx: int, is_causal: bool):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal  # read by the library's attention functions
        self.scaling = config.head_dim**-0.5
        self.q_proj = RowLinear(config.hidden_size, config.hidden_size)
        self.k_proj = RowLinear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = RowLinear(config.hidden_size, config.hidden_size)
        self.o_proj = WeightedLinear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        x: torch.Tensor,  # [B, T, d]
        weight: torch.Tensor | None = None,
        memory: torch.Tensor | None = None,  # [B, S, d]
        attention_mask: torch.Tensor | None = None,  # as transformers' masking utilities make it
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        q = self._heads(self.q_proj(x))
        k, v = self._keys_and_values(x, memory, past_key_values)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.attention_dropout if self.training else 0.0
        output, probabilities = attend(
            self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )  # [B, T, H, D]
        return project(self.o_proj, output.flatten(-2), weight), probabilities

    def _keys_and_values(self, x, memory, cache) -> tuple[torch.Tensor, torch.Tensor]:
        of_memory = memory is not None
        if isinstance(cache, EncoderDecoderCache):
            if of_memory and cache.is_updated.get(self.layer_idx):  # a memory does not change from step to step
                layer = cache.cross_attention_cache.layers[self.layer_idx]
                return layer.keys, layer.values
            if of_memory:
                cache.is_updated[self.layer_idx] = True
            cache = cache.cross_attention_cache if of_memory else cache.self_attention_cache
        source = memory if of_memory else x
        k, v = self._heads(self.k_proj(source)), self._heads(self.v_proj(source))
        return (k, v) if cache is None else cache.update(k, v, self.layer_idx)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)  # [B, H, T, D]


def eager_attention(module, q, k, v, attention_mask, scaling, dropout=0.0, **kwargs):
    """The written-out definition, by the library's signature; it gives the probabilities, too."""
    scores = (q @ k.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = F.dropout(scores.softmax(-1, dtype=torch.float32).to(v.dtype), dropout)
    return (probabilities @ v).transpose(1, 2), probabilities


class ReZeroTransformerFeedForward(nn.Module):
    def __init__(self, config: ReZeroTransformerConfig):
        super().__init__()
        self.up_proj = RowLinear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)
        self.down_proj = WeightedLinear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        return project(self.down_proj, self.dropout(self.act(self.up_proj(x))), weight)


class ReZeroTransformerLayer(GradientCheckpointingLayer):
    """Self-attention, in a decoder with an encoder cross-attention, and feed-forward, each joined to the stream.

    `part` is `"alone"`, `"encoder"` or `"decoder"`.
    """

    def __init__(self, config: ReZeroTransformerConfig, layer_idx: int, part: str):
        super().__init__()
        self.residual = RESIDUALS[config.residual](config, part)
        self.self_attention = ReZeroTransformerAttention(config, layer_idx, config.is_causal)
        self.cross_attention = None
        if part == "decoder":
            self.cross_attention = ReZeroTransformerAttention(config, layer_idx, is_causal=False)
        self.feed_forward = ReZeroTransformerFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

        # Read by `_init_weights`.
        gains = self.residual.gains(config, part)
        for attention in filter(None, (self.self_attention, self.cross_attention)):
            attention.q_proj.gain = attention.k_proj.gain = gains.query_key
            attention.v_proj.gain, attention.o_proj.gain = gains.value, gains.attention_output
        self.feed_forward.up_proj.gain, self.feed_forward.down_proj.gain = gains.up, gains.down

    def forward(
        self,
        x: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        residual = self.residual
        y, _ = self.self_attention(
            residual.enter(x, 0),
            residual.weight(0),
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        x = residual.join(x, self.dropout(y), 0)
        if self.cross_attention is not None:
            y, _ = self.cross_attention(
                residual.enter(x, 1),
                residual.weight(1),
                memory=memory,
                attention_mask=memory_mask,
                past_key_values=past_key_values,
            )
            x = residual.join(x, self.dropout(y), 1)
        y = self.feed_forward(residual.enter(x, -1), residual.weight(-1))
        return residual.join(x, self.dropout(y), -1)
