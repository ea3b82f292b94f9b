"""All update rules at one size and token budget: quality from scratch and converted, recall, time a token.

Every variant is trained by the recipes that users have, on one thread, with three seeds. A seed decides the weights
and the order of the text for all variants alike, so differences are taken seed by seed, and only one whose sign is the
same for all seeds counts as a difference.

What has been measured is kept in a work folder, one JSON a variant, seed and measurement, with the settings that it
was made with: a run that was stopped goes on, and a changed setting redoes what depends on it.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from seqzoo.benchmarks.figures import draw_update_rules
from seqzoo.benchmarks.generation import decode_times
from seqzoo.benchmarks.machine import describe, one_thread
from seqzoo.benchmarks.update_rules_report import DECAY, SOFTMAX, compare, papers_order, to_markdown
from seqzoo.data.recall import RecallTask
from seqzoo.metrics.language_modeling import share_kept
from seqzoo.trainers.checkpointing import write_text
from seqzoo.trainers.recall import run as train_recall
from seqzoo.trainers.recipe import TrainingSection, load_recipe
from seqzoo.trainers.run import run as train


__all__ = ["draw", "run", "to_markdown"]  # what `seqzoo bench` calls

FOLDER = Path("runs/update_rules")
NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None}


@dataclass(frozen=True)
class Settings:
    """One size and one budget for all. A learning rate is one for all variants, not tuned for each.

    The recall task was chosen so that softmax attention solves it, looking at other seeds than those reported.
    """

    seeds: tuple[int, ...] = (3, 4, 5)
    source: str = "embedded"
    vocab_size: int = 512
    sequence_length: int = 128
    batch_size: int = 8
    size: dict[str, int] = field(default_factory=lambda: {"n_embd": 96, "n_layer": 2, "n_head": 3})
    steps: int = 800
    lr: float = 2.5e-3
    fine_tuning_steps: int = 150
    fine_tuning_lr: float = 2e-3
    held_out_tokens: int = 20_000
    recall: RecallTask = field(default_factory=lambda: RecallTask(pairs=(2, 4, 8), length=32, keys=16))
    recall_size: dict[str, int] = field(default_factory=lambda: {"n_embd": 64, "n_layer": 2, "n_head": 1})
    recall_initializer_range: float = 0.14
    recall_steps: int = 500
    recall_batch_size: int = 64
    recall_lr: float = 5e-3
    contexts: tuple[int, ...] = (128, 4096)
    decoding_steps: int = 25


SETTINGS = Settings()
# Low-rank updates want a higher rate than all weights do.
LOW_RANK = ("training.lora_rank=8", "training.lr=5e-3")
FROM_SCRATCH, CONVERTED, RECALL = MEASUREMENTS = ("from_scratch", "converted", "recall")


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Args:
        about (`str`):
            Which published model it stands for.
        config (`dict`):
            What is set in the config beside the size.
        model_type (`str`):
            Whose recipe `<model_type>/demo` it is trained by.
        stages (`tuple[tuple[str, ...], ...]`):
            Training after the conversion, one tuple of recipe overrides a stage; the stages share the fine-tuning
            steps out. `{teacher}` in an override is the teacher's folder.
        measurements (`tuple[str, ...]`):
            What is measured of it; a row that differs from another in its conversion alone needs no more than that.
    """

    about: str
    config: dict[str, Any] = field(default_factory=dict)
    model_type: str = "decay_fast_weight_gpt2"
    stages: tuple[tuple[str, ...], ...] = ((),)
    measurements: tuple[str, ...] = MEASUREMENTS

    @property
    def rule(self) -> str | None:
        """Its update rule; none has a row that measures a conversion, and softmax."""
        compared = self.model_type != "gpt2" and self.measurements == MEASUREMENTS
        return self.config.get("update_rule", "decay") if compared else None


