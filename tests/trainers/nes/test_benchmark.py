"""Training by a recipe and the benchmark, on songs that are made up: tables, resuming, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import config as datasets_config

from seqzoo.__main__ import main
from seqzoo.cli import nes as command
from seqzoo.data.nes import ExpressiveScore, write_song
from seqzoo.hub_cards.export import export
from seqzoo.trainers.nes import benchmark
from seqzoo.trainers.nes.benchmark import TASKS, run_benchmark
from seqzoo.trainers.nes.songs import first_songs
from seqzoo.trainers.recipe import load_recipe
from seqzoo.trainers.run import run, task_module


SMALL = [
    *("model.config.hidden_size=16", "model.config.num_hidden_layers=1", "data.sequence_length=16"),
    *("training.batch_size=2", "training.steps=4", "training.warmup_steps=0", "tracking.tracker=none"),
]


@pytest.fixture
def songs(tmp_path, monkeypatch):
    """A folder of songs with the splits of the data set: a scale, later in the other splits."""
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for start, split in enumerate(("train", "valid", "test")):
        (tmp_path / "songs" / split).mkdir(parents=True)
        for number in range(2):
            score = np.zeros((40, 4, 3), dtype=np.uint8)
            score[:, 0, 0] = 60 + (np.arange(40) // 4 + start) % 5
            score[:, 2, 0] = 40 + (np.arange(40) // 8) % 3
            score[::6, 3, 0] = 5
            score[:, :, 1] = np.where(score[:, :, 0] > 0, [9, 9, 0, 9], 0)
            write_song(ExpressiveScore(score), tmp_path / "songs" / split / f"song{number}.exprsco.npz")
    return tmp_path / "songs"


@pytest.mark.parametrize("recipe", ["soloists", "quartet", "transformer", "blended"])
def test_recipes_try_out_without_data(recipe):
    checked = load_recipe(f"nes_score/{recipe}")
    summary = task_module(checked).dry_run(checked)
    assert summary["model_type"] == "nes_score"
    assert summary["batch"] == [16, 128, 3 if recipe == "blended" else 4]
    assert summary["logits"] == [16, 128, 88 if recipe == "blended" else 77 + 77 + 89 + 17]


@pytest.mark.parametrize("recipe", ["regression_past", "lstm_past", "transformer_notes", "transformer_past"])
def test_recipes_of_performance_try_out_without_data(recipe):
    checked = load_recipe(f"nes_performance/{recipe}")
    summary = task_module(checked).dry_run(checked)
    assert summary["model_type"] == "nes_performance"
    assert summary["logits"] == [checked.training.batch_size, 256, 58]
    assert task_module(checked).weightless_model(checked).config.autoregressive == recipe.endswith("_past")


def test_a_task_is_for_its_model(tmp_path):
    recipe = load_recipe("nes_performance/lstm_notes", ["model.model_type=nes_score", "model.config={}"])
    for action in (task_module(recipe).dry_run, run):
        recipe.training.output_dir = str(tmp_path / "run")
        with pytest.raises(ValueError, match="the task nes_performance is for a nes_performance, but"):
            action(recipe)


def test_a_run_learns_measures_both_splits_and_resumes(songs, tmp_path):
    def train(name: str, *overrides: str) -> dict:
        folder = f"training.output_dir={tmp_path / name}"
        return run(load_recipe("nes_score/quartet", [*SMALL, f"data.source={songs}", folder, *overrides]))

    metrics = train("run", "training.steps=40", "evaluation.every=20", "training.lr=1e-2")
    losses = [loss for _, loss in metrics["history"]["train"]]
    assert losses[-1] < 0.6 * losses[0]
    assert metrics["data"] | {"source": ""} == {
        "source": "",
        **{f"{split}_songs": 2 for split in ("train", "validation", "test")},
        **{f"{split}_steps": 80 for split in ("train", "validation", "test")},
    }
    assert metrics["training"]["steps_seen"] == 40 * 2 * 16
    for split in ("validation", "test"):
        assert metrics["evaluation"][split].keys() == {"P1", "P2", "TR", "NO", "total"}
    assert metrics["evaluation"]["loss"] == metrics["evaluation"]["validation"]["total"]["nll"]
    card = export(tmp_path / "run", tmp_path / "exported")[0].with_name("README.md").read_text()
    assert "### Test" in card

    whole = train("whole", "training.checkpoint_every=2", "tracking.log_every=1")
    for name in ("checkpoints/step_00000004", "metrics.json", "model.safetensors"):
        path = tmp_path / "whole" / name
        path.rename(tmp_path / path.name)
    resumed = train("whole", "training.checkpoint_every=2", "tracking.log_every=1", "training.resume=true")
    for key in ("history", "evaluation"):
        assert json.dumps(resumed[key]) == json.dumps(whole[key])  # P2, which never plays, has nan


def test_the_benchmark_fills_its_tables_once(songs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    tasks = ("composition", "blended_composition")
    result = run_benchmark(str(songs), out, tasks=tasks, overrides=SMALL)
    assert tuple(result["tasks"]) == tasks
    rows = result["tasks"]["composition"]["rows"]
    assert list(rows) == ["uniform", "unigram", "bigram", "LSTM soloists", "LSTM quartet", "transformer"]
    assert rows["bigram"]["test"]["P2"]["nll_poi"] is None  # P2 never plays
    assert json.loads((out / "benchmark.json").read_text()) == result
    table = (out / "benchmark.md").read_text()
    nll = rows["LSTM quartet"]["test"]["TR"]["nll"]
    assert "| LSTM quartet |" in table
    assert f" {nll:.3f} |" in table
    assert f"| 4 steps | {rows['LSTM quartet']['parameters']:,} | " in table
    assert (out / "benchmark.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr("seqzoo.trainers.run.run", None)  # nothing is left to be trained
    again = run_benchmark(str(songs), out, tasks=tasks, overrides=SMALL)
    assert again["tasks"] == result["tasks"]
    with pytest.raises(ValueError, match=r"nes_score_soloists is finished, but with another training\.steps; remove"):
        run_benchmark(str(songs), out, overrides=[*SMALL, "training.steps=5"])


def test_the_benchmark_of_performance_has_a_row_for_every_baseline_and_recipe(songs, tmp_path):
    overrides = [*SMALL, "training.steps=1", "training.keep_best=false", "evaluation.every=null"]
    result = run_benchmark(str(songs), tmp_path / "out", tasks=["performance"], overrides=overrides)
    rows = result["tasks"]["performance"]["rows"]
    assert list(rows) == ["uniform", "unigram", "bigram", *TASKS["performance"].recipes]
    assert rows["uniform"]["test"]["total"]["nll"] == pytest.approx(np.log([16, 16, 16, 4, 4, 2]).sum())
    for row in rows.values():
        for split in ("validation", "test"):
            assert row[split]["P1 velocity"]["steps"] == 80
            assert 0 < row[split]["total"]["nll"] < 60
    metrics = json.loads((tmp_path / "out/runs/nes_performance_transformer_past/metrics.json").read_text())
    assert metrics["task"] == "nes_performance"
    assert 0 < metrics["training"]["steps_seen"] <= 2 * 16
    files = export(tmp_path / "out/runs/nes_performance_transformer_past", tmp_path / "exported")
    card = next(file for file in files if file.name == "README.md").read_text()
    assert "### Test" in card
    assert "| P1 velocity |" in card


def baselines_alone(monkeypatch):
    for name in TASKS:
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], recipes={}))


def test_tasks_that_are_not_chosen_stay_even_if_another_is_stopped(songs, tmp_path, monkeypatch):
    def stop(train, held_out):
        raise KeyboardInterrupt

    baselines_alone(monkeypatch)
    out = tmp_path / "out"
    alone = {}
    for name in TASKS:
        (out / name).mkdir(parents=True)
        alone |= run_benchmark(str(songs), out / name, tasks=[name])["tasks"]
    for name in ("blended_composition", "performance"):
        result = run_benchmark(str(songs), out, tasks=[name])
    assert result["tasks"] == {name: alone[name] for name in ("blended_composition", "performance")}

    monkeypatch.setitem(TASKS, "performance", replace(TASKS["performance"], baselines=stop))
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(str(songs), out)
    written = json.loads((out / "benchmark.json").read_text())
    assert written["tasks"] == alone
    assert list(written["tasks"]) == list(TASKS)
    for task in TASKS.values():
        assert f"## {task.title}" in (out / "benchmark.md").read_text()


def test_tasks_of_other_songs_do_not_stand_beside_each_other(songs, tmp_path, monkeypatch):
    baselines_alone(monkeypatch)
    (tmp_path / "out").mkdir()
    run_benchmark(str(songs), tmp_path / "out", tasks=["composition"])
    (songs / "train" / "song0.exprsco.npz").unlink()
    with pytest.raises(ValueError, match=r"benchmark\.json has composition of other songs .* remove it"):
        run_benchmark(str(songs), tmp_path / "out", tasks=["performance"])
    result = run_benchmark(str(songs), tmp_path / "out", tasks=["composition"])
    assert result["songs"]["train"] == 1


def test_the_command_prints_the_tables(songs, tmp_path, capsys, monkeypatch):
    assert tuple(TASKS) == command.TASKS
    assert main(["nes", "benchmark", str(songs), "--task", "chess"]) == 1
    assert "there is no task chess; choose from composition" in capsys.readouterr().err
    seen = {}

    def fake(source, out, tasks, overrides, progress):
        seen.update(source=source, tasks=tasks, overrides=overrides)
        out.mkdir()
        (out / "benchmark.md").write_text("the tables")

    monkeypatch.setattr(benchmark, "run_benchmark", fake)
    out = str(tmp_path / "out")
    assert main(["nes", "benchmark", str(songs), "--out", out, "--task", "composition", "--steps", "40"]) == 0
    assert capsys.readouterr().out == "the tables\n"
    overrides = ["training.steps=40", "training.warmup_steps=4"]
    assert seen == {"source": str(songs), "tasks": ["composition"], "overrides": overrides}


def test_songs_without_a_split_are_refused(songs, tmp_path, capsys):
    for path in (songs / "test").iterdir():
        path.unlink()
    assert main(["nes", "benchmark", str(songs), "--out", str(tmp_path / "out")]) == 1
    assert "no songs of the split test" in capsys.readouterr().err


def test_the_first_songs_end_at_the_limit():
    songs = [np.zeros((5, 4)), np.zeros((3, 4)), np.zeros((9, 4))]
    assert [len(song) for song in first_songs(songs, 7)] == [5, 2]
    assert [len(song) for song in first_songs(songs, 5)] == [5]
    assert [len(song) for song in first_songs(songs, 99)] == [5, 3, 9]
