"""Trackers: what is missing is named, and trackio keeps its curves on this machine."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import yaml
from accelerate import tracking

from seqzoo.trainers.recipe import RecipeError, load_recipe
from seqzoo.trainers.run import run


@pytest.mark.parametrize(
    ("tracker", "extra"), [("trackio", r"'seqzoo\[trackio\]'"), ("wandb", r"'seqzoo\[wandb\]'"), ("aim", "aim")]
)
def test_a_tracker_that_is_not_installed_is_named(sections, tmp_path, monkeypatch, tracker, extra):
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType.TENSORBOARD])
    with pytest.raises(RecipeError, match=rf"tracking\.tracker is {tracker}.*pip install {extra}.*tensorboard, none"):
        run(load_recipe(sections, [f"tracking.tracker={tracker}"]))
    assert not (tmp_path / "run").exists()


# A run of the trainer in which no connection to another machine can be made, then what trackio has of it.
_RUN = """
import json, socket, sys

connect = socket.socket.connect
def local(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("connected to", address, file=sys.stderr)
        raise OSError("no network in this test")
    return connect(self, address)
socket.socket.connect = local

from seqzoo.trainers.run import main
code = main(sys.argv[1:])
import trackio
from trackio.sqlite_storage import SQLiteStorage
print("the curve:")
(run,) = trackio.Api().runs("seqzoo")
print(json.dumps([run.name, run.config["training.steps"], SQLiteStorage.get_logs("seqzoo", run.name)]))
sys.exit(code)
"""


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_keeps_the_curve_on_this_machine(sections, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(sections))
    process = subprocess.run(
        [sys.executable, "-c", _RUN, str(file), "tracking.tracker=trackio", "evaluation.every=6"],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "connected to" not in process.stderr
    evaluation, curve = process.stdout.split("the curve:")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert json.loads(evaluation) == metrics["evaluation"]  # what trackio says goes to stderr
    name, steps, history = json.loads(curve)
    assert (name, steps) == ("run", 12)
    losses = {point["step"]: point["train/loss"] for point in history if "train/loss" in point}
    assert losses == pytest.approx(dict(metrics["history"]["train"]))
    assert list((tmp_path / "trackio").glob("*.db"))
