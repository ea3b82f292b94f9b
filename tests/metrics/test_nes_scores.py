"""Measures of scores by hand, and the metric module by itself."""

import math
import shutil

import numpy as np
import pytest

from seqzoo.data.nes.score_classes import COMPOSITION, PERFORMANCE
from seqzoo.metrics import nes_tasks
from seqzoo.metrics.nes_scores import ScoreSums, points_of_interest


def test_points_of_interest_begin_from_0():
    target = np.array([[0, 5], [0, 5], [3, 0], [3, 0]])
    assert points_of_interest(target).tolist() == [[False, True], [False, False], [True, True], [False, False]]


def test_sums_over_songs_by_hand():
    sums = ScoreSums(["a", "b"])
    sums.add(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[True, True], [False, True]]), np.array([[1, 0], [1, 1]]))
    sums.add(np.array([[5.0, 6.0]]), np.array([[False, False]]), np.array([[0, 2]]))
    result = sums.result()
    assert result["a"] == {"nll": 3, "accuracy": 1 / 3, "nll_poi": 1, "accuracy_poi": 1, "steps": 3, "poi": 1}
    assert result["b"] == {"nll": 4, "accuracy": 2 / 3, "nll_poi": 5, "accuracy_poi": 0.5, "steps": 3, "poi": 2}
    assert result["total"] == {
        "nll": 7, "accuracy": 0.5, "nll_poi": 6, "accuracy_poi": 0.75, "steps": 6, "poi": 3
    }  # fmt: skip


def test_a_song_does_not_look_at_the_one_before_and_what_never_changes_is_nan():
    sums = ScoreSums(["a"])
    for target in ([[4], [4]], [[4]]):
        sums.add(np.ones((len(target), 1)), np.ones((len(target), 1)), np.array(target))
    assert sums.result()["a"]["poi"] == 2
    still = ScoreSums(["a"])
    still.add(np.ones((2, 1)), np.ones((2, 1)), np.zeros((2, 1), dtype=int))
    assert math.isnan(still.result()["a"]["nll_poi"])
    assert math.isnan(still.result()["total"]["nll_poi"])
    both = ScoreSums(["still", "moves"])
    both.add(np.full((2, 2), 3.0), np.array([[1, 1], [1, 0]]), np.array([[0, 1], [0, 2]]))
    assert both.result()["total"] == {
        "nll": 6, "accuracy": 0.75, "nll_poi": 3, "accuracy_poi": 0.5, "steps": 4, "poi": 2
    }  # fmt: skip


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"nll \(2, 1\), correct \(2, 2\) and target \(2, 2\)"):
        ScoreSums(["a", "b"]).add(np.zeros((2, 1)), np.zeros((2, 2)), np.zeros((2, 2)))


@pytest.mark.parametrize(("task", "columns"), [("composition", COMPOSITION), ("performance", PERFORMANCE)])
def test_the_metric_loads_from_its_folder_alone_and_equals_the_function(tmp_path, task, columns):
    """As on the Hub: a folder with this file and the one that it names."""
    import evaluate

    folder = tmp_path / "nes_tasks"
    folder.mkdir()
    for name in ("nes_tasks.py", "nes_scores.py"):
        shutil.copy(nes_tasks.__file__.replace("nes_tasks.py", name), folder)
    metric = evaluate.load(str(folder), task, cache_dir=str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    sums = ScoreSums([column.name for column in columns])
    for steps in (5, 9):
        nll = rng.random((steps, len(columns))).astype(np.float32)
        predicted, target = rng.integers(0, 3, (2, steps, len(columns)))
        metric.add(nll=nll, predictions=predicted, references=target)
        sums.add(nll, predicted == target, target)
    found, expected = metric.compute(), sums.result()
    assert found.keys() == expected.keys()
    for name, measures in expected.items():
        assert found[name] == pytest.approx(measures)


def test_a_metric_of_no_task_is_refused():
    with pytest.raises(ValueError, match="the task 'default' is none of composition, performance"):
        nes_tasks.NESTasks()
