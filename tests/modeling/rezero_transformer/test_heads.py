"""What the common tests of `test_models.py` do not see: packing, caches, graphs, and the heads other than causal."""

import pytest
import torch
import torch.nn.functional as F
from model_table import TINY_TRANSFORMER
from transformers import StaticCache

from seqzoo import (
    ReZeroTransformerConfig,
    ReZeroTransformerForCausalLM,
    ReZeroTransformerForConditionalGeneration,
    ReZeroTransformerForMaskedLM,
    ReZeroTransformerForSequenceClassification,
    ReZeroTransformerModel,
)


def build(model_class=ReZeroTransformerForCausalLM, **fields):
    torch.manual_seed(0)
    model = model_class(ReZeroTransformerConfig(**(TINY_TRANSFORMER | fields)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tokens(batch=2, time=12, seed=0):
    return torch.randint(3, 99, (batch, time), generator=torch.Generator().manual_seed(seed))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
def test_packed_sequences_do_not_see_each_other(positions):
    model = build(position_embedding_type=positions)
    ids = tokens(1, 12)
    position_ids = torch.cat([torch.arange(5), torch.arange(7)])[None]
    for use_cache in (None, False):
        packed = model(ids, position_ids=position_ids, use_cache=use_cache).logits
        close(packed, torch.cat([model(ids[:, :5]).logits, model(ids[:, 5:]).logits], dim=1))


@pytest.mark.parametrize("kind", ["rezero", "post_norm"])
def test_eager_and_sdpa_agree_and_eager_gives_probabilities(kind):
    model = build(residual=kind)
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    expected = model(ids, attention_mask=mask).logits
    model.set_attn_implementation("eager")
    output = model(ids, attention_mask=mask, output_attentions=True)
    close(output.logits[mask == 1], expected[mask == 1])
    assert len(output.attentions) == 2
    close(output.attentions[0].sum(-1), torch.ones(2, 4, 12))
    assert not output.attentions[1][1].triu(1).any()


def test_a_static_cache_gives_the_same_text():
    model, ids = build(), tokens(time=6)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    expected = model.generate(ids, attention_mask=mask, **GREEDY)
    cache = StaticCache(config=model.config, max_cache_len=20)
    assert torch.equal(model.generate(ids, attention_mask=mask, past_key_values=cache, **GREEDY), expected)


@pytest.mark.parametrize("kind", ["rezero", "pre_norm"])
def test_the_model_is_one_graph_for_compilation_and_export(kind):
    model, ids = build(residual=kind), tokens()
    expected = model(ids, use_cache=False).logits
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close(compiled(ids, use_cache=False).logits, expected)
    program = torch.export.export(model, (ids,), {"use_cache": False}, strict=False)
    close(program.module()(ids, use_cache=False).logits, expected)


def test_sinusoidal_positions_are_those_of_the_paper_and_have_no_limit():
    model = build(position_embedding_type="sinusoidal", max_position_embeddings=4)
    positions = model.model.embed_positions(torch.arange(12))
    assert positions[7, 3].item() == pytest.approx(torch.sin(torch.tensor(7 / 10_000 ** (3 / 16))).item(), abs=1e-6)
    assert positions[7, 19].item() == pytest.approx(torch.cos(torch.tensor(7 / 10_000 ** (3 / 16))).item(), abs=1e-6)
    assert model(tokens()).logits.isfinite().all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.tensor([[5, 99]])}, "token id 99 is outside the vocabulary of 99"),
        ({"input_ids": torch.tensor([[-1, 5]])}, "token id -1"),
        ({"input_ids": torch.full((1, 9), 5)}, "position 8 is beyond the 8 learned positions"),
        ({"input_ids": torch.full((1, 2), 5), "position_ids": torch.tensor([[-1, 0]])}, "position -1 is below 0"),
        ({"input_ids": torch.empty(1, 0, dtype=torch.long)}, "the input is empty"),
        (
            {"input_ids": torch.full((1, 4), 5), "attention_mask": torch.ones(1, 3)},
            r"expected \[batch, past \+ time\]",
        ),
        ({}, "give either input_ids or inputs_embeds"),
        (
            {"input_ids": torch.full((1, 4), 5), "encoder_hidden_states": torch.zeros(1, 4, 32)},
            "encoder_hidden_states are for the decoder",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_inputs_are_refused_by_name(inputs, message):
    with pytest.raises(ValueError, match=message):
        build(max_position_embeddings=8)(**inputs)


def test_padding_does_not_use_up_positions():
    model = build(max_position_embeddings=8)
    ids = tokens(1, 11)
    mask = torch.tensor([[0] * 3 + [1] * 8])
    close(model(ids, attention_mask=mask).logits[:, 3:], model(ids[:, 3:]).logits)


def test_masked_heads_read_both_sides_and_predict_in_place():
    model, ids = build(ReZeroTransformerForMaskedLM), tokens()
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 90 + 3
    assert not torch.allclose(model(changed).logits[:, 0], model(ids).logits[:, 0])
    labels = torch.full_like(ids, -100)
    labels[:, 4] = ids[:, 4]
    output = model(ids, labels=labels)
    close(output.loss, F.cross_entropy(output.logits[:, 4], ids[:, 4]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_heads_ignore_padding(side):
    model, ids = build(ReZeroTransformerForMaskedLM), tokens()
    kept = slice(5, None) if side == "left" else slice(None, -5)
    mask = torch.zeros_like(ids)
    mask[0], mask[1, kept] = 1, 1
    close(model(ids, attention_mask=mask).logits[1:, kept], model(ids[1:, kept]).logits)


def test_the_class_decides_what_is_read_and_leaves_the_config_it_was_given_alone(tmp_path):
    config = ReZeroTransformerConfig(**TINY_TRANSFORMER)
    causal, masked = ReZeroTransformerForCausalLM(config), ReZeroTransformerForMaskedLM(config)
    assert (config.is_causal, causal.config.is_causal, masked.config.is_causal) == (True, True, False)
    masked.save_pretrained(tmp_path)
    base = ReZeroTransformerModel.from_pretrained(tmp_path).eval()
    ids = tokens()
    assert torch.equal(base(ids).last_hidden_state, masked.eval().model(ids).last_hidden_state)
    assert base(ids, use_cache=True).past_key_values is None


@pytest.mark.parametrize("is_causal", [True, False])
def test_classification_reads_the_last_token_or_of_both_sides_the_first(is_causal):
    model = build(ReZeroTransformerForSequenceClassification, is_causal=is_causal, num_labels=3)
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    mask[1, -2:] = 0
    states = model.model(ids, attention_mask=mask).last_hidden_state
    expected = torch.stack([states[0, 11 if is_causal else 0], states[1, 9 if is_causal else 4]])
    output = model(ids, attention_mask=mask, labels=torch.tensor([2, 0]))
    close(output.logits, model.score(expected))
    close(output.loss, F.cross_entropy(output.logits, torch.tensor([2, 0])))
    close(model(ids.masked_fill(mask == 0, 2)).logits, output.logits)
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match="needs an attention_mask"):
        model(ids)


@pytest.fixture
def translator():
    return build(ReZeroTransformerForConditionalGeneration)


def test_decoders_with_a_cache_give_the_logits_of_the_whole(translator):
    source, target = tokens(time=9), tokens(time=7, seed=1)
    mask = torch.ones_like(source)
    mask[1, :4] = 0
    whole = translator(source, attention_mask=mask, decoder_input_ids=target).logits
    encoded = translator.encoder(source, attention_mask=mask)
    cache, logits = None, []
    for part in target.split([1, 2, 4], dim=1):
        output = translator(
            attention_mask=mask, encoder_outputs=encoded, decoder_input_ids=part, past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        logits.append(output.logits)
    close(torch.cat(logits, dim=1), whole)
    close(translator(source[1:, 4:], decoder_input_ids=target[1:]).logits, whole[1:])
    as_tuple = translator(attention_mask=mask, encoder_outputs=(encoded[0],), decoder_input_ids=target)
    close(as_tuple.logits, whole)
    with pytest.raises(ValueError, match=r"has shape \[2, 4\]; expected \[batch, source\] = \[2, 9\]"):
        translator(attention_mask=mask[:, :4], encoder_outputs=encoded, decoder_input_ids=target)


def test_decoders_read_to_the_left_and_all_of_the_source(translator):
    source, target = tokens(time=9), tokens(time=7, seed=1)
    expected = translator(source, decoder_input_ids=target).logits
    later = target.clone()
    later[:, -1] = (later[:, -1] + 1) % 90 + 3
    close(translator(source, decoder_input_ids=later).logits[:, :-1], expected[:, :-1])
    source[:, -1] = (source[:, -1] + 1) % 90 + 3
    assert not torch.allclose(translator(source, decoder_input_ids=target).logits[:, 0], expected[:, 0])


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"cache_implementation": "static", "disable_compile": True}], ids=str
)
def test_translations_with_and_without_a_cache_are_the_same(translator, options):
    source = tokens(time=9)
    mask = torch.ones_like(source)
    mask[1, :4] = 0
    plain = {key: value for key, value in options.items() if key == "num_beams"}
    expected = translator.generate(source, attention_mask=mask, use_cache=False, **plain, **GREEDY)
    assert torch.equal(translator.generate(source, attention_mask=mask, **options, **GREEDY), expected)
    assert expected.shape == (2, 9)
    assert (expected[:, 0] == 0).all()
    alone = translator.generate(source[1:, 4:], attention_mask=mask[1:, 4:], **plain, **GREEDY)
    assert torch.equal(alone, expected[1:])


