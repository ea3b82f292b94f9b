"""The comparison of update rules: a tiny grid from end to end, what is kept, and the verdicts on made-up numbers."""

import json
import re
import shutil

import pytest

from seqzoo.__main__ import main
from seqzoo.benchmarks import update_rules
from seqzoo.benchmarks.update_rules import DECAY, SOFTMAX, VARIANTS, Cell, Grid, Settings, Variant, run, to_markdown
from seqzoo.benchmarks.update_rules_report import compare, papers_order, sentences, verdict
from seqzoo.data.recall import RecallTask


ALIGNED = "decay, in two stages"
FEW = {
    SOFTMAX: VARIANTS[SOFTMAX],
    DECAY: VARIANTS[DECAY],
    ALIGNED: Variant("a conversion", stages=(("training.weight_decay=0",), ()), measurements=("converted",)),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"the {i}. line of a text, and {i * i} is a square\n" for i in range(120)))
    return str(path)


def tiny(text, **changes):
    options = {
        "seeds": (0,),
        "source": text,
        "vocab_size": 260,
        "sequence_length": 16,
        "batch_size": 2,
        "size": {"n_embd": 16, "n_layer": 1, "n_head": 2},
        "steps": 2,
        "fine_tuning_steps": 2,
        "held_out_tokens": 100,
        "recall": RecallTask(pairs=(1, 2), length=8, keys=2),
        "recall_size": {"n_embd": 16, "n_layer": 1, "n_head": 1},
        "recall_steps": 2,
        "recall_batch_size": 2,
        "contexts": (8, 16),
        "decoding_steps": 1,
    }
    return Settings(**(options | changes))


@pytest.fixture(scope="module")
def measured(text, tmp_path_factory):
    """(work folder, settings, result) of a whole grid."""
    folder = tmp_path_factory.mktemp("grid")
    settings = tiny(text)
    return folder, settings, run(lambda line: None, settings=settings, variants=FEW, folder=folder)


def test_a_grid_from_end_to_end(measured):
    _, _, result = measured
    assert json.loads(json.dumps(result))["values"] == result["values"]
    assert {name: set(row) for name, row in result["values"].items()} == {
        SOFTMAX: {"from_scratch", "converted", "share_kept", "recall", "recall_by_pairs"},
        DECAY: {"from_scratch", "converted", "share_kept", "recall", "recall_by_pairs"},
        ALIGNED: {"converted", "share_kept"},
    }
    assert result["values"][SOFTMAX]["share_kept"] == {"0": 1.0}
    assert result["values"][DECAY]["from_scratch"] != result["values"][SOFTMAX]["from_scratch"]
    assert set(result["decoding"]) == {SOFTMAX, DECAY}
    state = result["decoding"][DECAY]
    assert state["8"]["cache_bytes"] == state["16"]["cache_bytes"] == 2 * 8 * 8 * 4
    text = to_markdown(result)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows.count(SOFTMAX) == rows.count(ALIGNED) == 2  # measures, differences
    assert rows.count(DECAY) == 1


