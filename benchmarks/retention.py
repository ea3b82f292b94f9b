"""What a converted GPT-2 keeps of a teacher of our own that was trained for as long as its text is worth it.

Three recipes on the same text: the teacher (`gpt2/english`); the teacher trained on with a tenth of the tokens
(`gpt2/english_continued`); and the student, which is the teacher with its attention swapped, fine-tuned with that
tenth (`decay_fast_weight_gpt2/english`). Weights are chosen by the validation text, results are of the test text.
The share is of both teachers, and so is the bar: a rate that is high enough for new gates may set a finished teacher
back, and beside that one a student looks better than it is.

It stops by itself after `MINUTES`, at a checkpoint; started again it goes on, and what is finished is not done again.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe
from seqzoo.data.text import load_corpus
from seqzoo.data.text_packing import tokenize
from seqzoo.data.text_tokenizer import load_tokenizer
from seqzoo.metrics.language_modeling import share_kept
from seqzoo.trainers.language_modeling import CausalLanguageModeling
from seqzoo.trainers.loop import TrainingStopped, new_accelerator
from seqzoo.trainers.recipe import Recipe, load_recipe
from seqzoo.trainers.run import run_to_the_end


NEEDS_GPU = True
FOLDER = Path("runs/retention")
# Where it lies beside the checkout: {train,valid,test}.jsonl.xz, one JSON object a line with the key `text`.
TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "english"
MINUTES = 7  # of a call; with the last evaluation less than eight
LEAST_MINUTES = 2  # to begin another stage: reading the text takes one
TEACHER, CONTINUED, STUDENT = STAGES = ("teacher", "teacher_continued", "student")
RECIPES = dict(zip(STAGES, ("gpt2/english", "gpt2/english_continued", "decay_fast_weight_gpt2/english"), strict=True))


def stage_recipe(stage: str, text: Path, folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The packaged recipe of a stage, with this text and in this work folder."""
    start = {CONTINUED: "model.init_from", STUDENT: "model.convert_gpt2"}
    placed = {
        "data.source": text / "train.jsonl.xz",
        "data.validation": text / "valid.jsonl.xz",
        "training.output_dir": folder / stage,
        **({start[stage]: folder / TEACHER} if stage in start else {}),
    }
    named = [f"{key}={json.dumps(str(path))}" for key, path in placed.items()]
    return load_recipe(RECIPES[stage], [*named, "tracking.tracker=none", *overrides])


