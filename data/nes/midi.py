"""MIDI at 44.1 kHz: one tick is one sample, so nothing of an expressive score is lost.

Five tracks of format 1: tempo and the end of the song, then P1, P2, TR and NO on the channels 0, 1, 2 and 9. A note's
velocity is the one at its onset, controller 11 a change of velocity inside a note, controller 12 a change of timbre,
also in silence. A time signature of 1/1 marks the end of the song. Files are equal to the data set's to the byte.
"""

from dataclasses import dataclass

import numpy as np

from seqzoo.data.nes.errors import NESFormatError
from seqzoo.data.nes.runs import Runs


VOICES = ("p1", "p2", "tr", "no")
CHANNELS = (0, 1, 2, 9)
PROGRAMS = (80, 81, 38, 121)
TICKS_PER_BEAT = 22050  # two beats a second
VELOCITY_CONTROL = 11
TIMBRE_CONTROL = 12
_TEMPO = b"\xff\x51\x03\x07\xa1\x20"
_FIRST_SIGNATURE = b"\xff\x58\x04\x04\x02\x18\x08"
_LAST_SIGNATURE = b"\xff\x58\x04\x01\x00\x18\x08"
_END = b"\x01\xff\x2f\x00"
# Lowest and highest pitch, largest velocity and timbre of each voice.
_RANGES = ((21, 108, 15, 3), (21, 108, 15, 3), (21, 108, 1, 0), (1, 16, 15, 1))
_MAX_DELTA = 2**28 - 1  # four bytes of seven bits

NOTE = np.dtype([("voice", "u1"), ("start", "i8"), ("end", "i8"), ("pitch", "u1"), ("velocity", "u1")])
CONTROL = np.dtype([("voice", "u1"), ("time", "i8"), ("number", "u1"), ("value", "u1")])


@dataclass(frozen=True, eq=False)
class MIDI:
    """What a NES MIDI file says.

    Args:
        notes (`np.ndarray`):
            Of dtype `NOTE`: `voice` (0 to 3), `start`, `end` (samples), `pitch`, `velocity` (at onset; 1 for TR). By
            voice, then by start.
        controls (`np.ndarray`):
            Of dtype `CONTROL`: `voice`, `time`, `number` (11 velocity, 12 timbre), `value`. By voice, then by time.
        num_samples (`int`):
            Length of the song.
    """

    notes: np.ndarray
    controls: np.ndarray
    num_samples: int

    def __post_init__(self):
        if self.notes.dtype != NOTE or self.controls.dtype != CONTROL:
            raise NESFormatError("notes and controls are not tables of the dtypes NOTE and CONTROL")
        for voice, (lowest, highest, loudest, brightest) in enumerate(_RANGES):
            notes = self.notes[self.notes["voice"] == voice]
            controls = self.controls[self.controls["voice"] == voice]
            timbres = controls["value"][controls["number"] == TIMBRE_CONTROL]
            levels = controls["value"][controls["number"] == VELOCITY_CONTROL]
            for what, values, least, most in (
                ("pitch", notes["pitch"], lowest, highest),
                ("velocity", notes["velocity"], 1, loudest),
                (f"controller {VELOCITY_CONTROL}", levels, 0, 15),
                (f"controller {TIMBRE_CONTROL}", timbres, 0, brightest),
            ):
                wrong = values[(values < least) | (values > most)]
                if len(wrong):
                    raise NESFormatError(f"the {what} {wrong[0]} of {VOICES[voice]} is not one from {least} to {most}")
            if len(timbres) + len(levels) < len(controls):
                raise NESFormatError(f"controllers other than {VELOCITY_CONTROL} and {TIMBRE_CONTROL} have no meaning")
            bounds = np.stack([notes["start"], notes["end"]], axis=1)
            if (bounds[:, 0] >= bounds[:, 1]).any() or (bounds[1:, 0] < bounds[:-1, 1]).any():
                raise NESFormatError(f"notes of {VOICES[voice]} overlap, have no length or are not in order")
            times = np.concatenate([bounds.ravel(), controls["time"]])
            if len(times) and not 0 <= times.min() <= times.max() <= self.num_samples:
                raise NESFormatError(f"events of {VOICES[voice]} are outside the song of {self.num_samples} samples")
            if (np.diff(controls["time"]) < 0).any():
                raise NESFormatError(f"controllers of {VOICES[voice]} are not in order")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, MIDI)
            and self.num_samples == other.num_samples
            and np.array_equal(self.notes, other.notes)
            and np.array_equal(self.controls, other.controls)
        )

    @classmethod
    def from_runs(cls, runs: Runs) -> "MIDI":
        """From expressive rows, `(note, velocity, timbre)` of four voices, at 44.1 kHz.

        Raises:
            `NESFormatError`: a note begins with velocity 0, which in MIDI would end it.
        """
        notes, controls = [], []
        for voice in range(4):
            note, velocity, timbre = (column.astype(np.int64) for column in runs.value[:, voice].T)
            changed = note != np.concatenate([[0], note[:-1]])
            onset = np.flatnonzero(changed & (note > 0))
            turns = np.append(np.flatnonzero(changed), len(note))
            end = np.append(runs.start, runs.length)[turns[np.searchsorted(turns, onset, side="right")]]
            if voice == 2:
                velocity = np.ones_like(velocity)
            silent = onset[velocity[onset] == 0]
            if len(silent):
                raise NESFormatError(
                    f"a {VOICES[voice]} note begins with velocity 0 at sample {runs.start[silent[0]]}; "
                    "MIDI has no such note: give it a velocity, or make it a rest"
                )
            table = np.zeros(len(onset), dtype=NOTE)
            table["voice"], table["start"], table["end"] = voice, runs.start[onset], end
            table["pitch"], table["velocity"] = note[onset], velocity[onset]
            notes.append(table)
            held = (note > 0) & ~changed
            louder = np.flatnonzero(held & (velocity != np.concatenate([[0], velocity[:-1]])))
            duller = np.flatnonzero(timbre != np.concatenate([[0], timbre[:-1]]))
            table = np.zeros(len(louder) + len(duller), dtype=CONTROL)
            table["voice"] = voice
            table["time"] = runs.start[np.concatenate([louder, duller])]
            table["number"] = np.repeat([VELOCITY_CONTROL, TIMBRE_CONTROL], [len(louder), len(duller)])
            table["value"] = np.concatenate([velocity[louder], timbre[duller]])
            controls.append(np.sort(table, order=["time", "number"]))
        return cls(np.concatenate(notes), np.concatenate(controls), runs.length)

    def to_runs(self) -> Runs:
        """Expressive rows at 44.1 kHz. Controllers of a voice without notes count, unlike in the data set's reader."""
        columns = []
        for voice in range(4):
            notes = self.notes[self.notes["voice"] == voice]
            controls = self.controls[self.controls["voice"] == voice]
            columns.append(_voice_columns(notes, controls, mute=voice == 2))
        start = np.unique(np.concatenate([times for voice in columns for times, _ in voice]))
        start = start[start < self.num_samples]
        value = np.zeros((len(start), 4, 3), dtype=np.uint8)
        for voice, fields in enumerate(columns):
            for position, (times, values) in enumerate(fields):
                value[:, voice, position] = values[np.searchsorted(times, start, side="right") - 1]
        return Runs(start, value, self.num_samples).merged()

    def to_bytes(self) -> bytes:
        first = [(0, _TEMPO), (0, _FIRST_SIGNATURE), (self.num_samples, _LAST_SIGNATURE)]
        tracks = [_track([(time, 0, message) for time, message in first])]
        for voice, (name, channel, program) in enumerate(zip(VOICES, CHANNELS, PROGRAMS, strict=True)):
            # Sorted by what is in the tuples: the time, head before controllers before notes, their two bytes.
            events = [(0, -2, b"\xff\x03\x02" + name.encode()), (0, -1, bytes([0xC0 | channel, program]))]
            for control in self.controls[self.controls["voice"] == voice].tolist():
                events.append((control[1], 0, bytes([0xB0 | channel, control[2], control[3]])))
            for _, start, end, pitch, velocity in self.notes[self.notes["voice"] == voice].tolist():
                events.append((start, 1, bytes([0x90 | channel, pitch, velocity])))
                events.append((end, 1, bytes([0x90 | channel, pitch, 0])))
            tracks.append(_track(sorted(events)))
        head = b"MThd" + (6).to_bytes(4) + (1).to_bytes(2) + len(tracks).to_bytes(2) + TICKS_PER_BEAT.to_bytes(2)
        return head + b"".join(tracks)


