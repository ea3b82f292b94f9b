"""The tasks of NES-MDB on one data set: baselines, and models trained by their packaged recipes.

    benchmark.json   every measure, of validation and test
    benchmark.md     the same as tables, one row a model: the columns of a score and their total, all steps and points
                     of interest
    benchmark.png    totals of the test songs
    runs/            the runs of the recipes, each with its metrics.json

Stopped at any time, it goes on from the checkpoints of the run that it was at; finished runs are not done again.
Tasks that are there already and are not chosen stay as they were measured.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.trainers.checkpointing import write_text
from seqzoo.trainers.nes.composition import baselines, notes_of
from seqzoo.trainers.nes.drawing import draw_totals
from seqzoo.trainers.nes.performance import performance_baselines
from seqzoo.trainers.nes.songs import load_songs
from seqzoo.trainers.recipe import RecipeError, load_recipe
from seqzoo.trainers.run import run_to_the_end, without_nan


HELD_OUT = ("validation", "test")
# Measures of a column as `seqzoo.metrics.nes_scores` names them, by what they are taken of.
PARTS = {"all steps": ("nll", "accuracy"), "points of interest": ("nll_poi", "accuracy_poi")}
CHECKPOINTS = 10  # a run
_COST = ("trained", "parameters", "seconds")

Songs = Sequence[np.ndarray]
Measures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Task:
    """A table of the benchmark.

    Args:
        title (`str`):
            Its heading.
        note (`str`):
            What the columns are, for who reads the table.
        baselines (`Callable`):
            From songs to train on and held-out ones, scores `[step, voice, (note, velocity, timbre)]`, to the measures
            of each baseline by its name.
        recipes (`Mapping[str, str]`):
            Names of packaged recipes by the row that they fill. Their evaluation has the measures of both splits in
            `HELD_OUT`.
    """

    title: str
    note: str
    baselines: Callable[[Songs, Songs], dict[str, Measures]]
    recipes: Mapping[str, str]


def _count(blended: bool) -> Callable[[Songs, Songs], dict[str, Measures]]:
    def measure(train: Songs, held_out: Songs) -> dict[str, Measures]:
        return baselines(*([notes_of(score, blended) for score in songs] for songs in (train, held_out)), blended)

    return measure


TASKS = {
    "composition": Task(
        title="Composition, voice by voice",
        note="The note of each voice at the next step. The quartet and the transformer see the past of all and the "
        "voices before it in the same step; soloists and baselines its own past alone.",
        baselines=_count(blended=False),
        recipes={
            "LSTM soloists": "nes_score/soloists",
            "LSTM quartet": "nes_score/quartet",
            "transformer": "nes_score/transformer",
        },
    ),
    "blended_composition": Task(
        title="Composition, blended",
        note="The keys of P1, P2 and TR at the next step, on or off independently of each other. A step is correct if "
        "all 88 keys are.",
        baselines=_count(blended=True),
        recipes={"LSTM": "nes_score/blended"},
    ),
    "performance": Task(
        title="Expressive performance",
        note="Velocity and timbre of each voice that has them, given the notes (baselines are told none). Models with "
        "a past also know what was played at the steps before, as the bigram does of its own column. The transformers "
        "see the notes of all steps, before and after; the LSTMs those up to the step, the regressions those of it.",
        baselines=performance_baselines,
        recipes={
            "regression, notes": "nes_performance/regression_notes",
            "regression, notes and past": "nes_performance/regression_past",
            "LSTM, notes": "nes_performance/lstm_notes",
            "LSTM, notes and past": "nes_performance/lstm_past",
            "transformer, notes": "nes_performance/transformer_notes",
            "transformer, notes and past": "nes_performance/transformer_past",
        },
    ),
}


def run_benchmark(
    source: str,
    out: Path,
    *,
    tasks: Iterable[str] = tuple(TASKS),
    overrides: Iterable[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure everything that is not measured yet, and write it to `out`.

    Args:
        source (`str`):
            The songs, as `data.source` of a recipe names them; with all of `train`, `validation` and `test`.
        out (`Path`):
            Folder of the results.
        tasks (`Iterable[str]`):
            Of `TASKS`.
        overrides (`Iterable[str]`):
            Changes to all recipes, such as `training.steps=400`.
        progress (`Callable`):
            Is told what begins.

    Returns:
        What `benchmark.json` holds.

    Raises:
        `RecipeError`: a finished or begun run in `out` was made with other songs, steps or sizes; or other tasks there
            were measured on other songs.
        And what [`seqzoo.trainers.run.run_to_the_end`] and [`load_songs`] raise.
    """
    tasks = list(tasks)
    songs = load_songs(source, "train", *HELD_OUT)
    about = {
        "source": source,
        "songs": {split: len(some) for split, some in songs.items()},
        "steps": {split: sum(map(len, some)) for split, some in songs.items()},
    }
    measured = _measured_tasks(out / "benchmark.json", about, tasks)
    for name in tasks:
        task = TASKS[name]
        rows: dict[str, dict[str, Any]] = {}
        progress(f"{task.title}: baselines")
        for split in HELD_OUT:
            for row, measures in task.baselines(songs["train"], songs[split]).items():
                rows.setdefault(row, {})[split] = measures
        for row, recipe_name in task.recipes.items():
            progress(f"{task.title}: {row} ({recipe_name})")
            metrics = _trained(recipe_name, source, out / "runs", overrides)
            rows[row] = {split: metrics["evaluation"][split] for split in HELD_OUT}
            rows[row] |= {"parameters": metrics["parameters"], "training": metrics["training"]}
        measured[name] = without_nan({"title": task.title, "note": task.note, "rows": rows})
        result = {
            **about,
            "tasks": {known: measured[known] for known in TASKS if known in measured},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_text(out / "benchmark.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
        write_text(out / "benchmark.md", to_markdown(result))
        draw_totals(result, out / "benchmark.png")
    return result


def _measured_tasks(path: Path, about: dict[str, Any], chosen: Iterable[str]) -> dict[str, Any]:
    """The tasks that a result has already, each of which stays until it is measured again."""
    if not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    if all(before[key] == value for key, value in about.items()):
        return before["tasks"]
    others = sorted(before["tasks"].keys() - set(chosen))
    if others:
        raise RecipeError(
            f"{path} has {', '.join(others)} of other songs ({before['source']}), which cannot stand beside those of "
            f"{about['source']}; remove it, or choose another folder for the results"
        )
    return {}


def _trained(name: str, source: str, runs: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """Metrics of the run of a recipe."""
    recipe = load_recipe(name, [f"data.source={json.dumps(source)}", *overrides])
    recipe.training.output_dir = str(runs / name.replace("/", "_"))
    recipe.training.checkpoint_every = math.ceil(recipe.training.steps / CHECKPOINTS)
    return run_to_the_end(recipe)


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    songs, steps = result["songs"], result["steps"]
    held = ", ".join(f"{songs[split]:,} songs of {split} ({steps[split]:,} steps)" for split in songs)
    chapters = [
        f"# Benchmark of NES scores\n\n{held}, of {Path(result['source']).name}; {result['date']}.\n\n"
        "NLL is the negative log-likelihood in nats a step, a sum in the column `total`; accuracies are in per cent, "
        "their mean in that column. Points of interest are the steps at which a column changes; one that never does "
        "is blank and counts in no total. The last columns are of trained models: steps, parameters and the time of "
        "the training; baselines count.\n"
    ]
    for task in result["tasks"].values():
        chapters.append(f"## {task['title']}\n\n{task['note']}\n")
        for split in reversed(HELD_OUT):
            for part, measures in PARTS.items():
                chapters.append(f"### {split}, {part}\n\n{_table(task['rows'], split, measures)}\n")
    return "\n".join(chapters)


def _table(rows: dict[str, dict[str, Any]], split: str, measures: tuple[str, str]) -> str:
    nll, accuracy = measures
    columns = list(next(iter(rows.values()))[split])
    if len(columns) == 2:  # one column and a total that is the same
        columns = ["total"]
    head = ["", *(f"NLL {column}" for column in columns), *(f"acc. {column}" for column in columns), *_COST]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, row in rows.items():
        cells = [_number(row[split][column][nll], "{:.3f}") for column in columns]
        cells += [_number(row[split][column][accuracy], "{:.1f}", 100) for column in columns]
        lines.append([name, *cells, *_cost(row)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cost(row: dict[str, Any]) -> list[str]:
    """What `_COST` names; baselines have none of it."""
    if "training" not in row:
        return [""] * len(_COST)
    training = row["training"]
    return [f"{training['steps']:,} steps", f"{row['parameters']:,}", f"{training['seconds']:,.0f}"]


def _number(value: float | None, form: str, factor: float = 1) -> str:
    return "" if value is None else form.format(value * factor)
