"""What holds for any score, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.data.nes import (
    FORMATS,
    BlendedScore,
    ExpressiveScore,
    NESFormatError,
    SeparatedScore,
    convert,
    song_from_bytes,
    song_to_bytes,
)


@st.composite
def valid_scores(draw, lowest_of_pulse=34):
    """Scores that the chip can play: a voice with a note has a velocity, one without has none.

    The lowest note of a pulse is 34: 33 is muted by the chip at the NTSC clocks.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps = draw(st.integers(0, 40))
    score = np.zeros((steps, 4, 3), dtype=np.uint8)
    for voice, (lowest, highest, timbres) in enumerate(
        [(lowest_of_pulse, 108, 4), (lowest_of_pulse, 108, 4), (21, 108, 1), (1, 16, 2)]
    ):
        note = rng.integers(lowest, highest + 1, steps)
        score[:, voice, 0] = np.where(rng.random(steps) < draw(st.floats(0, 1)), note, 0)
        score[:, voice, 1] = np.where((score[:, voice, 0] > 0) & (voice != 2), rng.integers(1, 16, steps), 0)
        score[:, voice, 2] = rng.integers(0, timbres, steps)
    # Songs repeat themselves from step to step.
    score = score[np.maximum.accumulate(np.where(rng.random(steps) < draw(st.floats(0, 1)), np.arange(steps), 0))]
    return ExpressiveScore(score, draw(st.one_of(st.just(24.0), st.floats(1, 60))))


@settings(deadline=None, max_examples=80)
@given(score=valid_scores())
def test_a_score_through_a_vgm_is_the_same_score(score):
    vgm = convert(score, "vgm")
    assert vgm.num_samples == score.num_samples
    assert convert(vgm, "exprsco", rate=score.rate, as_written=True) == score
    for way in (vgm, score, convert(score, "rawsco"), convert(score, "ndf")):
        assert convert(convert(way, "nlm"), "exprsco", rate=score.rate, as_written=True) == score


@settings(deadline=None, max_examples=80)
@given(score=valid_scores(lowest_of_pulse=21))
def test_a_score_through_midi_is_the_same_score_at_every_rate(score):
    before = score.score.copy()
    midi = convert(score, "midi")
    assert np.array_equal(score.score, before)
    again = song_from_bytes(midi.to_bytes(), ".mid")
    assert again == midi
    assert convert(again, "exprsco", rate=score.rate) == score
    assert convert(again, "exprsco", rate=44100) == convert(score, "exprsco", rate=44100)


def test_controllers_of_a_voice_without_notes_are_kept():
    """The data set's reader loses them."""
    score = np.zeros((2, 4, 3), dtype=np.uint8)
    score[1, 0, 2] = 3
    score = ExpressiveScore(score)
    assert convert(song_from_bytes(convert(score, "midi").to_bytes(), ".mid"), "exprsco") == score


@settings(deadline=None, max_examples=30)
@given(score=valid_scores())
def test_files_of_every_format_are_read_back(score):
    for name, entry in FORMATS.items():
        song = convert(score, name)
        again = song_from_bytes(song_to_bytes(song), entry.suffix)
        assert song_to_bytes(again) == song_to_bytes(song)
        if name not in ("rawsco", "vgm"):
            assert again == song


def test_every_format_becomes_every_other(short_song):
    songs = {name: convert(short_song.vgm, name) for name in FORMATS}
    for song in songs.values():
        for name in FORMATS:
            assert isinstance(convert(song, name), FORMATS[name].type)


def test_a_rate_takes_every_conversion_through_a_score(short_song):
    quantised = convert(short_song.vgm, "midi", rate=24)
    assert quantised == convert(convert(short_song.vgm, "exprsco"), "midi")
    assert quantised != convert(short_song.vgm, "midi")
    assert convert(convert(short_song.vgm, "seprsco"), "seprsco", rate=12).rate == 12


def test_a_score_without_a_length_has_the_shortest():
    for rate in (24.0, 15.136, 1.0, 44100.0):
        score = SeparatedScore(np.zeros((100, 4), dtype=np.uint8), rate)
        assert convert(convert(score, "midi"), "exprsco", rate=rate).score.shape == (100, 4, 3)