def _voice_columns(notes: np.ndarray, controls: np.ndarray, mute: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """For note, velocity and timbre of one voice: times (from 0) and the value from each time on."""
    times = [0]
    pitches, velocities = [0], [0]
    louder = controls[controls["number"] == VELOCITY_CONTROL]
    first = np.searchsorted(louder["time"], notes["start"], side="left").tolist()
    last = np.searchsorted(louder["time"], notes["end"], side="left").tolist()
    level_times, levels = louder["time"].tolist(), louder["value"].tolist()
    for (_, start, end, pitch, velocity), begin, stop in zip(notes.tolist(), first, last, strict=True):
        times += [start, *level_times[begin:stop], end]
        pitches += [pitch] * (1 + stop - begin) + [0]
        velocities += [velocity, *levels[begin:stop], 0]
    if mute:
        velocities = [0] * len(velocities)
    timbre = controls[controls["number"] == TIMBRE_CONTROL]
    return [
        (np.array(times), np.array(pitches)),
        (np.array(times), np.array(velocities)),
        (np.append(0, timbre["time"]), np.append(0, timbre["value"])),
    ]


def _track(events: list[tuple[int, int, bytes]]) -> bytes:
    body = bytearray()
    now = 0
    status = None
    for time, _, message in events:
        body += _variable_length(time - now)
        now = time
        if message[0] == status:
            message = message[1:]
        else:
            status = message[0] if message[0] < 0xF0 else None
        body += message
    body += _END
    return b"MTrk" + len(body).to_bytes(4) + bytes(body)


def _variable_length(number: int) -> bytes:
    if number > _MAX_DELTA:
        raise NESFormatError(f"a pause of {number} samples does not fit into MIDI, which ends at {_MAX_DELTA}")
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(0x80 | number & 0x7F)
    return bytes(reversed(groups))
