"""What every image model of the zoo must do, run over the table in `model_table.py`."""

import json

import pytest
import torch
import transformers
from model_table import IMAGE_MODELS
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor

import seqzoo


@pytest.fixture(params=IMAGE_MODELS, ids=lambda row: row.name)
def row(request):
    return request.param


@pytest.fixture
def model(row):
    return row.build()


def test_save_and_load_gives_equal_logits(row, model, tmp_path):
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(row.inputs()).logits, model(row.inputs()).logits)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_every_auto_class_knows_the_model(row, tmp_path):
    config_name, model_names = seqzoo.MODELS[row.model_type]
    for auto_name, model_name in model_names.items():
        model = row.build(getattr(transformers, auto_name))
        assert type(model).__name__ == model_name
        model.save_pretrained(tmp_path / auto_name)
        again = getattr(transformers, auto_name).from_pretrained(tmp_path / auto_name)
        assert type(again) is type(model)
        assert type(AutoConfig.from_pretrained(tmp_path / auto_name)).__name__ == config_name


def test_the_image_processor_is_found_by_the_config_alone(row, model, tmp_path):
    model.save_pretrained(tmp_path)
    settings = {"size": {"height": 12, "width": 12}, "image_mean": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor).__name__ in seqzoo.IMAGE_PROCESSORS[row.model_type].values()
    assert list(processor.image_mean) == settings["image_mean"]


def test_config_round_trip_is_exact(row, tmp_path):
    config = AutoConfig.for_model(row.model_type, **row.config)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() | {"_name_or_path": ""} == config.to_dict()


def test_same_seed_same_weights(row):
    first, second = row.build(), row.build()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_batch_equals_single_images(row, model):
    pixels = row.inputs(batch=3)
    singles = torch.cat([model(pixel[None]).logits for pixel in pixels])
    torch.testing.assert_close(model(pixels).logits, singles)


def test_gradient_reaches_every_parameter(row, model):
    model.train()
    # One parameter may lie behind units that all rest: large weights on many images keep that from happening.
    model(row.inputs(batch=32), labels=torch.arange(32) % 5).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient for {name}"
        assert parameter.grad.abs().sum() > 0, f"zero gradient for {name}"


def test_loss_is_the_cross_entropy(row, model):
    labels = torch.tensor([3, 1])
    output = model(row.inputs(), labels=labels)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))


def test_hidden_states_are_returned_per_stage(row, model):
    output = model(row.inputs(), output_hidden_states=True)
    assert [state.shape[1] for state in output.hidden_states] == model.config.sizes
    base = model.base_model(row.inputs(), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], base.last_hidden_state)
    assert model(row.inputs()).hidden_states is None


def test_tuples_are_the_fields_in_order(row, model):
    output = model(row.inputs(), labels=torch.tensor([0, 1]), output_hidden_states=True)
    loss, logits, states = model(
        row.inputs(), labels=torch.tensor([0, 1]), output_hidden_states=True, return_dict=False
    )
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)
    assert len(states) == len(output.hidden_states)


def test_bfloat16_runs_and_stays_near_float32(row, model):
    expected = model(row.inputs()).logits
    with torch.autocast("cpu", torch.bfloat16):
        automatic = model(row.inputs()).logits.float()
    lowered = model.to(torch.bfloat16)(row.inputs().to(torch.bfloat16)).logits.float()
    for logits in (automatic, lowered):
        assert (logits - expected).abs().max() <= 0.05 * expected.abs().max()


def test_images_with_other_channels_are_refused(row, model):
    with pytest.raises(ValueError, match=r"pixel_values has 1 channels, but num_channels of the config is 3"):
        model(row.inputs()[:, :1])
