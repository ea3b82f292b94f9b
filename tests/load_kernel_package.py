"""Computes with an exported kernel package where seqzoo is missing. Not a test: tests run it in a second environment.

    python -I load_kernel_package.py PACKAGE OUT [FOLDER_OF_KERNELS]

PACKAGE is the folder of the package, OUT the safetensors file for what `results` gives. With a folder to import the
`kernels` library from, that library loads the package, otherwise importlib does.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch


def load(package, name=None):
    """The CPU variant of a package, imported by `name` or the id of its metadata."""
    variant = Path(package) / "build" / "torch-cpu"
    name = name or json.loads((variant / "metadata.json").read_text(encoding="utf-8"))["id"]
    spec = importlib.util.spec_from_file_location(name, variant / "__init__.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def results(decaying_fast_weights, decaying_fast_weights_step, delta_fast_weights):
    """Outputs, states and gradients of the three functions on the same numbers each time."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 70, 2, 16, requires_grad=True) for _ in range(3))
    gk, gv = (torch.nn.functional.logsigmoid(torch.randn(2, 70, 2, 16) + 2) for _ in range(2))
    beta, reset = torch.rand(2, 70, 2), torch.rand(2, 70) < 0.1
    found = {}

    def keep(name, output, state):
        gradients = torch.autograd.grad(output.square().sum() + state.sum(), (q, k, v))
        tensors = dict(zip(("output", "state", "dq", "dk", "dv"), (output, state, *gradients)))
        found.update({f"{name} {key}": tensor.detach().contiguous() for key, tensor in tensors.items()})

    for implementation in ("recurrent", "chunked", "auto"):
        options = {"output_final_state": True, "reset": reset, "implementation": implementation}
        keep(f"decay {implementation}", *decaying_fast_weights(q, k, v, gk, gv, **options))
        keep(f"delta {implementation}", *delta_fast_weights(q, k, v, beta, **options))
    packed = {"output_final_state": True, "cu_seqlens": torch.tensor([0, 30, 30, 70])}
    keep("decay packed", *decaying_fast_weights(*(x[:1] for x in (q, k, v, gk, gv)), **packed))
    keep("delta packed", *delta_fast_weights(*(x[:1] for x in (q, k, v, beta)), **packed))
    state = torch.zeros(2, 2, 16, 16)
    found["step output"] = decaying_fast_weights_step(q[:, :1], k[:, :1], v[:, :1], state=state).contiguous()
    found["step state"] = state
    return found


if __name__ == "__main__":
    package, out, *folder = sys.argv[1:]
    if importlib.util.find_spec("seqzoo") is not None:
        sys.exit("seqzoo can be imported here: this environment proves nothing")
    torch.set_num_threads(1)
    if folder:
        sys.path += folder
        from kernels import get_local_kernel

        ops = get_local_kernel(Path(package))
    else:
        ops = load(package)
    from safetensors.torch import save_file

    save_file(results(*(getattr(ops, name) for name in ops.__all__)), out)
