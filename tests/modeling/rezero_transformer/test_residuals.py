"""Kinds of residual: against layers written out in float64, what they start from, and that they train."""

import math

import pytest
import torch
from model_table import TINY_TRANSFORMER

from seqzoo import ReZeroTransformerConfig, ReZeroTransformerForCausalLM, ReZeroTransformerForConditionalGeneration
from seqzoo.modeling.rezero_transformer.configuration_rezero_transformer import CHOICES
from seqzoo.modeling.rezero_transformer.residual_rezero_transformer import RESIDUALS


KINDS = CHOICES["residual"]
LAYERS = 2


def build(model_class=ReZeroTransformerForCausalLM, seed=0, **fields):
    torch.manual_seed(seed)
    return model_class(ReZeroTransformerConfig(**(TINY_TRANSFORMER | {"num_hidden_layers": LAYERS} | fields)))


def randomized(**fields):
    """A float64 model in evaluation mode with no parameter at its first value."""
    model = build(**fields).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def attention(weights, x, heads):
    """Causal multi-head attention up to its output projection, head by head."""
    q = x @ weights["q_proj.weight"].T + weights["q_proj.bias"]
    k = x @ weights["k_proj.weight"].T
    v = x @ weights["v_proj.weight"].T + weights["v_proj.bias"]
    size = x.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(size)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        outputs.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[..., part])
    return torch.cat(outputs, -1) @ weights["o_proj.weight"].T + weights["o_proj.bias"]


def feed_forward(weights, x):
    hidden = (x @ weights["up_proj.weight"].T + weights["up_proj.bias"]).clamp(min=0)
    return hidden @ weights["down_proj.weight"].T + weights["down_proj.bias"]


def inside(weights, name):
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def norm(weights, name, x):
    if f"{name}.slope" in weights:
        return weights[f"{name}.weight"] * torch.tanh(weights[f"{name}.slope"] * x) + weights[f"{name}.bias"]
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def written_out(kind, weights, x, heads):
    """One layer of the kind, an equation a kind."""
    branches = [
        lambda x: attention(inside(weights, "self_attention"), x, heads),
        lambda x: feed_forward(inside(weights, "feed_forward"), x),
    ]
    for i, branch in enumerate(branches):

        def ln(x, name="norms", i=i):
            return norm(inside(weights, f"residual.{name}"), str(i), x)

        w = weights.get("residual.resweight")
        if kind == "rezero":
            x = x + w * branch(x)
        elif kind in ("identity", "t_fixup"):
            x = x + branch(x)
        elif kind == "post_norm":
            x = ln(x + branch(x))
        elif kind in ("pre_norm", "dyt"):
            x = x + branch(ln(x))
        elif kind == "gpt2_norm":
            x = x + ln(branch(x))
        elif kind == "admin":
            x = ln(weights[f"residual.omegas.{i}.weight"] * x + branch(x))
        elif kind == "deepnorm":
            x = ln((2 * LAYERS) ** 0.25 * x + branch(x))
        elif kind == "layerscale":
            x = x + weights[f"residual.scales.{i}.weight"] * branch(ln(x))
        elif kind == "keel":
            x = ln(2 * LAYERS * x + branch(ln(x)), "outer_norms")
        elif kind == "zero_init":
            x = w * x + branch(ln(x))
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_what_their_equations_say(kind):
    model = randomized(residual=kind)
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    states = model.model(inputs_embeds=x, output_hidden_states=True).hidden_states
    weights = model.model.state_dict()
    for layer in range(LAYERS):
        expected = written_out(kind, inside(weights, f"layers.{layer}"), states[layer], heads=4)
        if layer == LAYERS - 1 and kind in ("pre_norm", "dyt", "layerscale", "zero_init"):
            expected = norm(weights, "final_norm", expected)
        torch.testing.assert_close(states[layer + 1], expected, rtol=1e-10, atol=1e-10)
    assert ("final_norm.weight" in weights) == (kind in ("pre_norm", "dyt", "layerscale", "zero_init"))


