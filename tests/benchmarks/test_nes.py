"""The benchmark of NES music: what it plays is music, and its tables have every piece."""

import numpy as np
import pytest

from seqzoo.benchmarks import nes
from seqzoo.benchmarks.nes import WORST, as_vgm, beginning, run, song, to_markdown, worst
from seqzoo.data.nes import convert, jit
from seqzoo.data.nes.synthesizer import render_stems


def test_every_voice_of_the_pieces_is_heard():
    stems = render_stems(*song(0, 2), mode="reference")
    assert all(stem.std() > 0.01 for stem in stems.values())
    noise = render_stems(*worst(1), mode="reference")["no"]
    assert np.mean(noise[1:] != noise[:-1]) > 0.95


def test_the_pieces_as_files_are_the_same_writes():
    piece = song(0, 2)
    log = convert(as_vgm(*piece), "ndr", simplify=False)
    for found, expected in zip((log.write_time, log.write_register, log.write_value, log.num_samples), piece):
        np.testing.assert_array_equal(found, expected)
    start = beginning(as_vgm(*piece), 0.5)
    assert start.num_samples == 22_050
    np.testing.assert_array_equal(start.write_time, log.write_time[log.write_time < 22_050])


@pytest.mark.skipif(jit.njit is None, reason="needs numba")
def test_it_runs_and_says_which_bars_are_met(tmp_path, monkeypatch):
    monkeypatch.setattr(nes, "REAL_SONGS", tmp_path)
    monkeypatch.setattr(nes, "SECONDS", 1)
    text = to_markdown(run(lambda line: None, seconds=1, repeats=1, plain_seconds=0.1, few_and_many=(1, 2)))
    assert WORST in text
    assert text.count("| song ") == 6
    assert text.count(">= 65") == 3
    for what in ("VGM to 24 Hz score, plain machine / ours", "a folder of 2 files", "peak memory, 2 files / 1"):
        assert f"| {what}" in text


def test_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(jit, "njit", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'seqzoo\[nes\]'"):
        run()
