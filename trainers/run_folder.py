"""The folder of a run: what may be written there, and whether the run in it may be continued."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from seqzoo.trainers.checkpointing import UNFINISHED, write_text, writing
from seqzoo.trainers.recipe import Recipe, RecipeError, load_recipe


try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None

RECIPE_FILE = "recipe.yaml"

# What may differ between the lives of a run. All else decides what the steps compute.
_FREE_SECTIONS = ("evaluation", "tracking", "hub")
_FREE_KEYS = (
    "data.num_proc",
    "data.license",
    "training.output_dir",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.keep_best",
    "training.max_minutes",
    "training.resume",
    "training.overwrite",
)


def check_run_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that the recipe may not write to; nothing is changed.

    Raises:
        `FileExistsError`: it holds something that `training.resume` or `training.overwrite` does not cover.
        `RecipeError`: `training.resume` with a recipe that means another run.
    """
    saved = folder / RECIPE_FILE
    occupied = folder.is_dir() and any(entry.suffix != UNFINISHED for entry in folder.iterdir())
    if occupied and not saved.is_file():
        raise FileExistsError(f"{folder} is not empty and holds no run; choose another training.output_dir")
    if occupied and recipe.training.resume:
        _refuse_changes(load_recipe(saved), recipe, saved)
        if (folder / "metrics.json").is_file() and not (folder / "checkpoints").is_dir():
            raise FileExistsError(
                f"the run in {folder} is finished and left no checkpoint to go on from; set training.overwrite=true "
                "to do it again, or choose another training.output_dir"
            )
    elif occupied and not recipe.training.overwrite:
        raise FileExistsError(
            f"{folder} holds a run; set training.resume=true to go on with it, training.overwrite=true to replace it, "
            "or choose another training.output_dir"
        )


@contextmanager
def opened_run_folder(folder: Path, recipe: Recipe) -> Iterator[None]:
    """Lock the folder; remove the run that `training.overwrite` replaces, and leave the resolved recipe.

    Raises:
        `FileExistsError`: another process trains there at this moment.
        `WriteError`: it cannot be written to.
    """
    with writing("the run", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if recipe.training.overwrite:
            with writing("the run", folder):
                for name in ("checkpoints", "logs"):
                    shutil.rmtree(folder / name, ignore_errors=True)
                for name in ("metrics.json", "model.safetensors"):
                    (folder / name).unlink(missing_ok=True)
        sections = recipe.as_dict()
        # Said of one life, not of the run.
        sections["training"] |= {"max_minutes": None, "resume": False, "overwrite": False}
        write_text(folder / RECIPE_FILE, yaml.safe_dump(sections, sort_keys=False, allow_unicode=True))
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder for this process; the system gives it back when the process dies.

    Raises:
        `FileExistsError`: another process has it.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FileExistsError(
                    f"another process is training in {folder}; wait for it, or choose another training.output_dir"
                ) from None
            except OSError:  # a file system that knows no locks
                pass
        yield
    finally:
        if fcntl:
            os.close(handle)


def changed_keys(before: Recipe, now: Recipe) -> list[str]:
    """Keys that decide what the steps compute and differ between two recipes, sorted."""
    old, new = flat(before.as_dict()), flat(now.as_dict())
    return [
        key
        for key in sorted(old.keys() | new.keys())
        if key not in _FREE_KEYS and key.partition(".")[0] not in _FREE_SECTIONS and old.get(key) != new.get(key)
    ]


def _refuse_changes(before: Recipe, now: Recipe, saved: Path) -> None:
    old, new = flat(before.as_dict()), flat(now.as_dict())
    for key in changed_keys(before, now):
        raise RecipeError(
            f"cannot resume: {key} is {new.get(key)!r}, but the run in {saved.parent} was started with "
            f"{old.get(key)!r}; set it back, or start another run in another training.output_dir"
        )


def flat(sections: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    result = {}
    for key, value in sections.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
