import argparse
import json
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from model_table import MODELS, TINY_GPT2, Row
from second_environment import load_in_second_environment
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, pipeline

import seqzoo
from seqzoo.cli import export as export_command
from seqzoo.hub_cards import export as export_module
from seqzoo.hub_cards.export import export


# The files that go into an export depend on the model type and a few settings: one row of each by default, the other
# ones are slow.
_OFTEN = ("decay", "delta", "hybrid", "rezero")
_TEXT_MODELS = [row for row in MODELS if "test_export_stands_alone" not in row.off]


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name, marks=[] if row.name in _OFTEN else pytest.mark.slow) for row in _TEXT_MODELS],
)
def test_export_stands_alone(row, write_run, metrics, tmp_path, second_environment):
    metrics["model_type"] = row.model_type
    model = write_run(row, tmp_path / "run", metrics)
    files = export(tmp_path / "run", tmp_path / "out" / "my-model")
    assert sorted((tmp_path / "out" / "my-model").rglob("*")) == files
    shown = {file.name for file in files if file.suffix == ".png"}  # by the card
    assert {file.suffix for file in files if file.name not in shown} == {".json", ".md", ".py", ".safetensors"}
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in files
    }
    config = json.loads((tmp_path / "out" / "my-model" / "config.json").read_text())
    assert config["auto_map"].keys() == {"AutoConfig", *seqzoo.MODELS[row.model_type][1]}

    input_ids = row.inputs()
    with torch.no_grad():
        logits = model(input_ids).logits
    options = {"attention_mask": torch.ones_like(input_ids), "do_sample": False}
    generated = model.generate(input_ids, min_new_tokens=8, max_new_tokens=8, **options).tolist()
    pipe = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "run"))
    text = pipe("The", min_new_tokens=8, max_new_tokens=8, do_sample=False)[0]["generated_text"]
    exported = tmp_path / "out" / "my-model"
    for attempt in ("first", "saved_again"):
        facts = load_in_second_environment(second_environment, exported, input_ids, tmp_path / attempt)
        assert facts["import_error"] == "No module named 'seqzoo'"
        assert torch.equal(facts["logits"], logits)
        assert facts["generated"] == generated
        assert facts["text"] == text
        assert torch.tensor(facts["scores"]).isfinite().all()
        assert torch.tensor(facts["scores"]).shape == (1, 3)
        exported = tmp_path / attempt / "saved_again"
        assert {file.name for file in exported.iterdir()} == {file.name for file in files} - {"README.md"} - shown


def test_with_seqzoo_no_remote_code_is_needed(run_dir, tmp_path):
    export(run_dir, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model).__module__.startswith("seqzoo.")
    assert type(AutoConfig.from_pretrained(tmp_path / "out")).__module__.startswith("seqzoo.")


def test_a_model_of_the_library_gets_a_card_and_no_code(write_run, metrics, tmp_path):
    model = write_run(Row("gpt2", "gpt2", TINY_GPT2), tmp_path / "run", metrics | {"model_type": "gpt2"})
    files = export(tmp_path / "run", tmp_path / "my-model")
    assert not any(file.suffix == ".py" for file in files)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "my-model")
    assert type(again) is GPT2LMHeadModel
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    card = ModelCard.load(tmp_path / "my-model" / "README.md")
    assert (card.data.pipeline_tag, card.data.tags) == ("text-generation", ["gpt2"])
    assert card.data.eval_results[0].metric_value == 1.8765
    assert "A model of the `transformers` library" in card.text
    for absent in ("remote", "seqzoo`", "{{", "{%"):
        assert absent not in card.text


def test_an_export_can_be_exported_again(run_dir, tmp_path):
    first = export(run_dir, tmp_path / "first" / "name")
    (tmp_path / "first" / "name" / "metrics.json").write_bytes((run_dir / "metrics.json").read_bytes())
    second = export(tmp_path / "first" / "name", tmp_path / "second" / "name")
    assert [file.name for file in first] == [file.name for file in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_dtype_and_shards_survive(row, write_run, tmp_path):
    model = write_run(row, tmp_path / "run").to(torch.bfloat16)
    (tmp_path / "run" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "run", max_shard_size="20KB")
    assert len(list((tmp_path / "run").glob("*.safetensors"))) > 1
    export(tmp_path / "run", tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_card_has_the_numbers_and_recipe_of_the_run(run_dir, tmp_path):
    (run_dir / "recipe.yaml").write_text("model:\n  model_type: decay_fast_weight_gpt2\n")
    export(run_dir, tmp_path / "my-model", license="mit")
    card = ModelCard.load(tmp_path / "my-model" / "README.md")
    assert (card.data.license, card.data.model_name) == ("mit", "my-model")
    assert card.data.eval_results[0].metric_value == 1.8765
    assert "```yaml\nmodel:\n  model_type: decay_fast_weight_gpt2\n```" in card.text


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def drop_weight(path):
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    weights.pop("transformer.wpe.weight")
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda run: (run / "config.json").unlink(), FileNotFoundError, r"config\.json is missing"),
        (lambda run: (run / "config.json").write_text("{"), ValueError, r"config\.json is not valid JSON"),
        (lambda run: (run / "config.json").write_text("[]"), ValueError, r"config\.json is not the config of a model"),
        (lambda run: edit(run / "config.json", model_type="gpt2"), ValueError, "which are not one model registered"),
        (lambda run: edit(run / "config.json", model_type="x"), ValueError, "'x', a model_type that neither"),
        (lambda run: edit(run / "config.json", architectures=["X"]), ValueError, r"architectures \['X'\]"),
        (lambda run: (run / "model.safetensors").unlink(), FileNotFoundError, r"has no model\.safetensors"),
        (lambda run: cut(run / "model.safetensors"), ValueError, r"model\.safetensors is damaged or cut off"),
        (lambda run: drop_weight(run / "model.safetensors"), ValueError, r"lack transformer\.wpe\.weight"),
        (lambda run: (run / "tokenizer_config.json").unlink(), FileNotFoundError, "has no tokenizer"),
        (lambda run: edit(run / "metrics.json", model_type="gpt2"), ValueError, "measured on a 'gpt2'"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(run_dir, tmp_path, damage, error, message):
    damage(run_dir)
    with pytest.raises(error, match=message):
        export(run_dir, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_holds_something_is_not_touched(run_dir, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export(run_dir, tmp_path / "out")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export(run_dir, run_dir)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_nothing_half_is_left_when_writing_fails(run_dir, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(export_module, "flatten", fail)
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="No space left"):
        export(run_dir, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert not any((tmp_path / "out").iterdir())


def test_command_prints_the_files_and_how_to_load(run_dir, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    out = tmp_path / "out"
    assert export_command.run(parser.parse_args([str(run_dir), str(out)])) == 0
    *files, empty, first, second, third = capsys.readouterr().out.splitlines()
    assert files == sorted(str(path) for path in out.iterdir())
    assert empty == ""
    assert first == "from transformers import pipeline"
    assert second == f'pipe = pipeline("text-generation", model="{out}", trust_remote_code=True)'
    compile("\n".join([first, second, third]), "printed", "exec")
    # By itself a pipeline generates 256 tokens, more than a small model has positions.
    assert third == 'print(pipe("The history of", max_new_tokens=50))'
    assert third in (out / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(out)("The").input_ids == [3]


def test_the_command_is_light_until_it_runs():
    check = "import sys, seqzoo.cli.export; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
