"""From a recipe to a model; every recipe of the project is dry-run."""

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from seqzoo.trainers.causal_lm import dry_run
from seqzoo.trainers.recipe import RecipeError, load_recipe, packaged_recipes
from seqzoo.trainers.recipe_model import build_model
from seqzoo.trainers.run import main, run, task_module


@pytest.mark.parametrize("name", packaged_recipes())
def test_dry_run_of_every_recipe(name):
    recipe = load_recipe(name)
    module = task_module(recipe)
    summary = module.dry_run(recipe)
    assert summary["model_type"] == name.partition("/")[0]
    assert summary["parameters"] == module.weightless_model(recipe).num_parameters() > 0
    if recipe.task != "causal_lm":
        return
    assert summary["batch"] == [recipe.training.batch_size, recipe.data.sequence_length]
    assert summary["logits"][:2] == summary["batch"]
    # Counted by another way than the summary's.
    config = {"vocab_size": summary["logits"][2]} | recipe.model.config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(summary["model_type"], **config))
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_dry_run_by_command(sections, tmp_path, capsys):
    sections["data"]["source"] = "no such file.txt"  # a dry run reads no data
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(sections))
    assert main([str(tmp_path / "mine.yaml"), "--dry-run", "data.packing=separate"]) == 0
    out = capsys.readouterr().out
    assert "model_type: gpt2" in out
    assert "batch: [8, 32]" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.model_type=gtp2", "did you mean gpt2"),
        ("model.config.n_layers=3", r"model\.config\.n_layers; did you mean model\.config\.n_layer\?"),
        ("model.config.n_layer=three", "n_layer"),
        ("data.sequence_length=64", "sequence_length reaches 64, but the model has 32 positions"),
        ("evaluation.lengths=[16, 64]", "evaluation.lengths reaches 64"),
    ],
)
def test_wrong_models_are_refused(sections, override, message):
    with pytest.raises(RecipeError, match=message):
        dry_run(load_recipe(sections, [override]))


def test_mistakes_by_command_are_one_line(sections, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(sections))
    assert main([str(tmp_path / "mine.yaml"), "training.stpes=1"]) == 1
    assert capsys.readouterr().err == (
        "error: unknown key training.stpes; did you mean training.steps? Known: "
        + ", ".join(load_recipe(sections).as_dict()["training"])
        + "\n"
    )
    assert main([str(tmp_path / "mine.yaml"), "data.source=gone.txt"]) == 1
    assert "gone.txt does not exist" in capsys.readouterr().err


def test_damaged_weights_are_named(sections, tmp_path):
    class Tokenizer:
        def __len__(self):
            return 300

    folder = tmp_path / "model"
    AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=300, **sections["model"]["config"], bos_token_id=0, eos_token_id=0)
    ).save_pretrained(folder)
    overrides = [f"model.init_from={folder}", "model.config={}", "tokenizer.vocab_size=null"]
    recipe = load_recipe(sections, overrides)
    assert build_model(recipe, Tokenizer()).dtype == torch.float32
    with pytest.raises(RecipeError, match="is a gpt2"):
        build_model(load_recipe(sections, [*overrides, "model.model_type=decay_fast_weight_gpt2"]), Tokenizer())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"weights in .*model are damaged"):
        build_model(recipe, Tokenizer())


@pytest.mark.parametrize("key", ["model.init_from", "model.convert_gpt2", "tokenizer.path"])
@pytest.mark.parametrize("name", ["runs/gpt2/absent", "./absent", "runs/absent"])
def test_a_folder_that_is_not_there_is_no_question_to_the_hub(sections, key, name):
    sections["tokenizer"] = {}
    sections["model"] = {"model_type": "decay_fast_weight_gpt2"}
    with pytest.raises(FileNotFoundError, match=f"{key} is {name}, a folder that is not there"):
        run(load_recipe(sections, [f"{key}={name}"]))


def test_processes_that_do_not_see_each_other(sections, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched, but each is alone.*ACCELERATE_USE_CPU=true"):
        run(load_recipe(sections))


def test_weights_that_are_missing_are_not_drawn_at_random(sections, tmp_path):
    run(load_recipe(sections, [f"training.output_dir={tmp_path / 'first'}", "training.steps=1"]))
    weights = tmp_path / "first" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, weights, {"format": "pt"})
    sections["model"] |= {"init_from": str(tmp_path / "first"), "config": {}}
    with pytest.raises(ValueError, match=r"first lack transformer\.h\.1\.mlp\.c_fc\.weight"):
        run(load_recipe(sections, ["tokenizer.vocab_size=null"]))
    assert not (tmp_path / "run").exists()
