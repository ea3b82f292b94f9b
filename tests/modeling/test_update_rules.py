"""Every update rule, feature map and normalisation that go together, against the equations written out in float64."""

import itertools

import pytest
import torch
from model_table import TINY_GPT2
from test_models import assert_close
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from seqzoo.modeling.decay_fast_weight_gpt2.configuration_decay_fast_weight_gpt2 import (
    CHOICES,
    DecayFastWeightGPT2Config,
)
from seqzoo.modeling.decay_fast_weight_gpt2.memory_decay_fast_weight_gpt2 import FastWeightMemory
from seqzoo.modeling.decay_fast_weight_gpt2.modeling_decay_fast_weight_gpt2 import DecayFastWeightGPT2LMHeadModel


HEADS, SIZE, WIDTH = 2, 4, 8
RULES, MAPS = CHOICES["update_rule"], CHOICES["feature_map"]


def combinations():
    """All settings of (rule, map, normalize, more) that have a meaning."""
    for rule, feature_map, normalize in itertools.product(RULES, MAPS, (False, True)):
        more = [{}]
        if rule == "decay":
            more = [{"gate_sides": "key"}] if normalize else [{}, {"gate_sides": "key"}, {"gate_sides": "value"}]
        if rule == "delta":
            more = [{}, {"read_before_write": True}]
        if normalize and (rule == "delta" or feature_map == "identity"):
            continue
        for options in more:
            yield {"update_rule": rule, "feature_map": feature_map, "normalize": normalize} | options


def build(**options):
    torch.manual_seed(0)
    config = DecayFastWeightGPT2Config(**TINY_GPT2 | {"n_embd": WIDTH, "n_head": HEADS, "n_layer": 1}, **options)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def features(memory: FastWeightMemory, x, head):
    """The config's definitions, for one vector x of one head."""
    kind = memory.feature_map.kind
    if kind == "elu":
        return torch.where(x > 0, x + 1, x.exp())
    if kind == "dpfp":
        r = torch.cat([x, -x]).clamp(min=0)
        return torch.stack([r[i] * r[i - 1] for i in range(len(r))])
    if kind == "softmax":
        return x.exp() / x.exp().sum()
    if kind in ("relu", "hedgehog"):
        y = x @ memory.feature_map.projection.weight[head]
        if kind == "relu":
            return (y + memory.feature_map.projection.bias[head]).clamp(min=0)
        return torch.cat([y.exp() / y.exp().sum(), (-y).exp() / (-y).exp().sum()])
    return x


def written_out(memory: FastWeightMemory, config, x):
    """The equations of the memory's module docstring, one head and one step after the other; x is [time, width]."""
    q, k, v = (x @ memory.c_attn.weight + memory.c_attn.bias).split(memory.sizes, dim=-1)
    outputs = []
    for head in range(HEADS):
        q_h, k_h, v_h = (y.unflatten(-1, (HEADS, -1))[:, head] for y in (q, k, v))
        state = torch.zeros(config.key_dim, SIZE, dtype=x.dtype)
        weights = torch.zeros(config.key_dim, dtype=x.dtype)
        rows = []
        for t in range(len(x)):
            phi_q, phi_k = features(memory, q_h[t], head), features(memory, k_h[t], head)
            scale = SIZE**-0.5
            before = state
            if config.update_rule == "decay":
                ones = torch.ones((), dtype=x.dtype)
                b = memory.k_gate(x[t]).sigmoid().view(HEADS, -1)[head] if memory.k_gate else ones
                a = memory.v_gate(x[t]).sigmoid().view(HEADS, -1)[head] if memory.v_gate else ones
                state = b.expand(config.key_dim)[:, None] * a.expand(SIZE) * state + torch.outer(phi_k, v_h[t])
                weights = b * weights + phi_k
            elif config.update_rule == "sum":
                state = state + torch.outer(phi_k, v_h[t])
                weights = weights + phi_k
            else:
                g = memory.gate(x[t]).sigmoid()[head]
                if config.update_rule == "gated":
                    state = g * state + (1 - g) * torch.outer(phi_k, v_h[t])
                    weights = g * weights + (1 - g) * phi_k
                else:
                    order = 2 if config.feature_map == "identity" else 1
                    phi_q, phi_k = (phi / phi.norm(p=order).clamp(min=1e-12) for phi in (phi_q, phi_k))
                    scale = 1
                    state = state + g * torch.outer(phi_k, v_h[t] - state.T @ phi_k)
            read = (before if config.read_before_write else state).T @ phi_q
            weight = (weights @ phi_q).clamp(min=1e-6)  # nothing in common with any key: nothing is read
            rows.append(read / weight if config.normalize else scale * read)
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, dim=-1) @ memory.c_proj.weight + memory.c_proj.bias


