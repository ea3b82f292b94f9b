"""One training run of the ReZero comparison: a task, a method, a learning rate and a seed become curves.

All methods of a task share data, order, optimizer and budget; a seed decides weights and order alike. What is recorded
of a run is its loss at every step; the comparison reads steps and seconds from that.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from seqzoo.data.images import ImageBatches, ImageCorpus, load_images, normalised
from seqzoo.data.text import load_corpus
from seqzoo.modeling.rezero.fully_connected_rezero import DeepFullyConnected
from seqzoo.modeling.rezero_resnet.configuration_rezero_resnet import ReZeroResNetConfig
from seqzoo.modeling.rezero_resnet.modeling_rezero_resnet import ReZeroResNetForImageClassification
from seqzoo.trainers.parameter_groups import parameter_groups, residual_weights


# 397 of the 1,797 digits.
_HELD_OUT = 397 / 1797
_SNAPSHOTS = 10  # of the residual weights, over a run
_HELD_OUT_WINDOWS = 64
WARMUP = "_warmup"  # ends the name of a method that is another one with a learning rate that rises at first


@dataclass(frozen=True)
class Setup:
    """What a run trains.

    Args:
        model (`nn.Module`):
            With new weights.
        optimizer (`torch.optim.Optimizer`):
            On its parameters.
        batches (`Iterator[tuple[Tensor, Tensor]]`):
            Inputs and targets, without end.
        loss (`Callable`):
            (model, inputs, targets) -> mean loss.
        held_out (`Callable`):
            model -> measures on data that it is not trained on.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[tuple[Tensor, Tensor]]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    held_out: Callable[[nn.Module], dict[str, float]]


def record(setup: Setup, steps: int, warmup_steps: int = 0) -> dict[str, Any]:
    """Train for so many steps, or until the loss is no number.

    Returns:
        `losses` of every step, `cpu_seconds` (of the process) and `wall_seconds` of all steps so far at each,
        `residual_weights` as [step, [alpha of each layer]], `held_out`, `parameters`.
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(
        setup.optimizer, lambda step: min(1.0, (step + 1) / max(warmup_steps, 1))
    )
    alphas = list(residual_weights(setup.model).values())
    losses, cpu, wall, snapshots = [], [], [], []
    cpu_started, wall_started = time.process_time(), time.perf_counter()
    setup.model.train()
    for step in range(1, steps + 1):
        inputs, targets = next(setup.batches)
        loss = setup.loss(setup.model, inputs, targets)
        if not math.isfinite(loss.item()):
            break
        setup.optimizer.zero_grad()
        loss.backward()
        setup.optimizer.step()
        schedule.step()
        losses.append(loss.item())
        cpu.append(time.process_time() - cpu_started)
        wall.append(time.perf_counter() - wall_started)
        if alphas and (step == 1 or step % max(steps // _SNAPSHOTS, 1) == 0):
            values = torch.cat([alpha.detach().flatten() for alpha in alphas])
            snapshots.append([step, [round(value, 6) for value in values.tolist()]])
    finished = len(losses) == steps
    return {
        "losses": losses,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "residual_weights": snapshots,
        "held_out": setup.held_out(setup.model) if finished else {},
        "parameters": sum(parameter.numel() for parameter in setup.model.parameters()),
    }


@lru_cache(maxsize=1)
def _digits() -> tuple[ImageCorpus, list[float], list[float]]:
    corpus = load_images("digits", validation_fraction=_HELD_OUT)
    return corpus, *corpus.mean_and_std()


def _digit_batches(batch_size: int, seed: int, shape: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    corpus, mean, std = _digits()
    for batch in ImageBatches(corpus.train, mean, std, batch_size=batch_size, seed=seed):
        yield shape(torch.from_numpy(batch["pixel_values"])), torch.from_numpy(batch["labels"])


def _digit_accuracy(logits: Callable[[Tensor], Tensor]) -> dict[str, float]:
    corpus, mean, std = _digits()
    pixels = normalised(corpus.validation.images, mean, std)
    with torch.no_grad():
        predicted = logits(torch.from_numpy(pixels)).argmax(-1)
    return {"accuracy": (predicted.numpy() == corpus.validation.labels).mean().item()}


def fully_connected(method: str, lr: float, seed: int, *, depth: int, width: int, batch_size: int) -> Setup:
    """Digits as 64 numbers, Adagrad."""
    torch.manual_seed(seed)
    model = DeepFullyConnected(64, 10, width=width, depth=depth, residual=method)

    def grey(pixels: Tensor) -> Tensor:
        return pixels[:, 0].flatten(1)

    return Setup(
        model,
        torch.optim.Adagrad(parameter_groups(model, lr=lr, weight_decay=0.0)),
        _digit_batches(batch_size, seed, grey),
        lambda model, inputs, targets: F.cross_entropy(model(inputs), targets),
        lambda model: _digit_accuracy(lambda pixels: model.eval()(grey(pixels))),
    )


def resnet(method: str, lr: float, seed: int, *, batch_size: int, **config: Any) -> Setup:
    """Digits as images, SGD with momentum 0.9 and weight decay 1e-4, as in the paper's notebooks."""
    torch.manual_seed(seed)
    model = ReZeroResNetForImageClassification(ReZeroResNetConfig(block=method, num_labels=10, **config))
    groups = parameter_groups(model, lr=lr, weight_decay=1e-4, residual_lr=lr)
    return Setup(
        model,
        torch.optim.SGD(groups, momentum=0.9),
        _digit_batches(batch_size, seed, lambda pixels: pixels),
        lambda model, inputs, targets: F.cross_entropy(model(pixel_values=inputs).logits, targets),
        lambda model: _digit_accuracy(lambda pixels: model.eval()(pixel_values=pixels).logits),
    )


