"""Values of scores and classes of models, there and back."""

import numpy as np
import pytest

from seqzoo.data.nes import NESFormatError
from seqzoo.data.nes.score_classes import COMPOSITION, PERFORMANCE, classes_of, values_of


def test_every_class_of_a_note_has_its_value():
    classes = np.minimum(np.arange(89)[:, None], [76, 76, 88, 16])
    notes = values_of(classes)
    assert notes[0].tolist() == [0, 0, 0, 0]
    assert notes[1].tolist() == [33, 33, 21, 1]
    assert notes[-1].tolist() == [108, 108, 108, 16]
    assert np.array_equal(classes_of(notes), classes)
    assert [column.classes for column in COMPOSITION] == [77, 77, 89, 17]


def test_velocities_and_timbres_are_their_own_classes():
    score = np.arange(12, dtype=np.uint8).reshape(1, 4, 3) % 4
    score[0, 3, 2] = 1
    assert classes_of(score, PERFORMANCE).tolist() == [
        [score[0, v, f] for f, v in [(1, 0), (1, 1), (1, 3), (2, 0), (2, 1), (2, 3)]]
    ]
    assert [column.classes for column in PERFORMANCE] == [16, 16, 16, 4, 4, 2]
    full = np.zeros((1, 4, 3), dtype=np.uint8)
    full[..., 0] = [[50, 51, 52, 4]]
    assert np.array_equal(classes_of(full), classes_of(full[..., 0]))


@pytest.mark.parametrize(("voice", "note", "name"), [(0, 32, "P1"), (1, 109, "P2"), (2, 20, "TR"), (3, 17, "NO")])
def test_a_value_that_is_no_class_is_named(voice, note, name):
    notes = np.zeros((3, 4), dtype=np.uint8)
    notes[2, voice] = note
    with pytest.raises(NESFormatError, match=f"the value {note} of {name} at step 2 is neither 0 nor from"):
        classes_of(notes)
