"""The benchmark of the synthesizer: what it plays is music, and its table has every piece."""

import numpy as np
import pytest

from seqzoo.benchmarks.nes import WORST, run, song, to_markdown, worst
from seqzoo.data.nes import jit
from seqzoo.data.nes.synthesizer import render_stems


def test_every_voice_of_the_pieces_is_heard():
    stems = render_stems(*song(0, 2), mode="reference")
    assert all(stem.std() > 0.01 for stem in stems.values())
    noise = render_stems(*worst(1), mode="reference")["no"]
    assert np.mean(noise[1:] != noise[:-1]) > 0.95


@pytest.mark.skipif(jit.njit is None, reason="needs numba")
def test_it_runs_and_says_which_bars_are_met():
    text = to_markdown(run(lambda line: None, seconds=1, repeats=1))
    assert WORST in text
    assert text.count("| song ") == 3
    assert text.count(">= 65") == 3


def test_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(jit, "njit", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'seqzoo\[nes\]'"):
        run()
