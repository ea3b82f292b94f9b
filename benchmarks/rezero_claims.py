"""ReZero's claims against tuned peers, at the scale of a CPU or of one GPU.

Every method of a claim runs at every rate of one grid with every seed; its rate is the one at which the median of its
seeds reaches the target in the fewest steps. Thresholds, targets and budgets are those of earlier measurements on the
same data at this scale, and were not changed after a curve was seen. Grids were, once: where the best rate of ReZero
lay at their edge, they grew by one rate, for all methods, but that of the deepest network. A run is one JSON in a work
folder with the settings that it was made with, so what was stopped goes on, a changed setting redoes what depends on
it, and parts can be run on their own.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from seqzoo.benchmarks.figures import draw_loss_curves, draw_residual_weights
from seqzoo.benchmarks.machine import bars_to_markdown, describe, one_thread
from seqzoo.benchmarks.rezero_report import averaged, ratio_bar, steps_bar, summarise, to_table
from seqzoo.benchmarks.rezero_runs import TOPICS, WARMUP, Setup, character_model, fully_connected, record, resnet
from seqzoo.trainers.checkpointing import write_text


FOLDER = Path("runs/rezero_claims")
# How the names of claims begin whose figures are in `hub_cards`, each kind on the cards of its own models.
ON_CARDS = ("resnet", "lm")
# Both wider by their last rate than they were at first, because ReZero's best rates lay at the edge.
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SGD_RATES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)
# Where runs take seconds and a bar is a ratio: medians of three seeds move by a fifth.
MANY_SEEDS = tuple(range(9))


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
        classes (`int`):
            What is guessed among.
        rates (`tuple[float, ...]`), seeds (`tuple[int, ...]`):
            The grid.
        ratios (`tuple`):
            Bars: (peers, r): the fastest of these needs at least r times ReZero's steps to the target.
        within (`int`, *optional*):
            Bar: ReZero's steps to the target.
    """

    about: str
    make: Callable[..., Setup]
    methods: tuple[str, ...]
    steps: int
    thresholds: tuple[float, ...]
    target: float
    size: dict[str, Any] = field(default_factory=dict)
    classes: int = 10
    rates: tuple[float, ...] = RATES
    seeds: tuple[int, ...] = (0, 1, 2)
    ratios: tuple[tuple[tuple[str, ...], float], ...] = ()
    within: int | None = None


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


_TRANSFORMERS = ("rezero", "post_norm_warmup", "pre_norm", "zero_init")


def _character_model(layers: int, width: int, context: int, steps: int, **changes: Any) -> Claim:
    about = f"characters of English, {layers} layers of width {width}, context {context}, Adam"
    size = {"layers": layers, "width": width, "heads": 4, "context": context, "batch_size": 16, "text": TOPICS}
    return Claim(
        **{
            "about": about,
            "make": character_model,
            "methods": _TRANSFORMERS,
            "steps": steps,
            "thresholds": (3.0, 2.75, 2.5),
            "target": 2.75,
            "size": size,
            "classes": 103,
        }
        | changes
    )


