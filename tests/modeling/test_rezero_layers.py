"""ReZero layers inside torch's own transformer stacks."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn

from seqzoo.modeling.rezero.layers_rezero import RZTXDecoderLayer, RZTXEncoderLayer


WIDTH, HEADS, TIME, BATCH = 16, 4, 7, 3


@torch.no_grad()
def away_from_zero(module):
    for parameter in module.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def encoder(layers=2, **options):
    layer = RZTXEncoderLayer(WIDTH, HEADS, 32, **({"dropout": 0.0} | options))
    return away_from_zero(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))


def decoder(layers=2, **options):
    layer = RZTXDecoderLayer(WIDTH, HEADS, 32, **({"dropout": 0.0} | options))
    return away_from_zero(nn.TransformerDecoder(layer, layers))


def attention_by_hand(attention, x, memory, allowed=None):
    """[batch, time, width], from the definition."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (F.linear(y, w, b) for y, w, b in zip((x, memory, memory), weights, biases, strict=True))
    q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return attention.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def feed_forward_by_hand(layer, x, act):
    return layer.linear2(act(layer.linear1(x)))


@pytest.mark.parametrize(("activation", "act"), [("relu", F.relu), ("gelu", F.gelu), (F.silu, F.silu)])
def test_an_encoder_layer_is_its_definition(activation, act):
    layer = away_from_zero(RZTXEncoderLayer(WIDTH, HEADS, 32, 0.0, activation, batch_first=True))
    x = torch.randn(BATCH, TIME, WIDTH)
    middle = x + layer.resweight * attention_by_hand(layer.self_attn, x, x)
    expected = middle + layer.resweight * feed_forward_by_hand(layer, middle, act)
    torch.testing.assert_close(layer(x), expected)


def test_a_decoder_layer_is_its_definition():
    layer = away_from_zero(RZTXDecoderLayer(WIDTH, HEADS, 32, 0.0, batch_first=True))
    x, memory = torch.randn(BATCH, TIME, WIDTH), torch.randn(BATCH, 5, WIDTH)
    causal = torch.ones(TIME, TIME, dtype=torch.bool).tril()
    y = x + layer.resweight * attention_by_hand(layer.self_attn, x, x, causal)
    y = y + layer.resweight * attention_by_hand(layer.multihead_attn, y, memory)
    y = y + layer.resweight * feed_forward_by_hand(layer, y, F.relu)
    torch.testing.assert_close(layer(x, memory, tgt_is_causal=True), y)


def test_a_new_stack_is_the_identity_and_only_alpha_learns_at_first():
    stack = nn.TransformerEncoder(RZTXEncoderLayer(WIDTH, HEADS, dropout=0.0), 3, enable_nested_tensor=False)
    x = torch.randn(TIME, BATCH, WIDTH)
    assert torch.equal(stack(x), x)
    (stack(x) * torch.randn(WIDTH)).sum().backward()
    for name, parameter in stack.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) == name.endswith("resweight"), name


def test_gradients_are_those_of_alpha_on_the_output():
    layer = away_from_zero(RZTXEncoderLayer(WIDTH, HEADS, 32, 0.0, batch_first=True).double())
    twin = copy.deepcopy(layer)
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    layer(x).square().sum().backward()
    middle = x + twin.resweight * attention_by_hand(twin.self_attn, x, x)
    (middle + twin.resweight * feed_forward_by_hand(twin, middle, F.relu)).square().sum().backward()
    for ours, expected in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


@pytest.mark.parametrize("make", [encoder, decoder])
def test_batch_first_is_a_transposition(make):
    first, second = make(), make(batch_first=True)
    second.load_state_dict(first.state_dict())
    x = torch.randn(TIME, BATCH, WIDTH)
    memory = () if make is encoder else (torch.randn(5, BATCH, WIDTH),)
    swapped = (y.transpose(0, 1) for y in (x, *memory))
    torch.testing.assert_close(second(*swapped), first(x, *memory).transpose(0, 1))


@pytest.mark.parametrize("training", [True, False])
def test_causal_flags_and_masks_mean_the_same(training):
    stack = encoder(batch_first=True).train(training)
    x = torch.randn(BATCH, TIME, WIDTH)
    floats = nn.Transformer.generate_square_subsequent_mask(TIME)
    expected = stack(x, mask=floats, is_causal=False)
    torch.testing.assert_close(stack(x, mask=floats.isinf()), expected)
    torch.testing.assert_close(stack(x, mask=floats, is_causal=True), expected)
    torch.testing.assert_close(stack(x, is_causal=True), expected)
    changed = torch.cat([x[:, :-1], torch.randn(BATCH, 1, WIDTH)], 1)
    torch.testing.assert_close(stack(changed, is_causal=True)[:, :-1], expected[:, :-1])