TOPICS = "topics"


@lru_cache(maxsize=1)
def _characters(text: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Training part and held-out part as the ranks of their characters, and how many different ones there are."""
    if text == TOPICS:
        whole = "".join(topics.values())
        cut = round(0.95 * len(whole))
        parts = (whole[:cut], whole[cut:])
    else:
        corpus = load_corpus(text)
        parts = tuple("\n".join(part["text"]) for part in (corpus.train, corpus.validation))
    points = np.frombuffer("".join(parts).encode("utf-32-le"), dtype=np.uint32)
    symbols, ranks = np.unique(points, return_inverse=True)
    return ranks[: len(parts[0])], ranks[len(parts[0]) :], len(symbols)


def _windows(text: np.ndarray, length: int, count: int, rng: np.random.Generator) -> Tensor:
    starts = rng.integers(0, len(text) - length, count)
    return torch.from_numpy(text[starts[:, None] + np.arange(length)].astype(np.int64))


def _next_character_loss(model: nn.Module, windows: Tensor, targets: Tensor) -> Tensor:
    logits = model(input_ids=windows, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def character_model(
    method: str,
    lr: float,
    seed: int,
    *,
    text: str,
    layers: int,
    width: int,
    heads: int,
    context: int,
    batch_size: int,
    device: str = "cpu",
    **config: Any,
) -> Setup:
    """Next characters of a text, no dropout, Adam; `method` is a `residual` of ReZero Transformer.

    `text` is [`TOPICS`], Python's documentation topics as they stand (465,000 characters, 103 different ones), or a
    source of [`seqzoo.data.text.load_corpus`].
    """
    train, held_out, symbols = _characters(text)
    torch.manual_seed(seed)
    fields = {
        "vocab_size": symbols,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "max_position_embeddings": context,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    residual = method.removesuffix(WARMUP)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("rezero_transformer", **(fields | config), residual=residual)
    ).to(device)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        step = 0
        while True:
            windows = _windows(train, context + 1, batch_size, np.random.default_rng((seed, step))).to(device)
            yield windows[:, :-1], windows[:, 1:]
            step += 1

    @torch.no_grad()
    def bits_per_character(model: nn.Module) -> dict[str, float]:
        windows = _windows(held_out, context + 1, _HELD_OUT_WINDOWS, np.random.default_rng(0)).to(device)
        loss = _next_character_loss(model.eval(), windows[:, :-1], windows[:, 1:])
        return {"bits_per_character": loss.item() / math.log(2)}

    groups = parameter_groups(model, lr=lr, weight_decay=0.0)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    return Setup(model, optimizer, batches(), _next_character_loss, bits_per_character)
