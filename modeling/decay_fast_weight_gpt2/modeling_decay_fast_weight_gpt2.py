r"""Decaying Fast Weight GPT-2: constant time and memory a token, from GPT-2's weights.

GPT-2 block for block, except that a memory per head takes the place of attention (H. H. Mao, "Fine-Tuning Pre-trained
Transformers into Decaying Fast Weights", EMNLP 2022, arXiv 2210.04243). `memory_decay_fast_weight_gpt2.py` has the
equations: the paper's decay rule and those that it compares with. q, k, v come from GPT-2's `c_attn` and the result
goes through its `c_proj`, so all weights but gates and learned feature maps can be a GPT-2's:
[`DecayFastWeightGPT2LMHeadModel.from_gpt2`].
"""

import copy
import math
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, GPT2LMHeadModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.pytorch_utils import Conv1D
from transformers.utils import can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from seqzoo.kernels.single_row import RowLinear
from seqzoo.modeling.decay_fast_weight_gpt2.cache_decay_fast_weight_gpt2 import (
    DecayFastWeightCache,
    FastWeightCacheLayer,
)
from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import DecayFastWeightGPT2Config
from seqzoo.modeling.decay_fast_weight_gpt2.convert_gpt2_decay_fast_weight_gpt2 import (
    config_from_gpt2,
    require_gpt2,
    weights_from_gpt2,
)
from seqzoo.modeling.decay_fast_weight_gpt2.memory_decay_fast_weight_gpt2 import (
    CausalSelfAttention,
    FastWeightMemory,
    GateLinear,
    LearnedProjection,
)
from seqzoo.modeling.decay_fast_weight_gpt2.state_decay_fast_weight_gpt2 import load_state, save_state


logger = logging.get_logger(__name__)


class DecayFastWeightGPT2Block(GradientCheckpointingLayer):
    def __init__(self, config: DecayFastWeightGPT2Config, layer_idx: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        mixer = CausalSelfAttention if layer_idx in config.softmax_layers else FastWeightMemory
        self.attn = mixer(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(4 * config.n_embd if config.n_inner is None else config.n_inner, config)

        for projection in (self.attn.c_attn, self.mlp.c_fc, self.attn.c_proj, self.mlp.c_proj):
            projection.is_residual = projection in (self.attn.c_proj, self.mlp.c_proj)  # read by `_init_weights`

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        hidden_states = hidden_states + self.attn(self.ln_1(hidden_states), **kwargs)
        return hidden_states + self.mlp(self.ln_2(hidden_states))


class DecayFastWeightGPT2PreTrainedModel(PreTrainedModel):
    """Weights, loading and saving (safetensors only)."""

    config_class = DecayFastWeightGPT2Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecayFastWeightGPT2Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _can_record_outputs = {"hidden_states": DecayFastWeightGPT2Block}
    # What `softmax_layers` keep.
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: DecayFastWeightGPT2Config, *args, **kwargs):
        config.check()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Only modules with parameters of their own: the library skips the others for classes outside of it.
        super()._init_weights(module)
        if isinstance(module, Conv1D):
            # GPT-2 starts the projections back into the residual stream, two a block, smaller.
            std = self.config.initializer_range / (math.sqrt(2 * self.config.n_layer) if module.is_residual else 1)
            init.normal_(module.weight, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, GateLinear):
            if self.config.gate_init == "uniform":
                n = module.out_features // self.config.n_head
                init.copy_(module.bias, torch.empty_like(module.bias).uniform_(1 / n, 1 - 1 / n).logit())
            else:
                init.constant_(module.bias, float(self.config.gate_init))
        elif isinstance(module, LearnedProjection):
            heads, size, features = module.weight.shape
            if self.config.feature_map == "hedgehog" and size == features:
                init.copy_(module.weight, torch.eye(size).expand(heads, -1, -1))
            else:  # features as large as what they are made of
                init.normal_(module.weight, std=size**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, use_safetensors: bool = True, **kwargs):
        """As [`PreTrainedModel.from_pretrained`], from safetensors only.

        Raises:
            OSError: the weights are missing, truncated or damaged.
        """
        if not use_safetensors:
            raise ValueError("these models load from safetensors only; leave use_safetensors out")
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, use_safetensors=True, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"the weights in {pretrained_model_name_or_path} cannot be read ({error}): the safetensors file is "
                "truncated or damaged. Copy or download it again."
            ) from error

    def save_state(self, past_key_values: DecayFastWeightCache, path: str | Path) -> None:
        """Writes the state that a call of this model left to one safetensors file; see [`load_state`].

        Raises:
            TypeError: a cache of another kind.
            ValueError: a cache that nothing went into, or of other layers or sizes than this model's.
            OSError: it cannot be written there; nothing is left behind.
        """
        save_state(self, past_key_values, path)

    def load_state(self, path: str | Path) -> DecayFastWeightCache:
        """The state in a file of [`save_state`], to go on from in `past_key_values`, on this model's device.

        Raises:
            FileNotFoundError, OSError: no such file, or a damaged one.
            ValueError: not a state, or the state of another model: other config, other weights, other dtype.
        """
        return load_state(self, path)


