"""Teachers that cannot teach are refused before anything is trained."""

from pydoc_data.topics import topics

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from seqzoo.data.text_tokenizer import train_tokenizer
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.recipe_parsing import RecipeError
from seqzoo.trainers.run import run


@pytest.fixture
def another_teacher(conversion, tmp_path):
    """Saves a teacher that differs from the source of the student as said, and gives its folder."""
    source = conversion["model"]["convert_gpt2"]
    config = GPT2Config.from_pretrained(source).to_dict()

    def save(**changes) -> str:
        folder = str(tmp_path / "other")
        GPT2LMHeadModel(GPT2Config(**(config | changes))).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ("align", {"n_embd": 64}, "width of model.teacher .*other is 64, but the model's is 32"),
        ("align", {"n_layer": 3}, "number of layers of model.teacher .*other is 3, but the model's is 2"),
        ("align", {"vocab_size": 301}, "vocabulary of model.teacher .*other is 301, but the model's is 300"),
        ("distill", {"vocab_size": 301}, "vocabulary of model.teacher .*other is 301, but the model's is 300"),
        ("distill", {"n_positions": 16}, "sequence_length is 32, but model.teacher .*other has 16 positions"),
    ],
)
def test_sizes_that_do_not_fit(conversion, tmp_path, another_teacher, objective, changes, message):
    overrides = [f"training.objective={objective}", f"model.teacher={another_teacher(**changes)}"]
    with pytest.raises(RecipeError, match=message):
        run(load_recipe(conversion, overrides))
    assert not (tmp_path / "run").exists()


def test_a_larger_teacher_may_distill(conversion, another_teacher):
    overrides = ["training.objective=distill", "training.steps=2"]
    run(load_recipe(conversion, [*overrides, f"model.teacher={another_teacher(n_layer=3, n_embd=64)}"]))


def test_other_tokens_of_the_same_number(conversion, another_teacher):
    folder = another_teacher()
    train_tokenizer([topics["operator-summary"]], 300).save_pretrained(folder)
    with pytest.raises(RecipeError, match=r"tokenizer of model.teacher .*other has other tokens than this run's"):
        run(load_recipe(conversion, ["training.objective=distill", f"model.teacher={folder}"]))


def test_what_is_no_gpt2_or_is_damaged(conversion, tmp_path, another_teacher):
    run(load_recipe(conversion, ["training.steps=1", f"training.output_dir={tmp_path / 'student'}"]))
    with pytest.raises(RecipeError, match=r"must be a GPT-2, but .*student is a decay_fast_weight_gpt2"):
        run(load_recipe(conversion, ["training.objective=distill", f"model.teacher={tmp_path / 'student'}"]))
    folder = another_teacher()
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    overrides = ["training.objective=distill", f"model.teacher={folder}"]
    with pytest.raises(ValueError, match=r"weights in .*other are damaged"):
        run(load_recipe(conversion, overrides))
