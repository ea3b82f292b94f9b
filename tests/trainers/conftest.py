"""A text and a model so small that a whole run takes a second."""

import json
from pydoc_data.topics import topics

import pytest

from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import run


@pytest.fixture
def sections(tmp_path) -> dict:
    """Sections of a recipe: 14 steps an epoch, with dropout, shuffling and documents that are packed together."""
    documents = [
        topics[name][:800] for name in ("assert", "class", "if", "import", "lambda", "with", "yield", "while")
    ]
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": document}) for document in documents * 2))
    return {
        "model": {
            "model_type": "gpt2",
            "config": {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2},
        },
        "data": {"source": str(text), "validation_fraction": 0.2, "sequence_length": 32},
        "tokenizer": {"vocab_size": 300},
        "training": {"steps": 12, "lr": 3e-3, "output_dir": str(tmp_path / "run")},
        "evaluation": {"max_tokens": 500},
        "tracking": {"tracker": "none", "log_every": 1},
    }


@pytest.fixture
def conversion(sections, tmp_path) -> dict:
    """Sections of a student's recipe: a teacher was trained for some steps, its attention is to be swapped."""
    teacher = str(tmp_path / "teacher")
    run(load_recipe(sections, ["training.steps=4", f"training.output_dir={teacher}"]))
    model = {"model_type": "decay_fast_weight_gpt2", "convert_gpt2": teacher}
    return sections | {"model": model, "tokenizer": {}}
