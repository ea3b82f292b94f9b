"""Recipes: one YAML file that says everything about a training run.

`task` says what kind of training it is, the name of a module of this room; without it, `causal_lm`. Beside it a
recipe has seven sections, a dataclass each, below; which one `data` is depends on the task. [`load_recipe`] reads a
file, a packaged recipe such as `gpt2/demo`, or a mapping; applies `key=value` overrides; and refuses what it does not
know:

    recipe = load_recipe("gpt2/demo", ["training.lr=3e-4", "training.output_dir=runs/teacher"])

Paths inside a recipe are relative to the working directory. A recipe names only what differs from the defaults;
the run's folder gets the resolved one (`recipe.yaml`), in which every key is written out.
"""

import copy
import difflib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from seqzoo.trainers.recipe_checks import check
from seqzoo.trainers.recipe_data import DATA_SECTIONS, DataSection
from seqzoo.trainers.recipe_parsing import RecipeError, apply_override, build_section, refuse_unknown


@dataclass
class ModelSection:
    """The model to train: exactly one of `convert_gpt2`, `init_from` or neither (random weights).

    Args:
        model_type (`str`):
            A model type of the Auto classes, such as `gpt2` or `decay_fast_weight_gpt2`.
        config (`dict`):
            Fields of that type's config class. From scratch, `vocab_size` and the ids of the special tokens come
            from the tokenizer where they are not given. Beside `init_from`, what is to differ from its config; beside
            `convert_gpt2`, what the conversion adds (`gate_init`, ...).
        init_from (`str`, *optional*):
            Folder or Hub id of a model of this type to go on training.
        convert_gpt2 (`str`, *optional*):
            Folder or Hub id of a GPT-2 to convert into decaying fast weights first.
        teacher (`str`, *optional*, defaults to `convert_gpt2`):
            Folder or Hub id of the GPT-2 that the objectives `align` and `distill` learn from.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    convert_gpt2: str | None = None
    teacher: str | None = None


@dataclass
class TokenizerSection:
    """`path` or `vocab_size`; neither means the tokenizer of `model.init_from` or `model.convert_gpt2`.

    Args:
        path (`str`, *optional*):
            An existing tokenizer: folder or Hub id.
        vocab_size (`int`, *optional*):
            Train a tokenizer of this size on the training part. Of the kind `bpe`, 257 is bytes plus the end of text.
        kind (`bpe` or `words`, defaults to `bpe`):
            Only with `vocab_size`: a byte-level BPE; or the most frequent words between white space, all others being
            `<unk>`, and `<eos>` for every end of line and of a document. Perplexity is then that of a word, and bits
            per byte are too low by what it would take to spell the words that are `<unk>`.
    """

    path: str | None = None
    vocab_size: int | None = None
    kind: typing.Literal["bpe", "words"] = "bpe"


@dataclass
class TrainingSection:
    """Optimisation, checkpoints, and where the run lives.

    Args:
        steps (`int`):
            Optimizer steps in all.
        objective (`language_modeling`, `align` or `distill`, *optional*, defaults to `language_modeling`):
            Of `causal_lm` only. Next-token prediction. Or a stage of a conversion, with `model.teacher`: `align`
            teaches each layer's memory to give what the teacher's attention gives, and nothing else learns; `distill`
            adds the divergence from the teacher's predictions to next-token prediction. A stage is a run of its own;
            the next one names it as `model.init_from`.
        distill_weight (`float`, defaults to 0.5), distill_temperature (`float`, defaults to 1.0):
            Only with `distill`: the share of the divergence in the loss, from 0 to 1, and what both models' logits
            are divided by for it.
        lora_rank (`int`, *optional*):
            Train low-rank updates of GPT-2's matrices, and in full only what GPT-2 does not have (the gates). They are
            merged into the finished model. Needs the extra `lora` (peft).
        lora_alpha (`float`, defaults to twice the rank), lora_targets (`list[str]`, defaults to GPT-2's matrices):
            Only with `lora_rank`: an update counts `lora_alpha / lora_rank` times; names of the modules that get one.
        output_dir (`str`, *optional*, defaults to `runs/<recipe>`):
            The run's folder.
        batch_size (`int`, defaults to 8):
            Sequences of one optimizer step, over all processes and accumulation steps.
        gradient_accumulation_steps (`int`, defaults to 1):
            Passes into which each process cuts its share of the batch.
        lr (`float`, defaults to 1e-3), schedule (`cosine`, `linear` or `constant`), warmup_steps (`int`):
            Peak learning rate, its course after the warm-up (to zero, but for `constant`), and the warm-up.
        optimizer (`adamw` or `sgd`, defaults to `adamw`):
            `sgd` has Nesterov's momentum.
        weight_decay (`float`, defaults to 0.1):
            For matrices; biases, norms, embeddings and residual weights have none.
        betas (`list[float]`, defaults to [0.9, 0.95]):
            Adam's two averages; the first one is the momentum of SGD.
        residual_lr (`float`, *optional*), residual_betas (`list[float]`, *optional*):
            The same for residual weights (ReZero's alpha), of models that have them. Null is `lr`, or with AdamW 1 / L
            for L such weights if that is less; and `betas`.
        max_grad_norm (`float`, *optional*, defaults to 1.0):
            Clips the norm of the gradient; null does not.
        mixed_precision (`no`, `bf16` or `fp16`, *optional*):
            Null leaves it to `accelerate launch`.
        gradient_checkpointing (`bool`, defaults to false):
            Recompute activations in the backward pass. Transformers can; LSTMs, and networks with batch normalisation
            (ResNets), which would count every batch twice, cannot.
        seed (`int`, defaults to 0):
            Weights, dropout and the order of the sequences.
        checkpoint_every (`int`, *optional*):
            Steps between checkpoints; null writes none but the best model's.
        keep_checkpoints (`int`, defaults to 2):
            The newest ones that stay; the best one always does.
        keep_best (`bool`, defaults to false):
            End with the weights of the lowest validation loss instead of the last ones.
        max_minutes (`float`, *optional*):
            For machines that are lent for a limited time: so long after it began to read the data, the run writes a
            checkpoint after the step that it is at, and ends unfinished, with exit code 75. The same command with
            `resume` goes on. Leave room for one step, that checkpoint and the last evaluation.
        resume (`bool`, defaults to false):
            Go on from the newest checkpoint in `output_dir`, or start where there is none.
        overwrite (`bool`, defaults to false):
            Replace the run in `output_dir`.
    """

    steps: int
    objective: typing.Literal["language_modeling", "align", "distill"] | None = None
    distill_weight: float | None = None
    distill_temperature: float | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: list[str] | None = None
    output_dir: str | None = None
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    lr: float = 1e-3
    schedule: typing.Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    optimizer: typing.Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    residual_lr: float | None = None
    residual_betas: list[float] | None = None
    max_grad_norm: float | None = 1.0
    mixed_precision: typing.Literal["no", "bf16", "fp16"] | None = None
    gradient_checkpointing: bool = False
    seed: int = 0
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    keep_best: bool = False
    max_minutes: float | None = None
    resume: bool = False
    overwrite: bool = False


@dataclass
class EvaluationSection:
    """On the held-out text, during training and at its end.

    Args:
        every (`int`, *optional*):
            Steps between evaluations; null evaluates at the end only.
        max_tokens (`int`, defaults to 100000):
            Held-out tokens to predict.
        batch_size (`int`, defaults to 8):
            Sequences of one forward pass over all processes, at `data.sequence_length`; longer ones are fewer.
        lengths (`list[int]`, *optional*):
            Also evaluate, at the end, in windows of these lengths.
    """

    every: int | None = None
    max_tokens: int = 100_000
    batch_size: int = 8
    lengths: list[int] = field(default_factory=list)


@dataclass
class TrackingSection:
    """Curves, beside `metrics.json`.

    Args:
        tracker (`str`, defaults to `tensorboard`):
            A tracker of Accelerate (`tensorboard`, `trackio`, `wandb`, ...), or `none`. `trackio` writes to this
            machine alone; `trackio show` draws it.
        log_every (`int`, defaults to 10):
            Steps between two points of the loss curve.
    """

    tracker: str = "tensorboard"
    log_every: int = 10


@dataclass
class HubSection:
    """Where the finished model goes.

    Args:
        repo_id (`str`, *optional*):
            `user/name`: push there after training what `seqzoo export` would make, in one commit.
        private (`bool`, defaults to true):
            Whether a repository that has to be created is private. A public one that exists is refused; false for it.
    """

    repo_id: str | None = None
    private: bool = True


@dataclass
class Recipe:
    """A checked recipe. `name` is not a key of the file: it is the file's own name, such as `gpt2/demo`."""

    model: ModelSection
    training: TrainingSection
    task: str = "causal_lm"
    data: Any = field(default_factory=DataSection)
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    tracking: TrackingSection = field(default_factory=TrackingSection)
    hub: HubSection = field(default_factory=HubSection)
    name: str = "recipe"

    def as_dict(self) -> dict[str, Any]:
        """The task, and the sections as plain mappings, every key written out."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


def packaged_recipes() -> list[str]:
    """Names of the recipes that come with the package, such as `gpt2/demo`."""
    root = files("seqzoo.configs")
    return sorted(
        f"{folder.name}/{entry.name.removesuffix('.yaml')}"
        for folder in root.iterdir()
        if folder.is_dir()
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml") and folder.name != "accelerate"
    )


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        source (`str`, `Path` or mapping):
            A YAML file, the name of a packaged recipe (`gpt2/demo`), or the sections themselves.
        overrides (`Iterable[str]`):
            `section.key=value`, the value in YAML. They come after the file, in order.

    Raises:
        `FileNotFoundError`: no such file and no such packaged recipe.
        `RecipeError`: an unknown key, a value of the wrong type, or values that contradict each other.
    """
    if isinstance(source, Mapping):
        name, sections = "recipe", source
    else:
        name, text = _read(str(source))
        try:
            sections = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"recipe {source} is not YAML: {error}") from error
    if not isinstance(sections, Mapping):
        raise RecipeError(f"recipe {source} must be a mapping of sections, not {type(sections).__name__}")
    sections = copy.deepcopy(dict(sections))
    for override in overrides:
        apply_override(sections, override)
    # A file knows its own name; `name` is no key of it.
    refuse_unknown(sections, [item.name for item in fields(Recipe) if item.name != "name"], path="")
    task = sections.get("task", "causal_lm")
    if task not in DATA_SECTIONS:
        nearest = difflib.get_close_matches(str(task), DATA_SECTIONS, n=1, cutoff=0.0)[0]
        raise RecipeError(f"task is {task!r}; did you mean {nearest}? It takes one of {', '.join(DATA_SECTIONS)}")
    data = build_section(DATA_SECTIONS[task], sections.pop("data", {}), path="data.")
    recipe = build_section(Recipe, sections, path="")
    recipe.data, recipe.name = data, name
    check(recipe)
    _fill_in(recipe)
    return recipe


def _read(source: str) -> tuple[str, str]:
    path = Path(source)
    if path.is_file():
        folder = "" if path.parent.name in ("", "configs") else f"{path.parent.name}/"
        try:
            return f"{folder}{path.stem}", path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"recipe {source} is not a text file in UTF-8: {error}") from error
    packaged = packaged_recipes()
    name = source.removesuffix(".yaml").removeprefix("configs/")
    if name in packaged:
        return name, files("seqzoo.configs").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    raise FileNotFoundError(f"there is no recipe {source}; the packaged ones are: {', '.join(packaged)}")


def _fill_in(recipe: Recipe) -> None:
    """Defaults that depend on other keys."""
    model, training = recipe.model, recipe.training
    if training.output_dir is None:
        training.output_dir = f"runs/{recipe.name}"
    if recipe.task != "causal_lm":
        return
    training.objective = training.objective or "language_modeling"
    if training.objective != "language_modeling":
        model.teacher = model.teacher or model.convert_gpt2
    if training.objective == "distill":
        training.distill_weight = 0.5 if training.distill_weight is None else training.distill_weight
        training.distill_temperature = training.distill_temperature or 1.0
    if training.lora_rank is not None and training.lora_alpha is None:
        training.lora_alpha = 2.0 * training.lora_rank
