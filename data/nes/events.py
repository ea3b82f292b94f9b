"""TX1: a score as a row of events, waits in samples of 44.1 kHz and the notes that begin and end between them.

WT_7 P1_NOTEON_76 WT_5849 P1_NOTEOFF NO_NOTEON_13
"""

import numpy as np

from seqzoo.data.nes.errors import NESFormatError
from seqzoo.data.nes.midi import CONTROL, MIDI, NOTE, VOICES


_LOWEST_AND_HIGHEST = ((33, 108), (33, 108), (21, 108), (1, 16))
# Event -> (voice, pitch); pitch 0 ends the note.
_NOTES = {f"{voice.upper()}_NOTEOFF": (place, 0) for place, voice in enumerate(VOICES)} | {
    f"{voice.upper()}_NOTEON_{pitch}": (place, pitch)
    for place, voice in enumerate(VOICES)
    for pitch in range(_LOWEST_AND_HIGHEST[place][0], _LOWEST_AND_HIGHEST[place][1] + 1)
}


def midi_from_tx1(text: str) -> MIDI:
    """The song that events, separated by white space, tell; notes have velocity 15.

    A note ends where the next one of its voice begins. One that never ends is dropped; the end of a note that does not
    sound means nothing.

    Raises:
        `NESFormatError`: something is not an event.
    """
    notes = []
    sounding = [(0, 0)] * 4  # start and pitch
    now = 0
    for place, event in enumerate(text.split()):
        if event.startswith("WT_"):
            wait = event[3:]
            if not (wait.isascii() and wait.isdigit()):
                raise NESFormatError(f"{event!r} is not an event of TX1", offset=place)
            now += int(wait)
            continue
        if event not in _NOTES:
            raise NESFormatError(f"{event!r} is not an event of TX1", offset=place)
        voice, pitch = _NOTES[event]
        start, before = sounding[voice]
        if before and start < now:
            notes.append((voice, start, now, before, 1 if voice == 2 else 15))
        sounding[voice] = now, pitch
    table = np.array(notes, dtype=NOTE)
    return MIDI(table[np.lexsort((table["start"], table["voice"]))], np.zeros(0, dtype=CONTROL), now)
