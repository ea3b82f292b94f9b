"""ReZero's claims against tuned peers, at the scale of a CPU or of one GPU.

Every method of a claim runs at every rate of one grid with every seed; its rate is the one at which the median of its
seeds reaches the target in the fewest steps. Thresholds, targets, budgets and grids are below, and were fixed before a
curve was seen; they are those of earlier measurements at this scale. A run is one JSON in a work folder with the
settings that it was made with, so what was stopped goes on, a changed setting redoes what depends on it, and parts can
be run on their own.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seqzoo.benchmarks.machine import one_thread
from seqzoo.benchmarks.rezero_runs import Setup, fully_connected, record, resnet
from seqzoo.trainers.checkpointing import write_text


RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SGD_RATES = (1e-2, 3e-2, 1e-1, 3e-1)
WARMUP = "_warmup"  # ends the name of a method that has one


@dataclass(frozen=True)
class Claim:
    """A task, its methods and its budget.

    Args:
        about (`str`):
            A line for the table.
        make (`Callable`):
            (method, lr, seed, **size) -> [`seqzoo.benchmarks.rezero_runs.Setup`].
        methods (`tuple[str, ...]`):
            ReZero first. The rates of a method that ends in `_warmup` rise for the first fifth of the steps.
        steps (`int`):
            The budget.
        thresholds (`tuple[float, ...]`):
            Of the averaged training loss.
        target (`float`):
            The threshold that rates are chosen by and ratios are of.
        size (`dict`):
            Of model and batch.
        rates (`tuple[float, ...]`), seeds (`tuple[int, ...]`):
            The grid.
    """

    about: str
    make: Callable[..., Setup]
    methods: tuple[str, ...]
    steps: int
    thresholds: tuple[float, ...]
    target: float
    size: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = RATES
    seeds: tuple[int, ...] = (0, 1, 2)


_FULLY_CONNECTED = ("rezero", "residual", "vanilla", "layer_norm")


def _fully_connected(depth: int, width: int, steps: int, **changes: Any) -> Claim:
    size = {"depth": depth, "width": width, "batch_size": 64}
    about = f"fully connected, {depth:,} layers of width {width}, digits, Adagrad"
    return Claim(
        **{
            "about": about,
            "make": fully_connected,
            "methods": _FULLY_CONNECTED,
            "steps": steps,
            "thresholds": (1.0, 0.5, 0.1),
            "target": 0.5,
            "size": size,
        }
        | changes
    )


CPU_CLAIMS = {
    "fc32": _fully_connected(32, 128, 400),
    "fc128": _fully_connected(128, 64, 250),
    "fc1000": _fully_connected(1000, 32, 100),
    "fc10000": _fully_connected(10_000, 16, 150, methods=("rezero",), target=1.0, seeds=(0,)),
    "resnet56": Claim(
        "ResNet-56 of widths 8, 16, 32, digits, SGD",
        resnet,
        ("rezero", "vanilla", "fixup", "skipinit"),
        steps=110,
        thresholds=(1.0, 0.5, 0.25),
        target=0.5,
        size={"hidden_sizes": [8, 16, 32], "depths": [9, 9, 9], "batch_size": 64},
        rates=SGD_RATES,
    ),
}
CLAIMS = {"cpu": CPU_CLAIMS}


@dataclass(frozen=True)
class Run:
    """One run of a claim."""

    claim: str
    method: str
    lr: float
    seed: int

    def path(self, folder: Path) -> Path:
        return folder / self.claim / f"{self.method}-lr{self.lr:g}-seed{self.seed}.json"


def runs_of(name: str, claim: Claim, methods: Sequence[str] = ()) -> Iterator[Run]:
    """Seed by seed, so that a grid that is stopped early has compared all methods."""
    for seed in claim.seeds:
        for method in claim.methods:
            if not methods or method in methods:
                for lr in claim.rates:
                    yield Run(name, method, lr, seed)


def made_with(claim: Claim, run: Run) -> dict[str, Any]:
    """All that decides a curve, in JSON's types."""
    kept = {key: asdict(claim)[key] for key in ("steps", "size")}
    kept |= {"task": claim.make.__name__, "method": run.method, "lr": run.lr, "seed": run.seed}
    return json.loads(json.dumps(kept | {"torch": version("torch")}))


def result_of(folder: Path, claim: Claim, run: Run) -> dict[str, Any] | None:
    """What was recorded earlier, or None where that has to be done (again)."""
    path = run.path(folder)
    if not path.is_file():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["result"] if kept["made_with"] == made_with(claim, run) else None


def run_claims(
    folder: Path,
    claims: dict[str, Claim],
    methods: Iterable[str] = (),
    progress: Callable[[str], None] = print,
) -> None:
    """Do what is still to be done.

    Raises:
        `ValueError`: a method that none of the claims has.
    """
    known = {method for claim in claims.values() for method in claim.methods}
    for method in methods:
        if method not in known:
            raise ValueError(f"there is no method {method!r}; choose from {', '.join(sorted(known))}")
    todo = [
        (claim, run)
        for name, claim in claims.items()
        for run in runs_of(name, claim, tuple(methods))
        if result_of(folder, claim, run) is None
    ]
    with one_thread():
        for i, (claim, run) in enumerate(todo):
            setup = claim.make(run.method, run.lr, run.seed, **claim.size)
            warmup_steps = claim.steps // 5 if run.method.endswith(WARMUP) else 0
            result = record(setup, claim.steps, warmup_steps)
            path = run.path(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({"made_with": made_with(claim, run), "result": result}) + "\n")
            last = f"{result['losses'][-1]:.3f}" if result["losses"] else "none"
            took = f"{result['wall_seconds'][-1]:.0f} s" if result["losses"] else "0 s"
            progress(
                f"{i + 1} of {len(todo)}: {run.claim}, {run.method}, rate {run.lr:g}, seed {run.seed}: "
                f"{len(result['losses'])} steps, {took}, last loss {last}"
            )
