"""The state of Decaying Fast Weight GPT-2 as a transformers `Cache`: per layer one [batch, heads, K, D] float32
tensor (D + 1 with attention normalisation: the last column holds the weights' sum).

Its size does not depend on how many tokens went into it, so there is no length limit. A memory cannot be asked to
forget; [`FastWeightCacheLayer.crop`] instead goes back to a kept state and repeats what came after it, for assisted
decoding and whoever calls `activate_past_recording()`. Layers that keep softmax attention have its keys and values.
"""

from collections.abc import Callable

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, LinearAttentionLayer

from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config


class FastWeightCacheLayer(LinearAttentionLayer, CacheLayerMixin):
    """The memory of one layer, and how many tokens (padding included) went into it."""

    # `CacheLayerMixin` is there for what generation asks of a cache: how long it is.
    is_compileable = False
    supports_early_init = False

    def __init__(self):
        LinearAttentionLayer.__init__(self)
        self.cumulative_length = 0
        self.record_past = False
        self._forget_past()

    def _forget_past(self) -> None:
        self.past_state = None  # as it was before the first of `past_steps`
        self.past_steps: list[dict[str, torch.Tensor]] = []
        self.past_rule = None

    @property
    def state(self) -> torch.Tensor | None:
        """[batch, heads, K, D], or `None` before the first token."""
        return self.recurrent_states[0]

    def advance(
        self, rule: Callable[..., tuple[torch.Tensor, torch.Tensor]], steps: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Runs `rule(**steps, initial_state=..., output_final_state=True)` and keeps the state.

        Args:
            rule: Returns the output of the steps and the state behind them.
            steps: What the rule takes, each [batch, time, ...].

        Returns:
            The rule's output.
        """
        output, state = rule(**steps, initial_state=self.state, output_final_state=True)
        if self.record_past:
            if not self.past_steps:
                self.past_state, self.past_rule = self.state, rule
            self.past_steps.append(steps)
        self.update_recurrent_state(state, num_tokens=output.shape[1])
        return output

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

    @property
    def is_croppable(self) -> bool:
        return self.record_past

    def activate_past_recording(self) -> None:
        """From now on keep the inputs of every step until the next `crop`."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last `-tokens_to_remove` tokens exactly: the state is what it would be had they never come.

        Everything recorded so far is released; recording goes on.

        Raises:
            RuntimeError: nothing is recorded because `activate_past_recording()` was not called.
            ValueError: more tokens than were recorded since then or since the last `crop`, or a positive number.
        """
        kept = self.check_crop(tokens_to_remove)
        if tokens_to_remove:
            self.recurrent_states[0] = self.past_state
            self.cumulative_length += tokens_to_remove
        if tokens_to_remove and kept:
            # Steps of a call without a sequence start have no "reset"; it is False then.
            names = dict.fromkeys(name for steps in self.past_steps for name in steps)
            steps = {name: torch.cat([self._step(steps, name) for steps in self.past_steps], dim=1) for name in names}
            steps = {name: x[:, :kept] for name, x in steps.items()}
            _, state = self.past_rule(**steps, initial_state=self.past_state, output_final_state=True)
            self.recurrent_states[0] = state
        if tokens_to_remove and self.state is None:
            self.is_recurrent_states_initialized[0] = self.has_previous_state[0] = False
        self._forget_past()

    def check_crop(self, tokens_to_remove: int) -> int:
        """Raises what `crop` would; returns how many of the recorded tokens it would keep."""
        if not self.record_past:
            raise RuntimeError(
                "a fast-weight memory keeps no past by itself: call activate_past_recording() on the cache before the "
                "tokens that crop() may have to take back"
            )
        recorded = sum(steps["k"].shape[1] for steps in self.past_steps)
        kept = recorded + tokens_to_remove
        if tokens_to_remove > 0:
            raise ValueError(f"crop({tokens_to_remove}): give the number of tokens to remove as a negative number")
        if kept < 0:
            raise ValueError(
                f"crop({tokens_to_remove}) goes back further than what is kept: the inputs of {recorded} tokens, "
                "those since activate_past_recording() or the last crop()"
            )
        return kept

    @staticmethod
    def _step(steps: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        k = steps["k"]
        return steps[name] if name in steps else k.new_zeros(k.shape[:2], dtype=torch.bool)

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def _change_rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Applies `change` to everything that has a batch."""
        if self.state is not None:
            self.recurrent_states[0] = change(self.state)
        if self.past_state is not None:
            self.past_state = change(self.past_state)
        self.past_steps = [{name: change(x) for name, x in steps.items()} for steps in self.past_steps]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._change_rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._change_rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._change_rows(lambda x: x[indices])

    def reset(self) -> None:
        LinearAttentionLayer.reset(self)
        self.cumulative_length = 0
        self._forget_past()

    def update(self, *args, **kwargs):
        raise TypeError("a fast-weight memory has no keys and values to append; use update_recurrent_state")


class DecayFastWeightCache(Cache):
    """One [`FastWeightCacheLayer`] a layer, or a `DynamicLayer` where `softmax_layers` keeps attention; pass it as
    `past_key_values` to carry the state from call to call."""

    def __init__(self, config: DecayFastWeightGPT2Config):
        super().__init__(
            layers=[
                DynamicLayer() if layer in config.softmax_layers else FastWeightCacheLayer()
                for layer in range(config.num_hidden_layers)
            ]
        )

    def crop(self, tokens_to_remove: int) -> None:
        """As [`FastWeightCacheLayer.crop`], of all layers or, where one cannot, of none."""
        for layer in self.layers:
            if isinstance(layer, FastWeightCacheLayer):
                layer.check_crop(tokens_to_remove)
        super().crop(tokens_to_remove)
