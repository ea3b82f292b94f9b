"""Fully connected networks of any depth."""

import pytest
import torch
import torch.nn.functional as F

from seqzoo.modeling.rezero.fully_connected_rezero import KINDS, DeepFullyConnected


def network(residual="rezero", depth=7, **options):
    torch.manual_seed(0)
    model = DeepFullyConnected(5, 3, width=8, depth=depth, residual=residual, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("residual", KINDS)
def test_layers_follow_their_rule(residual):
    model = network(residual)
    inputs = torch.randn(4, 5)
    x = model.input(inputs)
    for i in range(7):
        y = torch.relu(x @ model.weight[i].T + model.bias[i])
        if residual == "rezero":
            x = x + model.resweight[i] * y
        elif residual == "residual":
            x = x + y
        elif residual == "layer_norm":
            x = F.layer_norm(y, (8,), model.norm_weight[i], model.norm_bias[i])
        else:
            x = y
    torch.testing.assert_close(model(inputs), model.output(x))


@pytest.mark.parametrize("residual", KINDS)
def test_checkpointing_gives_the_same_gradients(residual):
    plain, checkpointed = network(residual), network(residual, checkpointing=True)
    x = torch.randn(4, 5)
    for model in (plain, checkpointed):
        model(x).square().sum().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_new_network_is_its_first_and_last_layer_whatever_its_depth():
    model = DeepFullyConnected(5, 3, width=8, depth=2000)
    x = torch.randn(4, 5)
    assert torch.equal(model(x), model.output(model.input(x)))


def test_under_autocast_the_stream_stays_in_float32():
    model, x = network(), torch.randn(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        stream = model.hidden(model.input(x))
    assert stream.dtype == torch.float32
    torch.testing.assert_close(stream, model.hidden(model.input(x)), rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_ten_thousand_layers_train_within_two_gigabytes():
    import os
    import subprocess
    import sys

    code = """
import resource, torch
from seqzoo.modeling.rezero.fully_connected_rezero import DeepFullyConnected
from seqzoo.trainers.parameter_groups import parameter_groups
torch.manual_seed(0)
model = DeepFullyConnected(64, 10, width=64, depth=10_000, checkpointing=True)
optimizer = torch.optim.Adagrad(parameter_groups(model, lr=1e-3, weight_decay=0.0))
x, y = torch.randn(64, 64), torch.arange(64) % 10
for _ in range(3):
    loss = torch.nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    first, _, last, peak = map(float, done.stdout.split())
    assert last < first
    assert peak < 2e9


@pytest.mark.parametrize(
    ("change", "message"),
    [({"residual": "rezerro"}, "residual is 'rezerro'.*rezero, residual"), ({"depth": 0}, "depth is 0")],
)
def test_wrong_sizes_and_rules_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DeepFullyConnected(5, 3, **({"width": 8, "depth": 2} | change))