VARIANTS = {
    SOFTMAX: Variant("the teacher; converted: trained on", {"attn_pdrop": 0.0}, model_type="gpt2"),
    DECAY: Variant("Mao 2022"),
    "decay (key side)": Variant("one gate of Mao 2022, as in GLA", {"gate_sides": "key"}),
    "gated + elu + norm": Variant("as RFA", {"update_rule": "gated", "feature_map": "elu", "normalize": True}),
    "gated": Variant("RFA's gate without a map", {"update_rule": "gated"}),
    "delta + dpfp": Variant("Schlag et al. 2021", {"update_rule": "delta", "feature_map": "dpfp"}),
    "delta": Variant("DeltaNet's rule without a map", {"update_rule": "delta"}),
    "sum + elu + norm": Variant("linear attention", {"update_rule": "sum", "feature_map": "elu", "normalize": True}),
    "sum + relu + norm": Variant("T2R", {"update_rule": "sum", "feature_map": "relu", "normalize": True}),
    "sum + hedgehog + norm": Variant(
        "Hedgehog's map", {"update_rule": "sum", "feature_map": "hedgehog", "normalize": True}
    ),
    "decay + softmax layer": Variant("a hybrid: the last layer keeps attention", {"softmax_layers": [1]}),
    "decay, aligned": Variant(
        "half of the fine-tuning aligns", stages=(("training.objective=align",), ()), measurements=(CONVERTED,)
    ),
    "decay, distilled": Variant(
        "learns from the teacher, too", stages=(("training.objective=distill",),), measurements=(CONVERTED,)
    ),
    "decay, low-rank": Variant("LoRA of rank 8", stages=(LOW_RANK,), measurements=(CONVERTED,)),
    "decay, aligned, low-rank": Variant(
        "half aligns in full, then LoRA of rank 8",
        stages=(("training.objective=align",), LOW_RANK),
        measurements=(CONVERTED,),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One measurement of one variant and seed."""

    measurement: str
    name: str
    seed: int

    def path(self, folder: Path) -> Path:
        slug = "".join(c if c.isalnum() else "_" for c in self.name)
        return folder / "cells" / f"{slug}-{self.measurement}-{self.seed}.json"


def model_config(variant: Variant, settings: Settings, **changes: Any) -> dict[str, Any]:
    """Fields of the variant's config."""
    common = {
        "initializer_range": 0.05,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "n_positions": settings.sequence_length,
    }
    return common | settings.size | variant.config | changes


def from_scratch_recipe(variant: Variant, settings: Settings, seed: int) -> list[str]:
    """The overrides of `<model_type>/demo` for a model from scratch."""
    return [
        f"model.config={json.dumps(model_config(variant, settings))}",
        f"tokenizer.vocab_size={settings.vocab_size}",
        *_common(settings, seed),
        *_length(settings.steps, settings.lr),
    ]


def converted_recipes(variant: Variant, settings: Settings, seed: int, folder: Path) -> list[list[str]]:
    """The overrides of each stage from the teacher to the fine-tuned model.

    Stage after stage goes to `folder/stage_<i>`; the softmax variant goes on from the teacher as it is.
    """
    teacher = teacher_folder(folder, seed)
    recipes = []
    for i, overrides in enumerate(variant.stages):
        if i:
            start = [f"model.init_from={folder / f'stage_{i - 1}'}", "model.config={}"]
        elif variant.model_type == "gpt2":
            start = [f"model.init_from={teacher}", "model.config={}"]
        else:
            start = [f"model.convert_gpt2={teacher}", f"model.config={json.dumps(variant.config)}"]
        recipes.append(
            [
                *start,
                "tokenizer.vocab_size=null",
                *_common(settings, seed + 1000 * (i + 1)),  # each stage reads other batches, and so did the teacher
                *_length(settings.fine_tuning_steps // len(variant.stages), settings.fine_tuning_lr),
                *(override.replace("{teacher}", str(teacher)) for override in overrides),
            ]
        )
    return recipes


def _common(settings: Settings, seed: int) -> list[str]:
    return [
        f"data.source={settings.source}",
        f"data.sequence_length={settings.sequence_length}",
        f"training.batch_size={settings.batch_size}",
        f"training.seed={seed}",
        "evaluation.every=null",
        "evaluation.lengths=[]",
        f"evaluation.max_tokens={settings.held_out_tokens}",
        "tracking.tracker=none",
    ]


def _length(steps: int, lr: float) -> list[str]:
    return [f"training.steps={steps}", f"training.warmup_steps={steps // 15}", f"training.lr={lr}"]


def teacher_folder(folder: Path, seed: int) -> Path:
    return folder / f"teacher_{seed}"


class Grid:
    """The cells of the table: which there are, what each was or would be made with, and how it is made."""

    def __init__(self, settings: Settings, variants: Mapping[str, Variant], folder: Path):
        self.settings = settings
        self.variants = variants
        self.folder = folder
        # Seed by seed, the teacher first: the conversions start from it.
        names = [SOFTMAX, *(name for name in variants if name != SOFTMAX)]
        self.cells = [
            Cell(measurement, name, seed)
            for seed in settings.seeds
            for name in names
            for measurement in variants[name].measurements
        ]

    def made_with(self, cell: Cell) -> dict[str, Any]:
        """All that decides what is measured, in JSON's types."""
        settings, variant = self.settings, self.variants[cell.name]
        if cell.measurement == RECALL:
            made_with = {
                "config": self.recall_config(variant),
                "task": asdict(settings.recall),
                "training": asdict(self.recall_training(cell.seed)) | {"output_dir": None},
            }
        else:
            # The work folder does not matter, so paths are those inside it.
            made_with = {"recipe": f"{variant.model_type}/demo", "overrides": self.recipes(cell, Path())}
            if cell.measurement == CONVERTED:
                made_with["teacher"] = from_scratch_recipe(self.variants[SOFTMAX], settings, cell.seed)
        versions = {name: version for name, version in describe().items() if name not in ("processor", "date")}
        return json.loads(json.dumps(made_with | {"versions": versions}))

    def recipes(self, cell: Cell, folder: Path) -> list[list[str]]:
        """The overrides of each training that the cell takes."""
        variant = self.variants[cell.name]
        if cell.measurement == FROM_SCRATCH:
            return [from_scratch_recipe(variant, self.settings, cell.seed)]
        return converted_recipes(variant, self.settings, cell.seed, folder)

    def recall_config(self, variant: Variant) -> dict[str, Any]:
        task, settings = self.settings.recall, self.settings
        sizes = settings.recall_size | {"vocab_size": task.vocab_size, "n_positions": task.length}
        return model_config(
            variant,
            settings,
            **sizes,
            initializer_range=settings.recall_initializer_range,
            **NO_SPECIAL_TOKENS,
        )

    def recall_training(self, seed: int) -> TrainingSection:
        steps = self.settings.recall_steps
        return TrainingSection(
            steps=steps,
            warmup_steps=steps // 15,
            lr=self.settings.recall_lr,
            schedule="constant",  # with a decaying rate, softmax attention begins to recall later, or not at all
            batch_size=self.settings.recall_batch_size,
            seed=seed,
            output_dir=str(self.folder / "recall"),
        )

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What was measured earlier, or None where that has to be done (again)."""
        path = cell.path(self.folder)
        if not path.is_file():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        is_teacher = (cell.measurement, cell.name) == (FROM_SCRATCH, SOFTMAX)
        if is_teacher and not (teacher_folder(self.folder, cell.seed) / "model.safetensors").is_file():
            return None
        return kept["result"] if kept["made_with"] == self.made_with(cell) else None

    def measure(self, cell: Cell) -> None:
        """Measure and keep it."""
        started = time.perf_counter()
        variant = self.variants[cell.name]
        if cell.measurement == RECALL:
            config = AutoConfig.for_model(variant.model_type, **self.recall_config(variant))
            result = train_recall(config, self.settings.recall, self.recall_training(cell.seed))
        else:
            for i, recipe in enumerate(self.recipes(cell, self.folder)):
                is_teacher = (cell.measurement, cell.name) == (FROM_SCRATCH, SOFTMAX)
                output = teacher_folder(self.folder, cell.seed) if is_teacher else self.folder / f"stage_{i}"
                placed = [*recipe, f"training.output_dir={output}", "training.overwrite=true"]
                metrics = train(load_recipe(f"{variant.model_type}/demo", placed))
            result = {key: metrics["evaluation"][key] for key in ("bits_per_byte", "perplexity")}
            result |= {"parameters": metrics["parameters"], "sha256": metrics["data"]["sha256"]}
        path = cell.path(self.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"made_with": self.made_with(cell), "result": result, "seconds": time.perf_counter() - started}
        write_text(path, json.dumps(kept, indent=2) + "\n")

    def parameters(self, name: str) -> int:
        """Of the language model."""
        return self.result(Cell(CONVERTED, name, self.settings.seeds[0]))["parameters"]

    def time_left(self, todo: Sequence[Cell]) -> str:
        """How long these will take, by what others of their kind took; nothing before each kind was measured."""
        seconds = {}
        for cell in self.cells:
            if cell not in todo and cell.path(self.folder).is_file():
                kept = json.loads(cell.path(self.folder).read_text(encoding="utf-8"))
                seconds.setdefault(cell.measurement, []).append(kept["seconds"])
        if any(cell.measurement not in seconds for cell in todo):
            return ""
        return f" (about {sum(mean(seconds[cell.measurement]) for cell in todo) / 60:.0f} minutes left)"

    def decoding(self) -> dict[str, dict[str, dict[str, float]]]:
        """name -> context -> `ms_per_token` and `cache_bytes`, of all variants in turn (random weights)."""
        settings = self.settings
        positions = max(settings.contexts) + 2 * settings.decoding_steps
        models = {}
        for name, variant in self.variants.items():
            if RECALL in variant.measurements:  # a model of its own, not only a way to it
                fields = model_config(variant, settings, n_positions=positions, vocab_size=settings.vocab_size)
                config = AutoConfig.for_model(variant.model_type, **fields, **NO_SPECIAL_TOKENS)
                models[name] = AutoModelForCausalLM.from_config(config).eval(), False
        return decode_times(models, settings.contexts, settings.decoding_steps)


def run(
    progress: Callable[[str], None] = print,
    *,
    settings: Settings = SETTINGS,
    variants: Mapping[str, Variant] = VARIANTS,
    folder: Path = FOLDER,
) -> dict:
    """Measure what is not in the work folder yet, and compare.

    Args:
        progress: is told what is about to be measured, and how long the rest will take.
        settings: size and budget.
        variants: the rows; `softmax GPT-2` and `decay` are among them.
        folder: the work folder.

    Returns:
        `machine`, `settings`, `variants` (`about`, `config`, `parameters`), `rules` (variant -> update rule), `values`
        (variant -> measure -> seed -> value), `comparison` (see [`compare`]), `papers_order`, `decoding`, and no
        `bars`, for none was promised.
    """
    grid = Grid(settings, variants, folder)
    with one_thread():
        todo = [cell for cell in grid.cells if grid.result(cell) is None]
        for i, cell in enumerate(todo):
            what = f"{cell.name}, seed {cell.seed}, {cell.measurement.replace('_', ' ')}"
            progress(f"{i + 1}/{len(todo)} {what}{grid.time_left(todo[i:])}")
            grid.measure(cell)
    progress("time a token")
    decoding = grid.decoding()
    values = _values(grid)
    comparison = compare(values)
    rules = {name: variant.rule for name, variant in variants.items() if variant.rule}
    return {
        "machine": describe(),
        "settings": asdict(settings),
        "variants": {
            name: {"about": variant.about, "config": variant.config, "parameters": grid.parameters(name)}
            for name, variant in variants.items()
        },
        "rules": rules,
        "values": values,
        "comparison": comparison,
        "papers_order": {measure: papers_order(comparison[measure], rules) for measure in (FROM_SCRATCH, CONVERTED)},
        "decoding": decoding,
        "bars": [],
    }


def _values(grid: Grid) -> dict[str, dict[str, Any]]:
    """variant -> measure -> seed -> value; `recall` is that of the most pairs."""
    results = {cell: grid.result(cell) for cell in grid.cells}
    pairs = grid.settings.recall.pairs
    values = {}
    for name, variant in grid.variants.items():
        of = {
            measurement: {seed: results[Cell(measurement, name, seed)] for seed in grid.settings.seeds}
            for measurement in variant.measurements
        }
        row = {
            measure: {str(seed): result["bits_per_byte"] for seed, result in of[measure].items()}
            for measure in (FROM_SCRATCH, CONVERTED)
            if measure in of
        }
        if CONVERTED in of:
            row["share_kept"] = {
                str(seed): share_kept(results[Cell(CONVERTED, SOFTMAX, seed)]["perplexity"], result["perplexity"])
                for seed, result in of[CONVERTED].items()
            }
        if RECALL in of:
            by_pairs = {
                str(count): {str(seed): result[f"accuracy_{count}"] for seed, result in of[RECALL].items()}
                for count in pairs
            }
            row |= {"recall": by_pairs[str(max(pairs))], "recall_by_pairs": by_pairs}
        values[name] = row
    return values


def draw(result: dict, path: Path) -> None:
    """The plot that `to_markdown` refers to."""
    draw_update_rules(result["values"], path)
