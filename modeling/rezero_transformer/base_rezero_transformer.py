"""What all classes of ReZero Transformer share: weights, loading, saving, and the stack of layers."""

import copy
import math
from itertools import islice

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from seqzoo.modeling.rezero_transformer.configuration_rezero_transformer import FOLDABLE, ReZeroTransformerConfig
from seqzoo.modeling.rezero_transformer.layer_rezero_transformer import (
    ReZeroTransformerAttention,
    ReZeroTransformerLayer,
    WeightedLinear,
)
from seqzoo.modeling.rezero_transformer.residual_rezero_transformer import (
    RESIDUALS,
    ChannelWeights,
    DynamicTanh,
    Residual,
    profile_admin,
)


class ReZeroTransformerPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving (safetensors only), and what training and inference do with residual weights."""

    config_class = ReZeroTransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ReZeroTransformerLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: ReZeroTransformerConfig, *args, **kwargs):
        config.check()
        super().__init__(config, *args, **kwargs)
        if config.has_residual_weights:
            self._keep_in_fp32_modules_strict = ["resweight"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Called with every module that has parameters of its own, so residual weights are set here and by no rule
        # for parameters in general.
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight, gain=getattr(module, "gain", 1.0))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            gain = RESIDUALS[self.config.residual].embedding_gain(self.config) * getattr(module, "gain", 1.0)
            init.normal_(module.weight, std=self.config.embedding_std * gain)
        elif isinstance(module, (Residual, ChannelWeights, DynamicTanh)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

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

    def parameter_groups(
        self,
        lr: float,
        weight_decay: float,
        residual_lr: float | None = None,
        residual_betas: tuple[float, float] | None = None,
    ) -> list[dict]:
        """The trained parameters in groups as `torch.optim` takes them, none of them empty.

        Matrices decay; biases, norms, embeddings and residual weights do not.

        Args:
            lr (`float`): Learning rate of all but the residual weights.
            weight_decay (`float`): Of the matrices.
            residual_lr (`float`, *optional*): Learning rate of the residual weights. None is the smaller of `lr` and
                1 / L for L residual weights: the first step of Adam moves each of them by its rate, whatever its
                gradient, and so the output by a factor of up to (1 + rate)^L, which must not grow with depth.
            residual_betas (`tuple[float, float]`, *optional*): Betas of the residual weights.
        """
        embeddings = {module.weight for module in self.modules() if isinstance(module, nn.Embedding)}
        decayed, others, residual = [], [], []
        for name, parameter in self.named_parameters():
            if name.endswith(".resweight"):
                group = residual
            else:
                group = decayed if parameter.ndim >= 2 and parameter not in embeddings else others
            if parameter.requires_grad:
                group.append(parameter)
        if residual_lr is None and residual:
            residual_lr = min(lr, 1 / sum(parameter.numel() for parameter in residual))
        betas = {} if residual_betas is None else {"betas": tuple(residual_betas)}
        groups = [
            {"params": decayed, "lr": lr, "weight_decay": weight_decay},
            {"params": others, "lr": lr, "weight_decay": 0.0},
            {"params": residual, "lr": residual_lr, "weight_decay": 0.0, **betas},
        ]
        return [group for group in groups if group["params"]]

    @torch.no_grad()
    def fold_residual_weights(self) -> None:
        """Multiply the residual weights into the output projections, for inference: the same model without them.

        Raises:
            ValueError: the kind of residual has no weights, they were folded before, a projection has an adapter, or
                this is one part of an encoder-decoder.
        """
        if self.config.residual not in FOLDABLE or self.config.residual_weights_folded:
            raise ValueError(
                f"there are no residual weights to fold: residual={self.config.residual!r}, "
                f"residual_weights_folded={self.config.residual_weights_folded}"
            )
        if getattr(self, "part", "alone") != "alone":
            raise ValueError(f"this is the {self.part} of an encoder-decoder, whose config says it of both: fold that")
        for name, module in self.named_modules():
            if name.endswith((".o_proj", ".down_proj")) and not isinstance(module, WeightedLinear):
                raise ValueError(f"{name} was replaced by {type(module).__name__}: merge adapters before folding")
        layers = [module for module in self.modules() if isinstance(module, ReZeroTransformerLayer)]
        for layer in layers:
            outputs = [layer.self_attention.o_proj, layer.feed_forward.down_proj]
            if layer.cross_attention is not None:
                outputs.insert(1, layer.cross_attention.o_proj)
            for branch, output in enumerate(outputs):
                weight = layer.residual.weight(branch)
                output.weight.copy_(weight.unsqueeze(-1) * output.weight)
                output.bias.copy_(weight * output.bias)
            layer.residual.drop_weights()
        for module in self.modules():
            if isinstance(module, ReZeroTransformerPreTrainedModel):
                module.config.residual_weights_folded = True

    def profile_residual_branches(self, **inputs: torch.Tensor) -> None:
        """`residual="admin"`: start its weights from the variances of the branches on one batch, as its paper does.

        Args:
            **inputs: What the model is called with, such as `input_ids`.

        Raises:
            ValueError: another kind of residual.
        """
        profile_admin(self, **inputs)


class SinusoidalPositions(nn.Module):
    """Sines in the first half of the channels, cosines in the second, of wavelengths from 2 pi to 20,000 pi."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.half = hidden_size // 2

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        exponents = torch.arange(self.half, device=position_ids.device, dtype=torch.float32) / self.half
        angles = position_ids[..., None] * torch.exp(-math.log(10_000.0) * exponents)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ReZeroTransformerModel(ReZeroTransformerPreTrainedModel):
    """The layers: token ids to hidden states. `part` is for `ReZeroTransformerForConditionalGeneration` to set."""

    _can_record_outputs = {
        "hidden_states": ReZeroTransformerLayer,
        "attentions": OutputRecorder(ReZeroTransformerAttention, index=1, layer_name="self_attention"),
        "cross_attentions": OutputRecorder(ReZeroTransformerAttention, index=1, layer_name="cross_attention"),
    }

    def __init__(self, config: ReZeroTransformerConfig, part: str = "alone"):
        super().__init__(config)
        if config.is_encoder_decoder:
            raise ValueError(
                "this config is an encoder-decoder's: load it with AutoModelForSeq2SeqLM, or set "
                "is_encoder_decoder=False"
            )
        self.part = part
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = {
            "learned": lambda: nn.Embedding(config.max_position_embeddings, config.hidden_size),
            "sinusoidal": lambda: SinusoidalPositions(config.hidden_size),
            "none": lambda: None,
        }[config.position_embedding_type]()
        if config.position_embedding_type == "learned":
            self.embed_positions.gain = 0.1  # read by `_init_weights`; as large as the tokens, they drown them
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            ReZeroTransformerLayer(config, layer_idx, part) for layer_idx in range(config.num_hidden_layers)
        )
        self.final_norm = RESIDUALS[config.residual].final_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `[batch, time]`): Token ids; or `inputs_embeds` of shape
                `[batch, time, hidden_size]`.
            attention_mask (`torch.Tensor` of shape `[batch, past + time]`, *optional*): 0 for padding, on either
                side. Positions count the other tokens unless `position_ids` are given.
            position_ids (`torch.LongTensor` of shape `[batch, time]`, *optional*): Positions. In a causal model,
                without a mask and a cache to go on from, a step whose position is not its predecessor's plus one
                starts a new sequence (packing).
            past_key_values (`Cache`, *optional*): Keys and values to go on from; updated by the call.
            encoder_hidden_states (`torch.Tensor` of shape `[batch, source, hidden_size]`, *optional*),
                encoder_attention_mask (`torch.Tensor` of shape `[batch, source]`, *optional*): What a decoder reads.

        Raises:
            ValueError: an empty input, token ids outside the vocabulary, positions beyond the embedding, or a mask
                that does not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            self._check_token_ids(input_ids)
            inputs_embeds = self.embed_tokens(input_ids)
        if (encoder_hidden_states is None) == (self.part == "decoder"):
            raise ValueError("encoder_hidden_states are for the decoder of an encoder-decoder, and it needs them")
        batch, time = inputs_embeds.shape[:2]
        if time == 0:
            raise ValueError("the input is empty; start from at least one token, such as config.bos_token_id")
        if not self.config.is_causal:
            past_key_values = use_cache = None
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if attention_mask is not None and attention_mask.ndim == 2 and can_read(attention_mask):
            if attention_mask.shape != (batch, past + time):
                raise ValueError(
                    f"attention_mask has shape {list(attention_mask.shape)}; expected [batch, past + time] = "
                    f"[{batch}, {past + time}]"
                )

        # Before a new cache is made: the library takes a cache, empty or not, for the absence of packing.
        mask, memory_mask = self._mask(inputs_embeds, attention_mask, position_ids, past_key_values), None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
            if encoder_hidden_states is not None:
                past_key_values = EncoderDecoderCache(past_key_values, DynamicCache(config=self.config))
        if encoder_hidden_states is not None:
            source = encoder_hidden_states.shape[:2]
            if encoder_attention_mask is not None and encoder_attention_mask.ndim == 2:
                if encoder_attention_mask.shape != source:
                    raise ValueError(
                        f"the encoder's attention_mask has shape {list(encoder_attention_mask.shape)}; expected "
                        f"[batch, source] = {list(source)}"
                    )
            memory_mask = create_bidirectional_mask(
                self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=encoder_attention_mask,
                encoder_hidden_states=encoder_hidden_states,
            )
        highest = past + time - 1
        if position_ids is None:
            position_ids = torch.arange(past, past + time, device=inputs_embeds.device)[None]
            if attention_mask is not None and attention_mask.ndim == 2:
                position_ids = ((attention_mask != 0).long().cumsum(-1)[:, -time:] - 1).clamp(min=0)
        x = inputs_embeds
        if self.embed_positions is not None:
            self._check_positions(position_ids, highest)
            x = x + self.embed_positions(position_ids).to(x.dtype)
        x = self.dropout(x)
        # Fewer than there are while `generate` drafts by `assistant_early_exit`. A slice would be a new module a step.
        for layer in islice(self.layers, self.config.num_hidden_layers):
            # Positional what has a gradient: the reentrant kind of checkpointing sees no other.
            x = layer(
                x,
                mask,
                encoder_hidden_states,
                memory_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                **kwargs,
            )
        if self.final_norm is not None:
            x = self.final_norm(x)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x, past_key_values=past_key_values if use_cache else None
        )

    def _mask(self, inputs_embeds, attention_mask, position_ids, past_key_values) -> torch.Tensor | None:
        """What positions may attend to, in the form that the attention implementation takes."""
        if not self.config.is_causal:
            return create_bidirectional_mask(self.config, inputs_embeds, attention_mask)
        if isinstance(past_key_values, EncoderDecoderCache):
            past_key_values = past_key_values.self_attention_cache
        return create_causal_mask(
            self.config, inputs_embeds, attention_mask, past_key_values, position_ids=position_ids
        )

    def _check_token_ids(self, input_ids: torch.Tensor):
        # On an accelerator the embedding's own assertion has to do: reading would wait for the device.
        if input_ids.is_cpu and input_ids.numel() and can_read(input_ids):
            lowest, highest = (int(x) for x in input_ids.aminmax())
            rows = self.embed_tokens.num_embeddings
            if lowest < 0 or highest >= rows:
                wrong = lowest if lowest < 0 else highest
                raise ValueError(f"token id {wrong} is outside the vocabulary of {rows}: is it another tokenizer's?")

    def _check_positions(self, position_ids: torch.Tensor, highest: int):
        """`highest` is what they reach unless the caller chose them otherwise."""
        if self.config.position_embedding_type != "learned":
            return
        rows = self.config.max_position_embeddings
        # Reading positions waits for an accelerator: only where they can be too high, or where it is free.
        if can_read(position_ids) and (highest >= rows or position_ids.is_cpu):
            lowest, highest = (int(x) for x in position_ids.aminmax())
            if lowest < 0:
                raise ValueError(f"position {lowest} is below 0")
            if highest >= rows:
                raise ValueError(
                    f"position {highest} is beyond the {rows} learned positions (max_position_embeddings). Shorten "
                    "the input, generate fewer tokens (max_new_tokens), or train a model with position_embedding_type "
                    "'sinusoidal' or 'none'."
                )


def can_read(tensor: torch.Tensor) -> bool:
    """Whether values may decide what happens: not on the meta device, not while a graph is captured."""
    return not (tensor.is_meta or torch.compiler.is_compiling())


def with_fields(config: ReZeroTransformerConfig, **fields) -> ReZeroTransformerConfig:
    """A copy of `config` with other fields: the class of a model decides what it reads."""
    config = copy.deepcopy(config)
    for name, value in fields.items():
        setattr(config, name, value)
    return config
