"""The training loop that all trainers share, on Accelerate.

One step: take the global batch, keep this process's rows, pass them forward and backward in
`gradient_accumulation_steps` pieces, clip, step. A loss is a SUM over targets divided by the number of targets of the
whole step, over all processes and pieces, so neither uneven targets nor the number of processes change the gradient.

The loop owns the state of a run, [`TrainingState`]; docs/checkpoints.md is the contract.
"""

import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.distributed.fsdp import StateDictType
from tqdm.auto import tqdm
from transformers import PreTrainedModel, get_scheduler

from seqzoo.trainers.checkpointing import CheckpointError, Checkpoints
from seqzoo.trainers.parameter_groups import parameter_groups
from seqzoo.trainers.recipe import Recipe, TrainingSection


UNFINISHED_CODE = 75  # EX_TEMPFAIL of sysexits.h: no mistake, start it again


class TrainingDiverged(FloatingPointError):
    """The loss or the gradient stopped being a number."""


class TrainingStopped(Exception):
    """The run's time is over, its checkpoint is written: it goes on when it is started again."""


class Batches(Protocol):
    """An endless, resumable stream of global batches.

    `next` gives arrays whose first axis is the batch: the rows of all processes, the same in each of them.
    `state_dict` says in JSON's types where the stream stands; a stream continued from it goes on as if it had never
    stopped. It holds the epoch, the offset in it, and whatever cannot be drawn again from these: the remainder of a
    packer, a shuffle buffer, the iterators of several tasks.
    """

    def __next__(self) -> dict[str, np.ndarray]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Objective(Protocol):
    """What a kind of training adds to the loop."""

    unit: str
    """What inputs are counted in, in the plural: `tokens`, `images`."""

    def count_inputs(self, batch: Mapping[str, np.ndarray]) -> int:
        """Inputs in a global batch, of which the speed is told."""

    def count_targets(self, batch: Mapping[str, Tensor]) -> int:
        """Targets in the rows of a batch: what a loss is divided by."""

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The sum of the losses of these targets, a scalar with gradient."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Held-out measures; `loss` is the one that the best model has lowest. Called on every process."""


@dataclass
class TrainingState:
    """Everything of a run that is not a tensor. With the tensors and the random generators it determines the rest."""

    step: int = 0
    """Optimizer steps done."""
    inputs_seen: int = 0
    """Inputs in the objective's unit, such as tokens, over all processes."""
    seconds: float = 0.0
    """Spent in this loop, over all lives of the run."""
    best_step: int | None = None
    best_loss: float | None = None
    train_history: list[list[float]] = field(default_factory=list)
    """`[step, loss]` of that step alone, every `tracking.log_every` steps."""
    validation_history: list[list[float]] = field(default_factory=list)
    num_processes: int = 1
    batches: dict[str, Any] = field(default_factory=dict)
    """`state_dict` of the stream."""


def new_accelerator(training: TrainingSection, **kwargs: Any) -> Accelerator:
    """An Accelerator for one run, and the seeds set; the number of processes is the launcher's matter.

    Raises:
        `ValueError`: the batch cannot be shared out evenly, processes that do not see each other, or a kind of FSDP
            that cannot be resumed safely.
    """
    # A second run in the same process may want another precision; the process group stays.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=training.mixed_precision,
        # The loop steps the schedule itself: once a step, whatever the number of processes.
        step_scheduler_with_optimizer=False,
        **kwargs,
    )
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > accelerator.num_processes:
        raise ValueError(
            f"{launched} processes were launched, but each is alone: Accelerate found no GPU for them. On CPUs set "
            "ACCELERATE_USE_CPU=true"
        )
    sharding = getattr(accelerator.state, "fsdp_plugin", None)
    if sharding and (sharding.fsdp_version != 2 or sharding.state_dict_type is not StateDictType.FULL_STATE_DICT):
        # torch unpickles the index of a sharded checkpoint without an allow-list.
        raise ValueError(
            "FSDP needs fsdp_version: 2 and fsdp_state_dict_type: FULL_STATE_DICT, as in configs/accelerate/fsdp2.yaml"
        )
    pieces = accelerator.num_processes * training.gradient_accumulation_steps
    if training.batch_size % pieces:
        raise ValueError(
            f"training.batch_size {training.batch_size} cannot be shared out to {accelerator.num_processes} processes "
            f"x {training.gradient_accumulation_steps} gradient_accumulation_steps; make it a multiple of {pieces}"
        )
    set_seed(training.seed)
    return accelerator


