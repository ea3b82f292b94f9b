import torch
from torch import nn

from seqzoo.metrics.jacobian import jacobian_singular_values
from seqzoo.modeling.rezero.fully_connected_rezero import DeepFullyConnected


def test_singular_values_of_a_linear_map_are_those_of_its_matrix():
    linear = nn.Linear(6, 4)
    values = jacobian_singular_values(linear, torch.randn(1, 6))
    torch.testing.assert_close(values, torch.linalg.svdvals(linear.weight))


def test_all_directions_pass_through_a_new_rezero_network_and_few_through_others():
    x = torch.randn(1, 16)
    values = {}
    for residual in ("rezero", "vanilla", "residual"):
        model = DeepFullyConnected(16, 16, width=16, depth=64, residual=residual)
        values[residual] = jacobian_singular_values(model.hidden, x)
    assert torch.equal(values["rezero"], torch.ones(16))
    assert values["vanilla"][1:].max() < 1e-2
    assert values["residual"].max() > 10
