"""What is special about ReZero ResNet: its rules, their initialisation, sizes of published networks."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModelForImageClassification

from seqzoo.modeling.rezero_resnet.configuration_rezero_resnet import ReZeroResNetConfig
from seqzoo.modeling.rezero_resnet.modeling_rezero_resnet import (
    ReZeroResNetBlock,
    ReZeroResNetForImageClassification,
)


@torch.no_grad()
def block(rule, in_size=4, out_size=4, stride=1, **config):
    """With every parameter away from its first value."""
    torch.manual_seed(0)
    made = ReZeroResNetBlock(ReZeroResNetConfig(block=rule, **config), in_size, out_size, stride)
    for parameter in made.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def normalised(layer, x):
    """Batch normalisation in training, by hand."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    weight, bias = layer.norm.weight.view(-1, 1, 1), layer.norm.bias.view(-1, 1, 1)
    return (x - mean) / (var + layer.norm.eps).sqrt() * weight + bias


def test_a_rezero_block_skips_behind_the_last_non_linearity():
    made, x = block("rezero"), torch.randn(3, 4, 6, 6)
    first, second = made.branch
    inner = F.relu(normalised(first, first.conv(x)))
    expected = x + made.resweight * F.relu(normalised(second, second.conv(inner)))
    torch.testing.assert_close(made(x), expected)


def test_a_vanilla_block_skips_before_it():
    made, x = block("vanilla"), torch.randn(3, 4, 6, 6)
    first, second = made.branch
    inner = F.relu(normalised(first, first.conv(x)))
    torch.testing.assert_close(made(x), F.relu(x + normalised(second, second.conv(inner))))


def test_a_fixup_block_is_its_definition():
    made, x = block("fixup"), torch.randn(3, 4, 6, 6)
    first, second = made.branch
    inner = F.relu(first.conv(x + first.bias_before) + first.bias_after)
    expected = F.relu(x + second.scale * second.conv(inner + second.bias_before) + second.bias_after)
    torch.testing.assert_close(made(x), expected)


def test_a_skipinit_block_is_its_definition():
    made, x = block("skipinit"), torch.randn(3, 4, 6, 6)
    first, second = made.branch
    torch.testing.assert_close(made(x), F.relu(x + made.resweight * second.conv(F.relu(first.conv(x)))))


def test_the_padded_shortcut_takes_every_other_pixel_and_adds_channels_of_zeros():
    made, x = block("rezero", 4, 8, stride=2), torch.randn(3, 4, 6, 6)
    with torch.no_grad():
        made.resweight.zero_()
    output = made(x)
    assert torch.equal(output[:, 2:6], x[:, :, ::2, ::2])
    assert not output[:, :2].any()
    assert not output[:, 6:].any()


@pytest.mark.parametrize("rule", ["rezero", "skipinit", "fixup"])
def test_blocks_of_a_new_model_change_nothing_that_is_positive(rule):
    model = ReZeroResNetForImageClassification(ReZeroResNetConfig(block=rule, depths=[3, 1], hidden_sizes=[4, 8]))
    x = torch.rand(2, 4, 6, 6)
    assert torch.equal(model.resnet.stages[0](x), x)


def test_of_a_new_rezero_network_alpha_learns_first():
    model = ReZeroResNetForImageClassification(ReZeroResNetConfig(depths=[2, 2], hidden_sizes=[4, 8]))
    model(torch.randn(8, 3, 8, 8), labels=torch.arange(8) % 2).loss.backward()
    for name, parameter in model.resnet.stages.named_parameters():
        assert bool(parameter.grad.any()) == name.endswith("resweight"), name