def new_optimizer(model: nn.Module, training: TrainingSection) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov's momentum, on the groups of [`parameter_groups`]."""
    options = {"lr": training.lr, "weight_decay": training.weight_decay}
    if training.optimizer == "sgd":
        residual_lr = training.lr if training.residual_lr is None else training.residual_lr
        groups = parameter_groups(model, **options, residual_lr=residual_lr)
        return torch.optim.SGD(groups, momentum=training.betas[0], nesterov=training.betas[0] > 0, **options)
    groups = parameter_groups(
        model, **options, residual_lr=training.residual_lr, residual_betas=training.residual_betas
    )
    return torch.optim.AdamW(groups, betas=tuple(training.betas), **options)


def train(
    accelerator: Accelerator,
    model: PreTrainedModel,
    batches: Batches,
    objective: Objective,
    recipe: Recipe,
    started: float | None = None,
) -> tuple[nn.Module, TrainingState]:
    """Run, or resume, the training that a recipe describes.

    Args:
        accelerator (`Accelerator`):
            From [`new_accelerator`].
        model (`PreTrainedModel`):
            On any device.
        batches (`Batches`), objective (`Objective`):
            What to learn from, and what to learn.
        recipe (`Recipe`):
            Its sections `training`, `evaluation` and `tracking` are read.
        started (`float`, *optional*):
            When the time of `training.max_minutes` began, by `time.monotonic()`; now without it.

    Returns:
        `(model, state)`: the prepared model with its final weights (the best ones with `training.keep_best`), and the
        state at the end.

    Raises:
        `TrainingDiverged`: the loss or the gradient is not finite; nothing was updated with it.
        `TrainingStopped`: `training.max_minutes` are over.
        `WriteError`: a checkpoint could not be written.
        `CheckpointError`: the newest checkpoint could not be read.
    """
    training = recipe.training
    deadline = (time.monotonic() if started is None else started) + 60 * (training.max_minutes or math.inf)
    optimizer = new_optimizer(model, training)
    schedule = get_scheduler(
        "constant_with_warmup" if training.schedule == "constant" else training.schedule,
        optimizer,
        num_warmup_steps=training.warmup_steps,
        num_training_steps=training.steps,
    )
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    checkpoints = Checkpoints(accelerator, Path(training.output_dir) / "checkpoints", training.keep_checkpoints)
    state = TrainingState(num_processes=accelerator.num_processes)
    set_seed(training.seed, device_specific=True)  # every process drops out units of its own
    if training.resume and checkpoints.steps():
        newest = checkpoints.steps()[-1]
        try:
            state = TrainingState(**checkpoints.load(newest))
        except TypeError as error:
            raise CheckpointError(
                f"{checkpoints.path(newest)} was written by another version of seqzoo ({error}); finish the run with "
                "that one, or set training.overwrite=true to start again"
            ) from error
        batches.load_state_dict(state.batches)
        note(accelerator, f"{recipe.name}: going on after step {state.step}")

    bar = tqdm(
        total=training.steps,
        initial=state.step,
        desc=recipe.name,
        unit="step",
        dynamic_ncols=True,
        disable=not accelerator.is_main_process,
    )
    inputs_before, seconds_before, started = state.inputs_seen, state.seconds, time.perf_counter()
    model.train()
    while state.step < training.steps:
        batch = next(batches)
        loss, finite = _gradient(accelerator, model, objective, batch, training)
        if not finite:
            bar.close()
            raise TrainingDiverged(
                f"step {state.step + 1}: the loss is {loss}, with it or its gradient no longer finite; nothing was "
                f"updated. {checkpoints.describe()} Lower training.lr, lengthen training.warmup_steps or look at the "
                "data of this step"
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

        state.step += 1
        state.inputs_seen += objective.count_inputs(batch)
        state.seconds = seconds_before + time.perf_counter() - started
        speed = (state.inputs_seen - inputs_before) / (state.seconds - seconds_before)
        bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} {objective.unit}/s", refresh=False)
        bar.update()
        last = state.step == training.steps
        if last or state.step % recipe.tracking.log_every == 0:
            state.train_history.append([state.step, loss])
            values = {"train/loss": loss, "train/lr": schedule.get_last_lr()[0]}
            accelerator.log(values | {f"train/{objective.unit}_per_second": speed}, step=state.step)
        improved = False
        if recipe.evaluation.every and (last or state.step % recipe.evaluation.every == 0):
            improved = _evaluate(accelerator, model, objective, state)
        due = training.checkpoint_every and state.step % training.checkpoint_every == 0
        stop = training.max_minutes and not last and _is_over(accelerator, deadline)
        # The best weights are those of a checkpoint like any other, so a kill cannot part them from their loss.
        if due or stop or (training.keep_best and improved):
            state.batches = batches.state_dict()
            checkpoints.save(state.step, asdict(state), state.best_step if training.keep_best else None)
        if stop:
            bar.close()
            again = "" if training.resume else " with training.resume=true"
            raise TrainingStopped(
                f"{recipe.name} stopped after step {state.step} of {training.steps}, its training.max_minutes "
                f"({training.max_minutes:.3g}) being over; the same command{again} goes on from "
                f"{checkpoints.path(state.step)}"
            )
    bar.close()
    if training.keep_best and state.best_step != state.step:
        checkpoints.load(state.best_step)
        note(accelerator, f"{recipe.name}: kept the weights of step {state.best_step}, the best ones")
    return model, state


