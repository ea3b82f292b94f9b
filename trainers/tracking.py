"""Curves beside `metrics.json`: the trackers of Accelerate, each of which is a package of its own."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from seqzoo.trainers.recipe import Recipe, RecipeError
from seqzoo.trainers.run_folder import flat


# What `pip install` takes; the other trackers are packages of their own names.
_EXTRAS = {"trackio": "'seqzoo[trackio]'", "wandb": "'seqzoo[wandb]'", "comet_ml": "comet-ml"}


def installed_tracker(recipe: Recipe) -> str | None:
    """The tracker that a recipe asks for, None for `none`.

    Raises:
        `RecipeError`: its package is not installed.
    """
    name = recipe.tracking.tracker
    if name == "none":
        return None
    available = [str(tracker) for tracker in get_available_trackers()]
    if name not in available:
        raise RecipeError(
            f"tracking.tracker is {name}, which is not installed: pip install {_EXTRAS.get(name, name)}, or set it to "
            f"one that is: {', '.join(sorted(available))}, none"
        )
    return name


def start_tracker(accelerator: Accelerator, recipe: Recipe) -> None:
    """Give the recipe to the tracker that the accelerator was made with."""
    folder = Path(recipe.training.output_dir)
    # Trackers take plain values only.
    settings = flat(recipe.as_dict()).items()
    plain = {key: value if isinstance(value, str | int | float) else str(value) for key, value in settings}
    # TensorBoard takes its place from here: <output_dir>/logs. The others know projects and runs.
    project = "logs" if recipe.tracking.tracker == "tensorboard" else "seqzoo"
    named = {name: {"name": folder.name} for name in ("trackio", "wandb")}
    with redirect_stdout(sys.stderr):  # trackio speaks to stdout, where a program reads the evaluation
        accelerator.init_trackers(project, config=plain, init_kwargs=named)


def finish_tracker(accelerator: Accelerator) -> None:
    """Write down what the tracker still holds."""
    with redirect_stdout(sys.stderr):
        for tracker in accelerator.trackers:
            tracker.finish()
            if tracker.name == "trackio" and accelerator.is_main_process:
                import trackio

                trackio.finish()  # Accelerate's call leaves the run open: it would be finished again at exit
