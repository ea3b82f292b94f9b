"""The machine that looks at events alone against the one that looks at every sample, and how much that saves."""

import os
import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.benchmarks.nes_per_sample_machine import per_sample_rows
from seqzoo.data.nes import RegisterLog
from seqzoo.data.nes.register_machine import run_machine


REGISTERS = [*range(0x14), 0x15, 0x17]


@st.composite
def register_logs(draw):
    commands = draw(
        st.lists(
            st.one_of(
                st.tuples(st.sampled_from(REGISTERS), st.integers(0, 255)),
                st.tuples(st.just(-1), st.one_of(st.integers(0, 3), st.integers(180, 188), st.integers(0, 2000))),
            ),
            max_size=60,
        )
    )
    on = [(0x15, 15), (0x00, 0x18), (0x03, 0x09), (0x0B, 0x0B), (0x0F, 0x08)]
    register, value = np.array([*on, *commands, (-1, 100)]).T
    return RegisterLog(draw(st.sampled_from([1662607, 1789773])), register.astype(np.int16), value.astype(np.int64))


@settings(deadline=None, max_examples=40)
@given(log=register_logs())
def test_events_alone_give_every_sample(log):
    assert np.array_equal(run_machine(log).rows(), per_sample_rows(log))


def test_a_long_pause_has_all_its_ticks():
    """A looping envelope for five seconds, and the frame counter's rounding with it."""
    log = RegisterLog(1789773, np.array([0, 2, 3, -1], dtype=np.int16), np.array([0x20, 200, 1, 5 * 44100]))
    rows = per_sample_rows(log)
    assert len(np.unique(rows[:, 0, 2])) == 16
    assert np.array_equal(run_machine(log).rows(), rows)


def test_the_same_source_runs_without_compiling(short_song):
    code = """
import sys
if sys.argv[2] == "absent":
    sys.modules["numba"] = None
from seqzoo.data.nes import convert, read_song
song = read_song(sys.argv[1])
sys.stdout.buffer.write(convert(song, "midi").to_bytes())
"""
    path = str(short_song.folder / f"{short_song.name}.vgm")
    for numba, environment in (("absent", {}), ("present", {"NUMBA_DISABLE_JIT": "1"})):
        result = subprocess.run(
            [sys.executable, "-c", code, path, numba], capture_output=True, env=os.environ | environment
        )
        assert result.returncode == 0, result.stderr.decode()
        assert result.stdout == short_song.midi
