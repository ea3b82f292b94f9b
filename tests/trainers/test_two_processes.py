"""Two CPU processes, started as the documentation says, compute what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seqzoo.trainers.checkpointing import CheckpointError
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import run


_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "accelerate" / "two_cpu_processes.yaml"
_LAUNCH = ["--config_file", str(_CONFIG), "--main_process_port", "0"]
_TRAINER = "seqzoo.trainers.run"


def launch(*arguments: str) -> subprocess.CompletedProcess:
    process = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *_LAUNCH, "-m", _TRAINER, *arguments],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process


def test_two_processes_equal_one(sections, tmp_path):
    sections["model"]["config"] |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sections["training"] |= {"steps": 30, "gradient_accumulation_steps": 2, "checkpoint_every": 30}
    # Documents kept apart: the two processes have different numbers of targets.
    sections["data"]["packing"] = "separate"
    sections["evaluation"] |= {"every": 15, "lengths": [8]}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    process = launch(str(file), f"training.output_dir={tmp_path / 'two'}")
    assert "2 processes (MULTI_CPU, gloo)" in process.stderr
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert json.loads(process.stdout) == two["evaluation"]  # one process speaks
    one = run(load_recipe(file))
    assert (one["training"]["num_processes"], two["training"]["num_processes"]) == (1, 2)
    assert two["training"]["tokens_seen"] == one["training"]["tokens_seen"]
    for part in ("train", "validation"):
        losses_of_one, losses_of_two = dict(one["history"][part]), dict(two["history"][part])
        assert losses_of_two == pytest.approx(losses_of_one, abs=1e-4)
    assert two["evaluation"]["by_length"]["8"] == pytest.approx(one["evaluation"]["by_length"]["8"], rel=1e-4)
    with pytest.raises(CheckpointError, match="written by 2 processes, this run has 1"):
        run(load_recipe(file, [f"training.output_dir={tmp_path / 'two'}", "training.resume=true"]))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["align", "distill"])
def test_two_processes_share_a_stage_of_a_conversion(conversion, tmp_path, objective):
    """Each has a teacher of its own; a gradient that hooks collect is averaged like any other."""
    conversion["model"]["config"] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0}
    conversion["training"] |= {"objective": objective, "lora_rank": 2}
    conversion["data"]["packing"] = "separate"
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(conversion))
    launch(str(file), f"training.output_dir={tmp_path / 'two'}")
    two, one = json.loads((tmp_path / "two" / "metrics.json").read_text()), run(load_recipe(file))
    assert two["training"]["num_processes"] == 2
    assert dict(two["history"]["train"]) == pytest.approx(dict(one["history"]["train"]), abs=1e-4)
    assert two["evaluation"]["loss"] == pytest.approx(one["evaluation"]["loss"], rel=1e-4)
