"""Recipes: what is read, what is refused and how the refusal helps."""

import pytest
import yaml

from seqzoo.trainers.recipe import Recipe, RecipeError, load_recipe, packaged_recipes


SECTIONS = {
    "model": {"model_type": "gpt2", "config": {"n_layer": 2}},
    "tokenizer": {"vocab_size": 300},
    "training": {"steps": 10},
}


def test_file_overrides_and_round_trip(tmp_path):
    file = tmp_path / "gpt2" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("training: {steps: 10, lr: 3e-4}\nmodel: {model_type: gpt2}\ntokenizer: {vocab_size: 300}\n")
    recipe = load_recipe(file, ["training.steps=20", "model.config.n_layer=3", "data.source=[a.txt, b.txt]"])
    assert recipe.name == "gpt2/mine"
    assert recipe.training.lr == 3e-4  # a string to YAML 1.1
    assert recipe.training.steps == 20
    assert recipe.training.output_dir == "runs/gpt2/mine"
    assert recipe.model.config == {"n_layer": 3}
    assert recipe.data.source == ["a.txt", "b.txt"]
    again = load_recipe(yaml.safe_load(yaml.safe_dump(recipe.as_dict())))
    assert again.as_dict() == recipe.as_dict()


def test_the_given_mapping_is_left_alone():
    load_recipe(SECTIONS, ["training.steps=3", "model.config.n_layer=9"])
    assert SECTIONS["training"] == {"steps": 10}
    assert SECTIONS["model"]["config"] == {"n_layer": 2}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stpes=3", ["training.stpes", "training.steps"]),
        ("trainig.steps=3", ["trainig", "training"]),
        ("training.steps=many", ["training.steps", "'many'", "whole number"]),
        ("training.steps=2.5", ["training.steps", "whole number"]),
        ("training.steps=true", ["training.steps", "True"]),
        ("training.lr=fast", ["training.lr", "a number"]),
        ("training.lr=false", ["training.lr", "a number"]),
        ("training.schedule=cosin", ["training.schedule", "cosine"]),
        ("training.betas=[0.9]", ["training.betas", "two numbers"]),
        ("evaluation.lengths=[64, x]", ["evaluation.lengths[1]", "whole number"]),
        ("training.steps.more=3", ["steps", "single value"]),
        ("training.steps", ["section.key=value"]),
        ("training.steps=[", ["not YAML"]),
        ("training=3", ["training", "mapping of keys", "3"]),
        ("name.first=x", ["unknown key name"]),
        ("tokenizer.path=gpt2", ["tokenizer.path", "tokenizer.vocab_size", "exclude"]),
        ("tokenizer.vocab_size=null", ["needs a tokenizer"]),
        ("tokenizer.vocab_size=100", ["257"]),
        ("tokenizer={kind: word, vocab_size: 300}", ["tokenizer.kind", "did you mean words"]),
        ("tokenizer={kind: words}", ["tokenizer.kind words", "set tokenizer.vocab_size"]),
        ("tokenizer={kind: words, path: gpt2}", ["tokenizer.kind words", "leave kind out"]),
        ("tokenizer={kind: words, path: gpt2, vocab_size: 9}", ["tokenizer.path", "tokenizer.vocab_size", "exclude"]),
        ("tokenizer={kind: words, vocab_size: 2}", ["tokenizer.vocab_size is 2", "need 3"]),
        ("model.init_from=x", ["tokenizer.vocab_size", "remove it"]),
        ("training.warmup_steps=11", ["training.warmup_steps"]),
        ("training.gradient_accumulation_steps=3", ["gradient_accumulation_steps 3", "multiple"]),
        ("training.keep_checkpoints=0", ["training.keep_checkpoints"]),
        ("training.checkpoint_every=0", ["training.checkpoint_every"]),
        ("training.max_minutes=0", ["training.max_minutes", "greater than 0"]),
        ("training.keep_best=true", ["evaluation.every"]),
        ("data.validation_fraction=1.0", ["data.validation_fraction"]),
        ("data.shuffle_buffer=0", ["data.shuffle_buffer"]),
        ("data={streaming: true}", ["data.streaming", "files or a Hub dataset"]),
        ("data={streaming: true, source: a.txt}", ["set data.validation", "other files", "a split"]),
        ("data={streaming: true, source: a.txt, validation: b.txt, num_proc: 2}", ["data.num_proc", "remove it"]),
    ],
)
def test_mistakes_are_named(override, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe(SECTIONS, [override])
    for word in words:
        assert word in str(caught.value)


CONVERSION = {
    "model": {"model_type": "decay_fast_weight_gpt2", "convert_gpt2": "gpt2"},
    "training": {"steps": 10},
}
FROM_ALIGNED = ["model.convert_gpt2=null", "model.init_from=aligned"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.objective=destill"], ["did you mean distill"]),
        (["model.teacher=gpt2"], ["model.teacher belongs to", "not to language_modeling"]),
        ([*FROM_ALIGNED, "training.objective=distill"], ["training.objective distill needs model.teacher"]),
        (["training.distill_weight=0"], ["training.distill_weight belongs to", "distill, not to language_modeling"]),
        (
            ["training.objective=align", "training.distill_temperature=2"],
            ["training.distill_temperature belongs to", "distill, not to align"],
        ),
        (["training.objective=distill", "training.distill_weight=1.5"], ["training.distill_weight is 1.5", "0 and 1"]),
        (["training.objective=distill", "training.distill_temperature=0"], ["distill_temperature is 0", "greater"]),
        (["training.lora_alpha=8"], ["training.lora_alpha belongs to training.lora_rank"]),
        (["training.lora_targets=[c_attn]"], ["training.lora_targets belongs to training.lora_rank"]),
        (["training.lora_rank=0"], ["training.lora_rank is 0", "greater"]),
        (["training.lora_rank=2", "training.lora_targets=[]"], ["training.lora_targets is empty"]),
        (
            ["model.convert_gpt2=null", "tokenizer.path=gpt2", "training.lora_rank=2"],
            ["training.lora_rank leaves most weights", "model.convert_gpt2 or model.init_from"],
        ),
        (
            ["model.convert_gpt2=null", "tokenizer.path=gpt2", "model.teacher=gpt2", "training.objective=align"],
            ["training.objective align leaves most weights", "model.convert_gpt2 or model.init_from"],
        ),
        (["training.objective=align", "training.gradient_checkpointing=true"], ["gradient_checkpointing", "align"]),
    ],
)
def test_mistakes_of_conversions_are_named(overrides, words):
    load_recipe(CONVERSION)
    with pytest.raises(RecipeError) as caught:
        load_recipe(CONVERSION, overrides)
    for word in words:
        assert word in str(caught.value)


