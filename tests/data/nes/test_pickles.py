"""The published pickles, as Python 2 and every Python 3 protocol write them, and pickles that mean harm."""

import os
import pickle

import numpy as np
import pytest

from seqzoo.data.nes import BlendedScore, ExpressiveScore, NESFormatError, convert, song_from_bytes
from seqzoo.data.nes.pickles import read_pickle


# pickle.dumps((24.0, 1838, np.array([[1, 255]], "u1")), 0), as Python 2 wrote it.
PYTHON_2 = (
    b"(F24.0\nI1838\ncnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
    b"(I1\n(I1\nI2\ntp6\ncnumpy\ndtype\np7\n(S'u1'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'|'\np11\nNNNI-1\nI-1\nI0\ntp12\nb"
    b"I00\nS'\\x01\\xff'\np13\ntp14\nbtp15\n."
)


class Harmful:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_pickle_of_python_2():
    rate, num_samples, score = read_pickle(PYTHON_2)
    assert (rate, num_samples) == (24.0, 1838)
    assert score.dtype == np.uint8
    assert score.tolist() == [[1, 255]]


@pytest.mark.parametrize("protocol", range(6))
def test_scores_and_logs_of_every_protocol(protocol, short_song):
    score, log = convert(short_song.vgm, "exprsco"), convert(short_song.vgm, "nlm")
    blended = convert(score, "blndsco")
    commands = [(name, int(value)) for name, value in (line.split(",") for line in log.to_text().split("\n"))]
    for suffix, content, expected in (
        (".exprsco.pkl", (score.rate, score.num_samples, score.score), score),
        (".exprsco.pkl", (np.float64(24), np.int64(score.num_samples), np.asfortranarray(score.score)), score),
        (".seprsco.pkl", (24.0, score.num_samples, score.score[:, :, 0].copy()), convert(score, "seprsco")),
        (".blndsco.pkl", (24.0, score.num_samples, blended.chords()), blended),
        (".nlm.pkl", commands, log),
    ):
        assert song_from_bytes(pickle.dumps(content, protocol), suffix) == expected


@pytest.mark.parametrize("dtype", ["<i2", ">i4", "<f8", ">f4", "?", "<u8"])
def test_arrays_of_numbers_in_any_byte_order(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for protocol in range(6):
        assert np.array_equal(read_pickle(pickle.dumps((array,), protocol))[0], array)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "content",
    [
        Harmful(os.system, "false"),
        Harmful(eval, "1"),
        Harmful(getattr, "a", "upper"),
        Harmful(np.zeros, 10**12),
        Harmful(np.load, "x.npy"),
        np.array([{}, None], dtype=object),
        np.array([b"a"]),
        {"a": 1},
        {1, 2},
        1j,
        ExpressiveScore,
    ],
    ids=str,
)
def test_whatever_is_not_plain_data_is_refused_and_not_made(protocol, content):
    with pytest.raises(NESFormatError, match=r"song.pkl at \d+: "):
        read_pickle(pickle.dumps((24.0, content), protocol), "song.pkl")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"N",
        b"e.",
        b"]r\xff\xff\xff\xff",  # a memo of 2**32 places
        b"\x8a\xff" + b"\xff" * 10,
        b"I" + b"9" * 10**6 + b"\n.",
        b"X\xff\xff\xff\xffabc.",
        b"\x96" + b"\xff" * 8 + b"abc.",
        b"cnumpy\nndarray\n)\x81.",
        b"\x82\x01.",
        b"Pid\n.",
        b"(" * 10**6 + b".",
        # A thousand arrays of one string of 100,000 bytes.
        b"(cnumpy._core.numeric\n_frombuffer\np0\n0cnumpy\ndtype\n(S'u1'\nI0\nI1\ntRp1\n0B\xa0\x86\x01\x00"
        + bytes(100_000)
        + b"p2\n0"
        + b"g0\n(g2\ng1\n(I100000\ntS'C'\ntR" * 1000
        + b"t.",
    ],
    ids=range(14),
)
def test_broken_and_greedy_pickles_are_errors(data):
    with pytest.raises(NESFormatError):
        read_pickle(data)


def test_shared_lists_do_not_multiply():
    """A list of a million references to a list of a million notes is a small pickle."""
    chord = [60] * 10_000
    with pytest.raises(NESFormatError, match="at most 16 notes"):
        song_from_bytes(pickle.dumps((24.0, 18375 * 100, [chord] * 10_000)), ".blndsco.pkl")
    assert BlendedScore.from_chords([[60]] * 24, 24).num_samples == 44100
