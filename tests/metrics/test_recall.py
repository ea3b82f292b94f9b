"""Recall accuracy, against shares worked out by hand."""

import numpy as np
import pytest

from seqzoo.metrics.recall import recall_accuracy


def test_only_targets_count():
    targets = np.array([[-100, 5, -100, 6], [7, -100, 8, -100]])
    predicted = np.array([[1, 5, 6, 0], [7, 8, 7, -100]])
    assert recall_accuracy(predicted, targets) == pytest.approx(2 / 4)


def test_without_targets_there_is_nothing_to_recall():
    with pytest.raises(ValueError, match="no target"):
        recall_accuracy(np.zeros((1, 3)), np.full((1, 3), -100))