def test_one_weight_a_branch_weighs_each_branch():
    for kind, starts_at in (("rezero", 0.0), ("zero_init", 1.0)):
        model = randomized(residual=kind, residual_weight_per_branch=True)
        x = torch.randn(2, 7, 32, dtype=torch.float64)
        layer = model.model.layers[0]
        fresh = build(residual=kind, residual_weight_per_branch=True).model.layers[0].residual.resweight
        assert fresh.tolist() == [starts_at, starts_at]
        for branch in range(2):  # without one branch, the other one alone
            with torch.no_grad():
                layer.residual.resweight.copy_(torch.tensor([0.0, 0.0]))
                layer.residual.resweight[branch] = 0.7
            weights = layer.state_dict()
            if kind == "rezero":
                branches = (
                    lambda x, weights=weights: attention(inside(weights, "self_attention"), x, 4),
                    lambda x, weights=weights: feed_forward(inside(weights, "feed_forward"), x),
                )
                torch.testing.assert_close(layer(x), x + 0.7 * branches[branch](x), rtol=1e-10, atol=1e-10)
            elif branch == 0:  # the second branch replaces the stream
                y = 0.7 * x + attention(inside(weights, "self_attention"), norm(weights, "residual.norms.0", x), 4)
                expected = feed_forward(inside(weights, "feed_forward"), norm(weights, "residual.norms.1", y))
                torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def deviation(weight):
    return weight.std().item()


MERGED = math.sqrt(0.5)  # of a part of a matrix of [3 d, d]
# Gains of query and key, value, first feed-forward, (output, second feed-forward) matrices and of embeddings, for 16
# layers.
GAINS = {
    "pre_norm": (MERGED, MERGED, 1, 1 / math.sqrt(32), 1),
    "dyt": (MERGED, MERGED, 1, 1 / math.sqrt(32), 1),
    "t_fixup": (MERGED, 0.67 / 2, 0.67 / 2, 0.67 / 2, 144**-0.25),
    "deepnorm": (1, 128**-0.25, 128**-0.25, 128**-0.25, 1),
    "zero_init": (MERGED, MERGED, 1, 0, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_new_models_start_as_their_papers_say(kind):
    model = build(residual=kind, hidden_size=64, intermediate_size=96, num_hidden_layers=16, vocab_size=500)
    query, value, inner, outer, embedding = GAINS.get(kind, (MERGED, MERGED, 1, 1, 1))
    square, oblong = math.sqrt(2 / 128), math.sqrt(2 / 160)
    layer = model.model.layers[3]
    for linear, expected in (
        (layer.self_attention.q_proj, query * square),
        (layer.self_attention.k_proj, query * square),
        (layer.self_attention.v_proj, value * square),
        (layer.self_attention.o_proj, outer * square),
        (layer.feed_forward.up_proj, inner * oblong),
        (layer.feed_forward.down_proj, outer * oblong),
    ):
        assert deviation(linear.weight) == pytest.approx(expected, rel=0.05)
        assert linear.bias is None or not linear.bias.any()
    assert deviation(model.model.embed_tokens.weight) == pytest.approx(embedding, rel=0.05)
    assert deviation(model.model.embed_positions.weight) == pytest.approx(embedding / 10, rel=0.05)
    assert deviation(build(tie_word_embeddings=True, residual=kind).model.embed_tokens.weight) == pytest.approx(
        32**-0.5 * (18**-0.25 if kind == "t_fixup" else 1), rel=0.05
    )
    for name, parameter in layer.residual.named_parameters():
        expected = {
            "resweight": {"rezero": 0, "zero_init": 1}.get(kind),
            "slope": 0.5,
            "bias": 0,
            "weight": 1,
        }[name.rpartition(".")[2]]
        if "omegas" in name:
            expected = math.sqrt(33 / math.log(33) - 1)
        if "scales" in name:
            expected = 0.1
        assert (parameter == torch.tensor(float(expected))).all(), name


def test_layerscale_starts_smaller_in_deeper_models():
    for depth, expected in ((18, 0.1), (24, 1e-5), (25, 1e-6)):
        residual = build(residual="layerscale", num_hidden_layers=depth).model.layers[0].residual
        assert (residual.scales[1].weight == torch.tensor(expected)).all()


@pytest.mark.parametrize(
    ("kind", "encoder", "decoder"),
    [
        ("deepnorm", 0.87 * 16**-0.3125, 192**-0.25),
        ("t_fixup", 0.67 / 2, 144**-0.25),
        ("pre_norm", 32**-0.5, 48**-0.5),
    ],
)
def test_encoders_and_decoders_start_with_gains_of_their_own(kind, encoder, decoder):
    model = build(ReZeroTransformerForConditionalGeneration, residual=kind, hidden_size=64, num_hidden_layers=16)
    for stack, expected in ((model.encoder, encoder), (model.decoder, decoder)):
        attentions = [
            stack.layers[2].self_attention,
            stack.layers[2].cross_attention or stack.layers[3].self_attention,
        ]
        for attention in attentions:
            assert deviation(attention.o_proj.weight) == pytest.approx(expected * math.sqrt(2 / 128), rel=0.05)
    if kind == "deepnorm":
        assert model.encoder.layers[0].residual.factor == pytest.approx(0.81 * 16**0.3125)
        assert model.decoder.layers[0].residual.factor == pytest.approx(48**0.25)


@pytest.mark.parametrize("kind", ["rezero", "zero_init"])
def test_new_models_are_the_identity_whatever_their_depth(kind):
    model = build(residual=kind, num_hidden_layers=30).eval()
    x = torch.randn(2, 5, 32)
    states = model.model(inputs_embeds=x, output_hidden_states=True).hidden_states
    assert torch.equal(states[-2], states[0])


def test_at_the_start_only_residual_weights_and_the_ends_have_gradients_and_the_others_have_zeros():
    model = build(dropout=0.0)
    ids = torch.randint(3, 99, (2, 9))
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        ends = any(part in name for part in ("embed", "lm_head", "resweight"))
        assert parameter.grad.any() == ends, name


def test_the_gradient_of_the_folded_form_is_that_of_weighing_the_output():
    model = randomized()
    layer = model.model.layers[0]
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    layer(x).square().sum().backward()
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in layer.named_parameters()}
    written_out("rezero", weights, x, heads=4).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-9, atol=1e-9)