class DecayFastWeightGPT2Model(DecayFastWeightGPT2PreTrainedModel):
    """The blocks: token ids to hidden states."""

    def __init__(self, config: DecayFastWeightGPT2Config):
        super().__init__(config)
        if config.activation_function not in ACT2FN:
            raise ValueError(f"activation_function={config.activation_function!r} is unknown to transformers")
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position_embedding_type != "none":
            self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([DecayFastWeightGPT2Block(config, layer_idx) for layer_idx in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, new_embeddings):
        self.wte = new_embeddings

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        past_key_values: DecayFastWeightCache | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        seq_idx: torch.Tensor | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `[batch, time]`): Token ids; or `inputs_embeds` of shape
                `[batch, time, n_embd]`.
            past_key_values ([`DecayFastWeightCache`], *optional*): The state to go on from; updated by the call.
            attention_mask (`torch.Tensor` of shape `[batch, past + time]`, *optional*): 0 for padding, which leaves
                the state untouched, on either side. Positions count the other tokens unless `position_ids` are given.
            position_ids (`torch.LongTensor` of shape `[batch, time]`, *optional*): Positions. Without a mask, a step
                whose position is not its predecessor's plus one starts a new sequence (packing).
            seq_idx (`torch.IntTensor` of shape `[batch, time]`, *optional*): Packing: the sequence that a step is of.
            cu_seq_lens_q (`torch.IntTensor` of shape `[sequences + 1]`, *optional*): Packing, for a batch of one row:
                where sequences start, and the end.

        Raises:
            ValueError: an empty input, token ids outside the vocabulary, positions beyond the embedding, or a mask or
                state that does not fit.
            TypeError: a cache of another kind.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            self._check_token_ids(input_ids)
            inputs_embeds = self.wte(input_ids)
        batch, time = inputs_embeds.shape[:2]
        if time == 0:
            raise ValueError("the input is empty; start from at least one token, such as config.bos_token_id")
        if past_key_values is not None:
            self.check_cache(past_key_values, batch)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()

        reset = sequence_starts(
            position_ids if attention_mask is None else None, seq_idx, cu_seq_lens_q, batch, time, inputs_embeds.device
        )
        if reset is not None and self.config.softmax_layers:
            if past_key_values is not None:
                raise ValueError(
                    "packed sequences go together with past_key_values only without softmax_layers: later calls would "
                    "attend to all of them"
                )
            use_cache = False
        if past_key_values is None and use_cache:
            past_key_values = DecayFastWeightCache(self.config)
        # How many tokens of its row came before a step, padding not counted; its place among them.
        before = steps = torch.arange(past, past + time, device=inputs_embeds.device)[None]
        padding = None
        if attention_mask is not None:
            if attention_mask.shape != (batch, past + time):
                raise ValueError(
                    f"attention_mask has shape {list(attention_mask.shape)}; expected [batch, past + time] = "
                    f"[{batch}, {past + time}]"
                )
            kept = (attention_mask != 0).long()
            counts = kept.cumsum(-1)[:, -time:]
            before, steps = counts - kept[:, -time:], (counts - 1).clamp(min=0)
            padding = attention_mask[:, -time:] == 0
            if can_read(padding) and not padding.any():
                padding = None

        if position_ids is None:
            position_ids = steps
            if reset is not None:  # count from the last start of a sequence, which may be padding
                position_ids = (steps - torch.where(reset, before, 0).cummax(-1).values).clamp(min=0)
        hidden_states = inputs_embeds
        if self.config.position_embedding_type != "none":
            hidden_states = hidden_states + self.wpe(self._rows(position_ids, highest=past + time - 1))
        hidden_states = self.drop(hidden_states)
        between = {"past_key_values": past_key_values, "padding": padding, "reset": reset}
        if self.config.softmax_layers:
            between["attention_mask"] = self._softmax_mask(inputs_embeds, attention_mask, past_key_values, reset)
        # Fewer than there are while `generate` drafts by `assistant_early_exit`. A slice would be a new module a step.
        for block in islice(self.h, self.config.n_layer):
            hidden_states = block(hidden_states, **between)
        hidden_states = self.ln_f(hidden_states)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states, past_key_values=past_key_values if use_cache else None
        )

    def _softmax_mask(self, inputs_embeds, attention_mask, past_key_values, reset):
        """What `softmax_layers` may attend to, in the form that the attention implementation takes."""
        same_sequence = None
        if reset is not None:
            sequence = reset.cumsum(-1)

            def same_sequence(batch, head, query, key):
                return sequence[batch, query] == sequence[batch, key]

        return create_causal_mask(
            self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            and_mask_function=same_sequence,
        )

    def _rows(self, position_ids: torch.Tensor, highest: int) -> torch.Tensor:
        """Rows of `wpe` for positions, which are at most `highest` unless the caller chose them otherwise."""
        rows = self.config.n_positions
        if self.config.position_embedding_type == "learned_clamped":
            return position_ids.clamp(max=rows - 1)
        # Reading positions waits for an accelerator: only where they can be too high, or where it is free.
        if (highest >= rows or position_ids.is_cpu) and can_read(position_ids):
            highest = int(position_ids.max())
            if highest >= rows:
                raise ValueError(
                    f"position {highest} is beyond the {rows} learned positions (n_positions). Shorten the input, or "
                    "set config.position_embedding_type to 'learned_clamped' (the last row again beyond it) or, for a "
                    "model trained so, 'none'."
                )
        return position_ids

    def _check_token_ids(self, input_ids: torch.Tensor):
        # On an accelerator the embedding's own assertion has to do: reading would wait for the device.
        if input_ids.is_cpu and input_ids.numel() and can_read(input_ids):
            lowest, highest = (int(x) for x in input_ids.aminmax())
            rows = self.wte.num_embeddings
            if lowest < 0 or highest >= rows:
                wrong = lowest if lowest < 0 else highest
                raise ValueError(f"token id {wrong} is outside the vocabulary of {rows}: is it another tokenizer's?")

    def check_cache(self, cache: DecayFastWeightCache, batch: int) -> None:
        """Raises unless `cache` is of this model's layers, sizes and batch."""
        if not isinstance(cache, DecayFastWeightCache):
            raise TypeError(f"past_key_values is a {type(cache).__name__}; this model needs a DecayFastWeightCache")
        if len(cache) != self.config.n_layer:
            raise ValueError(f"the cache is of a model of {len(cache)} layers, this one has {self.config.n_layer}")
        columns = self.config.head_dim + self.config.normalize
        expected = (batch, self.config.n_head, self.config.key_dim, columns)
        for index, layer in enumerate(cache.layers):
            softmax = index in self.config.softmax_layers
            if softmax == isinstance(layer, FastWeightCacheLayer):
                raise ValueError(
                    f"the cache is of a model with softmax_layers other than {self.config.softmax_layers}"
                )
            if not softmax and layer.state is not None and layer.state.shape != expected:
                raise ValueError(
                    f"the cached state has shape {list(layer.state.shape)}; this model and batch need "
                    f"[batch, heads, K, D] = {list(expected)}"
                )


