"""Train an image classifier by a recipe (task `image_classification`).

    seqzoo train rezero_resnet/digits_resnet56
    seqzoo train rezero_resnet/cifar10_resnet56 data.source=cifar10_images.zip model.config.block=vanilla

The run's folder ends up with the model, its image processor, `recipe.yaml` and `metrics.json`.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from seqzoo.data.images import DIGITS, ImageBatches, ImageCorpus, load_images, normalised
from seqzoo.trainers.recipe import Recipe, RecipeError
from seqzoo.trainers.recipe_model import check_config_keys, check_residual_keys, new_config, trained_parameters
from seqzoo.trainers.run import Prepared, main


class ImageClassification:
    """Cross-entropy of the classes, and its measures on held-out images.

    Args:
        accelerator (`Accelerator`):
            Shares the held-out images out.
        corpus ([`ImageCorpus`]):
            Its held-out part is evaluated on.
        mean (`list[float]`), std (`list[float]`):
            Of each channel.
        batch_size (`int`):
            Images of one forward pass over all processes.
    """

    unit = "images"

    def __init__(
        self, accelerator: Accelerator, corpus: ImageCorpus, mean: list[float], std: list[float], batch_size: int
    ):
        self.accelerator = accelerator
        self.corpus = corpus
        self.mean = mean
        self.std = std
        self.batch_size = batch_size

    def count_inputs(self, batch: Mapping[str, np.ndarray]) -> int:
        return len(batch["labels"])

    def count_targets(self, batch: Mapping[str, Tensor]) -> int:
        return len(batch["labels"])

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(pixel_values=batch["pixel_values"]).logits
        return F.cross_entropy(logits.float(), batch["labels"], reduction="sum")

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss (nats an image) and accuracy."""
        losses, right, counts = self._by_class(model)
        return {
            "loss": losses.sum().item() / counts.sum().item(),
            "accuracy": right.sum().item() / counts.sum().item(),
        }

    def final_evaluation(self, model: nn.Module) -> dict[str, Any]:
        """The same, and the accuracy of every class that has held-out images."""
        _, right, counts = self._by_class(model)
        return self.evaluate(model) | {
            "by_class": {
                name: {"accuracy": hits / count, "images": int(count)}
                for name, hits, count in zip(self.corpus.classes, right.tolist(), counts.tolist(), strict=True)
                if count
            }
        }

    @torch.no_grad()
    def _by_class(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Summed losses, right answers and images of each class, over all processes."""
        model.eval()
        held_out, accelerator = self.corpus.validation, self.accelerator
        sums = torch.zeros(3, len(self.corpus.classes), dtype=torch.float64)
        rows = max(1, self.batch_size // accelerator.num_processes)
        own = np.arange(accelerator.process_index, len(held_out), accelerator.num_processes)
        for start in range(0, len(own), rows):
            part = held_out[own[start : start + rows]]
            pixels = torch.from_numpy(normalised(part.images, self.mean, self.std)).to(accelerator.device)
            logits = accelerator.unwrap_model(model)(pixel_values=pixels).logits.float().cpu()
            labels = torch.from_numpy(part.labels)
            values = torch.stack(
                [
                    F.cross_entropy(logits, labels, reduction="none"),
                    (logits.argmax(-1) == labels).float(),
                    torch.ones(len(labels)),
                ]
            )
            sums.index_add_(1, labels, values.double())
        return tuple(accelerator.reduce(sums.to(accelerator.device)).cpu())


def prepare(accelerator: Accelerator, recipe: Recipe) -> Prepared:
    """Images, processor, model and objective of a recipe; see [`seqzoo.trainers.run.Prepared`].

    Raises:
        `RecipeError`: the recipe does not fit the model, or the model that it starts from.
        `ImportError`, `FileNotFoundError`, `ValueError`: see [`seqzoo.data.images.load_images`].
    """
    data = recipe.data
    with accelerator.main_process_first():  # one process fills the caches of a Hub dataset; the others find them
        corpus = load_images(
            data.source,
            name=data.name,
            split=data.split,
            validation=data.validation,
            validation_fraction=data.validation_fraction,
            image_size=data.image_size,
        )
    if len(corpus.classes) != data.classes:
        raise RecipeError(f"{data.source} has {len(corpus.classes)} classes; set data.classes to that")
    processor = _processor(recipe, corpus)
    mean, std = list(processor.image_mean), list(processor.image_std)
    objective = ImageClassification(accelerator, corpus, mean, std, recipe.evaluation.batch_size)
    batches = ImageBatches(
        corpus.train,
        mean,
        std,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        flip=data.flip,
        pad=data.pad,
    )
    height, width = corpus.train.images.shape[2:]
    license = data.license or corpus.license
    return Prepared(
        model=_model(recipe, corpus),
        batches=batches,
        objective=objective,
        processor=processor,
        summary=f"{len(corpus.train):,} training images",
        data={
            "source": corpus.source,
            **({"dataset": corpus.dataset} if corpus.dataset else {}),
            "sha256": corpus.train.sha256,
            "training_images": len(corpus.train),
            "held_out_images": len(corpus.validation),
            "classes": len(corpus.classes),
            "height": height,
            "width": width,
            **({"license": license} if license else {}),
        },
        evaluate=objective.final_evaluation,
    )


def _processor(recipe: Recipe, corpus: ImageCorpus) -> BaseImageProcessor:
    """That of the model to start from; else one that makes the training images of mean 0 and deviation 1."""
    if recipe.model.init_from:
        return AutoImageProcessor.from_pretrained(recipe.model.init_from)
    mean, std = corpus.mean_and_std()
    height, width = corpus.train.images.shape[2:]
    return ViTImageProcessorPil(
        size={"height": height, "width": width}, image_mean=mean, image_std=std, do_convert_rgb=True
    )


def _model(recipe: Recipe, corpus: ImageCorpus) -> PreTrainedModel:
    section = recipe.model
    check_config_keys(section)
    if not section.init_from:
        model = AutoModelForImageClassification.from_config(_config(recipe, corpus.classes))
        check_residual_keys(model, recipe)
        return model
    config = AutoConfig.from_pretrained(section.init_from, **section.config)
    if config.model_type != section.model_type:
        raise RecipeError(
            f"model.model_type is {section.model_type}, but {section.init_from} is a {config.model_type}"
        )
    if config.num_labels != len(corpus.classes):
        raise RecipeError(
            f"{section.init_from} knows {config.num_labels} classes, but {corpus.source} has {len(corpus.classes)}"
        )
    model, loaded = AutoModelForImageClassification.from_pretrained(
        section.init_from, config=config, dtype=torch.float32, output_loading_info=True
    )
    if loaded["missing_keys"]:  # they would silently be random
        raise RecipeError(f"the weights in {section.init_from} lack {', '.join(sorted(loaded['missing_keys']))}")
    check_residual_keys(model, recipe)
    return model


def _config(recipe: Recipe, classes: tuple[str, ...]):
    labels = dict(enumerate(classes))
    return new_config(recipe.model, {"id2label": labels, "label2id": {name: i for i, name in labels.items()}})


def weightless_model(recipe: Recipe) -> PreTrainedModel:
    """The model of a recipe on the meta device: its shapes and nothing else, without data, weights or network."""
    with torch.device("meta"):
        names = tuple(str(i) for i in range(recipe.data.classes))
        return AutoModelForImageClassification.from_config(_config(recipe, names))


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """One batch through a model without storage.

    Returns:
        `model_type`, `parameters`, `trained_parameters`, `batch` (images of a step over all processes), `images` of
        the whole training, and `logits` (shape).
    """
    model = weightless_model(recipe)
    size = 8 if recipe.data.source == DIGITS else recipe.data.image_size or 32
    pixels = torch.empty(recipe.training.batch_size, model.config.num_channels, size, size, device="meta")
    return {
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "trained_parameters": trained_parameters(model),
        "batch": recipe.training.batch_size,
        "images": recipe.training.batch_size * recipe.training.steps,
        "logits": list(model(pixel_values=pixels).logits.shape),
    }


if __name__ == "__main__":
    sys.exit(main())
