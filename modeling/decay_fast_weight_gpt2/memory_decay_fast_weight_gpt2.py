r"""What reads and writes across time in a block: a fast-weight memory, or in hybrid layers GPT-2's attention.

Per head, with features phi of queries and keys and a memory S of shape [K, D]:

    decay    S_t = (b_t a_t^T) * S_{t-1} + phi(k_t) v_t^T        b_t = sigmoid(W_f x_t + c_f) in (0, 1)^K  `k_gate`
                                                                 a_t = sigmoid(W_z x_t + c_z) in (0, 1)^D  `v_gate`
    gated    S_t = g_t S_{t-1} + (1 - g_t) phi(k_t) v_t^T        g_t = sigmoid(w x_t + c) in (0, 1)        `gate`
    delta    S_t = S_{t-1} + g_t phi(k_t) (v_t - S_{t-1}^T phi(k_t))^T, phi scaled to sum or length 1      `gate`
    sum      S_t = S_{t-1} + phi(k_t) v_t^T
    output   o_t = scale * S_t^T phi(q_t), or S_t^T phi(q_t) / (c_t . phi(q_t)) with `normalize`, c_t being the memory
             of values that are all 1

(Mao 2022, arXiv 2210.04243, and what it compares with; the config names the sources.)
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt2.modeling_gpt2 import eager_attention_forward
from transformers.pytorch_utils import Conv1D

from seqzoo.kernels.decaying_fast_weights import decaying_fast_weights
from seqzoo.kernels.delta_fast_weights import delta_fast_weights
from seqzoo.kernels.single_row import RowLinear
from seqzoo.modeling.decay_fast_weight_gpt2.cache_decay_fast_weight_gpt2 import DecayFastWeightCache
from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config


# Below this the sum of a normaliser's weights counts as nothing read.
MIN_WEIGHT = 1e-6


class GateLinear(RowLinear):
    """A kind of its own so that its bias can start apart (`gate_init`)."""


def gate_projection(config: DecayFastWeightGPT2Config, size: int) -> nn.Module:
    """Gate logits for `size` cells a head: a full matrix, or one of rank `gate_rank`."""
    if config.gate_rank is None:
        return GateLinear(config.n_embd, config.n_head * size)
    return nn.Sequential(
        nn.Linear(config.n_embd, config.gate_rank, bias=False), GateLinear(config.gate_rank, config.n_head * size)
    )


class LearnedProjection(nn.Module):
    """A matrix a head, with or without bias: [..., heads, in] to [..., heads, out]."""

    def __init__(self, n_head: int, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_head, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(n_head, out_features)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.einsum("...hi,hij->...hj", x, self.weight)
        return y if self.bias is None else y + self.bias


class FeatureMap(nn.Module):
    """Queries or keys of all heads [..., heads, query_dim] to their features [..., heads, K]; see the config."""

    def __init__(self, config: DecayFastWeightGPT2Config):
        super().__init__()
        self.kind = config.feature_map
        self.neighbours = config.key_dim // (2 * config.query_dim)  # dpfp
        if self.kind in ("relu", "hedgehog"):
            size = config.key_dim if self.kind == "relu" else config.key_dim // 2
            self.projection = LearnedProjection(config.n_head, config.query_dim, size, bias=self.kind == "relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "elu":
            return F.elu(x) + 1
        if self.kind == "relu":
            return F.relu(self.projection(x))
        if self.kind == "dpfp":
            x = F.relu(torch.cat([x, -x], dim=-1))
            return torch.cat([x * x.roll(n, dims=-1) for n in range(1, self.neighbours + 1)], dim=-1)
        if self.kind == "softmax":
            return x.softmax(dim=-1)
        if self.kind == "hedgehog":
            x = self.projection(x)
            return torch.cat([x.softmax(dim=-1), (-x).softmax(dim=-1)], dim=-1)
        return x


class FastWeightMemory(nn.Module):
    """A memory a head that changes by the config's update rule (the module docstring has the equations)."""

    def __init__(self, config: DecayFastWeightGPT2Config, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.n_head = config.n_head
        self.sizes = [config.n_head * config.query_dim] * 2 + [config.n_embd]
        self.update_rule = config.update_rule
        self.signed = config.feature_map == "identity"
        self.read_before_write = config.read_before_write
        self.normalize = config.normalize
        self.scale = 1.0 if self.update_rule == "delta" or self.normalize else config.head_dim**-0.5
        if config.scale is not None and not self.normalize:
            self.scale = float(config.scale)
        self.c_attn = Conv1D(sum(self.sizes), config.n_embd)
        self.feature_map = FeatureMap(config)
        if self.update_rule == "decay":
            self.k_gate = gate_projection(config, config.key_dim) if config.gate_sides != "value" else None
            self.v_gate = gate_projection(config, config.head_dim) if config.gate_sides != "key" else None
        elif self.update_rule != "sum":
            self.gate = GateLinear(config.n_embd, config.n_head)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self,
        hidden_states: torch.Tensor,  # [B, T, n_embd]
        past_key_values: DecayFastWeightCache | None = None,
        padding: torch.Tensor | None = None,  # [B, T] bool, True = a padded step
        reset: torch.Tensor | None = None,  # [B, T] bool, True = a new sequence starts here
        **kwargs,
    ) -> torch.Tensor:
        q, k, v = (
            x.unflatten(-1, (self.n_head, -1)) for x in self.c_attn(hidden_states).split(self.sizes, dim=-1)
        )  # [B, T, H, query_dim], [B, T, H, query_dim], [B, T, H, D]
        q, k = self.feature_map(q), self.feature_map(k)  # [B, T, H, K]
        if self.normalize:
            v = F.pad(v.to(torch.promote_types(v.dtype, torch.float32)), (0, 1), value=1)  # [B, T, H, D + 1]
        steps = self.steps(hidden_states, q, k, v, padding)
        if reset is not None:
            steps["reset"] = reset
        if past_key_values is None:
            output, _ = self.rule(**steps)
        else:
            output = past_key_values.layers[self.layer_idx].advance(self.rule, steps)
        if self.normalize:
            output, weight = output.split([output.shape[-1] - 1, 1], dim=-1)
            output = (output / weight.clamp(min=MIN_WEIGHT)).to(hidden_states.dtype)
        return self.resid_dropout(self.c_proj(output.flatten(-2)))

    def steps(self, hidden_states, q, k, v, padding) -> dict[str, torch.Tensor]:
        """What the op is given a step, each [B, T, H, ...]. A padded step neither writes nor decays."""
        if self.update_rule == "delta":
            # Sums of features are at least 0, lengths too.
            q, k = (F.normalize(x, p=2 if self.signed else 1, dim=-1) for x in (q, k))
        steps = {"q": q, "k": k, "v": v}
        # Logarithms, also in half precision: a gate of 1 - 1e-4 would be 1 in bfloat16.
        if self.update_rule == "decay":
            for name, gate in (("gk", self.k_gate), ("gv", self.v_gate)):
                if gate is not None:
                    steps[name] = F.logsigmoid(gate(hidden_states)).unflatten(-1, (self.n_head, -1))
        elif self.update_rule == "gated":
            logits = self.gate(hidden_states).unsqueeze(-1)  # [B, T, H, 1]
            steps["k"] = k * (-logits).sigmoid()
            steps["gk"] = F.logsigmoid(logits).expand(*logits.shape[:-1], k.shape[-1])
        elif self.update_rule == "delta":
            steps["beta"] = self.gate(hidden_states).sigmoid()
        if padding is not None:
            for name in steps.keys() & {"k", "v", "gk", "gv"}:
                steps[name] = steps[name].masked_fill(padding[:, :, None, None], 0)
        return steps

    def rule(self, **arguments) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The op with this layer's constants: output [B, T, H, D] and, where asked for, the state [B, H, K, D]."""
        if self.update_rule == "delta":
            return delta_fast_weights(**arguments, scale=self.scale, read_before_write=self.read_before_write)
        return decaying_fast_weights(**arguments, scale=self.scale)


class CausalSelfAttention(nn.Module):
    """GPT-2's attention, for the layers that `softmax_layers` names."""

    is_causal = True

    def __init__(self, config: DecayFastWeightGPT2Config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.n_head = config.n_head
        self.scaling = config.head_dim**-0.5 if config.scale is None else float(config.scale)
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self,
        hidden_states: torch.Tensor,  # [B, T, n_embd]
        past_key_values: DecayFastWeightCache | None = None,
        attention_mask: torch.Tensor | None = None,  # as transformers' masking utilities make it
        **kwargs,
    ) -> torch.Tensor:
        q, k, v = (
            x.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for x in self.c_attn(hidden_states).chunk(3, dim=-1)
        )  # [B, H, T, D]
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, _ = attend(self, q, k, v, attention_mask, dropout=0.0, scaling=self.scaling)  # [B, T, H, D]
        return self.resid_dropout(self.c_proj(output.flatten(-2)))