def test_the_decoder_takes_every_mask_of_torchs_own():
    stack = decoder(batch_first=True)
    x, memory = torch.randn(BATCH, TIME, WIDTH), torch.randn(BATCH, TIME, WIDTH)
    causal = nn.Transformer.generate_square_subsequent_mask(TIME)
    everything = {"tgt_mask": causal, "memory_mask": causal, "tgt_is_causal": True, "memory_is_causal": True}
    flags = stack(x, memory, tgt_is_causal=True, memory_is_causal=True)
    torch.testing.assert_close(stack(x, memory, **everything), flags)
    padding = torch.zeros(BATCH, TIME, dtype=torch.bool)
    padding[1, -3:] = True
    padded = stack(x, memory, tgt_key_padding_mask=padding, memory_key_padding_mask=padding)
    torch.testing.assert_close(padded[1:2, :-3], stack(x[1:2, :-3], memory[1:2, :-3]))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_padded_rows_equal_rows_alone_in_training_and_evaluation(nested):
    layer = RZTXEncoderLayer(WIDTH, HEADS, 32, 0.0, batch_first=True)
    stack = away_from_zero(nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested))
    x = torch.randn(BATCH, TIME, WIDTH)
    padding = torch.zeros(BATCH, TIME, dtype=torch.bool)
    padding[1, -3:] = True
    with torch.no_grad():
        trained = stack.train()(x, src_key_padding_mask=padding)
        evaluated = stack.eval()(x, src_key_padding_mask=padding)
        alone = stack(x[1:2, :-3])
    torch.testing.assert_close(evaluated, trained)
    torch.testing.assert_close(evaluated[1:2, :-3], alone)


def test_the_causal_flag_goes_with_a_padding_mask():
    stack = encoder(batch_first=True)
    x = torch.randn(BATCH, TIME, WIDTH)
    padding = torch.zeros(BATCH, TIME, dtype=torch.bool)
    padding[1, -3:] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of masks of two types
        output = stack(x, src_key_padding_mask=padding, is_causal=True)
    causal = torch.ones(TIME, TIME, dtype=torch.bool).triu(1)
    torch.testing.assert_close(output, stack(x, mask=causal, src_key_padding_mask=padding))
    torch.testing.assert_close(output[1:2, :-3], stack(x[1:2, :-3], is_causal=True))


def test_dropout_is_only_for_training():
    stack = encoder(dropout=0.5)
    x = torch.randn(TIME, BATCH, WIDTH)
    assert not torch.equal(stack.train()(x), stack(x))
    assert torch.equal(stack.eval()(x), stack(x))


def test_unbatched_input_and_layers_without_bias():
    stack = encoder(bias=False, batch_first=True)
    assert not [name for name in stack.state_dict() if "bias" in name]
    x = torch.randn(TIME, WIDTH)
    torch.testing.assert_close(stack(x), stack(x[None])[0])


def test_inside_torchs_whole_transformer():
    options = {"dim_feedforward": 32, "dropout": 0.0, "batch_first": True}
    model = nn.Transformer(
        WIDTH,
        HEADS,
        batch_first=True,
        custom_encoder=nn.TransformerEncoder(RZTXEncoderLayer(WIDTH, HEADS, **options), 2, enable_nested_tensor=False),
        custom_decoder=nn.TransformerDecoder(RZTXDecoderLayer(WIDTH, HEADS, **options), 2),
    )
    away_from_zero(model)
    source, target = torch.randn(BATCH, 5, WIDTH), torch.randn(BATCH, TIME, WIDTH)
    causal = nn.Transformer.generate_square_subsequent_mask(TIME)
    output = model(source, target, tgt_mask=causal, tgt_is_causal=True)
    torch.testing.assert_close(output, model.decoder(target, model.encoder(source), tgt_is_causal=True))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_compiled_without_graph_breaks(training):
    stack = encoder(batch_first=True).train(training)
    x = torch.randn(BATCH, TIME, WIDTH)
    torch._dynamo.reset()
    compiled = torch.compile(stack, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, is_causal=True), stack(x, is_causal=True))


