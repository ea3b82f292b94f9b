"""Where the programs of a launch load and store: the interpreter takes any address, one program after the other."""

import numpy as np
import pytest
import torch
from triton_kernels import DEVICE


class _Launch:
    """The memory of all numbers of a launch's tensors, and which programs load and store each: the first and last."""

    def __init__(self, name, tensors):
        self.name, self.faults = name, set()
        self.places = np.unique(np.concatenate([_addresses(x) for x in tensors]))
        count = len(self.places)
        self.loads, self.stores = (np.stack([np.full(count, 2**62), np.full(count, -1)]) for _ in range(2))
        self.values = np.zeros(count)

    def visit(self, visits, program, pointers, mask):
        """Takes down the visit; returns the places, as indices."""
        addresses = pointers[mask].astype(np.int64)
        found = np.searchsorted(self.places, addresses).clip(max=len(self.places) - 1)
        if (self.places[found] != addresses).any():
            self.faults.add(f"{self.name}: outside of its tensors")
        np.minimum.at(visits[0], found, program)
        np.maximum.at(visits[1], found, program)
        return found

    def store(self, program, pointers, mask, values):
        places = self.visit(self.stores, program, pointers, mask)
        shared = self.stores[0, places] != self.stores[1, places]
        if (self.values[places] != values[mask])[shared].any():
            self.faults.add(f"{self.name}: programs store different numbers in the same place")
        self.values[places] = values[mask]

    def finish(self):
        both = (self.loads[1] >= 0) & (self.stores[1] >= 0)
        if (np.concatenate([self.loads, self.stores])[:, both] != self.stores[0, both]).any():
            self.faults.add(f"{self.name}: a program loads what another one stores")


def _addresses(x):
    places = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(x.shape, x.stride()):
        places = places[..., None] + torch.arange(size) * stride
    return places.flatten().numpy() * x.element_size() + x.data_ptr()


@pytest.fixture
def memory_faults(monkeypatch, poisoned):
    """A set of what was found so far, for inputs that are numbers: what is not has never been written."""
    if DEVICE != "cpu":
        pytest.skip("looks over the shoulder of Triton's interpreter, and this is a GPU")
    from triton.runtime import interpreter

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, call = builder.create_masked_load, builder.create_masked_store, executor.__call__
    launch, faults = None, set()

    def program(builder):
        return np.ravel_multi_index(builder.grid_idx, builder.grid_dim)

    def checked_load(builder, pointers, mask, *others):
        launch.visit(launch.loads, program(builder), *np.broadcast_arrays(pointers.data, mask.data))
        result = load(builder, pointers, mask, *others)
        if np.isnan(result.data).any():
            launch.faults.add(f"{launch.name}: what was never written")
        return result

    def checked_store(builder, pointers, value, mask, *others):
        launch.store(program(builder), *np.broadcast_arrays(pointers.data, mask.data, value.data))
        return store(builder, pointers, value, mask, *others)

    def checked_call(self, *arguments, **options):
        nonlocal launch
        launch = _Launch(self.fn.__name__, [x for x in arguments if isinstance(x, torch.Tensor) and x.numel()])
        call(self, *arguments, **options)
        launch.finish()
        faults.update(launch.faults)

    monkeypatch.setattr(builder, "create_masked_load", checked_load)
    monkeypatch.setattr(builder, "create_masked_store", checked_store)
    monkeypatch.setattr(executor, "__call__", checked_call)
    return faults
