"""The push at the end of training, over HTTP to a local Hub."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from local_hub import judge_card
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from seqzoo.hub_cards.publish import PushError
from seqzoo.trainers import run as run_module
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import run


TINY_ZOO = {
    "model_type": "decay_fast_weight_gpt2",
    "config": {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2},
}


@pytest.fixture
def command(hub, tmp_path):
    """Runs `seqzoo ...` against the local Hub."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-m", "seqzoo", *arguments],
            env=environment | hub.environment(tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def train(command, sections, tmp_path):
    """Trains by the recipe in `sections`, two steps, and pushes to someone/model."""

    def run() -> subprocess.CompletedProcess:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(sections))
        return command("train", str(recipe), "training.steps=2", "hub.repo_id=someone/model")

    return run


def test_a_model_of_the_library_is_pushed_with_an_honest_card(train, sections, hub, tmp_path):
    sections["training"] |= {"checkpoint_every": 1}
    done = train()
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["someone/model"]
    assert repository.private
    files = repository.files()
    assert all("/" not in name and not name.endswith((".py", ".bin", ".pkl")) for name in files)
    card = files["README.md"].decode()
    assert judge_card(card) == []
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"{metrics['evaluation']['bits_per_byte']:.3f}" in card
    assert metrics["hub"] == "someone/model"
    for name, content in files.items():
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes(content)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "there")) is GPT2LMHeadModel


def test_a_model_of_the_zoo_is_pushed_as_an_export(sections, monkeypatch, tmp_path):
    pushed = {}

    def push(folder, repo_id, *, private):
        pushed[repo_id] = {path.name for path in folder.iterdir()}, private

    monkeypatch.setattr(run_module, "check_target", lambda repo_id: None)
    monkeypatch.setattr(run_module, "push", push)
    sections["model"] = TINY_ZOO
    metrics = run(load_recipe(sections, ["hub.repo_id=someone/model", "hub.private=false", "training.steps=2"]))
    files, private = pushed["someone/model"]
    assert {"model.safetensors", "README.md", "modeling_decay_fast_weight_gpt2.py"} <= files
    assert not private
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert metrics["hub"] == "someone/model"


@pytest.mark.slow
def test_a_push_that_fails_leaves_the_model_and_says_how_to_push_it(train, command, sections, hub, tmp_path):
    sections["model"] = TINY_ZOO
    hub.breaks["commit"] = 1
    done = train()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert f"The trained model is safe in {tmp_path / 'run'}" in error
    assert "hub" not in json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(hub.repositories["someone/model"].files()) == {".gitattributes"}

    for line in error.partition("to push it later: ")[2].split(" && "):
        program, *arguments = shlex.split(line)
        assert program == "seqzoo"
        again = command(*arguments)
        assert again.returncode == 0, again.stderr
    files = hub.repositories["someone/model"].files()
    assert {"model.safetensors", "README.md", "modeling_decay_fast_weight_gpt2.py"} <= set(files)
    assert files["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("repo_id", "error", "message"),
    [("a/b/c", ValueError, "a/b/c"), ("someone/model", PushError, "HF_HUB_OFFLINE is set")],
)
def test_a_push_that_cannot_be_is_refused_before_training(sections, repo_id, error, message):
    with pytest.raises(error, match=message):
        run(load_recipe(sections, [f"hub.repo_id={repo_id}"]))
    assert not Path(sections["training"]["output_dir"]).exists()
