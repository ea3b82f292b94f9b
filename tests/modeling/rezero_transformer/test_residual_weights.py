"""Residual weights outside of the layers: precision, optimizer, folding, loading; and what configs refuse."""

import pytest
import torch
import torch.nn.functional as F
from model_table import TINY_TRANSFORMER
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from seqzoo import ReZeroTransformerConfig, ReZeroTransformerForCausalLM, ReZeroTransformerForConditionalGeneration


def build(model_class=ReZeroTransformerForCausalLM, **fields):
    torch.manual_seed(0)
    model = model_class(ReZeroTransformerConfig(**(TINY_TRANSFORMER | fields)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


IDS = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(1))


def test_weights_and_stream_stay_in_float32_under_autocast():
    model = build().train()
    dtypes = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: dtypes.append((inputs[0].dtype, output.dtype)))
    model.model.layers[0].feed_forward.up_proj.register_forward_hook(
        lambda module, inputs, output: dtypes.append(output.dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(IDS, labels=IDS).loss
    loss.backward()
    assert dtypes == [torch.bfloat16, (torch.float32, torch.float32), (torch.float32, torch.float32)]
    assert model.model.layers[0].residual.resweight.grad.dtype == torch.float32


def test_weights_stay_in_float32_when_a_model_is_loaded_in_half_precision(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    half = ReZeroTransformerForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.model.layers[0].residual.resweight.dtype == torch.float32
    assert half.model.layers[0].self_attention.o_proj.weight.dtype == torch.bfloat16
    expected = model(IDS).logits
    assert (half(IDS).logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    new = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    assert new.model.layers[0].residual.resweight.dtype == torch.float32
    assert new(IDS).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["rezero", "layerscale"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_and_without_gradients_the_output_is_the_same(kind, dtype):
    model = build(residual=kind, residual_weight_per_branch=kind == "rezero")
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        with_gradients = model(IDS).logits
        with torch.no_grad():
            without = model(IDS).logits
    assert without.dtype == with_gradients.dtype
    tolerance = (1e-5 if dtype is torch.float32 else 0.03) * without.abs().max().item()
    torch.testing.assert_close(with_gradients, without, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["rezero", "zero_init"])
def test_missing_residual_weights_are_loaded_as_their_first_value(kind, tmp_path):
    ReZeroTransformerForCausalLM(ReZeroTransformerConfig(**TINY_TRANSFORMER, residual="identity")).save_pretrained(
        tmp_path
    )
    model, info = ReZeroTransformerForCausalLM.from_pretrained(tmp_path, residual=kind, output_loading_info=True)
    assert "model.layers.0.residual.resweight" in info["missing_keys"]
    first = 0.0 if kind == "rezero" else 1.0
    assert all(layer.residual.resweight.tolist() == [first] for layer in model.model.layers)


def test_only_matrices_decay_and_residual_weights_have_a_group_of_their_own():
    model = build(tie_word_embeddings=True, num_hidden_layers=3)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, others, residual = model.parameter_groups(lr=0.5, weight_decay=0.1)
    assert {names[p] for p in residual["params"]} == {f"model.layers.{i}.residual.resweight" for i in range(3)}
    assert residual["lr"] == pytest.approx(1 / 3)
    assert [group["weight_decay"] for group in (decayed, others, residual)] == [0.1, 0.0, 0.0]
    assert all(names[p].endswith("proj.weight") for p in decayed["params"])
    assert all(p.ndim == 1 or "embed" in names[p] for p in others["params"])
    assert sum(len(group["params"]) for group in (decayed, others, residual)) == len(names)
    *_, given = model.parameter_groups(lr=0.5, weight_decay=0.1, residual_lr=0.2, residual_betas=[0.8, 0.9])
    assert (given["lr"], given["betas"]) == (0.2, (0.8, 0.9))
    assert len(build(residual="pre_norm").parameter_groups(lr=0.5, weight_decay=0.1)) == 2
    for kind in ("layerscale", "admin"):
        decayed, _ = build(residual=kind).parameter_groups(lr=0.5, weight_decay=0.1)
        assert not any(p.ndim == 1 for p in decayed["params"])


@pytest.mark.parametrize(
    "fields",
    [{}, {"residual_weight_per_branch": True}, {"residual": "layerscale"}],
    ids=["layer", "branch", "channel"],
)
@pytest.mark.parametrize("model_class", [ReZeroTransformerForCausalLM, ReZeroTransformerForConditionalGeneration])
def test_folded_models_are_the_same_without_weights_also_after_loading(model_class, fields, tmp_path):
    model = build(model_class, **fields)
    inputs = {"input_ids": IDS}
    if model_class is ReZeroTransformerForConditionalGeneration:
        inputs["decoder_input_ids"] = IDS.flip(1)
    expected = model(**inputs).logits
    model.fold_residual_weights()
    assert not any("resweight" in name or "scales" in name for name in model.state_dict())
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())
    model.save_pretrained(tmp_path)
    again, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert again.config.residual_weights_folded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    with pytest.raises(ValueError, match="residual_weights_folded=True"):
        model.fold_residual_weights()


def test_kinds_without_weights_and_parts_of_a_model_refuse_to_be_folded():
    with pytest.raises(ValueError, match="residual='pre_norm'"):
        build(residual="pre_norm").fold_residual_weights()
    with pytest.raises(ValueError, match="this is the encoder of an encoder-decoder"):
        build(ReZeroTransformerForConditionalGeneration).encoder.fold_residual_weights()


@pytest.mark.parametrize("kind", ["rezero", "layerscale"])
def test_adapters_are_weighed_as_what_they_adapt_and_merge_into_the_same_model(kind):
    model = build(residual=kind)
    plain = model(IDS).logits
    adapted = get_peft_model(model, LoraConfig(target_modules=["o_proj", "down_proj"], r=2, init_lora_weights=False))
    expected = adapted.eval()(IDS).logits
    assert (expected - plain).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"o_proj was replaced by Linear: merge adapters"):
        model.fold_residual_weights()
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"residual": "rezer"}, "residual='rezer' is not supported; choose from rezero, "),
        ({"position_embedding_type": "rope"}, "position_embedding_type='rope'"),
        ({"hidden_act": "rleu"}, "hidden_act='rleu' is unknown"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be at least 1"),
        ({"num_attention_heads": 5}, "hidden_size=32 must be a multiple of num_attention_heads=5"),
        ({"hidden_size": 9, "num_attention_heads": 3, "position_embedding_type": "sinusoidal"}, "hidden_size=9"),
        ({"dropout": 1.0}, "dropout=1.0 must lie in"),
        ({"initializer_range": 0.0}, "initializer_range=0.0"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon=-1.0"),
        ({"residual": "pre_norm", "residual_weight_per_branch": True}, "option of rezero, zero_init"),
        ({"residual": "zero_init", "residual_weights_folded": True}, "option of rezero, layerscale"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_bad_configs_are_refused_by_name_also_when_set_later(fields, message):
    with pytest.raises(ValueError, match=message):
        ReZeroTransformerConfig(**(TINY_TRANSFORMER | fields))
    config = ReZeroTransformerConfig(**TINY_TRANSFORMER)
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        ReZeroTransformerForCausalLM(config)


def test_any_activation_of_the_library_can_be_named():
    feed_forward = build(hidden_act="silu").model.layers[0].feed_forward
    x = torch.randn(5, 32)
    assert torch.equal(feed_forward(x), feed_forward.down_proj(F.silu(feed_forward.up_proj(x))))


def test_deep_models_of_a_hundred_layers_have_gradients_of_one_size():
    """alpha at 0: the Jacobian of every layer is the identity."""
    torch.manual_seed(0)
    model = ReZeroTransformerForCausalLM(ReZeroTransformerConfig(**(TINY_TRANSFORMER | {"num_hidden_layers": 100})))
    x = torch.randn(1, 4, 32, requires_grad=True)
    output = model.eval().model(inputs_embeds=x).last_hidden_state
    assert torch.autograd.grad(output[0, 2, 5], x)[0].flatten().tolist() == [
        float(i == 2 * 32 + 5) for i in range(128)
    ]
