"""Reading MIDI files, and only those that [`seqzoo.data.nes.midi.MIDI`] could have written.

Anything else is an error rather than a guess: another resolution or tempo, other tracks, channels, programs or
controllers, notes that overlap. Only the order of events at one tick, running status and the last tick are free.
"""

import numpy as np

from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits, NESFormatError
from seqzoo.data.nes.midi import CHANNELS, CONTROL, MIDI, NOTE, PROGRAMS, TICKS_PER_BEAT, VOICES


_NOTE_OFF, _NOTE_ON, _CONTROL, _PROGRAM = 8, 9, 11, 12
_META = 0xFF
_NAME, _END_OF_TRACK, _TEMPO, _SIGNATURE = 0x03, 0x2F, 0x51, 0x58


def read_midi(data: bytes, file: str | None = None, limits: Limits = DEFAULT_LIMITS) -> MIDI:
    """From the content of a .mid file.

    Raises:
        `NESFormatError`: it is not a MIDI file of the data set's kind.
    """
    cursor = _Cursor(data, file)
    head = cursor.chunk(b"MThd")
    expected = (1).to_bytes(2) + (1 + len(VOICES)).to_bytes(2) + TICKS_PER_BEAT.to_bytes(2)
    if head.rest() != expected:
        raise NESFormatError(
            f"the header is not that of a format 1 file with five tracks and {TICKS_PER_BEAT} ticks a beat", file, 8
        )
    num_samples = _read_signatures(cursor.chunk(b"MTrk"))
    limits.check_samples(num_samples, file)
    notes, controls = [], []
    for voice in range(len(VOICES)):
        _read_voice(cursor.chunk(b"MTrk"), voice, notes, controls)
    if cursor.position < cursor.stop:
        raise NESFormatError("something follows the last track", file, cursor.position)
    try:
        return MIDI(
            np.sort(np.array(notes, dtype=NOTE), order=["voice", "start"]),
            np.array(controls, dtype=CONTROL),
            num_samples,
        )
    except NESFormatError as error:
        raise NESFormatError(error.cause, file) from error


class _Cursor:
    """A place in a part of the file. Reading beyond its end is an error."""

    def __init__(self, data: bytes, file: str | None, position: int = 0, stop: int | None = None):
        self.data = data
        self.file = file
        self.position = position
        self.stop = len(data) if stop is None else stop

    def error(self, cause: str) -> NESFormatError:
        return NESFormatError(cause, self.file, self.position)

    def take(self, count: int) -> bytes:
        if self.position + count > self.stop:
            raise self.error(f"{count} bytes are missing" if count > 1 else "a byte is missing")
        self.position += count
        return self.data[self.position - count : self.position]

    def rest(self) -> bytes:
        return self.take(self.stop - self.position)

    def chunk(self, name: bytes) -> "_Cursor":
        if self.take(4) != name:
            self.position -= 4
            raise self.error(f"there is no {name.decode()} chunk here")
        length = int.from_bytes(self.take(4))
        if self.position + length > self.stop:
            raise self.error(f"the {name.decode()} chunk of {length} bytes is longer than the file")
        self.position += length
        return _Cursor(self.data, self.file, self.position - length, self.position)

    def variable_length(self) -> int:
        number = 0
        for _ in range(4):
            (byte,) = self.take(1)
            number = number << 7 | byte & 0x7F
            if byte < 0x80:
                return number
        raise self.error("a number has more than four bytes")

    def events(self):
        """Time, status and data of each event up to the end of the track; of a meta event its type and data."""
        time = 0
        status = None
        while True:
            time += self.variable_length()
            (byte,) = self.take(1)
            if byte == _META:
                status = None
                (kind,) = self.take(1)
                content = self.take(self.variable_length())
                if kind == _END_OF_TRACK:
                    if content or self.position < self.stop:
                        raise self.error("something follows the end of the track")
                    return
                yield time, _META, bytes([kind]) + content
                continue
            if byte >= 0x80:
                status = byte
            else:
                self.position -= 1
            if status is None or status >= 0xF0:
                raise self.error(f"{byte:#04x} is no event of this kind of file")
            message = self.take(1 if status >> 4 in (_PROGRAM, 13) else 2)
            if max(message) >= 0x80:
                raise self.error(f"the event {status:#04x} has data above 127")
            yield time, status, message


def _read_signatures(track: _Cursor) -> int:
    """The length of the song, from the track with tempo and time signatures."""
    signatures = []
    tempo = None
    for time, status, content in track.events():
        if status == _META and content[0] == _SIGNATURE:
            signatures.append(time)
        elif status == _META and content[0] == _TEMPO and tempo is None and time == 0:
            tempo = int.from_bytes(content[1:])
        else:
            raise track.error("the first track may only have one tempo at 0 and two time signatures")
    if tempo != 500000 or len(signatures) != 2:
        raise track.error("the first track needs a tempo of 500000 and two time signatures, the second at the end")
    return signatures[1]


def _read_voice(track: _Cursor, voice: int, notes: list[tuple], controls: list[tuple]) -> None:
    sounding: dict[int, list[tuple[int, int]]] = {}  # by pitch: onsets and velocities
    ended: dict[int, list[int]] = {}
    head = []
    for time, status, content in track.events():
        kind = status >> 4
        if status == _META or kind == _PROGRAM:
            head.append((status, content))
            continue
        if status & 0xF != CHANNELS[voice]:
            raise track.error(f"channel {status & 0xF} is not that of {VOICES[voice]}, {CHANNELS[voice]}")
        if kind == _CONTROL:
            controls.append((voice, time, *content))
        elif kind == _NOTE_ON and content[1]:
            sounding.setdefault(content[0], []).append((time, content[1]))
        elif kind in (_NOTE_OFF, _NOTE_ON):
            ended.setdefault(content[0], []).append(time)
        else:
            raise track.error(f"{status:#04x} is no event of this kind of file")
    if head != [
        (_META, bytes([_NAME]) + VOICES[voice].encode()),
        (_PROGRAM << 4 | CHANNELS[voice], bytes([PROGRAMS[voice]])),
    ]:
        raise track.error(f"track {voice + 1} has not the name {VOICES[voice]} and the program {PROGRAMS[voice]}")
    for pitch in sounding.keys() | ended.keys():
        onsets, ends = sounding.get(pitch, []), ended.get(pitch, [])
        if len(onsets) != len(ends):
            raise track.error(
                f"the note {pitch} of {VOICES[voice]} begins {len(onsets)} times and ends {len(ends)} times"
            )
        notes += [(voice, start, end, pitch, velocity) for (start, velocity), end in zip(onsets, ends, strict=True)]
