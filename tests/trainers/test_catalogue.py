import json
from pathlib import Path

import pytest
import yaml

import seqzoo
from seqzoo.__main__ import main
from seqzoo.trainers.catalogue import list_models
from seqzoo.trainers.recipe import load_recipe, packaged_recipes


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return {entry["recipe"]: entry for entry in list_models(tmp_path_factory.mktemp("empty"))}


@pytest.fixture
def write_run(tmp_path):
    """Writes the metrics.json of a run."""

    def write(name: str, recipe: str, bits_per_byte: float, date: str, **more) -> None:
        versions = {"torch": "2.13.0"}
        data = {"source": f"text of {name}", "sha256": "ab", "python": "3.11", "train_tokens": 9, "train_bytes": 9}
        training = dict.fromkeys(
            ("batch_size", "sequence_length", "tokens_seen", "final_loss", "seconds", "tokens_per_second"), 1
        ) | {"steps": 77, "num_processes": 1, "seed": 0}
        evaluation = {"bits_per_byte": bits_per_byte, "perplexity": 9.0, "tokens": 5, "bytes": 5}
        metrics = {"schema": 1, "model_type": recipe.partition("/")[0], "recipe": recipe, "parameters": 123_456_789}
        metrics |= {"data": data, "training": training, "evaluation": evaluation, "versions": versions, "date": date}
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "metrics.json").write_text(json.dumps(metrics | more))

    return write


def test_every_packaged_recipe_and_every_model_is_listed(untrained):
    assert list(untrained) == packaged_recipes()
    assert {entry["model_type"] for entry in untrained.values()} >= set(seqzoo.MODELS)


def test_parameters_are_those_of_the_model(untrained):
    gpt2_small = 50257 * 768 + 1024 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    assert untrained["gpt2/wikitext103"]["parameters"] == gpt2_small
    assert untrained["gpt2/gpt2_small"]["parameters"] == gpt2_small
    demo = untrained["decay_fast_weight_gpt2/demo"]
    assert demo["class"] == "DecayFastWeightGPT2LMHeadModel"
    config = seqzoo.DecayFastWeightGPT2Config(vocab_size=1024, n_positions=128, n_embd=192, n_layer=4, n_head=6)
    assert demo["parameters"] == seqzoo.DecayFastWeightGPT2LMHeadModel(config).num_parameters()


def test_parameters_that_a_missing_model_decides_are_not_guessed(untrained):
    assert untrained["decay_fast_weight_gpt2/distill_demo"]["parameters"] is None


def test_nothing_is_claimed_that_no_run_measured(untrained):
    assert {entry["measured"] for entry in untrained.values()} == {None}
    assert {entry["weights"] for entry in untrained.values()} == {None}
    assert {entry["license"] for entry in untrained.values()} == {"apache-2.0"}
    assert untrained["gpt2/demo"]["data_license"] == "psf-2.0"
    assert untrained["gpt2/wikitext103"]["data_license"] == "cc-by-sa-4.0"


def test_the_newest_run_tells_what_was_measured_and_where_the_weights_are(write_run, tmp_path):
    write_run("a/newer", "gpt2/demo", 2.5, "2026-02-01T00:00:00+00:00")
    write_run("b/older", "gpt2/demo", 1.5, "2026-01-01T00:00:00+00:00", hub="someone/older")
    write_run("c", "gpt2/enwik8", 1.25, "2026-01-01T00:00:00+00:00", hub="someone/enwik8")
    write_run("mine", "my_recipe", 0.5, "2026-01-01T00:00:00+00:00")
    (tmp_path / "runs" / "b" / "metrics.json").write_text("{")
    (tmp_path / "runs" / "metrics.json").write_text('{"schema": 7}')
    folder = str(tmp_path / "runs" / "a" / "newer")
    own = load_recipe("gpt2/demo", ["training.steps=77", "training.lr=1", "evaluation.every=3"])
    (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump(own.as_dict()))
    entries = {entry["recipe"]: entry for entry in seqzoo.list_models(tmp_path / "runs")}
    assert entries["gpt2/demo"]["measured"] == {
        "metric": "bits_per_byte",
        "value": 2.5,
        "on": "text of a/newer",
        "steps": 77,
        "date": "2026-02-01T00:00:00+00:00",
        "run": folder,
        "changed": ["training.lr", "training.steps"],
    }
    assert entries["gpt2/demo"]["weights"] == folder
    assert entries["gpt2/demo"]["parameters"] == 123_456_789
    assert entries["gpt2/enwik8"]["weights"] == "someone/enwik8"
    assert entries["decay_fast_weight_gpt2/demo"]["measured"] is None
    assert list(entries) == packaged_recipes()


def test_the_command_prints_a_narrow_table_and_json(write_run, tmp_path, monkeypatch, capsys):
    write_run("demo", "gpt2/demo", 2.5, "2026-02-01T00:00:00+00:00")
    monkeypatch.chdir(tmp_path)
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    (line,) = [line for line in table.splitlines() if "runs/demo" in line]
    assert line.split() == ["demo", "123.5", "M", "2.500", "bits/byte", "apache-2.0", "runs/demo"]
    assert table.count("not measured") == table.count(" to be trained\n") == len(packaged_recipes()) - 1
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == list_models("runs")
    assert main(["models", "--runs", "nowhere"]) == 1
    assert "there is no folder nowhere" in capsys.readouterr().err
