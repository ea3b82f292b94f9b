"""What the Triton kernels take of a GPU, read off the compiler: it needs none.

Kernels are compiled for a target, and the assembler's report says how many registers a thread has, how many bytes of
them are spilled to memory (the stack), and how much memory a block shares. It says whether a kernel fits a GPU, not
how fast it is.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable

import torch

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe


# name -> (32-bit registers of a thread, bytes of shared memory of a block) that there can be
TARGETS = {"sm_80": (80, 163 * 1024), "sm_90": (90, 227 * 1024)}
DTYPES = {"bf16": "tf32", "fp32": "tf32x3"}
SIZE = 64


def run(progress: Callable[[str], None] = print) -> dict:
    """In a process of its own: in Triton's interpreter nothing is compiled.

    Returns:
        `machine`; `kernels`: target -> dtype -> kernel -> `registers`, `stack`, `shared` (bytes); `bars`.
    """
    import json

    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = "from seqzoo.benchmarks.kernel_resources import compile_all; compile_all()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"the kernels could not be compiled: {done.stderr.strip().splitlines()[-1]}")
    kernels: dict = {}
    for line in done.stdout.splitlines():
        target, dtype, kernel, entry = json.loads(line)
        progress(f"{target}, {dtype}, {kernel}: {entry}")
        kernels.setdefault(target, {}).setdefault(dtype, {})[kernel] = entry
    bars = [
        bar(f"{target}: most shared memory of a block / what there is", _most(kernels[target]) / limit, "<=", 1)
        for target, (_, limit) in TARGETS.items()
    ]
    return {"machine": describe(), "kernels": kernels, "bars": bars}


def _most(dtypes: dict) -> int:
    return max(entry["shared"] for kernels in dtypes.values() for entry in kernels.values())


def compile_all() -> None:
    """Prints a JSON line for each target, dtype and kernel."""
    import json

    for target, (capability, _) in TARGETS.items():
        for dtype, precision in DTYPES.items():
            for name, kernel, constants, options in _launches(precision):
                entry = _compile(kernel, constants, options, dtype, capability)
                print(json.dumps([target, dtype, name, entry]), flush=True)


def _launches(precision: str):
    """(name, kernel, constants, options) as the ops launch them for heads of 64 with both gates."""
    from seqzoo.kernels import decaying_fast_weights_triton as decay
    from seqzoo.kernels import decaying_fast_weights_triton_blocks as blocks
    from seqzoo.kernels import decaying_fast_weights_triton_mild as mild
    from seqzoo.kernels import decaying_fast_weights_triton_states as states
    from seqzoo.kernels import delta_fast_weights_triton as delta
    from seqzoo.kernels import delta_fast_weights_triton_kernels as kernels

    def sizes(block: int) -> dict:
        return {"K": SIZE, "D": SIZE, "BK": min(block, SIZE), "BD": min(block, SIZE)}

    options = decay._options(torch.empty(0, dtype=torch.float32 if precision == "tf32x3" else torch.bfloat16))
    gates = {"HAS_GK": True, "HAS_GV": True}
    flags = gates | {"C": decay.CHUNK, "HAS_RESET": False, "EVEN": True}
    carried = {"K": SIZE, "D": SIZE, "BK": decay.CARRY_SIZE // SIZE, "BD": SIZE, "HAS_INITIAL": True}
    for reverse in (False, True):
        direction = "backward" if reverse else "forward"
        constants = sizes(decay.WRITES_BLOCK) | flags | {"BLOCK_LEVEL": decay.BLOCK_LEVEL, "REVERSE": reverse}
        yield f"writes, {direction}", states.writes_kernel, constants, options
        constants = carried | gates | {"HAS_RESET": False, "REVERSE": reverse}
        yield f"states, {direction}", states.carry_kernel, constants, {"num_warps": 4}
    flags |= {"LEVELS": decay.LEVELS, "PRECISION": precision}
    constants = sizes(decay.MILD_BLOCK) | flags
    yield "output, mild gates", mild.mild_output_kernel, constants, options | {"num_stages": 1}
    yield "gradients, mild gates", mild.mild_gradients_kernel, constants, decay.OPTIONS | {"num_stages": 1}
    constants = sizes(decay.STRONG_BLOCK) | flags | {"GROUP": decay.GROUP}
    for level, gates_of in ((decay.BLOCK_LEVEL, "stronger"), (0, "any")):
        yield f"output, {gates_of} gates", blocks.blocks_output_kernel, constants | {"LEVEL": level}, decay.OPTIONS
        yield (
            f"gradients, {gates_of} gates",
            blocks.blocks_gradients_kernel,
            constants | {"LEVEL": level},
            decay.OPTIONS,
        )
    step = sizes(decay.STEP_BLOCK) | gates | {"BK": SIZE, "HAS_STATE": True}
    yield "one step", decay._step_kernel, step, {"num_warps": 4}

    flags = sizes(delta.BLOCK) | {"C": delta.CHUNK, "HAS_BETA": True, "HAS_RESET": False, "PRECISION": precision}
    registers = {"maxnreg": delta.REGISTERS}
    yield "delta: systems", kernels.systems_kernel, flags, {"num_warps": 4, "num_stages": 1} | registers
    for reverse in (False, True):
        constants = flags | {"BK": SIZE, "HAS_INITIAL": True, "REVERSE": reverse}
        name = "delta: states, " + ("backward" if reverse else "forward")
        yield name, kernels.states_kernel, constants, {"num_warps": 4, "num_stages": 2} | registers
    for kernel, name in (
        (kernels.output_kernel, "output"),
        (kernels.backward_systems_kernel, "systems, backward"),
        (kernels.gradients_kernel, "gradients"),
    ):
        yield f"delta: {name}", kernel, flags | {"BEFORE": False}, {"num_warps": 4, "num_stages": 1} | registers


# Tensors that are not of the dtype of the inputs.
_STATES = ("initial", "states", "final", "flows", "state", "next_state", "own", "weights", "errors", "residuals")
_STATES += ("decays",)
_NUMBERS = {"scale": "fp32", "T": "i32", "H": "i32", "chunks": "i32"}
_OTHER_TYPES = {"mild": "*i8", "reset": "*u8"} | _NUMBERS | dict.fromkeys(_STATES, "*fp32")


def _compile(kernel, constants: dict, options: dict, dtype: str, capability: int) -> dict[str, int]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, values, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[name] = "constexpr", constants[name]
        elif name in ("reset", "begins") and not constants.get("HAS_RESET"):
            signature[name], values[name] = "constexpr", None
        elif name.endswith("strides"):  # of contiguous tensors
            others = 2 if name == "beta_strides" else 3
            signature[name] = (*("i32",) * others, "constexpr")
            values[i, others] = 1
            attributes |= {(i, j): [["tt.divisibility", 16]] for j in range(others)}
        else:
            signature[name] = _OTHER_TYPES.get(name, f"*{dtype}")
            if signature[name].startswith("*"):
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", report).groups())
    return {"registers": registers, "stack": stack, "shared": compiled.metadata.shared}


def to_markdown(result: dict) -> str:
    """A table a target, and the bars."""
    chapters = [
        f"Heads of {SIZE} with both gates, compiled without a GPU: registers of a thread, bytes of them that are kept "
        "in memory, KiB of shared memory of a block. Not a measurement of speed."
    ]
    for target, dtypes in result["kernels"].items():
        lines = [f"| {target} | " + " | ".join(dtypes) + " |", "|---|" + "---|" * len(dtypes)]
        for kernel in next(iter(dtypes.values())):
            entries = [kernels[kernel] for kernels in dtypes.values()]
            cells = [f"{x['registers']}, {x['stack']} B, {x['shared'] / 1024:.0f} KiB" for x in entries]
            lines.append(f"| {kernel} | " + " | ".join(cells) + " |")
        chapters.append("\n".join(lines))
    return "\n\n".join([*chapters, bars_to_markdown(result["bars"])])
