"""One exported folder under the oldest and the newest transformers that cards name."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from model_table import MODELS
from second_environment import OLDEST, install, load_in_second_environment, make_second_environment
from transformers import AutoModelForCausalLM

import seqzoo
from seqzoo.hub_cards.card import PROVEN_TRANSFORMERS
from seqzoo.hub_cards.export import export


# With the huggingface_hub of its time.
NEWEST = ("transformers==5.23.0", "huggingface_hub==2.4.0")


# Those of images and scores are in test_export_images.py and test_export_nes.py.
TEXT_MODELS = [row for row in MODELS if "vocab_size" in row.config]


@pytest.fixture(scope="module")
def environments(oldest_environment, tmp_path_factory):
    """Python executables without seqzoo, of the oldest and the newest versions; they are fetched where need be."""
    newest = make_second_environment(tmp_path_factory.mktemp("environment"))
    install(newest, *NEWEST)
    return [oldest_environment, newest]


def test_cards_name_the_versions_that_are_tested():
    oldest, newest = (re.search(r"5\.\d+", versions[0])[0] for versions in (OLDEST, NEWEST))
    assert f">={oldest},<={newest}" == PROVEN_TRANSFORMERS


@pytest.mark.slow
@pytest.mark.parametrize("row", TEXT_MODELS, ids=lambda row: row.name)
def test_one_export_gives_the_same_bits_under_both(row, write_run, environments, tmp_path):
    model = write_run(row, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "my-model")
    input_ids = row.inputs()
    with torch.no_grad():
        logits = model(input_ids).logits
    old, new = (
        load_in_second_environment(python, tmp_path / "my-model", input_ids, tmp_path / name)
        for python, name in zip(environments, ("old", "new"), strict=True)
    )
    assert f"transformers=={old['transformers']}" == OLDEST[0]
    assert f"transformers=={new['transformers']}" == NEWEST[0]
    assert torch.equal(old["logits"], logits)
    assert torch.equal(new["logits"], logits)
    assert old["generated"] == new["generated"]
    assert old["text"] == new["text"]
    # What one of them saves, the other loads.
    for python, name in zip(environments, ("new", "old"), strict=True):
        saved = tmp_path / name / "saved_again"
        facts = load_in_second_environment(python, saved, input_ids, tmp_path / f"saved-by-{name}")
        assert torch.equal(facts["logits"], logits)


@pytest.mark.slow
def test_the_oldest_pushes_and_loads_what_was_pushed(hub, run_dir, environments, tmp_path):
    export(run_dir, tmp_path / "my-model")
    oldest, _ = environments
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= hub.environment(tmp_path / "home") | {"PYTHONPATH": str(Path(seqzoo.__file__).parents[1])}
    command = [str(oldest), "-m", "seqzoo", "push", str(tmp_path / "my-model"), "someone/my-model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    failed = subprocess.run([*command, "--revision", "v2"], env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "hf repos branch create someone/my-model v2" in failed.stderr
    input_ids = MODELS[0].inputs()
    facts = load_in_second_environment(
        oldest, "someone/my-model", input_ids, tmp_path / "there", **hub.environment(tmp_path / "there" / "hf", None)
    )
    with torch.no_grad():
        assert torch.equal(facts["logits"], AutoModelForCausalLM.from_pretrained(run_dir).eval()(input_ids).logits)
