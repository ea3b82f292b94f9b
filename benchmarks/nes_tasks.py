"""The tasks of NES-MDB: what `seqzoo nes benchmark` measured, and whether models are ahead of what they should be.

It trains for an hour of one core where nothing was measured before; stopped, it goes on from `runs/nes_benchmark`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe, one_thread
from seqzoo.trainers.nes.benchmark import run_benchmark
from seqzoo.trainers.nes.benchmark import to_markdown as tables


FOLDER = Path("runs/nes_benchmark")
# Songs in folders train, valid and test, where they lie beside the checkout.
SONGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "nes_songs" / "midi"
# Task, row, what it is to be ahead of, and the measure of which it is to have less.
AHEAD = (
    ("composition", "LSTM soloists", "bigram", "nll"),
    ("composition", "LSTM quartet", "bigram", "nll"),
    ("composition", "transformer", "bigram", "nll"),
    ("composition", "transformer", "bigram", "nll_poi"),
    ("blended_composition", "LSTM", "bigram", "nll"),
    ("performance", "transformer, notes", "LSTM, notes", "nll"),
    ("performance", "transformer, notes and past", "LSTM, notes and past", "nll"),
)


def run(progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Every recipe of the tasks at its own number of steps, on one thread."""
    if not SONGS.is_dir():
        raise FileNotFoundError(
            f"there are no songs in {SONGS}; `seqzoo nes benchmark FOLDER` takes those of any folder"
        )
    with one_thread():
        result = run_benchmark(str(SONGS), FOLDER, progress=progress)
    return {"machine": describe(), "bars": bars(result), **(result | {"source": SONGS.name})}


def bars(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ratios of the totals of the test songs: under 1 is ahead."""
    judged = []
    for task, row, other, measure in AHEAD:
        rows = result["tasks"][task]["rows"]
        ratio = rows[row]["test"]["total"][measure] / rows[other]["test"]["total"][measure]
        where = " at points of interest" if measure.endswith("_poi") else ""
        name = task.replace("_", " ")
        judged.append(bar(f"{name}: NLL of the {row} over that of the {other}{where}", ratio, "<=", 1.0))
    return judged


def to_markdown(result: Mapping[str, Any]) -> str:
    """Its tables, a level further down, and the bars."""
    text = tables(dict(result)).partition("\n")[2].strip()
    return f"{re.sub('^##', '###', text, flags=re.MULTILINE)}\n\n{bars_to_markdown(result['bars'])}"