def test_convolutions_start_as_he_proposed_and_fixup_scales_them_by_depth():
    def std(rule, layer):
        config = ReZeroResNetConfig(block=rule, depths=[4, 12], hidden_sizes=[64, 64])
        return ReZeroResNetForImageClassification(config).resnet.stages[0][0].branch[layer].conv.weight.std().item()

    he = (2 / (64 * 9)) ** 0.5
    assert std("rezero", 0) == pytest.approx(he, rel=0.03)
    assert std("vanilla", 1) == pytest.approx(he, rel=0.03)
    assert std("fixup", 0) == pytest.approx(he / 16**0.5, rel=0.03)
    assert std("fixup", 1) == 0
    fixup = ReZeroResNetForImageClassification(ReZeroResNetConfig(block="fixup"))
    assert not fixup.classifier.weight.any()


@pytest.mark.parametrize(("blocks", "parameters"), [(3, 269_722), (9, 853_018), (18, 1_727_962)])
def test_networks_of_cifar_have_the_published_sizes(blocks, parameters):
    """0.27, 0.85 and 1.7 million for 20, 56 and 110 layers; ReZero adds one weight a block."""
    for rule, more in (("vanilla", 0), ("rezero", 3 * blocks)):
        with torch.device("meta"):
            config = ReZeroResNetConfig(depths=[blocks] * 3, block=rule, num_labels=10)
            model = ReZeroResNetForImageClassification(config)
        assert model.num_parameters() == parameters + more
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        assert len(convolutions) + 1 == 6 * blocks + 2


def test_resnet_50_has_the_published_size():
    config = ReZeroResNetConfig(
        hidden_sizes=[256, 512, 1024, 2048],
        depths=[3, 4, 6, 3],
        layer_type="bottleneck",
        stem="imagenet",
        stem_size=64,
        shortcut="projection",
        num_labels=1000,
    )
    with torch.device("meta"):
        model = ReZeroResNetForImageClassification(config)
        states = model(torch.empty(1, 3, 224, 224), output_hidden_states=True).hidden_states
    assert model.num_parameters() == 25_557_032 + 16
    assert [tuple(state.shape[1:]) for state in states] == [
        (64, 56, 56),
        (256, 56, 56),
        (512, 28, 28),
        (1024, 14, 14),
        (2048, 7, 7),
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"block": "rezreo"}, "block is 'rezreo', but must be one of rezero, vanilla"),
        ({"layer_type": "wide"}, "layer_type is 'wide'"),
        ({"depths": [0, 1, 1]}, "a stage has at least 1 block"),
        ({"depths": [1]}, "each stage needs one of each"),
        ({"depths": [], "hidden_sizes": []}, "each stage needs one of each"),
        ({"hidden_sizes": [16, 8, 64]}, "cannot take channels away; use 'projection'"),
        ({"hidden_sizes": [6, 8, 16], "layer_type": "bottleneck"}, "a bottleneck needs multiples of 4"),
        ({"num_channels": 0}, "must all be 1 or more"),
    ],
)
def test_configs_that_make_no_network_are_refused(config, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        ReZeroResNetConfig(**config)


@pytest.mark.parametrize(("field", "value"), [("block", "rezreo"), ("depths", [1, 0])])
def test_fields_that_were_set_later_are_refused_too(field, value):
    config = ReZeroResNetConfig(depths=[1, 1], hidden_sizes=[4, 8])
    setattr(config, field, value)
    with pytest.raises(ValueError, match=f"{field} is"):
        ReZeroResNetForImageClassification(config)


@pytest.mark.parametrize("rule", ["rezero", "skipinit"])
def test_alpha_stays_in_float32_when_a_model_is_loaded_in_half_precision(rule, tmp_path):
    config = ReZeroResNetConfig(block=rule, depths=[1, 1], hidden_sizes=[4, 8])
    ReZeroResNetForImageClassification(config).save_pretrained(tmp_path)
    loaded = ReZeroResNetForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    new = AutoModelForImageClassification.from_config(config, dtype=torch.bfloat16)
    for model in (loaded, new):
        assert model.resnet.stages[0][0].resweight.dtype == torch.float32
        assert model(torch.randn(2, 3, 9, 7, dtype=torch.bfloat16)).logits.dtype == torch.bfloat16