def test_bfloat16_autocast_keeps_the_stream_in_float32():
    stack = encoder(batch_first=True)
    x = torch.randn(BATCH, TIME, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        output = stack(x)
    assert output.dtype == torch.float32
    assert stack.layers[0].resweight.dtype == torch.float32
    torch.testing.assert_close(output, stack(x), rtol=0.05, atol=0.05)


def test_alpha_is_float32_in_layers_of_half_precision_and_may_be_lowered():
    layer = away_from_zero(RZTXEncoderLayer(WIDTH, HEADS, 32, 0.0, dtype=torch.bfloat16))
    assert layer.resweight.dtype == torch.float32
    x = torch.randn(TIME, BATCH, WIDTH, dtype=torch.bfloat16)
    output = layer(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(layer.bfloat16()(x), output, rtol=0.05, atol=0.05)
    assert RZTXEncoderLayer(WIDTH, HEADS, dtype=torch.float64).resweight.dtype == torch.float64


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("target", ["linear1", "linear2", "self_attn"])
def test_adapters_take_part_and_merge_into_the_same_model(target, batch_first):
    stack, x = encoder(batch_first=batch_first), torch.randn(BATCH, TIME, WIDTH)
    plain = stack(x, is_causal=True)
    config = LoraConfig(target_modules=[target], r=2, init_lora_weights=False)
    adapted = get_peft_model(copy.deepcopy(stack), config).eval()
    expected = adapted(x, is_causal=True)
    assert (expected - plain).abs().max() > 0.01
    torch.testing.assert_close(adapted.merge_and_unload()(x, is_causal=True), expected)


def test_hooks_are_called_and_an_output_projection_that_nothing_calls_is_refused():
    layer, seen = encoder().layers[0], []
    x = torch.randn(TIME, BATCH, WIDTH)
    expected = layer(x)
    for module in (layer.self_attn, layer.linear2):
        module.register_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    torch.testing.assert_close(layer(x), expected)
    assert seen == ["MultiheadAttention", "Linear"]
    adapted = get_peft_model(encoder(), LoraConfig(target_modules=["out_proj"], r=2))
    with pytest.raises(ValueError, match="out_proj was replaced by Linear"):
        adapted(x)


def test_parametrized_projections_are_what_they_are_without():
    layer, x = encoder().layers[0], torch.randn(TIME, BATCH, WIDTH)
    expected = layer(x)
    for projection in (layer.self_attn.out_proj, layer.linear2):
        torch.nn.utils.parametrizations.weight_norm(projection)
    torch.testing.assert_close(layer(x), expected)


# Names and shapes of the state dicts that the authors' package writes, for a width of 16 and 32 hidden units.
ATTENTION = {
    "in_proj_weight": (48, 16),
    "in_proj_bias": (48,),
    "out_proj.weight": (16, 16),
    "out_proj.bias": (16,),
}
FEED_FORWARD = {"linear1.weight": (32, 16), "linear1.bias": (32,), "linear2.weight": (16, 32), "linear2.bias": (16,)}


def old_state_dict(*attentions):
    shapes = {"resweight": (1,)} | FEED_FORWARD
    shapes |= {f"{name}.{key}": shape for name in attentions for key, shape in ATTENTION.items()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("layer", "attentions"),
    [(RZTXEncoderLayer, ["self_attn"]), (RZTXDecoderLayer, ["self_attn", "multihead_attn"])],
)
def test_state_dicts_of_the_old_package_load_and_wrong_names_are_named(layer, attentions):
    new = layer(WIDTH, HEADS, 32)
    old = old_state_dict(*attentions)
    new.load_state_dict(old)
    assert all(torch.equal(value, old[name]) for name, value in new.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Missing key.*resweight"):
        new.load_state_dict({name: value for name, value in old.items() if name != "resweight"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*norm1\.weight"):
        new.load_state_dict(old | {"norm1.weight": torch.ones(WIDTH)})
    with pytest.raises(RuntimeError, match="size mismatch for resweight"):
        new.load_state_dict(old | {"resweight": torch.ones(())})


@pytest.mark.parametrize("make", [encoder, decoder])
def test_a_norm_beside_rezero_layers_is_warned_about_once_by_name(make):
    layer = make().layers[0]
    stack = nn.TransformerEncoder if make is encoder else nn.TransformerDecoder
    options = {"enable_nested_tensor": False} if make is encoder else {}
    with pytest.warns(UserWarning, match="was given norm=") as caught:
        stack(layer, 3, norm=nn.LayerNorm(WIDTH), **options)
    (warning,) = caught
    assert f"{stack.__name__} of {type(layer).__name__} was given norm=LayerNorm" in str(warning.message)
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack(layer, 3, **options)
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(WIDTH, HEADS), 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )


@pytest.mark.parametrize("layer", [RZTXEncoderLayer, RZTXDecoderLayer])
def test_bad_arguments_are_refused_by_name(layer):
    with pytest.raises(ValueError, match=r"activation is 'rleu'.*relu, gelu"):
        layer(WIDTH, HEADS, activation="rleu")
    with pytest.raises(ValueError, match=r"d_model is 16.*nhead, which is 5"):
        layer(WIDTH, 5)
    for setting in ({"norm_first": True}, {"layer_norm_eps": 1e-6}):
        (name,) = setting
        with pytest.raises(TypeError, match=f"^{layer.__name__} has no argument {name}: ReZero layers have no norms"):
            layer(WIDTH, HEADS, **setting)
    with pytest.raises(TypeError, match=f"^{layer.__name__} has no argument batchfirst$"):
        layer(WIDTH, HEADS, batchfirst=True)
    with pytest.raises(TypeError, match=f"^{layer.__name__} takes d_model to activation by position, but 2 more were"):
        layer(WIDTH, HEADS, 32, 0.0, "relu", 1e-5, True)  # as torch's, whose sixth is layer_norm_eps
