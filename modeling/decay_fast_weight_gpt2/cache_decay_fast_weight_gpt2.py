"""The state of Decaying Fast Weight GPT-2 as a transformers `Cache`: per layer one [batch, heads, K, D] float32
tensor.

Its size does not depend on how many tokens went into it, so there is nothing to crop and no length limit.
"""

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionLayer

from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config


class FastWeightCacheLayer(LinearAttentionLayer, CacheLayerMixin):
    """The memory of one layer, and how many tokens (padding included) went into it."""

    # `CacheLayerMixin` is there for what generation asks of a cache: how long it is.
    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(self):
        LinearAttentionLayer.__init__(self)
        self.cumulative_length = 0

    @property
    def state(self) -> torch.Tensor | None:
        """[batch, heads, K, D], or `None` before the first token."""
        return self.recurrent_states[0]

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, state_idx: int = 0, num_tokens: int = 1, **kwargs
    ) -> torch.Tensor:
        # Assigned, not copied in place: a state may be part of a graph that still has to run backward.
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        self.has_previous_state[state_idx] = True
        self.dtype, self.device = recurrent_states.dtype, recurrent_states.device
        self.cumulative_length += num_tokens
        return recurrent_states

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self.recurrent_states[0] = self.state.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.state is not None:
            self.recurrent_states[0] = self.state[indices]

    def reset(self) -> None:
        LinearAttentionLayer.reset(self)
        self.cumulative_length = 0

    def update(self, *args, **kwargs):
        raise TypeError("a fast-weight memory has no keys and values to append; use update_recurrent_state")

    def crop(self, *args, **kwargs):
        raise ValueError("a fast-weight memory cannot forget its last tokens; start again from an earlier state")


class DecayFastWeightCache(Cache):
    """One [`FastWeightCacheLayer`] a layer; pass it as `past_key_values` to carry the state from call to call."""

    def __init__(self, config: DecayFastWeightGPT2Config):
        super().__init__(layers=[FastWeightCacheLayer() for _ in range(config.num_hidden_layers)])