CPU_CLAIMS = {
    "fc32": _fully_connected(32, 128, 400, ratios=((("residual", "vanilla"), 3.0),), seeds=MANY_SEEDS),
    "fc128": _fully_connected(128, 64, 250, within=40),
    "fc1000": _fully_connected(1000, 32, 100, within=60),
    "fc10000": _fully_connected(
        10_000, 16, 150, methods=("rezero",), target=1.0, seeds=(0,), rates=RATES[:3], within=150
    ),
    "resnet56": Claim(
        "ResNet-56 of widths 8, 16, 32, digits, SGD",
        resnet,
        ("rezero", "vanilla", "fixup", "skipinit"),
        steps=110,
        thresholds=(1.0, 0.5, 0.25),
        target=0.5,
        size={"hidden_sizes": [8, 16, 32], "depths": [9, 9, 9], "batch_size": 64},
        rates=SGD_RATES,
        seeds=MANY_SEEDS,
        ratios=((("vanilla",), 1.3),),
    ),
}
CPU_CLAIMS |= {
    "lm12": _character_model(
        *(12, 64, 64, 300), target=2.5, ratios=((("pre_norm",), 1.0), (("post_norm_warmup",), 1.5))
    ),
    "lm64": _character_model(64, 32, 32, 160, ratios=((("pre_norm",), 1.15),)),
    "lm128": _character_model(128, 32, 32, 120, within=120, ratios=((("post_norm_warmup",), 1.0),)),
}
# The size of the paper's 12-layer model; thresholds are 2.0, 1.7 and 1.5 bits per byte. Batches are small and steps
# few beside the paper's (1,080 sequences, LAMB): it compares speed, not quality.
GPU_CLAIMS = {
    "lm12_paper": _character_model(
        *(12, 512, 512, 3000),
        thresholds=(1.386, 1.178, 1.040),
        target=1.178,
        rates=(1e-4, 3e-4, 1e-3, 3e-3),
        size={
            **{"layers": 12, "width": 512, "heads": 8, "context": 512, "batch_size": 32, "text": "embedded"},
            **{"dropout": 0.2, "attention_dropout": 0.2, "device": "cuda"},
        },
        ratios=((("post_norm_warmup",), 1.56), (("pre_norm",), 1.0)),
    )
}
CLAIMS = {"cpu": CPU_CLAIMS, "gpu": GPU_CLAIMS}


def chosen(claims: Mapping[str, Claim], only: Sequence[str]) -> dict[str, Claim]:
    """The claims whose name begins with one of `only`; all without.

    Raises:
        `ValueError`: one of them begins no name.
    """
    for start in only:
        if not any(name.startswith(start) for name in claims):
            raise ValueError(f"there is no claim {start!r}; choose from {', '.join(claims)}")
    return {name: claim for name, claim in claims.items() if not only or name.startswith(tuple(only))}


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
    """What was recorded earlier, or None where that has to be done (again).

    Raises:
        `ValueError`: the file is damaged.
    """
    path = run.path(folder)
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["result"] if kept["made_with"] == made_with(claim, run) else None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and its run is made again") from error


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
    if any(claim.size.get("device") == "cuda" for claim, _ in todo) and not torch.cuda.is_available():
        raise ValueError("--scale gpu needs a CUDA device, and torch sees none; --scale cpu runs without")
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


def results(folder: Path, claim_name: str, claim: Claim) -> dict[str, dict[float, dict[int, dict[str, Any]]]]:
    """method -> rate -> seed -> what was recorded, of the runs that are there."""
    found: dict[str, dict[float, dict[int, dict[str, Any]]]] = {}
    for run in runs_of(claim_name, claim):
        result = result_of(folder, claim, run)
        if result is not None:
            found.setdefault(run.method, {}).setdefault(run.lr, {})[run.seed] = result
    return found


def collect(folder: Path, claims: Mapping[str, Claim]) -> dict[str, Any]:
    """All that the runs that are there say, in JSON's types; a claim without a run is left out.

    Returns:
        `machine`; `claims`: name -> `about`, `summary`, `thresholds`, `target`, `steps`, `curves` (method -> averaged
        losses, one list a seed) and `residual_weights` (of ReZero's first seed, some layers); `bars`; `missing` (the
        number of runs).
    """
    collected: dict[str, Any] = {"machine": describe(), "claims": {}, "bars": [], "missing": 0}
    for name, claim in claims.items():
        runs = results(folder, name, claim)
        done = sum(len(seeds) for rates in runs.values() for seeds in rates.values())
        missing = len(list(runs_of(name, claim))) - done
        collected["missing"] += missing
        clock = "wall_seconds" if claim.size.get("device") == "cuda" else "cpu_seconds"
        summary = summarise(runs, claim.steps, claim.thresholds, claim.target, claim.classes, clock)
        if not summary:
            continue
        best = {
            method: [runs[method][entry["lr"]][seed] for seed in entry["seeds"]] for method, entry in summary.items()
        }
        collected["claims"][name] = {
            "about": claim.about,
            "steps": claim.steps,
            "thresholds": list(claim.thresholds),
            "target": claim.target,
            "summary": summary,
            "curves": {
                method: [[round(loss, 4) for loss in averaged(run["losses"])] for run in seeds]
                for method, seeds in best.items()
            },
            "residual_weights": _thinned(best["rezero"][0]["residual_weights"]) if "rezero" in best else [],
        }
        bars = [ratio_bar(name, summary, *ratio, claim.steps, claim.target) for ratio in claim.ratios]
        if claim.within is not None:
            bars.append(steps_bar(name, summary, claim.within, claim.target))
        bars = [entry for entry in bars if entry is not None]
        for entry in bars if missing else []:
            entry["what"] += f" ({missing} runs of this grid are missing)"
        collected["bars"] += bars
    return collected