def note(accelerator: Accelerator, text: str) -> None:
    """One line to stderr, once, above a progress bar that may be running."""
    if accelerator.is_main_process:
        tqdm.write(text, file=sys.stderr)


def _is_over(accelerator: Accelerator, deadline: float) -> bool:
    """Whether the deadline is over for any process: their clocks differ, but all have to stop after the same step."""
    if time.monotonic() > deadline:
        accelerator.set_trigger()
    return accelerator.check_trigger()


def _gradient(
    accelerator: Accelerator,
    model: nn.Module,
    objective: Objective,
    batch: dict[str, np.ndarray],
    training: TrainingSection,
) -> tuple[float, bool]:
    """Accumulate the gradient of one global batch.

    Returns:
        The loss, a mean over all its targets, and whether it and the gradient are finite.
    """
    rows = training.batch_size // accelerator.num_processes
    own = slice(accelerator.process_index * rows, (accelerator.process_index + 1) * rows)
    local = {key: torch.from_numpy(value[own]).to(accelerator.device) for key, value in batch.items()}
    targets = accelerator.reduce(torch.tensor(objective.count_targets(local), device=accelerator.device))
    size = rows // training.gradient_accumulation_steps
    total = torch.zeros((), device=accelerator.device)
    for start in range(0, rows, size):
        piece = {key: value[start : start + size] for key, value in local.items()}
        last = start + size == rows
        with nullcontext() if last else accelerator.no_sync(model):
            loss = objective.loss(model, piece) / targets
            # Gradients are averaged over processes; the factor makes that a sum.
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    loss = accelerator.reduce(total).item()
    norm = accelerator.clip_grad_norm_(model.parameters(), training.max_grad_norm or math.inf)
    # In half precision a gradient may overflow now and then: the scaler skips that step by itself.
    finite = math.isfinite(loss) and (accelerator.scaler is not None or math.isfinite(float(norm)))
    return loss, finite


def _evaluate(accelerator: Accelerator, model: nn.Module, objective: Objective, state: TrainingState) -> bool:
    """Evaluate, log, and say whether this is the best model so far."""
    measures = objective.evaluate(model)
    model.train()
    state.validation_history.append([state.step, measures["loss"]])
    accelerator.log({f"validation/{key}": value for key, value in measures.items()}, step=state.step)
    shown = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in measures.items())
    note(accelerator, f"step {state.step}, held out: {shown}")
    if state.best_loss is not None and not measures["loss"] < state.best_loss:
        return False
    state.best_step, state.best_loss = state.step, measures["loss"]
    return True