def low_score() -> ExpressiveScore:
    return convert(BlendedScore.from_chords([[31, 60]], 24), "exprsco")


def test_low_notes_of_a_pulse_are_refused_clipped_or_wrapped():
    with pytest.raises(NESFormatError, match=r"note 31 of P1 at step 0 is below 33.*low_notes='clip'"):
        convert(low_score(), "vgm")
    for clock, lowest in ((1662607, 33), (1789773, 34)):
        clipped = convert(convert(low_score(), "vgm", low_notes="clip", clock=clock), "exprsco")
        assert clipped.score[0, :2, 0].tolist() == [lowest, 60]
    assert convert(convert(low_score(), "rawsco", low_notes="wrap"), "exprsco").score[0, 0, 0] not in (31, 33)


def test_the_lowest_note_of_a_pulse_is_muted_at_ntsc_clocks_as_in_the_reference():
    score = convert(BlendedScore.from_chords([[33, 60]], 24), "exprsco")
    assert convert(convert(score, "vgm"), "exprsco").score[0, :2, 0].tolist() == [0, 60]
    assert convert(convert(score, "vgm", clock=1662607), "exprsco").score[0, :2, 0].tolist() == [33, 60]


def test_a_pal_song_keeps_its_pitches_with_its_own_clock():
    score = convert(BlendedScore.from_chords([[40, 60]], 24), "exprsco")
    assert convert(convert(score, "vgm", clock=1662607), "exprsco") == score


def score_array(**values) -> np.ndarray:
    score = np.zeros((3, 4, 3), dtype=np.uint8)
    for place, value in values.items():
        score[0, int(place[1]), int(place[2])] = value
    return score


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpressiveScore(score_array(_00=109)), "the note of P1 is 109 in row 0, above 108"),
        (lambda: ExpressiveScore(score_array(_20=20)), "the note 20 is below 21"),
        (lambda: ExpressiveScore(score_array(_30=17)), "the note of NO is 17"),
        (lambda: ExpressiveScore(score_array(_11=16)), "the velocity of P2 is 16"),
        (lambda: ExpressiveScore(score_array(_32=2)), "the timbre of NO is 2"),
        (lambda: ExpressiveScore(score_array().astype(int)), "not int64"),
        (lambda: ExpressiveScore(score_array()[:, :3]), r"not uint8 \(3, 3, 3\)"),
        (lambda: ExpressiveScore(score_array(), 0), "the rate is 0"),
        (lambda: ExpressiveScore(score_array(), float("nan")), "the rate is nan"),
        (lambda: ExpressiveScore(score_array(), 1e-320), "the rate is 1e-320 Hz, but takes a number from 0.001"),
        (lambda: ExpressiveScore(score_array(), None), "the rate is None"),
        (lambda: ExpressiveScore(score_array().tolist()), "is a NumPy array, not a list"),
        (lambda: BlendedScore([[60]]), "is a NumPy array, not a list"),
        (lambda: ExpressiveScore(score_array(), 24, 44100), "3 steps of 24.0 Hz do not fit to 44100 samples"),
        (lambda: SeparatedScore(np.full((1, 4), 200, dtype=np.uint8)), "the note of P1 is 200"),
        (lambda: BlendedScore.from_chords([[60, 48]], 24), "not in ascending order"),
        (lambda: convert(ExpressiveScore(score_array(_00=60)), "midi"), "p1 note begins with velocity 0 at sample 0"),
        (lambda: convert(ExpressiveScore(score_array()), "exprsco", rate="adaptive"), "needs 10 intervals"),
        (lambda: convert(ExpressiveScore(score_array()), "wav"), "no format 'wav'"),
        (lambda: convert(ExpressiveScore(score_array()), "vgm", clock=7), "no NES clock of 7"),
        (lambda: convert(ExpressiveScore(score_array()), "vgm", low_notes="drop"), "choose from reject, clip, wrap"),
    ],
)
def test_what_is_no_score_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
