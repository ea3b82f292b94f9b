"""How the results of the tasks are judged and shown; that they are measured is tested with the benchmark itself."""

import pytest

from seqzoo.benchmarks import nes_tasks
from seqzoo.trainers.nes.benchmark import TASKS


@pytest.fixture
def result():
    """Every row has a total of its own: the later in the table, the less."""

    def row(nll: float) -> dict:
        measures = {"nll": nll, "accuracy": 0.5, "nll_poi": nll, "accuracy_poi": None}
        return {split: {"total": measures} for split in ("validation", "test")}

    tasks = {
        name: {
            "title": task.title,
            "note": task.note,
            "rows": {
                label: row(20.0 - place) for place, label in enumerate(("uniform", "unigram", "bigram", *task.recipes))
            },
        }
        for name, task in TASKS.items()
    }
    counts = dict.fromkeys(("train", "validation", "test"), 3)
    return {"source": "songs", "songs": counts, "steps": counts, "date": "2026-01-01", "tasks": tasks}


def test_bars_are_ratios_of_totals_of_the_test_songs(result):
    judged = nes_tasks.bars(result)
    assert all(entry["met"] for entry in judged)
    assert judged[0]["measured"] == pytest.approx(17 / 18)
    result["tasks"]["performance"]["rows"]["transformer, notes"]["test"]["total"]["nll"] = 99.0
    (missed,) = [entry for entry in nes_tasks.bars(result) if not entry["met"]]
    assert "transformer, notes over that of the LSTM, notes" in missed["what"]


def test_tables_are_a_part_of_a_chapter(result):
    text = nes_tasks.to_markdown(result | {"bars": nes_tasks.bars(result)})
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[0] == "### Composition, voice by voice"
    assert {heading.split()[0] for heading in headings} == {"###", "####"}
    assert text.endswith("| met |")


def test_without_songs_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(nes_tasks, "SONGS", tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="seqzoo nes benchmark"):
        nes_tasks.run()
