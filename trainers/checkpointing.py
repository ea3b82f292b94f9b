"""Files that are either complete or not there: checkpoints, and what a run leaves at its end.

Everything is written beside its destination, flushed to the disk and renamed. A kill at any moment leaves the old
state or the new one; a failed write is one [`WriteError`] that says what is still good.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import load as load_tensors
from safetensors import SafetensorError


STATE_FILE = "state.json"
UNFINISHED = ".unfinished"

# Tied weights are stored once, as they should; Accelerate would warn of it at every checkpoint.
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


class WriteError(OSError):
    """A full disk, a read-only folder, ...: something of the run could not be written."""


class CheckpointError(OSError):
    """A checkpoint that cannot be read."""


@contextmanager
def writing(what: str, path: Path, still_good: str = "") -> Iterator[None]:
    """Turn the many ways in which writing fails into one `WriteError`."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch reports a full disk as RuntimeError, safetensors as its own kind.
        raise WriteError(
            f"cannot write {what} to {path}: {_first_line(error)}. Free disk space or choose a writable "
            f"training.output_dir. {still_good}".rstrip()
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _flush(path: Path) -> None:
    """Force a file, or the entries of a folder, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file in one step."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with writing(path.name, path.parent):
        unfinished.write_text(text, encoding="utf-8")
        _flush(unfinished)
        os.replace(unfinished, path)
        _flush(path.parent)


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write files into; at the end all of them move into `folder`, over their namesakes."""
    unfinished = folder / f"final{UNFINISHED}"
    with writing("the finished model", folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        for path in sorted(unfinished.iterdir()):
            _flush(path)
            os.replace(path, folder / path.name)
        unfinished.rmdir()
        _flush(folder)


class Checkpoints:
    """The folder `checkpoints/` of a run, one subfolder `step_00000123` for each; see docs/checkpoints.md.

    Args:
        accelerator (`Accelerator`):
            Has the model, the optimizer and the schedule prepared.
        folder (`Path`):
            `checkpoints/` of the run.
        keep (`int`):
            The newest ones that stay; the best one does in any case.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, keep: int):
        self.accelerator = accelerator
        self.folder = folder
        self.keep = keep

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, in order."""
        if not self.folder.is_dir():
            return []
        names = [entry.name.removeprefix("step_") for entry in self.folder.glob("step_*")]
        return sorted(int(name) for name in names if name.isdecimal())

    def describe(self) -> str:
        """What an error message tells about them."""
        if not self.steps():
            return "No checkpoint had been written yet."
        newest = self.steps()[-1]
        return f"The last good checkpoint, step {newest} in {self.path(newest)}, is kept."

    def save(self, step: int, state: dict[str, Any], best_step: int | None) -> None:
        """Write the checkpoint of `step` (by all processes together), then drop the ones that are too old.

        Args:
            state (`dict`):
                The loop's own state, in JSON's types.
            best_step (`int`, *optional*):
                Whose checkpoint is never dropped.
        """
        main = self.accelerator.is_main_process
        unfinished = self.path(step).with_name(self.path(step).name + UNFINISHED)
        with writing(f"the checkpoint of step {step}", self.folder, self.describe()):
            if main:
                self._remove_unfinished()
                unfinished.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(unfinished))
            if main:
                (unfinished / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if main:
                for path in [*unfinished.rglob("*"), unfinished]:
                    _flush(path)
                if self.path(step).exists():  # an earlier life of this run came further
                    shutil.rmtree(self.path(step))
                os.rename(unfinished, self.path(step))
                _flush(self.folder)
                for old in self.steps()[: -self.keep]:
                    if old != best_step:
                        shutil.rmtree(self.path(old))
        self.accelerator.wait_for_everyone()

    def _remove_unfinished(self) -> None:
        """What a kill in the middle of writing left behind."""
        for path in self.folder.glob(f"*{UNFINISHED}"):
            shutil.rmtree(path)

    def load(self, step: int) -> dict[str, Any]:
        """Load the checkpoint of `step` into model, optimizer, schedule and random generators of this process.

        Tensors come from safetensors, or from `torch.load(weights_only=True)`: a checkpoint cannot run code.

        Returns:
            The `state` that [`save`] got.

        Raises:
            `CheckpointError`: a damaged checkpoint, or one by another number of processes.
        """
        path = self.path(step)
        rank = self.accelerator.process_index
        try:
            state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
            if not isinstance(state, dict):
                raise ValueError(f"{STATE_FILE} is no mapping")
            count = state["num_processes"]
            if count != self.accelerator.num_processes:
                raise CheckpointError(
                    f"the checkpoint {path} was written by {count} process{'es' if count != 1 else ''}, this run has "
                    f"{self.accelerator.num_processes}; start as many"
                )
            self.accelerator.load_state(str(path))
            # load_state goes on silently when random generators cannot be restored.
            saved = load_tensors(path / f"random_states_{rank}.pkl")
        except CheckpointError:
            raise
        except (OSError, EOFError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
            raise CheckpointError(
                f"the checkpoint {path} cannot be read ({_first_line(error)}); remove that folder to go on from the "
                "one before it"
            ) from error
        restored = torch.equal(torch.get_rng_state(), saved["torch_manual_seed"])
        if "torch_cuda_manual_seed" in saved:
            restored &= all(map(torch.equal, torch.cuda.get_rng_state_all(), saved["torch_cuda_manual_seed"]))
        if not restored:
            raise CheckpointError(f"the random generators of {path} could not be restored on this machine")
        return state
