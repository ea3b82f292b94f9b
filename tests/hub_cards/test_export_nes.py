"""Exported models of NES scores: code and weights alone, where seqzoo is missing."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from model_table import MODELS, performance_row
from safetensors.torch import load_file, save_file
from second_environment import IN_BOTH

from seqzoo.hub_cards.export import export


# All models in one process: what takes long is to start it.
LOAD = """
import sys
try:
    import seqzoo
except ImportError:
    pass
else:
    sys.exit("seqzoo can be imported here: this environment proves nothing")
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

torch.set_num_threads(1)
for name in sys.argv[1:]:
    for exported, found in ((f"{name}/exported", f"{name}/first"), (f"{name}/again", f"{name}/second")):
        model = AutoModel.from_pretrained(exported, trust_remote_code=True).eval()
        model.save_pretrained(f"{name}/again")
        with torch.no_grad():
            results = {"logits": model(load_file(f"{name}/inputs")["inputs"]).logits}
        if hasattr(model, "compose"):
            results["composed"] = model.compose(9, temperature=0, batch_size=2)
        if hasattr(model, "perform"):
            results["performed"] = torch.from_numpy(model.perform(load_file(f"{name}/inputs")["inputs"][0]))
        save_file(results, found)
"""
ROWS = [row for row in MODELS if row.model_type.startswith("nes_")]


@IN_BOTH
def test_exports_stand_alone(python, tmp_path, request):
    python = request.getfixturevalue(python)
    for row in ROWS:
        row.build().save_pretrained(tmp_path / "run")
        files = export(tmp_path / "run", tmp_path / row.name / "exported")
        assert {file.suffix for file in files} == {".json", ".md", ".py", ".safetensors"}
        save_file({"inputs": row.inputs().contiguous()}, tmp_path / row.name / "inputs")
        shutil.rmtree(tmp_path / "run")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(tmp_path / "huggingface"), "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-I", "-c", LOAD, *(row.name for row in ROWS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for row in ROWS:
        model = row.build()
        for name in ("first", "second"):
            found = load_file(tmp_path / row.name / name)
            with torch.no_grad():
                assert torch.equal(found["logits"], model(row.inputs()).logits), row.name
            if "composed" in found:
                assert torch.equal(found["composed"], model.compose(9, temperature=0, batch_size=2))
            if "performed" in found:
                assert np.array_equal(found["performed"], model.perform(row.inputs()[0]))


@pytest.mark.parametrize(
    ("architecture", "says", "never"),
    [
        ("soloists", ["Four LSTMs", "do not hear each other", "SeparatedScore"], ["BlendedScore", "steps back"]),
        ("transformer", ["A layer sees 8 steps back", "[song, step, voice]"], ["do not hear"]),
        ("blended", ["each key of a piano roll", "BlendedScore", "noise is not composed"], ["SeparatedScore"]),
    ],
)
def test_the_card_says_what_this_composer_does(architecture, says, never, tmp_path):
    row = next(row for row in MODELS if row.name == f"nes-score-{architecture}")
    row.build().save_pretrained(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "my-model")
    card = ModelCard.load(tmp_path / "my-model" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "other")
    assert "trust_remote_code=True" in card.text
    for words in says:
        assert words in card.text, words
    for words in never:
        assert words not in card.text, words


@pytest.mark.parametrize(
    ("architecture", "past", "says", "never"),
    [
        ("regression", True, ["multinomial regression", "at the step before"], ["how long each note"]),
        ("lstm", False, ["An LSTM that reads the notes"], ["played before", "how long each note"]),
        ("transformer", True, ["before and after a step, and knows", "how long each note"], ["at the step before"]),
    ],
)
def test_the_card_says_what_this_performer_does(architecture, past, says, never, tmp_path):
    performance_row(architecture, past).build().save_pretrained(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "my-model")
    card = ModelCard.load(tmp_path / "my-model" / "README.md")
    assert card.data.pipeline_tag == "other"
    assert "model.perform(notes, do_sample=True)" in card.text
    about = " ".join(card.text.split())
    for words in says:
        assert words in about, words
    for words in never:
        assert words not in about, words