def test_the_loss_of_a_translation_is_of_the_labels_and_its_decoder_reads_them_shifted(translator):
    source, labels = tokens(time=9), tokens(time=5, seed=1)
    labels[0, 3:] = -100
    output = translator(source, labels=labels)
    read = translator.prepare_decoder_input_ids_from_labels(labels)
    assert read.tolist() == [[0, *labels[0, :3].tolist(), 2], [0, *labels[1, :4].tolist()]]
    close(output.logits, translator(source, decoder_input_ids=read).logits)
    close(output.loss, F.cross_entropy(output.logits.flatten(0, 1), labels.flatten()))
    total = translator(source, labels=labels, num_items_in_batch=4).loss * 4
    close(total, output.loss * (labels != -100).sum())
    with pytest.raises(ValueError, match="what the decoder reads"):
        translator(source)
    translator.config.bos_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        translator(source, labels=labels)


def test_gradients_of_a_translation_reach_every_parameter_also_checkpointed(translator):
    source, labels = tokens(time=9), tokens(time=5, seed=1)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            translator.gradient_checkpointing_enable()
        translator.train().zero_grad()
        torch.manual_seed(3)
        translator(source, labels=labels).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in translator.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        close(gradients[1][name], gradient)


@pytest.mark.parametrize("tied", [True, False])
def test_translators_are_saved_and_loaded_and_their_vocabulary_can_grow(tied, tmp_path):
    model = build(ReZeroTransformerForConditionalGeneration, tie_word_embeddings=tied)
    inputs = {"input_ids": tokens(), "decoder_input_ids": tokens(seed=1)}
    expected = model(**inputs).logits
    tables = {model.encoder.embed_tokens.weight, model.decoder.embed_tokens.weight, model.lm_head.weight}
    assert len(tables) == (1 if tied else 3)
    model.save_pretrained(tmp_path / "same")
    again = ReZeroTransformerForConditionalGeneration.from_pretrained(tmp_path / "same")
    assert torch.equal(again(**inputs).logits, expected)
    again.resize_token_embeddings(104)
    close(again(**inputs).logits[..., :99], expected)
    new = torch.full((2, 3), 103)
    grown = again(new, decoder_input_ids=new).logits
    assert grown.shape == (2, 3, 104)
    again.save_pretrained(tmp_path / "grown")
    last = ReZeroTransformerForConditionalGeneration.from_pretrained(tmp_path / "grown")
    assert torch.equal(last(new, decoder_input_ids=new).logits, grown)


def test_attention_and_states_of_both_parts_are_returned():
    model = build(ReZeroTransformerForConditionalGeneration)
    model.set_attn_implementation("eager")
    output = model(
        tokens(time=9),
        decoder_input_ids=tokens(time=5),
        output_attentions=True,
        output_hidden_states=True,
    )
    assert [a.shape for a in output.encoder_attentions] == [(2, 4, 9, 9)] * 2
    assert [a.shape for a in output.decoder_attentions] == [(2, 4, 5, 5)] * 2
    assert [a.shape for a in output.cross_attentions] == [(2, 4, 5, 9)] * 2
    assert len(output.encoder_hidden_states) == len(output.decoder_hidden_states) == 3
    assert model.get_encoder() is model.encoder


def test_one_stack_of_an_encoder_decoder_is_no_model():
    config = ReZeroTransformerConfig(**TINY_TRANSFORMER, is_encoder_decoder=True)
    for model_class in (ReZeroTransformerModel, ReZeroTransformerForCausalLM, ReZeroTransformerForMaskedLM):
        with pytest.raises(ValueError, match="AutoModelForSeq2SeqLM"):
            model_class(config)
