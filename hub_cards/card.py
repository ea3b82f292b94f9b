"""The card of an exported model: what is known of it, and what its own run measured."""

import json
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template
from transformers import PreTrainedModel

from seqzoo import MODELS
from seqzoo.hub_cards.rezero_claims import RESULTS, rezero_claims


# The transformers releases that exports were loaded with, in environments without seqzoo: see
# tests/hub_cards/test_transformers_versions.py.
PROVEN_TRANSFORMERS = ">=5.17,<=5.23"

METRICS_SCHEMA = 1

# What a card needs of metrics.json, of any run and of one on text; the rest of it is shown where it is there.
METRICS = {
    "data": ("source",),
    "training": ("steps", "batch_size", "final_loss", "seconds", "num_processes", "seed"),
    "evaluation": (),
    "versions": (),
    "date": (),
}
TEXT_METRICS = {
    "data": ("sha256", "python", "train_tokens", "train_bytes"),
    "training": ("sequence_length", "tokens_seen", "tokens_per_second"),
    "evaluation": ("bits_per_byte", "perplexity", "tokens", "bytes"),
}

# The task of a model by the Auto class that loads it.
PIPELINE_TAGS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModel": "feature-extraction",
}


# How a run began (`start` of metrics.json), where that is not random weights.
STARTS = {
    "convert_gpt2": "converted from a trained GPT-2; steps, tokens and time below are those of this run alone",
    "init_from": "another trained model; steps, tokens and time below are those of this run alone",
}

# What a run learned (`training.objective` of metrics.json), and the unit of its loss.
OBJECTIVES = {
    "language_modeling": ("next-token prediction", "nats a token"),
    "align": (
        "alignment: each layer's memory learned to give what the attention of the teacher{} gives on the same input, "
        "and nothing else learned",
        "of the mean square of that attention's output",
    ),
    "distill": (
        "distillation: next-token prediction, mixed with the divergence from the predictions of the teacher{}",
        "nats a token, mixed",
    ),
}