def _thinned(snapshots: list[list[Any]]) -> list[list[Any]]:
    """[step, {layer: alpha}] of every so many layers, counted from 1, some 100 in all."""
    return [
        [step, {str(layer): values[layer - 1] for layer in range(1, len(values) + 1, max(len(values) // 100, 1))}]
        for step, values in snapshots
    ]


def run(progress: Callable[[str], None] = print, folder: Path = FOLDER) -> dict[str, Any]:
    """Every run that is still missing, then what all of them say."""
    run_claims(folder, CPU_CLAIMS, progress=progress)
    return collect(folder, CPU_CLAIMS)


def to_markdown(result: Mapping[str, Any], figure: str = "results/rezero_claims.png") -> str:
    """One table a claim, the bars, and what [`draw`] drew to `figure`, a path beside the text."""
    chapters = [
        "Each method at the rate of its grid at which the median over seeds reaches the target in the fewest steps; "
        "median [least to most], a dash where it is not reached. A rate at an edge of the grid may not be the best. "
        "Losses are training losses, averaged over about ten steps; seconds are CPU time of the process on one "
        "thread, on a GPU time of the clock. A run has diverged if its loss stopped being a number or ended a tenth "
        "above that of guessing."
    ]
    if result["missing"]:
        chapters.append(f"{result['missing']} runs of the grid are still missing.")
    for name, claim in result["claims"].items():
        table = to_table(claim["summary"], claim["thresholds"], claim["target"])
        chapters.append(f"### {name}: {claim['about']}, {claim['steps']} steps\n\n{table}")
    if result["bars"]:  # of a part of the methods there may be none
        chapters.append(bars_to_markdown(result["bars"]))
    chapters.append(f"![Training loss, a line a seed]({figure})")
    chapters.append(f"![ReZero's alpha by layer during training]({_alpha_figure(Path(figure)).as_posix()})")
    return "\n\n".join(chapters)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Loss curves to `path`, alpha by layer during training beside it; and both for each of `ON_CARDS` by itself."""
    _draw(result["claims"], path)
    for kind in ON_CARDS:
        claims = {name: claim for name, claim in result["claims"].items() if name.startswith(kind)}
        if claims:
            _draw(claims, path.with_stem(f"{path.stem}_{kind}"))


def _draw(claims: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    draw_loss_curves({name: claim["curves"] for name, claim in claims.items()}, path)
    draw_residual_weights({name: claim["residual_weights"] for name, claim in claims.items()}, _alpha_figure(path))


def _alpha_figure(figure: Path) -> Path:
    return figure.with_stem(f"{figure.stem}_alpha")


def write_report(folder: Path, claims: Mapping[str, Claim]) -> str:
    """`claims.json`, `claims.md` and two figures into `folder`. Returns the Markdown.

    Raises:
        `FileNotFoundError`: none of the claims has a run.
        `ImportError`: matplotlib is missing; everything else is written.
    """
    result = collect(folder, claims)
    if not result["claims"]:
        raise FileNotFoundError(f"{folder} has no run of {', '.join(claims)}; leave --report out to make them")
    text = to_markdown(result, "claims.png")
    write_text(folder / "claims.json", json.dumps(result) + "\n")
    write_text(folder / "claims.md", text + "\n")
    _draw(result["claims"], folder / "claims.png")
    return text
