"""What every model of the zoo must do, run over the table in `model_table.py`."""

import inspect
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

import seqzoo


@pytest.fixture
def model(row):
    return row.build()


def assert_close(actual, expected, relative=1e-5):
    """Within `relative` of the largest absolute expected value."""
    assert actual.shape == expected.shape
    assert actual.isfinite().all()
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= relative, f"relative error {error:.2e}"


def test_save_and_load_gives_equal_logits(row, model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    again = type(model).from_pretrained(tmp_path)
    ids = row.inputs()
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert load_file(tmp_path / "model.safetensors").keys() <= model.state_dict().keys()


def test_every_auto_class_knows_the_model(row, tmp_path):
    import transformers

    config_name, model_names = seqzoo.MODELS[row.model_type]
    for auto_name, model_name in model_names.items():
        model = row.build(getattr(transformers, auto_name))
        assert type(model).__name__ == model_name
        model.save_pretrained(tmp_path / auto_name)
        again = getattr(transformers, auto_name).from_pretrained(tmp_path / auto_name)
        assert type(again) is type(model)
        assert type(AutoConfig.from_pretrained(tmp_path / auto_name)).__name__ == config_name


def test_config_round_trip_is_exact(row, tmp_path):
    config = AutoConfig.for_model(row.model_type, **row.config)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == row.model_type


def test_same_seed_same_weights_and_evaluation_is_deterministic(row):
    first, second = row.build(), row.build()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    ids = row.inputs()
    assert torch.equal(first(ids).logits, first(ids).logits)
    first.train()
    assert not torch.equal(first(ids).logits, first(ids).logits), "dropout is off in training mode"


def test_batch_equals_single_rows(row, model):
    ids = row.inputs(batch=3)
    together = model(ids).logits
    for i in range(3):
        assert_close(together[i : i + 1], model(ids[i : i + 1]).logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gives_the_logits_of_the_row_alone(row, model, side):
    ids, pad = row.inputs(batch=2), 7
    mask = torch.ones_like(ids)
    kept = slice(pad, None) if side == "left" else slice(None, -pad)
    mask[1] = 0
    mask[1, kept] = 1
    padded = model(ids.masked_fill(mask == 0, 50), attention_mask=mask).logits
    assert_close(padded[1:, kept], model(ids[1:, kept]).logits)
    assert_close(padded[:1], model(ids[:1]).logits)


def test_gradient_reaches_every_parameter(row, model):
    ids = row.inputs()
    model(ids, labels=row.labels(ids)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient for {name}"
        assert parameter.grad.abs().sum() > 0, f"zero gradient for {name}"


def test_loss_is_the_shifted_cross_entropy(row, model):
    ids = row.inputs()
    labels = ids.clone()
    labels[:, :5] = -100
    output = model(ids, labels=labels)
    nll = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_close(output.loss, nll)
    total = model(ids, labels=labels, num_items_in_batch=10).loss * 10
    assert_close(total, nll * (labels[:, 1:] != -100).sum())


@pytest.mark.parametrize("splits", [[1] * 24, [23, 1], [1, 23], [5, 9, 10]], ids=str)
def test_any_split_of_the_sequence_equals_the_whole(row, model, splits):
    ids = row.inputs()
    whole = model(ids).logits
    cache, logits = None, []
    for part in ids.split(splits, dim=1):
        output = model(part, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    assert_close(torch.cat(logits, dim=1), whole)
    assert cache.get_seq_length() == 24


def test_use_cache_false_returns_none(row, model):
    assert model(row.inputs(), use_cache=False).past_key_values is None


def test_logits_to_keep(row, model):
    ids = row.inputs()
    assert_close(model(ids, logits_to_keep=3).logits, model(ids).logits[:, -3:])


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}, {"num_beams": 4, "do_sample": True}],
    ids=["greedy", "beams", "sampling", "beam-sampling"],
)
def test_generation_with_cache_equals_without(row, model, options):
    ids = row.inputs(time=6)
    mask = torch.ones_like(ids)
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        texts.append(
            model.generate(
                ids, attention_mask=mask, max_new_tokens=12, min_new_tokens=12, use_cache=use_cache, **options
            )
        )
    assert torch.equal(*texts)
    assert texts[0].shape[1] == 18


def test_left_padded_generation_equals_single_rows(row, model):
    ids, pad = row.inputs(time=9), 4
    mask = torch.ones_like(ids)
    mask[1, :pad] = 0
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    batch = model.generate(ids.masked_fill(mask == 0, 2), attention_mask=mask, **options)
    assert torch.equal(batch[:1], model.generate(ids[:1], attention_mask=mask[:1], **options))
    alone = ids[1:, pad:]
    assert torch.equal(batch[1:, pad:], model.generate(alone, attention_mask=torch.ones_like(alone), **options))


def test_generation_prefilled_in_chunks_equals_whole(row, model):
    ids = row.inputs(time=11)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    whole = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, prefill_chunk_size=4, **options), whole)


