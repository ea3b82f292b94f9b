import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from seqzoo.modeling.rezero.branches_rezero import rezero
from seqzoo.modeling.rezero.fully_connected_rezero import DeepFullyConnected
from seqzoo.trainers.parameter_groups import parameter_groups, residual_weights


def names_of(group, model):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter] for parameter in group["params"]}


def test_only_matrices_decay_and_residual_weights_have_their_own_group():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    rezero(model, ["transformer.h.*.attn", "transformer.h.*.mlp"])
    decayed, others, residual = parameter_groups(model, lr=0.5, weight_decay=0.1)
    assert all(name.endswith(".weight") for name in names_of(decayed, model))
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= names_of(others, model)
    assert names_of(residual, model) == set(residual_weights(model))
    assert [group["weight_decay"] for group in (decayed, others, residual)] == [0.1, 0.0, 0.0]
    assert [group["lr"] for group in (decayed, others, residual)] == [0.5, 0.5, 0.25]
    together = [parameter for group in (decayed, others, residual) for parameter in group["params"]]
    assert len(together) == len(set(together)) == len(list(model.parameters()))


def test_a_stack_of_residual_weights_does_not_decay_and_counts_as_its_layers():
    model = DeepFullyConnected(4, 2, width=4, depth=1000)
    *_, residual = parameter_groups(model, lr=3e-3, weight_decay=0.1)
    assert names_of(residual, model) == {"resweight"}
    normed = DeepFullyConnected(4, 2, width=4, depth=5, residual="layer_norm")
    decayed, _ = parameter_groups(normed, lr=3e-3, weight_decay=0.1)
    assert names_of(decayed, normed) == {"weight", "input.weight", "output.weight"}
    assert residual["lr"] == pytest.approx(1e-3)
    *_, shallow = parameter_groups(DeepFullyConnected(4, 2, width=4, depth=10), lr=3e-3, weight_decay=0.1)
    assert shallow["lr"] == 3e-3
    *_, given = parameter_groups(model, lr=3e-3, weight_decay=0.1, residual_lr=7e-3)
    assert given["lr"] == 7e-3


def test_models_without_residual_weights_and_frozen_ones():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    decayed, others = parameter_groups(model, lr=0.1, weight_decay=0.1)
    assert names_of(decayed, model) == {"0.weight"}
    assert names_of(others, model) == {"0.bias", "1.weight", "1.bias"}
    model.resweight = nn.Parameter(torch.tensor(0.0))
    assert parameter_groups(model, lr=2.0, weight_decay=0.1)[-1]["lr"] == 1
    frozen = rezero(nn.Sequential(nn.Linear(3, 3)), ["0"])
    frozen[0].resweight.requires_grad_(False)
    groups = parameter_groups(frozen, lr=0.1, weight_decay=0.1)
    assert [names_of(group, frozen) for group in groups] == [{"0.weight"}, {"0.bias"}]


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.Adagrad])
def test_one_step_of_a_very_deep_network_does_not_blow_it_up(optimizer):
    """With the rate of the other parameters for alpha, the output grows by (1 + lr c)^L."""

    def growth(**options):
        torch.manual_seed(0)
        model = DeepFullyConnected(8, 2, width=8, depth=3000)
        stepper = optimizer(parameter_groups(model, lr=1e-2, weight_decay=0.0, **options))
        x = torch.randn(16, 8)
        before = model.hidden(model.input(x)).norm()
        model(x).square().sum().backward()
        stepper.step()
        return (model.hidden(model.input(x)).norm() / before).item()

    assert growth() < 5
    assert not growth(residual_lr=1e-2) < 1e3