def can_read(tensor: torch.Tensor) -> bool:
    """Whether values may decide what happens: not on the meta device, not while a graph is captured."""
    return not (tensor.is_meta or torch.compiler.is_compiling())


def sequence_starts(
    position_ids: torch.Tensor | None,
    seq_idx: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None,
    batch: int,
    time: int,
    device: torch.device,
) -> torch.Tensor | None:
    """Where packed sequences start within a row, [batch, time] bool; `None` if nowhere.

    The first of `seq_idx`, `cu_seq_lens_q`, `position_ids` that is given decides. A row's first step goes on from the
    state that it is given.
    """
    if time == 1:
        return None
    starts = torch.zeros(batch, time, dtype=torch.bool, device=device)
    if seq_idx is not None:
        if seq_idx.shape != starts.shape:
            raise ValueError(f"seq_idx has shape {list(seq_idx.shape)}; expected [batch, time] = [{batch}, {time}]")
        starts[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    elif cu_seq_lens_q is not None:
        if batch != 1:
            raise ValueError(f"cu_seq_lens_q describes one packed row, the batch has {batch}; use seq_idx")
        if can_read(cu_seq_lens_q):
            edges = cu_seq_lens_q.tolist()
            if edges[:1] != [0] or edges[-1] != time or edges != sorted(edges):
                raise ValueError(f"cu_seq_lens_q is {edges}; it must rise from 0 to the length of the row, {time}")
        starts[:, cu_seq_lens_q[1:-1].long()] = True
    elif position_ids is not None:
        starts[:, 1:] = position_ids.diff(dim=-1) != 1
    else:
        return None
    return None if can_read(starts) and not starts.any() else starts


class DecayFastWeightGPT2LMHeadModel(DecayFastWeightGPT2PreTrainedModel, GenerationMixin):
    """The language model; `generate()` at constant time and memory a token."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: DecayFastWeightGPT2Config):
        super().__init__(config)
        self.loss_type = "ForCausalLM"  # the library tells it from class names, and this one keeps GPT-2's habit
        self.transformer = DecayFastWeightGPT2Model(config)
        self.lm_head = RowLinear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_gpt2(
        cls,
        source: str | Path | GPT2LMHeadModel,
        *,
        revision: str = "main",
        dtype: torch.dtype | None = None,
        **overrides,
    ) -> "DecayFastWeightGPT2LMHeadModel":
        """A model that starts from GPT-2's weights, to be fine-tuned ("swap, then fine-tune").

        All weights that both models have are bit-equal afterwards; the names of the new ones are logged and kept in
        `model.new_parameters`.

        Args:
            source (`str`, `Path` or `GPT2LMHeadModel`): A folder, a Hub id, or the model itself.
            revision (`str`, defaults to `"main"`): Of a Hub id: branch, tag or commit.
            dtype (`torch.dtype`, *optional*): Of the new model; `None` is the source's.
            **overrides: Fields of [`DecayFastWeightGPT2Config`], such as `position_embedding_type="learned_clamped"`.

        Raises:
            ValueError: the checkpoint is not a GPT-2 or a variant that cannot be converted; see
                [`config_from_gpt2`].
        """
        if not isinstance(source, PreTrainedModel):
            require_gpt2(AutoConfig.from_pretrained(source, revision=revision))
            path = source
            source, loaded = GPT2LMHeadModel.from_pretrained(
                path, revision=revision, use_safetensors=True, output_loading_info=True
            )
            if loaded["missing_keys"]:
                raise ValueError(f"the checkpoint {path} lacks {', '.join(sorted(loaded['missing_keys']))}")
        config = config_from_gpt2(source.config, **overrides)
        if not isinstance(source, GPT2LMHeadModel):
            raise ValueError(f"a {type(source).__name__} has no language-model head; give a GPT2LMHeadModel")
        model = cls(config).to(dtype or source.dtype).eval()
        own = model.state_dict()
        shared = weights_from_gpt2(source.state_dict(), config)
        model.new_parameters = sorted(own.keys() - shared.keys())
        for name, weight in shared.items():
            if own[name].shape != weight.shape:  # c_attn with a state size of its own: the value columns are shared
                model.new_parameters.append(f"{name} (query and key columns)")
            own[name][..., -weight.shape[-1] :].copy_(weight)
        model.generation_config = copy.deepcopy(source.generation_config)
        logger.info("new parameters, not from GPT-2: %s", ", ".join(model.new_parameters))
        return model

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        past_key_values: DecayFastWeightCache | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        r"""
        As [`DecayFastWeightGPT2Model`], and:

        Args:
            labels (`torch.LongTensor` of shape `[batch, time]`, *optional*): Targets, usually `input_ids`; the model
                shifts them, -100 is left out of the loss.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): Logits of the last so many steps (0: all), or of
                these steps.
        """
        outputs = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        steps = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, steps])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        if generation_config.cache_implementation is not None:
            logger.warning_once(
                f"cache_implementation={generation_config.cache_implementation!r} is ignored: the state of this model "
                "has one form and a constant size"
            )
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            cache = model_kwargs["past_key_values"] = DecayFastWeightCache(self.config)
            if generation_config.is_assistant:  # the main model will take back what it does not accept
                cache.activate_past_recording()

    def init_continuous_batching(self, *args, **kwargs):
        # The library's continuous batching pages keys and values; a recurrent state would silently be left out.
        raise ValueError(
            "continuous batching (generate_batch) does not support models with a recurrent state; use generate() on a "
            "padded batch"
        )


class DecayFastWeightGPT2ForSequenceClassification(DecayFastWeightGPT2PreTrainedModel):
    """A linear head on the last token of a sequence, as GPT-2's."""

    def __init__(self, config: DecayFastWeightGPT2Config):
        super().__init__(config)
        self.loss_type = "ForSequenceClassification"
        self.num_labels = config.num_labels
        self.transformer = DecayFastWeightGPT2Model(config)
        self.score = nn.Linear(config.n_embd, config.num_labels, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        past_key_values: DecayFastWeightCache | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        r"""
        As [`DecayFastWeightGPT2Model`], and:

        Args:
            labels (`torch.Tensor` of shape `[batch]` or `[batch, num_labels]`, *optional*): Classes, or targets of the
                regression or multi-label problem that `config.problem_type` names.

        The last token of a row is the last one that `attention_mask` keeps; without a mask the last one that is not
        `config.pad_token_id`, which a batch of several rows needs then.
        """
        outputs = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        batch, time = hidden_states.shape[:2]
        if attention_mask is not None:
            kept = attention_mask[:, -time:] != 0
        elif self.config.pad_token_id is not None and input_ids is not None:
            kept = input_ids != self.config.pad_token_id
        elif batch == 1:
            kept = torch.ones(1, time, dtype=torch.bool, device=hidden_states.device)
        else:
            raise ValueError("a batch of several rows needs an attention_mask, or input_ids and config.pad_token_id")
        steps = torch.arange(time, device=hidden_states.device)
        last = (steps * kept).argmax(-1)
        logits = self.score(hidden_states[torch.arange(batch, device=hidden_states.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )


__all__ = [
    "DecayFastWeightGPT2ForSequenceClassification",
    "DecayFastWeightGPT2LMHeadModel",
    "DecayFastWeightGPT2Model",
    "DecayFastWeightGPT2PreTrainedModel",
]
