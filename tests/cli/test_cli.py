"""The `seqzoo` command: usage, exit codes, where output goes."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from model_table import TINY_GPT2
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from seqzoo.__main__ import GROUPS, main


def test_help_lists_every_group(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    help_text = capsys.readouterr().out
    for group in GROUPS:
        assert f"\n    {group} " in help_text


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_explains_itself(group, capsys):
    with pytest.raises(SystemExit) as stop:
        main([group, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["train"], ["convert", "bert", "a", "b"]], ids=str)
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**TINY_GPT2)).save_pretrained(folder)
    return folder


def test_convert_writes_a_loadable_model_and_lists_what_is_new(gpt2_folder, tmp_path, capsys):
    out = tmp_path / "converted"
    assert main(["convert", "gpt2", str(gpt2_folder), str(out), "position_embedding_type=none", "gate_init=4"]) == 0
    printed = capsys.readouterr()
    assert "transformer.h.0.attn.k_gate.weight" in printed.out
    assert "no tokenizer" in printed.err
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.config.position_embedding_type, model.config.gate_init) == ("none", 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "gpt2", "no/such/folder/here", "OUT"], "no/such/folder/here"),
        (["convert", "gpt2", "GPT2", "OUT", "gate_bias=1"], "did you mean gate_"),
        (["convert", "gpt2", "GPT2", "OUT", "gate_init"], "field=value"),
        (["convert", "gpt2", "GPT2", "GPT2"], "not an empty folder"),
        (["train", "no_such_recipe"], "no_such_recipe"),
        (["export", "no_such_model", "OUT"], "no_such_model"),
        (["push", "no_such_folder", "someone/model"], "there is no folder no_such_folder"),
        (["push", "GPT2", "someone/model"], "has no model card (README.md)"),
        (["models", "--runs", "no_such_folder"], "there is no folder no_such_folder"),
        (["bench", "no_such_bench"], "no_such_bench"),
        (["demo", "--steps", "1"], "--steps 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_exit_with_1(arguments, message, gpt2_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [{"GPT2": str(gpt2_folder), "OUT": str(out)}.get(argument, argument) for argument in arguments]
    before = sorted(gpt2_folder.iterdir())
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"seqzoo {arguments[0]}: error: ")
    assert message in error
    assert not out.exists()
    assert sorted(gpt2_folder.iterdir()) == before


def test_convert_writes_all_or_nothing(gpt2_folder, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(gpt2_folder, source)
    (source / "tokenizer.json").write_text("{broken")
    assert main(["convert", "gpt2", str(source), str(tmp_path / "out")]) == 1
    assert f"the tokenizer of {source} cannot be read" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.slow
def test_demo_end_to_end(tmp_path, capsys):
    """Few steps: the models are bad, every step is real."""
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "20"]) == 0
    printed = capsys.readouterr().out
    for step in range(1, 9):
        assert f"{step}. " in printed
    result = json.loads((tmp_path / "demo" / "demo.json").read_text())
    comparison = result["comparison"]
    assert comparison["share_kept"] == pytest.approx(
        comparison["teacher"]["perplexity"] / comparison["student"]["perplexity"]
    )
    sizes = {entry["cache_bytes"] for entry in result["generation"]["decaying fast weights"].values()}
    assert len(sizes) == 1
    card = (tmp_path / "demo" / "decaying-fast-weights-demo" / "README.md").read_text()
    assert f"{comparison['student']['bits_per_byte']:.3f}" in card
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_benchmark_whose_libraries_are_not_here_keeps_the_report(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "update_rules.json").write_text("{}")
    (tmp_path / "RESULTS.md").write_text("of all benchmarks")
    ours = SimpleNamespace(run=lambda progress: {"bars": [], "machine": {}}, to_markdown=lambda result: "in no time")
    monkeypatch.setitem(sys.modules, "seqzoo.benchmarks.startup", ours)
    monkeypatch.setitem(sys.modules, "seqzoo.benchmarks.update_rules", None)
    assert main(["bench", "startup", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "results" / "startup.json").is_file()
    assert (tmp_path / "RESULTS.md").read_text() == "of all benchmarks"
    printed = capsys.readouterr()
    assert "in no time" in printed.out
    assert "RESULTS.md stays as it was; without results of update_rules (import of" in printed.err
    assert main(["bench", "update_rules", "--out", str(tmp_path)]) == 1