def test_generation_goes_on_from_a_returned_cache(row, model):
    ids = row.inputs(time=8)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True}
    first = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    longer = torch.cat([first.sequences, row.inputs(time=4, seed=1)], dim=1)
    mask = torch.ones_like(longer)
    second = model.generate(longer, attention_mask=mask, past_key_values=first.past_key_values, **options)
    assert torch.equal(second.sequences, model.generate(longer, attention_mask=mask, **options).sequences)


@pytest.mark.parametrize("draft", ["assistant", "prompt lookup", "early exit"])
def test_assisted_generation_equals_greedy(row, model, draft):
    ids = row.inputs(batch=1, time=9).repeat(1, 2)  # something to look up
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False}
    greedy = model.generate(ids, **options)
    if draft == "assistant":
        assistant = row.build()
        with torch.no_grad():  # right most of the time
            for parameter in assistant.parameters():
                parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
        assisted = model.generate(ids, assistant_model=assistant, **options)
    elif draft == "early exit":  # its own first layer drafts
        assisted = model.generate(ids, assistant_early_exit=1, **options)
        assert torch.equal(model.generate(ids, **options), greedy)
    else:
        assisted = model.generate(ids, prompt_lookup_num_tokens=4, **options)
    assert torch.equal(assisted, greedy)


def test_gradient_checkpointing_gives_the_same_gradients(row):
    plain, checkpointed = row.build(), row.build()
    checkpointed.gradient_checkpointing_enable()
    ids = row.inputs()
    for model in (plain, checkpointed):
        model.train()
        torch.manual_seed(3)
        model(ids, labels=row.labels(ids)).loss.backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert_close(b.grad, a.grad)


def test_hidden_states_are_returned_per_layer(row, model):
    ids = row.inputs()
    hidden_states = model(ids, output_hidden_states=True).hidden_states
    assert len(hidden_states) == model.config.num_hidden_layers + 1
    assert all(state.shape == (2, 24, model.config.hidden_size) for state in hidden_states)
    assert torch.equal(hidden_states[-1], model.base_model(ids).last_hidden_state)


def test_weights_are_tied_as_the_config_says_and_the_vocabulary_can_grow(row, model, tmp_path):
    def tied():
        return model.get_output_embeddings().weight is model.get_input_embeddings().weight

    assert tied() == model.config.tie_word_embeddings
    ids = row.inputs()
    before = model(ids).logits
    model.resize_token_embeddings(row.config["vocab_size"] + 5)
    assert tied() == model.config.tie_word_embeddings
    after = model(ids).logits
    assert_close(after[..., : row.config["vocab_size"]], before)
    assert after.shape[-1] == model.config.vocab_size == row.config["vocab_size"] + 5
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(ids).logits, after)


def test_bfloat16_runs_and_stays_near_float32(row, model):
    ids = row.inputs()
    expected = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(model(ids).logits.float(), expected, 0.05)
    assert_close(model.to(torch.bfloat16)(ids).logits.float(), expected, 0.05)


def test_forward_documents_its_arguments(model):
    documentation = inspect.getdoc(type(model.base_model).forward)
    for name in ("input_ids", "attention_mask", "past_key_values", "Raises"):
        assert name in documentation
