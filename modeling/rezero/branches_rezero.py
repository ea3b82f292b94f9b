"""ReZero for any module: named branches F of `x + F(x)` become `x + alpha F(x)`, alpha = 0 at initialisation.

    model = GPT2LMHeadModel(config)
    rezero(model, branches=["transformer.h.*.attn", "transformer.h.*.mlp"], norms=["*.ln_1", "*.ln_2"])

Modules stay where they are and keep the names of their weights. alpha is a new parameter `resweight` of the branch,
applied by a forward hook, so that a copy, a pickle or `torch.compile` of the model keeps it. To load weights that were
saved from such a model, build it, call `rezero` with the same names, and then `load_state_dict`.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn


def rezero(module: nn.Module, branches: Iterable[str], norms: Iterable[str] = ()) -> nn.Module:
    """Gives each named branch of `module`, in place, a residual weight that starts at 0.

    What a branch returns must be what is added to the stream: a gate on its input would stop all gradients. The
    weights are float32, also in a model of half precision, whose stream keeps its type; under autocast they keep what
    they scale, and with it the stream, in float32. An adapter (LoRA) belongs to modules inside a branch: around the
    branch itself it would be added without alpha, but merged with it.

    Args:
        module (`nn.Module`):
            Any; it adds the outputs of its branches to their inputs itself.
        branches (`Iterable[str]`):
            Names of submodules as in `module.named_modules()`, or patterns of them in which `*` stands for anything.
            A branch returns a tensor, or a tuple that begins with it (as attention does).
        norms (`Iterable[str]`):
            Names or patterns of normalisations to replace by the identity: ReZero has none.

    Returns:
        `module`.

    Raises:
        ValueError: a name without a module, a branch within another one or within a norm, one that has a residual
            weight already, or a norm of torch's own encoder layer. `module` is unchanged then.
    """
    chosen = _named(module, branches)
    dropped = _named(module, norms)
    for name, branch in chosen.items():
        if hasattr(branch, "resweight"):
            raise ValueError(f"{name} has a residual weight already")
        inside = next((other for other in chosen if other.startswith(f"{name}.")), None)
        if inside is not None:
            raise ValueError(f"{inside} lies within {name}: name one of the two, or both would scale the same branch")
    for name in dropped:
        inside = next((other for other in chosen if f"{other}.".startswith(f"{name}.")), None)
        if inside is not None:
            raise ValueError(f"the branch {inside} would go with the norm {name}: name only normalisations in norms")
        if isinstance(module.get_submodule(name.rpartition(".")[0]), nn.TransformerEncoderLayer):
            raise ValueError(f"torch reads settings of the norm {name} in evaluation: use RZTXEncoderLayer instead")
    for branch in set(chosen.values()):  # one that has several names is one
        device = next((parameter.device for parameter in branch.parameters()), None)
        branch.resweight = nn.Parameter(torch.zeros(1, device=device))
        branch.register_forward_hook(_scale_output)
    for name in sorted(dropped, reverse=True):  # what lies within another one first
        module.set_submodule(name, nn.Identity())
    return module


@torch.no_grad()
def reset_residual_weights(module: nn.Module) -> None:
    """Sets every residual weight to 0 again, such as after an initialisation that draws every parameter."""
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] == "resweight":
            parameter.zero_()


def _named(module: nn.Module, patterns: Iterable[str]) -> dict[str, nn.Module]:
    if isinstance(patterns, str):
        raise ValueError(f"branches and norms are lists of names, not {patterns!r} alone")
    found = {}
    for pattern in patterns:
        matching = {
            name: submodule
            for name, submodule in module.named_modules(remove_duplicate=False)  # shared ones by all their names
            if name and fnmatchcase(name, pattern)
        }
        if not matching:
            raise ValueError(
                f"{type(module).__name__} has no submodule {pattern!r}; some of its names: "
                f"{', '.join([name for name, _ in module.named_modules() if name][:8])}"
            )
        found |= matching
    return found


def _scale_output(branch: nn.Module, inputs: tuple[Any, ...], output: Tensor | tuple[Any, ...]) -> Any:
    if isinstance(output, tuple):
        return _scale_output(branch, inputs, output[0]), *output[1:]
    if not isinstance(output, Tensor):
        raise TypeError(
            f"a branch ({type(branch).__name__}) returned a {type(output).__name__}, but has to return a tensor or a "
            "tuple that begins with one"
        )
    scaled = branch.resweight * output
    return scaled if torch.is_autocast_enabled(output.device.type) else scaled.to(output.dtype)