def test_the_command_writes_table_numbers_and_plot(measured, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(update_rules, "run", lambda progress: measured[2])
    assert main(["bench", "update_rules", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "results" / "update_rules.json").read_text())["values"] == measured[2]["values"]
    (plot,) = re.findall(r"!\[.*\]\((.*)\)", (tmp_path / "RESULTS.md").read_text())
    assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_is_not_measured_again(measured, text, tmp_path):
    folder = tmp_path / "grid"
    shutil.copytree(measured[0], folder)
    settings = tiny(text)

    def todo(settings):
        grid = Grid(settings, FEW, folder)
        return {(cell.measurement, cell.name) for cell in grid.cells if grid.result(cell) is None}

    assert not todo(settings)
    # Another length of fine-tuning concerns the conversions, another teacher them and itself.
    conversions = {("converted", name) for name in FEW}
    assert todo(tiny(text, fine_tuning_steps=4)) == conversions
    everything_on_text = conversions | {("from_scratch", SOFTMAX), ("from_scratch", DECAY)}
    assert todo(tiny(text, steps=3)) == everything_on_text
    assert todo(tiny(text, recall_lr=1e-3)) == {("recall", SOFTMAX), ("recall", DECAY)}
    # Without the teacher's weights it has to be trained again.
    shutil.rmtree(folder / "teacher_0")
    assert ("from_scratch", SOFTMAX) in todo(settings)


def test_a_stopped_grid_goes_on_cell_by_cell(measured, text):
    folder, settings, result = measured
    cell = Cell("recall", DECAY, 0)
    cell.path(folder).unlink()
    told = []
    again = run(told.append, settings=settings, variants=FEW, folder=folder)
    assert told == ["1/1 decay, seed 0, recall (about 0 minutes left)", "time a token"]
    assert again["values"] == result["values"]


def test_a_difference_counts_only_if_all_signs_agree():
    assert verdict([0.1, 0.2, 0.001], less_is_better=True) == "worse"
    assert verdict([0.1, 0.2, 0.001], less_is_better=False) == "better"
    assert verdict([-0.1, -0.2, -0.001], less_is_better=True) == "better"
    assert verdict([0.1, -0.001, 0.2], less_is_better=True) == "no difference"
    assert verdict([0.1, 0.0, 0.2], less_is_better=True) == "no difference"


def made_up(**from_scratch):
    """Three seeds of from-scratch values, for decay 2.0 each."""
    rows = {SOFTMAX: (1.9, 1.9, 1.9), DECAY: (2.0, 2.0, 2.0)} | from_scratch
    return {
        name: {
            measure: dict(zip("012", row, strict=True))
            for measure in ("from_scratch", "converted", "share_kept", "recall")
        }
        for name, row in rows.items()
    }


def judged(values):
    comparison = compare(values)
    rules = {name: name for name in values if name != SOFTMAX}
    return {
        "values": values,
        "comparison": comparison,
        "rules": rules,
        "papers_order": {
            measure: papers_order(comparison[measure], rules) for measure in ("from_scratch", "converted")
        },
        "settings": {"recall": {"pairs": (2, 8)}},
    }


def test_the_papers_order_appears_only_if_decay_is_ahead_of_all():
    worse, mixed, better = (2.1, 2.2, 2.3), (2.1, 1.9, 2.1), (1.9, 1.8, 1.7)
    result = judged(made_up(gated=worse, delta=worse, sum=worse))
    assert result["comparison"]["from_scratch"]["gated"]["differences"] == pytest.approx(
        {"0": 0.1, "1": 0.2, "2": 0.3}
    )
    assert result["papers_order"]["from_scratch"]["appears"]
    assert "the paper's order appears" in sentences(result)[0]

    result = judged(made_up(gated=worse, delta=mixed, sum=better))
    assert result["papers_order"]["from_scratch"] == {
        "behind": ["gated"],
        "level": ["delta"],
        "ahead": ["sum"],
        "appears": False,
    }
    assert sentences(result)[0].endswith(
        "does not appear at this scale: decay is ahead of gated; the seeds disagree about delta; decay is behind sum."
    )
    # An order of rules that were not measured has not appeared.
    result = judged(made_up(gated=worse))
    assert not result["papers_order"]["from_scratch"]["appears"]
    assert sentences(result)[0].endswith("not measured: delta, sum.")


def test_softmax_that_does_not_solve_recall_is_said():
    values = made_up()
    values[SOFTMAX]["recall"] = {"0": 0.5, "1": 0.6, "2": 0.7}
    values[DECAY]["recall"] = {"0": 0.1, "1": 0.2, "2": 0.3}
    said = sentences(judged(values))
    assert "softmax attention recalls 60.0% and decay 20.0%" in said[-2]
    assert "does not solve the recall task" in said[-1]
    values[SOFTMAX]["recall"] = dict.fromkeys("012", 1.0)
    assert "does not solve" not in " ".join(sentences(judged(values)))
