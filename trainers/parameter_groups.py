"""What an optimizer does with which parameter: weight decay for matrices, a rate of their own for residual weights.

A residual weight is alpha of ReZero's `x + alpha F(x)` and its kin: a parameter that is called `resweight`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


RESIDUAL_WEIGHT = "resweight"


def residual_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The residual weights of a model by name, in the order of its layers."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == RESIDUAL_WEIGHT and parameter.requires_grad
    }


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    residual_lr: float | None = None,
    residual_betas: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """The trained parameters of a model, in groups as `torch.optim` takes them; no group is empty.

    Matrices decay; biases and norms (one axis, or a stack of such by its name), embeddings (tied heads included) and
    residual weights do not.

    Args:
        model (`nn.Module`):
            With any number of residual weights, none included.
        lr (`float`):
            Learning rate of all but the residual weights.
        weight_decay (`float`):
            Of the matrices.
        residual_lr (`float`, *optional*):
            Learning rate of the residual weights. None is the smaller of `lr` and 1 / L for L branches or layers that
            have one: the first step of Adam, Adagrad and their kind changes each of them by its rate, whatever its
            gradient, and so the output by a factor of up to (1 + rate)^L, which must not grow with depth. SGD knows
            no such step and takes `lr`.
        residual_betas (`Sequence[float]`, *optional*):
            Adam's averages of the residual weights, where they are not those of the others.
    """
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    residual = list(residual_weights(model).values())
    apart = {*embeddings, *residual}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decayed = [
        parameter
        for name, parameter in trained.items()
        if parameter.ndim >= 2 and parameter not in apart and not name.endswith(("bias", "norm_weight"))
    ]
    others = [parameter for parameter in trained.values() if parameter not in {*decayed, *residual}]
    if residual_lr is None and residual:
        residual_lr = min(lr, 1 / sum(len(torch.atleast_1d(parameter)) for parameter in residual))  # one a row
    betas = {} if residual_betas is None else {"betas": tuple(residual_betas)}
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": others, "lr": lr, "weight_decay": 0.0},
        {"params": residual, "lr": residual_lr, "weight_decay": 0.0, **betas},
    ]
    return [group for group in groups if group["params"]]
