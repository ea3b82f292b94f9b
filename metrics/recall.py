"""How much a model recalls of what it was shown."""

import numpy as np


def recall_accuracy(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Share of the targets that were predicted exactly; a target of -100 does not count.

    Args:
        predicted, targets (`int`, of one shape):
            Token ids, each prediction at its target's place.

    Raises:
        `ValueError`: there is no target.
    """
    asked = targets != -100
    if not asked.any():
        raise ValueError("there is no target to recall: all of them are -100")
    return float((predicted == targets)[asked].mean())