def run(
    progress: Callable[[str], None] = print,
    *,
    text: Path = TEXT,
    folder: Path = FOLDER,
    minutes: float = MINUTES,
    overrides: Mapping[str, Sequence[str]] | None = None,
    needs_gpu: bool = NEEDS_GPU,
) -> dict[str, Any]:
    """Train what is not finished in the work folder, and compare.

    Args:
        progress: is told which stage begins or goes on.
        text: the folder of the text.
        folder: the work folder.
        minutes: after so many it stops.
        overrides: stage -> changes to its recipe.
        needs_gpu: refuse to start without one.

    Returns:
        `machine`, `data`, `stages` (stage -> `recipe`, `parameters`, `training`, and `validation` and `test`: `loss`,
        `bits_per_byte`, `perplexity`), `share_kept` (teacher -> part of the text -> share), and `bars`.

    Raises:
        `TrainingStopped`: the minutes are over.
        `FileNotFoundError`: the text is not there.
        `ValueError`: there is no GPU, a file does not hold what its name says, or the text was changed between stages.
        And what [`run_to_the_end`] raises.
    """
    started = time.monotonic()
    if needs_gpu and not torch.cuda.is_available():
        raise ValueError("this benchmark needs a GPU, and torch sees none")
    for part in ("train", "valid", "test"):
        if not (text / f"{part}.jsonl.xz").is_file():
            raise FileNotFoundError(
                f"there is no {text / part}.jsonl.xz; put a text there, one JSON object a line with the key `text`, "
                f"or `seqzoo train` {', '.join(RECIPES.values())} one after the other, with data.source of your own"
            )
    load_corpus(str(text / "test.jsonl.xz"), validation=str(text / "test.jsonl.xz"))  # damaged: now, not in an hour
    if not (folder / TEACHER / "metrics.json").is_file():  # what came from an earlier teacher is worth nothing
        for stage in (CONTINUED, STUDENT):
            shutil.rmtree(folder / stage, ignore_errors=True)
    recipes = {stage: stage_recipe(stage, text, folder, (overrides or {}).get(stage, ())) for stage in STAGES}
    todo = [stage for stage in STAGES if not (folder / stage / "metrics.json").is_file()]
    metrics = {}
    for stage, recipe in recipes.items():
        left = minutes - (time.monotonic() - started) / 60
        if stage in todo[1:] and left < LEAST_MINUTES:
            raise TrainingStopped(f"{recipe.name} comes next, the time of this call is over")
        if stage in todo:
            progress(f"{_name(stage)} ({recipe.name})")
        recipe.training.max_minutes = max(left, 1e-6)  # a step at least
        metrics[stage] = run_to_the_end(recipe)
    if len({entry["data"]["sha256"] for entry in metrics.values()}) > 1:
        raise ValueError(f"the stages in {folder} have read different texts under one name; remove it to do it again")
    progress("the test text")
    stages = {
        stage: {
            "recipe": RECIPES[stage],
            "parameters": metrics[stage]["parameters"],
            "training": metrics[stage]["training"],
            "validation": {key: metrics[stage]["evaluation"][key] for key in ("loss", "bits_per_byte", "perplexity")},
            "test": evaluate(recipe, text / "test.jsonl.xz"),
        }
        for stage, recipe in recipes.items()
    }
    kept = {
        teacher: {
            part: share_kept(stages[teacher][part]["perplexity"], stages[STUDENT][part]["perplexity"])
            for part in ("validation", "test")
        }
        for teacher in (TEACHER, CONTINUED)
    }
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "machine": describe() | gpu,
        "data": {"source": text.name} | {key: metrics[TEACHER]["data"][key] for key in ("sha256", "train_tokens")},
        "stages": stages,
        "share_kept": kept,
        "bars": [
            bar(f"perplexity of the {_name(teacher)} / of the student, per cent", 100 * shares["test"], ">=", 99)
            for teacher, shares in kept.items()
        ],
    }


def evaluate(recipe: Recipe, path: Path) -> dict[str, float]:
    """The finished model of a recipe on another text than those that it trained with and was chosen by."""
    folder = recipe.training.output_dir
    accelerator = new_accelerator(recipe.training)
    row = tokenize(load_corpus(str(path), validation=str(path)).train, load_tokenizer(folder))
    model = accelerator.prepare(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    return CausalLanguageModeling(accelerator, row, recipe).evaluate(model)


def to_markdown(result: dict[str, Any]) -> str:
    """The table, the shares and the bars."""
    data, stages = result["data"], result["stages"]
    teacher, student = (stages[stage]["training"] for stage in (TEACHER, STUDENT))
    heads = [
        "",
        "parameters",
        "steps",
        "kept",
        "tokens",
        "tokens a second",
        "bits per byte",
        "perplexity",
        "validation",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for stage, entry in stages.items():
        training, test = entry["training"], entry["test"]
        cells = [
            _name(stage),
            f"{entry['parameters']:,}",
            f"{training['steps']:,}",
            f"{training['best_step'] or training['steps']:,}",
            f"{training['tokens_seen']:,}",
            f"{training['tokens_per_second']:,.0f}",
            f"{test['bits_per_byte']:.4f}",
            f"{test['perplexity']:.3f}",
            f"{entry['validation']['perplexity']:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join(
        [
            f"Text `{data['source']}`, {data['train_tokens']:,} tokens. The teacher from nothing, in "
            f"{teacher['tokens_seen'] / data['train_tokens']:.1f} passes; the teacher continued, and the student, "
            "which is the teacher with its attention swapped for decaying fast weights, both with the same "
            f"{student['tokens_seen']:,} tokens at the same rate. Held-out text in windows of "
            f"{teacher['sequence_length']:,} tokens: the step that was kept is the best one on the validation text "
            "(perplexity in the last column); all else is of the test text.",
            "\n".join(lines),
            bars_to_markdown(result["bars"]),
        ]
    )


def _name(stage: str) -> str:
    return stage.replace("_", " ")
