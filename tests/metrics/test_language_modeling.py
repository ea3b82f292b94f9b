"""The measures of language models, against values worked out by hand."""

import math

import numpy as np
import pytest

from seqzoo.metrics.language_modeling import bits_per_byte, perplexity, share_kept, unigram_loss


def test_perplexity():
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1000.0) == math.inf


def test_bits_per_byte_does_not_depend_on_the_tokenizer():
    """A fair coin for each of the 8 bits, spelled in tokens of one byte and of two."""
    assert bits_per_byte(8 * math.log(2), tokens=100, bytes=100) == pytest.approx(8)
    assert bits_per_byte(16 * math.log(2), tokens=50, bytes=100) == pytest.approx(8)


def test_share_kept_has_the_teacher_on_top():
    assert share_kept(teacher_perplexity=20.0, student_perplexity=25.0) == pytest.approx(0.8)


def test_unigram_adds_one_to_each_count():
    train, targets = np.array([0, 0, 0, 1]), np.array([0, 2])
    # Counts 3, 1, 0 and one more each: 4/7, 2/7, 1/7.
    assert unigram_loss(train, targets, vocab_size=3) == pytest.approx(-(math.log(4 / 7) + math.log(1 / 7)) / 2)
