"""How well a language model predicts text. Bits per byte come first: they compare models with different tokenizers.

A loss is in nats (natural logarithm) a token throughout.
"""

import math

import numpy as np


def perplexity(loss: float) -> float:
    """`exp(loss)`; infinite where that exceeds a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss: float, tokens: int, bytes: int) -> float:
    """`loss * tokens / bytes / ln 2`: what the model spends on one byte of UTF-8 text.

    Args:
        loss (`float`):
            Nats a token.
        tokens, bytes (`int`):
            Of the same text; their ratio matters alone. On bytes as tokens this is "bits per character".
    """
    return loss * tokens / bytes / math.log(2)


def share_kept(teacher_perplexity: float, student_perplexity: float) -> float:
    """How much of its quality a model keeps when it is converted into another kind.

    Perplexity of the teacher trained on with the same fine-tuning tokens, divided by the perplexity of the student:
    1 means nothing was lost, 0.99 that the student's perplexity is 1 % higher; above 1 the student is ahead. The
    teacher must have had the student's fine-tuning tokens too, or the share would also count what more training gives.
    """
    return teacher_perplexity / student_perplexity


def unigram_loss(train_tokens: np.ndarray, targets: np.ndarray, vocab_size: int) -> float:
    """Nats a token of a model that knows only how often each token occurs (with one added to each count).

    Args:
        train_tokens (`int [n]`):
            What is counted.
        targets (`int [m]`):
            What is predicted; all in `[0, vocab_size)`.
    """
    counts = np.bincount(train_tokens, minlength=vocab_size) + 1.0
    log_probabilities = np.log(counts / counts.sum())
    return float(-log_probabilities[targets].mean())