@pytest.mark.parametrize(
    "options", list(combinations()), ids=lambda options: "-".join(str(x) for x in options.values())
)
def test_rules_are_their_equations_in_one_call_and_in_parts(options):
    model = build(**options)
    memory = model.transformer.h[0].attn
    x = torch.randn(1, 12, WIDTH, dtype=torch.float64)
    assert_close(memory(x)[0], written_out(memory, model.config, x[0]), 1e-9)
    ids = torch.randint(3, 99, (2, 12))
    whole, cache, parts = model(ids).logits, None, []
    for part in ids.split([1, 7, 1, 3], dim=1):
        output = model(part, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        parts.append(output.logits)
    assert_close(torch.cat(parts, dim=1), whole, 1e-9)


def test_features_of_dpfp_grow_with_the_state_size():
    model = build(feature_map="dpfp", state_size=6 * SIZE)
    x = torch.randn(SIZE, dtype=torch.float64)
    r = torch.cat([x, -x]).clamp(min=0)
    expected = torch.stack([r[i] * r[i - n] for n in (1, 2, 3) for i in range(2 * SIZE)])
    assert_close(model.transformer.h[0].attn.feature_map(x.expand(HEADS, -1))[0], expected, 1e-12)


def test_a_normalised_memory_reads_a_weighted_mean():
    model = build(update_rule="sum", feature_map="softmax", normalize=True)
    memory = model.transformer.h[0].attn
    torch.nn.init.eye_(memory.c_proj.weight)
    torch.nn.init.zeros_(memory.c_proj.bias)
    x = torch.randn(1, 20, WIDTH, dtype=torch.float64)
    v = (x @ memory.c_attn.weight + memory.c_attn.bias)[..., -WIDTH:]
    output = memory(x)
    assert (output <= v.cummax(1).values + 1e-12).all()
    assert (output >= v.cummin(1).values - 1e-12).all()


class TestHybrid:
    def teacher(self, **options):
        torch.manual_seed(5)
        return GPT2LMHeadModel(GPT2Config(**TINY_GPT2 | options)).eval()

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_softmax_layers_are_gpt2s(self, implementation):
        """With the memory of the other layer projected to nothing on both sides, both models are one function."""
        teacher = self.teacher()
        torch.nn.init.zeros_(teacher.transformer.h[0].attn.c_proj.weight)
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(teacher, softmax_layers=[1])
        model.set_attn_implementation(implementation)
        ids = torch.randint(3, 99, (2, 30))
        mask = torch.ones_like(ids)
        mask[1, :9] = 0
        expected = teacher(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
        actual = model(ids, attention_mask=mask).logits
        assert_close(actual[:1], expected[:1])
        assert_close(actual[1:, 9:], expected[1:, 9:])

    def test_all_weights_of_softmax_layers_come_from_gpt2_whatever_the_state_size(self):
        teacher = self.teacher()
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(teacher, softmax_layers=[0], state_size=5)
        ours, theirs = (m.transformer.h[0].attn.state_dict() for m in (model, teacher))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert not any(".h.0." in name for name in model.new_parameters)

    def test_packed_rows_carry_no_state(self):
        model = DecayFastWeightGPT2LMHeadModel.from_gpt2(self.teacher(), softmax_layers=[1])
        ids = torch.randint(3, 99, (1, 12))
        packed = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
        assert model(ids, position_ids=packed).past_key_values is None
        cache = model(ids).past_key_values
        with pytest.raises(ValueError, match="packed sequences go together with past_key_values only without"):
            model(ids, position_ids=packed, past_key_values=cache)


@pytest.mark.parametrize(
    "options",
    [
        {"update_rule": "sum", "feature_map": "relu", "normalize": True, "state_size": 12},
        {"update_rule": "delta", "feature_map": "dpfp"},
        {"feature_map": "hedgehog"},
    ],
    ids=str,
)
def test_conversion_keeps_query_and_key_projections_where_a_map_follows_them(options):
    torch.manual_seed(5)
    teacher = GPT2LMHeadModel(GPT2Config(**TINY_GPT2))
    model = DecayFastWeightGPT2LMHeadModel.from_gpt2(teacher, **options)
    for ours, theirs in zip(model.transformer.h, teacher.transformer.h, strict=True):
        assert torch.equal(ours.attn.c_attn.weight, theirs.attn.c_attn.weight)
    new = {name.rpartition("attn.")[2].partition(".")[0] for name in model.new_parameters}
    assert new <= {"k_gate", "v_gate", "gate", "feature_map"}


def test_half_precision_stays_near_for_a_normaliser_over_a_thousand_steps():
    options = {"update_rule": "sum", "feature_map": "elu", "normalize": True, "position_embedding_type": "none"}
    ids = torch.randint(3, 99, (1, 1000))
    assert_close(build(**options).bfloat16()(ids).logits.float(), build(**options).float()(ids).logits, 0.05)
