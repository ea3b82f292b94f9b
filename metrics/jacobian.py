"""How a network passes signals and gradients on at initialisation: the singular values of its Jacobian."""

from collections.abc import Callable

import torch
from torch import Tensor


def jacobian_singular_values(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The singular values of d function(x) / d x, the largest first.

    All 1 means that no direction of the input is lost or blown up on the way (dynamical isometry). `x` should be one
    sample: the Jacobian is a matrix of `function(x).numel()` x `x.numel()`.
    """
    jacobian = torch.autograd.functional.jacobian(function, x, vectorize=False)
    return torch.linalg.svdvals(jacobian.reshape(-1, x.numel()))
