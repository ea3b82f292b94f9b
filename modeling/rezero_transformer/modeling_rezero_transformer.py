r"""ReZero Transformer: no normalisation, residual branches that start at nothing, a hundred layers and more.

T. Bachlechner, B. P. Majumder, H. H. Mao, G. W. Cottrell, J. McAuley, "ReZero is All You Need: Fast Convergence at
Large Depth", UAI 2021, arXiv 2003.04887. For every branch F of a layer, with one learned alpha a layer:

    x <- x + alpha F(x),  alpha = 0 at the start

so that a new model is the identity between its embeddings and its output layer, whatever its depth. The kinds of
residual that the paper and its successors compare with are one field of the config apart, with the same code around
them. This file has the heads; the stack of layers is in `base_rezero_transformer.py`, a layer in
`layer_rezero_transformer.py`, the residuals in `residual_rezero_transformer.py`.
"""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutputWithPast,
)
from transformers.utils import ModelOutput, can_return_tuple

from seqzoo.modeling.rezero_transformer.base_rezero_transformer import (
    ReZeroTransformerModel,
    ReZeroTransformerPreTrainedModel,
    with_fields,
)
from seqzoo.modeling.rezero_transformer.configuration_rezero_transformer import ReZeroTransformerConfig


class ReZeroTransformerForCausalLM(ReZeroTransformerPreTrainedModel, GenerationMixin):
    """A language model that reads from left to right."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ReZeroTransformerConfig):
        super().__init__(with_fields(config, is_causal=True))
        self.model = ReZeroTransformerModel(self.config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        r"""
        As [`ReZeroTransformerModel`], and:

        Args:
            labels (`torch.LongTensor` of shape `[batch, time]`, *optional*): Targets, usually `input_ids`; the model
                shifts them, -100 is left out of the loss.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): Logits of the last so many steps (0: all), or of
                these steps.
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
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
            attentions=outputs.attentions,
        )


class ReZeroTransformerForMaskedLM(ReZeroTransformerPreTrainedModel):
    """A language model that reads both sides and predicts the tokens where labels are not -100."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ReZeroTransformerConfig):
        super().__init__(with_fields(config, is_causal=False))
        self.model = ReZeroTransformerModel(self.config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs,
    ) -> MaskedLMOutput:
        r"""
        As [`ReZeroTransformerModel`], and:

        Args:
            labels (`torch.LongTensor` of shape `[batch, time]`, *optional*): The token that belongs at a position, or
                -100 where none is to be predicted.
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.lm_head(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class ReZeroTransformerForSequenceClassification(ReZeroTransformerPreTrainedModel):
    """A linear head on one token of a sequence: the last one, or the first one with `is_causal=False`."""

    def __init__(self, config: ReZeroTransformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ReZeroTransformerModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        r"""
        As [`ReZeroTransformerModel`], and:

        Args:
            labels (`torch.Tensor` of shape `[batch]` or `[batch, num_labels]`, *optional*): Classes, or targets of the
                regression or multi-label problem that `config.problem_type` names.

        A row's tokens are those that `attention_mask` keeps; without a mask those that are not `config.pad_token_id`,
        which a batch of several rows needs then, and which becomes the mask.
        """
        if attention_mask is None and self.config.pad_token_id is not None and input_ids is not None:
            kept = input_ids != self.config.pad_token_id
            if past_key_values is None:
                attention_mask = kept.long()
        else:
            kept = attention_mask
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        batch, time = hidden_states.shape[:2]
        if kept is not None:
            kept = kept[:, -time:] != 0
        elif batch == 1:
            kept = torch.ones(1, time, dtype=torch.bool, device=hidden_states.device)
        else:
            raise ValueError("a batch of several rows needs an attention_mask, or input_ids and config.pad_token_id")
        steps = torch.arange(time, device=hidden_states.device)
        step = ((steps if self.config.is_causal else time - steps) * kept).argmax(-1)
        logits = self.score(hidden_states[torch.arange(batch, device=hidden_states.device), step])
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ReZeroTransformerForConditionalGeneration(ReZeroTransformerPreTrainedModel, GenerationMixin):
    """An encoder that reads both sides, and a decoder that reads it and writes from left to right."""

    _tied_weights_keys = {
        "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
        "lm_head.weight": "encoder.embed_tokens.weight",
    }

    def __init__(self, config: ReZeroTransformerConfig):
        super().__init__(with_fields(config, is_causal=True, is_encoder_decoder=True))
        self.loss_type = "ForMaskedLM"  # the decoder's input is shifted already, and the loss does not shift again
        self.encoder = ReZeroTransformerModel(
            with_fields(config, is_causal=False, is_encoder_decoder=False), "encoder"
        )
        self.decoder = ReZeroTransformerModel(with_fields(config, is_causal=True, is_encoder_decoder=False), "decoder")
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.encoder.embed_tokens

    def set_input_embeddings(self, new_embeddings):
        self.encoder.embed_tokens = new_embeddings
        if self.config.tie_word_embeddings:
            self.decoder.embed_tokens = new_embeddings

    def set_attn_implementation(self, *args, **kwargs):
        super().set_attn_implementation(*args, **kwargs)
        for part in (self.encoder, self.decoder):  # some versions pass over parts with the same class of config
            part.set_attn_implementation(*args, **kwargs)

    def resize_token_embeddings(self, *args, **kwargs):
        if not self.config.tie_word_embeddings:  # the decoder has a table of its own
            self.decoder.resize_token_embeddings(*args, **kwargs)
        return super().resize_token_embeddings(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: ModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `[batch, source]`): What the encoder reads; or `inputs_embeds`; or
                `encoder_outputs`, what it made of that.
            attention_mask (`torch.Tensor` of shape `[batch, source]`, *optional*): 0 for padding there.
            decoder_input_ids (`torch.LongTensor` of shape `[batch, time]`, *optional*): What the decoder reads; or
                `decoder_inputs_embeds`. By default the labels, shifted to the right.
            decoder_attention_mask (`torch.Tensor` of shape `[batch, past + time]`, *optional*): 0 for padding there.
            decoder_position_ids (`torch.LongTensor` of shape `[batch, time]`, *optional*): Of the decoder.
            past_key_values (`EncoderDecoderCache`, *optional*): Keys and values of the decoder to go on from.
            labels (`torch.LongTensor` of shape `[batch, time]`, *optional*): What the decoder is to write; -100 is
                left out of the loss.

        Raises:
            ValueError: nothing for the decoder to read; and as [`ReZeroTransformerModel`].
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise ValueError("give decoder_input_ids, decoder_inputs_embeds or labels: what the decoder reads")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
            )
        elif isinstance(encoder_outputs, tuple | list):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        outputs = self.decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=encoder_outputs[0],
            encoder_attention_mask=attention_mask,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs[0],
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """The labels one step later, behind the token that a decoder starts from; -100 becomes padding.

        Raises:
            ValueError: the config has neither `decoder_start_token_id` nor `bos_token_id`.
        """
        config = self.config
        start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        if start is None:
            raise ValueError("a decoder starts from config.decoder_start_token_id or bos_token_id: set one of them")
        padding = start if config.pad_token_id is None else config.pad_token_id
        shifted = nn.functional.pad(labels[:, :-1], (1, 0), value=start)
        return shifted.masked_fill(shifted == -100, padding)


__all__ = [
    "ReZeroTransformerForCausalLM",
    "ReZeroTransformerForConditionalGeneration",
    "ReZeroTransformerForMaskedLM",
    "ReZeroTransformerForSequenceClassification",
    "ReZeroTransformerModel",
    "ReZeroTransformerPreTrainedModel",
]
