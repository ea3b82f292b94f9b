"""Run benchmarks against peers and write them down.

seqzoo bench                 all of them, into benchmarks/results/*.json and benchmarks/RESULTS.md
seqzoo bench generation      one of them; RESULTS.md keeps the others' last results
seqzoo bench update_rules    trains for long: stopped, it goes on from runs/update_rules
seqzoo bench rezero_claims   the same, from runs/rezero_claims; `seqzoo rezero claims` does a part of it
seqzoo bench nes_tasks       the same, from runs/nes_benchmark
seqzoo bench gpu             needs a GPU, and is left out of all of them without one
seqzoo bench retention       needs a GPU, too; stops by itself after minutes, with exit code 75, and goes on from
                             runs/retention when it is started again
"""

import argparse
import sys
from collections.abc import Iterable

from seqzoo.cli import one_line


BENCHMARKS = {
    "decaying_fast_weights": "The op against its definition and against attention",
    "gpu": "On a GPU: the Triton kernels against attention, other kernels and the floor",
    "generation": "Time a token and cache size against context",
    "kernel_resources": "What the Triton kernels take of a GPU",
    "linear_attention_peers": "Ops of all rules against other torch code for them",
    "nes": "NES music: rendering and converting",
    "nes_tasks": "The tasks of NES-MDB: composition and expressive performance",
    "retention": "What a converted GPT-2 keeps of a teacher of our own",
    "rezero": "ReZero layers and models against Pre-LN and GPT-2",
    "rezero_claims": "ReZero against tuned peers",
    "rezero_layers": "ReZero's drop-in layers against torch's own",
    "startup": "Starting",
    "update_rules": "Update rules at one size and token budget",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all without")
    parser.add_argument("--out", default="benchmarks", help="folder for results/ and RESULTS.md (default: benchmarks)")


def _runnable(names: Iterable[str]) -> list[str]:
    """Those that this machine has what they need for."""
    from importlib import import_module

    import torch

    modules = {name: import_module(f"seqzoo.benchmarks.{name}") for name in names}
    return [name for name, x in modules.items() if torch.cuda.is_available() or not getattr(x, "NEEDS_GPU", False)]


def run(args: argparse.Namespace) -> int:
    import json
    from importlib import import_module
    from pathlib import Path

    from seqzoo.trainers.loop import UNFINISHED_CODE, TrainingStopped

    for name in args.names:
        if name not in BENCHMARKS:
            raise ValueError(f"there is no benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    out = Path(args.out)
    (out / "results").mkdir(parents=True, exist_ok=True)
    chapters = ["# Results\n\nWritten by `seqzoo bench` from `results/*.json`. Ratios are of medians in one run.\n"]
    missed, unfinished, unreadable = [], [], []
    names = args.names or _runnable(BENCHMARKS)
    for name, title in BENCHMARKS.items():
        path = out / "results" / f"{name}.json"
        if name not in names and not path.is_file():
            continue
        try:
            module = import_module(f"seqzoo.benchmarks.{name}")
        except ImportError as error:
            if name in names:
                raise
            unreadable.append(f"{name} ({one_line(error)})")  # a GPU machine may lack what other benchmarks need
            continue
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if name in names:
            print(f"{name} ...", file=sys.stderr)
            try:
                result = module.run(progress=lambda line: print(f"  {line}", file=sys.stderr))
                path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
                if hasattr(module, "draw"):
                    module.draw(result, path.with_suffix(".png"))
            except TrainingStopped as stopped:
                unfinished.append(f"{name}: {stopped}")
        if result is None:
            continue
        missed += [entry["what"] for entry in result["bars"] if not entry["met"]]
        machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
        chapters.append(f"## {title}\n\n{machine}\n\n{module.to_markdown(result)}\n")
    text = "\n".join(chapters)
    print(text)
    if unreadable:
        print(f"{out / 'RESULTS.md'} stays as it was; without results of {', '.join(unreadable)}", file=sys.stderr)
    else:
        (out / "RESULTS.md").write_text(text, encoding="utf-8")
    for what in missed:
        print(f"missed: {what}", file=sys.stderr)
    for what in unfinished:
        print(f"not finished, run it again to go on: {what}", file=sys.stderr)
    return UNFINISHED_CODE if unfinished else 0
