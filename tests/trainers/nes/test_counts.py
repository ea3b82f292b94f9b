"""Count baselines: by hand, and the published songs against golden numbers."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from seqzoo.data.nes import ExpressiveScore
from seqzoo.data.nes.events import midi_from_tx1
from seqzoo.data.nes.score_classes import COMPOSITION, classes_of
from seqzoo.metrics.nes_scores import ScoreSums
from seqzoo.trainers.nes.counts import KINDS, ColumnCounts


NAMES = [column.name for column in COMPOSITION]
CLASSES = [column.classes for column in COMPOSITION]


def test_counts_by_hand():
    counts = ColumnCounts([np.array([[1, 0], [1, 1]]), np.array([[0, 1]])], classes=[3, 2])
    assert counts.follows[0].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert np.exp(counts.log_probabilities("uniform", 0)) == pytest.approx(np.full((3, 3), 1 / 3))
    assert np.exp(counts.log_probabilities("unigram", 0)) == pytest.approx(np.array([[2 / 6, 3 / 6, 1 / 6]] * 3))
    assert np.exp(counts.log_probabilities("bigram", 0))[0] == pytest.approx([2 / 5, 2 / 5, 1 / 5])

    song = np.array([[1, 1], [1, 1]])
    nll, correct = counts.predict("bigram", song)
    assert nll == pytest.approx(-np.log([[2 / 5, 3 / 5], [2 / 4, 1 / 2]]))
    assert correct.tolist() == [[0, 1], [1, 0]]  # 0 and 1 are equally frequent after 0: the first is the guess
    _, guessed = counts.predict("uniform", song)
    assert guessed.tolist() == [[1 / 3, 1 / 2]] * 2


def songs_of(corpus: Path, split: str) -> list[np.ndarray]:
    lines = lzma.open(corpus / f"tx1_{split}.jsonl.xz", "rt")
    return [classes_of(ExpressiveScore.from_midi(midi_from_tx1(json.loads(line)["tx1"])).score) for line in lines]


def check_goldens(counts: ColumnCounts, songs: list[np.ndarray], split: str, goldens: dict, kinds) -> None:
    """The goldens have four digits behind the point."""
    for kind in kinds:
        sums = ScoreSums(NAMES)
        for song in songs:
            sums.add(*counts.predict(kind, song), song)
        result = sums.result()
        golden_name = "random" if kind == "uniform" else kind
        pairs = {"nll": "nll", "nll_poi": "nll_poi", "accuracy": "acc", "accuracy_poi": "acc_poi"}
        compared = 0
        for name in NAMES:
            golden = goldens[f"{name}_{split}"]
            assert (result[name]["steps"], result[name]["poi"]) == (golden["n"], golden["npoi"])
            for ours, theirs in pairs.items():
                if f"{golden_name}_{theirs}" in golden:
                    assert result[name][ours] == pytest.approx(golden[f"{golden_name}_{theirs}"], abs=6e-5)
                    compared += 1
        assert compared == (4 if kind == "uniform" else 16)
        assert result["total"]["nll"] == pytest.approx(goldens[f"SUM_{split}"][f"{golden_name}_nll"], abs=6e-5)


@pytest.fixture
def goldens(shared_data):
    return json.loads((shared_data / "nes_songs/baselines_full_corpus.json").read_text())["baselines"]


def test_steps_points_of_interest_and_guessing_on_the_test_split(shared_data, goldens):
    songs = songs_of(shared_data / "nes_corpus", "test")
    check_goldens(ColumnCounts([], CLASSES), songs, "test", goldens, ["uniform"])


@pytest.mark.slow
def test_all_baselines_on_the_whole_corpus(shared_data, goldens):
    counts = ColumnCounts(songs_of(shared_data / "nes_corpus", "train"), CLASSES)
    for split in ("valid", "test"):
        check_goldens(counts, songs_of(shared_data / "nes_corpus", split), split, goldens, KINDS)
