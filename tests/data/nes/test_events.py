"""TX1: what single events mean, and real songs against the scores that were published."""

import gzip
import json

import numpy as np
import pytest

from seqzoo.data.nes import ExpressiveScore, NESFormatError
from seqzoo.data.nes.events import midi_from_tx1


def test_notes_begin_end_and_replace_each_other():
    midi = midi_from_tx1(
        "WT_10 P1_NOTEON_60 TR_NOTEON_30 WT_5 P1_NOTEON_62 WT_7 P1_NOTEOFF P1_NOTEOFF WT_1 TR_NOTEOFF WT_9"
    )
    assert midi.notes.tolist() == [(0, 10, 15, 60, 15), (0, 15, 22, 62, 15), (2, 10, 23, 30, 1)]
    assert midi.num_samples == 32


def test_a_note_that_never_ends_or_has_no_length_is_dropped():
    midi = midi_from_tx1("NO_NOTEON_3 WT_4 NO_NOTEOFF P2_NOTEON_50 P2_NOTEON_51 WT_6 P2_NOTEOFF P1_NOTEON_40 WT_2")
    assert midi.notes.tolist() == [(1, 4, 10, 51, 15), (3, 0, 4, 3, 15)]
    assert midi_from_tx1("").num_samples == 0


@pytest.mark.parametrize("event", ["WT_", "WT_-3", "WT_²", "P1_NOTEON_32", "NO_NOTEON_17", "TR_VELOCITY_3", "<S>"])
def test_what_is_not_an_event_is_named_with_its_place(event):
    with pytest.raises(NESFormatError, match=f"at 2: '{event}' is not an event"):
        midi_from_tx1(f"WT_1 P1_NOTEOFF {event}")


def test_real_songs_give_the_notes_of_the_published_scores(shared_data):
    published = np.load(shared_data / "nes_songs/exprsco24_test.npz")
    lines = gzip.open(shared_data / "nes_songs/tx1_test.jsonl.gz", "rt").readlines()
    for song in map(json.loads, lines):
        score = ExpressiveScore.from_midi(midi_from_tx1(song["tx1"]))
        assert np.array_equal(score.score[:, :, 0], published[song["name"]][:, :, 0]), song["name"]
        assert score.num_samples == published[f"{song['name']}|nsamps"], song["name"]