def test_defaults_of_conversions_are_written_out():
    plain = load_recipe(CONVERSION)
    assert (plain.training.objective, plain.model.teacher, plain.training.lora_alpha) == (
        "language_modeling",
        None,
        None,
    )
    recipe = load_recipe(CONVERSION, ["training.objective=distill", "training.lora_rank=4"])
    assert recipe.model.teacher == "gpt2"
    assert (recipe.training.distill_weight, recipe.training.distill_temperature) == (0.5, 1.0)
    assert recipe.training.lora_alpha == 8
    assert (
        load_recipe(CONVERSION, ["training.objective=distill", "training.distill_weight=0"]).training
        == (
            load_recipe(
                recipe.as_dict(), ["training.distill_weight=0", "training.lora_rank=null", "training.lora_alpha=null"]
            )
        ).training
    )
    assert load_recipe(recipe.as_dict()).as_dict() == recipe.as_dict()


def test_missing_parts(tmp_path):
    with pytest.raises(RecipeError, match=r"lacks training\.steps"):
        load_recipe({**SECTIONS, "training": {}})
    with pytest.raises(RecipeError, match="lacks model"):
        load_recipe({"training": {"steps": 1}})
    with pytest.raises(FileNotFoundError, match=r"no recipe gpt2/dmeo.*gpt2/demo"):
        load_recipe("gpt2/dmeo")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="mapping of sections"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(tmp_path / "broken.yaml")


def test_precision_may_be_a_bare_no():
    assert load_recipe(SECTIONS, ["training.mixed_precision=no"]).training.mixed_precision == "no"


def test_packaged_recipes_are_found():
    assert {"gpt2/demo", "decay_fast_weight_gpt2/demo", "decay_fast_weight_gpt2/wikitext103"} <= set(
        packaged_recipes()
    )
    assert isinstance(load_recipe("gpt2/demo"), Recipe)
    assert load_recipe("configs/gpt2/demo.yaml").name == "gpt2/demo"