def model_card(
    model: PreTrainedModel, name: str, *, license: str, metrics: dict[str, Any] | None, recipe: str | None
) -> ModelCard:
    """The card of `model`, from the text of its model type and the numbers of its run.

    Args:
        model (`PreTrainedModel`):
            The file `<model_type>.md` of this folder, a template that is given the config, says what it is;
            `library_model.md`, if it is not of the zoo. Its metadata may name another `pipeline_tag` than the Auto
            class has, and its section `How to use it` stands in for the one that suits language models; a section
            `Beside its peers` follows the results. What it shows as `![...](x.png)` is a figure of
            `benchmarks/results`, which [`figures`] finds.
        name (`str`):
            Title of the card and name of the repository.
        license (`str`):
            Licence of the weights, by its id on the Hub, such as `apache-2.0`.
        metrics (`dict`, *optional*):
            What [`read_metrics`] returned. With None the card says that nothing was measured.
        recipe (`str`, *optional*):
            YAML text of the recipe that trained the model.

    Raises:
        `FileNotFoundError`: this folder has no text for the model type.
    """
    config = model.config
    room = files("seqzoo.hub_cards")
    of_zoo = config.model_type in MODELS
    text = room / (f"{config.model_type}.md" if of_zoo else "library_model.md")
    if not text.is_file():
        raise FileNotFoundError(
            f"{text} is missing: write what a {config.model_type} is, its limits and its citation."
        )
    template = Template(text.read_text(encoding="utf-8"), keep_trailing_newline=True)
    about = ModelCard(template.render(config=config, rezero_claims=rezero_claims))
    headings = re.split(r"^## (.+)\n", about.text, flags=re.MULTILINE)[1:]

    auto_class = next(
        auto
        for auto in PIPELINE_TAGS
        if getattr(transformers, auto)._model_mapping.get(type(config), None) is type(model)
    )
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=about.data.pipeline_tag or PIPELINE_TAGS[auto_class],
        language=about.data.language,
        tags=[*(["custom_code"] if of_zoo else []), config.model_type, *about.data.tags],
    )
    source, objective, loss_unit, lengths = None, None, None, {}
    if metrics is not None:
        source = metrics["data"]["source"]
        dataset = metrics["data"].get("dataset")
        if source == "embedded":
            source = "embedded (the documentation of Python's standard library)"
        elif dataset is None:  # files: where they lay says nothing to others
            source = ", ".join(Path(name).name for name in source.split(", "))
        lengths = {int(length): result for length, result in metrics["evaluation"].get("by_length", {}).items()}
        teacher = f" `{metrics['teacher']}`" if "teacher" in metrics else ""
        if is_of_text(metrics):
            objective, loss_unit = OBJECTIVES[metrics["training"].get("objective", "language_modeling")]
            objective = objective.format(teacher)
        data.model_name = name
        data.base_model = metrics.get("base_model")
        data.datasets = [dataset] if dataset else None
        held_out = ", ".join(Path(name).name for name in metrics["data"].get("validation", []))
        data.eval_results = [
            EvalResult(
                task_type=data.pipeline_tag,
                dataset_type=dataset or ("text" if is_of_text(metrics) else metrics["task"]),
                dataset_name=held_out or f"held-out part of {source}",
                metric_type=metric,
                metric_value=round(value, 4),
                metric_name=metric.replace("_", " "),
            )
            for metric, value in _headlines(metrics).items()
        ]

    return ModelCard.from_template(
        data,
        template_str=(room / "model_card.md").read_text(encoding="utf-8"),
        name=name,
        about={heading: section.strip() for heading, section in zip(headings[::2], headings[1::2])},
        config=config,
        parameters=model.num_parameters(),
        dtype=str(model.dtype).removeprefix("torch."),
        auto_class=auto_class,
        remote_code=", trust_remote_code=True" if of_zoo else "",
        transformers_range=PROVEN_TRANSFORMERS,
        metrics=metrics,
        of_text=metrics is not None and is_of_text(metrics),
        source=source,
        starts=STARTS,
        objective=objective,
        loss_unit=loss_unit,
        lengths=sorted(lengths.items()),
        recipe=recipe and recipe.strip(),
    )


def figures(card: ModelCard) -> list[Traversable]:
    """The files of `benchmarks/results` that a card shows as images beside it."""
    return [RESULTS / name for name in re.findall(r"!\[[^\]]*\]\((\w+\.png)\)", card.text)]


def is_of_text(metrics: dict[str, Any]) -> bool:
    """Whether a run trained a language model; runs of before there were tasks did."""
    return metrics.get("task", "causal_lm") == "causal_lm"


def _headlines(metrics: dict[str, Any]) -> dict[str, float]:
    """The measures that are a card's evaluation results."""
    evaluation = metrics["evaluation"]
    if is_of_text(metrics):
        return {metric: evaluation[metric] for metric in ("bits_per_byte", "perplexity")}
    return {metric: value for metric, value in evaluation.items() if isinstance(value, int | float)}


def read_metrics(path: str | Path, model_type: str | None = None) -> dict[str, Any]:
    """What a training run wrote to `metrics.json`, checked to be of this schema (and of a model of `model_type`).

    Raises:
        `ValueError`: the file is no JSON, of another schema, incomplete, or of a model of another type.
    """
    try:
        metrics = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): run the training or evaluation again.") from error
    if not isinstance(metrics, dict) or metrics.get("schema") != METRICS_SCHEMA:
        raise ValueError(
            f"{path} is not of schema {METRICS_SCHEMA}: evaluate the model again with this version of seqzoo."
        )
    if model_type and metrics.get("model_type") != model_type:
        raise ValueError(
            f"{path} was measured on a {metrics.get('model_type')!r}, but the model beside it is a {model_type!r}: "
            "remove the file or evaluate the model again."
        )
    missing = [section for section in METRICS if section not in metrics] or [
        f"{section}.{key}"
        for needed in (METRICS, TEXT_METRICS if is_of_text(metrics) else {})
        for section, keys in needed.items()
        for key in keys
        if key not in metrics[section]
    ]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: run the training or evaluation again.")
    return metrics