def saved_activations(layer, x):
    """Bytes that autograd keeps for the backward pass, parameters and what has their shapes aside."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    shapes = {shape for parameter in layer.parameters() for shape in (parameter.shape, parameter.shape[::-1])}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.shape not in shapes:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x)
    assert output.requires_grad
    return sum(kept.values())


def test_weighing_branches_saves_no_activation():
    x = torch.randn(3, 11, 32, requires_grad=True)
    weighed, plain, normed = (
        saved_activations(build(residual=kind).model.layers[0].train(), x)
        for kind in ("rezero", "identity", "pre_norm")
    )
    assert weighed == plain < normed


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains(kind):
    model = build(residual=kind, dropout=0.0, attention_dropout=0.0).train()
    ids = torch.randint(3, 99, (4, 12))
    if kind == "admin":
        model.profile_residual_branches(input_ids=ids)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-2, weight_decay=0.1))
    losses = []
    for _ in range(20):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses
    assert kind == "identity" or all(type(layer.residual) is RESIDUALS[kind] for layer in model.model.layers)


def test_admin_starts_its_weights_from_profiled_variances():
    model = build(residual="admin", dropout=0.5)
    ids = torch.randint(3, 99, (4, 12))
    model.profile_residual_branches(input_ids=ids)
    assert model.training
    starts = [omega.weight[0].item() for layer in model.model.layers for omega in layer.residual.omegas]
    assert starts[0] == 1
    assert starts == sorted(starts)
    # Written out: branch by branch, LN(x + F(x)) with the omegas of the profiling pass, which are 1.
    model.eval()
    weights, variances = model.model.state_dict(), []
    x = model.model.embed_tokens(ids) + model.model.embed_positions(torch.arange(12))
    for layer in range(LAYERS):
        inner = inside(weights, f"layers.{layer}")
        for branch in range(2):
            y = (
                attention(inside(inner, "self_attention"), x, 4)
                if branch == 0
                else feed_forward(inside(inner, "feed_forward"), x)
            )
            variances.append(y.var().item())
            x = norm(inner, f"residual.norms.{branch}", x + y)
    expected = [math.sqrt(1 + sum(variances[:i])) for i in range(4)]
    assert starts == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="residual='admin'"):
        build().profile_residual_branches(input_ids=ids)
