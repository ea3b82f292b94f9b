"""The scores: expressive (note, velocity, timbre), separated (notes by voice), blended (the notes of all at once)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqzoo.data.nes.errors import NESFormatError
from seqzoo.data.nes.midi import MIDI
from seqzoo.data.nes.pitch import (
    HIGHEST_NOTE,
    LOWEST_NOTE,
    LOWEST_OF_PULSE,
    lowest_sounding_note,
    notes_of_timers,
    timers_of_notes,
)
from seqzoo.data.nes.raw_score import RawScore, check_most, check_time
from seqzoo.data.nes.resampling import adaptive_rate, sample_runs
from seqzoo.data.nes.runs import (
    SAMPLE_RATE,
    Runs,
    check_rate,
    frame_bounds,
    num_frames,
    samples_of_frames,
    written_bounds,
)
from seqzoo.data.nes.vgm import NTSC_CLOCK


PUBLISHED_RATE = 24.0
ADAPTIVE = "adaptive"
Rate = float | Literal["adaptive"]
LowNotes = Literal["reject", "clip", "wrap"]
_MOST = np.array([[HIGHEST_NOTE, 15, 3], [HIGHEST_NOTE, 15, 3], [HIGHEST_NOTE, 15, 3], [16, 15, 1]])


@dataclass(frozen=True, eq=False)
class ExpressiveScore:
    """What is played and how.

    Args:
        score (`np.ndarray`):
            uint8 `[step, voice, (note, velocity, timbre)]` of P1, P2, TR, NO. Notes are MIDI's, 21 to 108, of NO 1 to
            16; 0 is silence. Velocities are 0 to 15, of TR 0; timbres 0 to 3, of TR 0, of NO 0 or 1.
        rate (`float`):
            Steps a second.
        num_samples (`int`, *optional*):
            Length of the song in samples of 44.1 kHz; without it the shortest that has all steps.

    Raises:
        `NESFormatError`: a value, the rate or the length is not one.
    """

    score: np.ndarray
    rate: float = PUBLISHED_RATE
    num_samples: int = None

    def __post_init__(self):
        _check_score(self, (4, 3))
        check_most(self.score, _MOST, ("note", "velocity", "timbre"))
        _check_lowest(self.score[:, :3, 0])

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    @classmethod
    def from_raw_score(cls, raw: RawScore, rate: Rate | None = None, *, as_written: bool = False) -> "ExpressiveScore":
        """Timers become the nearest notes, then steps are made.

        Timers outside the notes 21 to 108 become silence, as a pulse's timers 0 to 24.

        Args:
            raw (`RawScore`):
                What the chip is set to.
            rate (`float` or `"adaptive"`, *optional*):
                Steps a second; without it, the raw score's own.
            as_written (`bool`):
                Steps are where [`RawScore.to_function_log`] puts them, so that a score that was written at this rate
                comes back as it was. The data set's are up to a sample later, by which a note leaks into a rest
                before it.
        """
        runs = _expressive_runs(raw)
        if raw.rate == SAMPLE_RATE:
            return cls._from_runs(runs, SAMPLE_RATE if rate is None else rate, as_written)
        own = cls(runs.rows(), raw.rate, raw.num_samples)
        return own if rate is None else own.resampled(rate)

    def to_raw_score(self, clock: int = NTSC_CLOCK, low_notes: LowNotes = "reject") -> RawScore:
        """Notes become the nearest timers.

        Args:
            clock (`int`):
                Of the CPU, in Hz. Scores do not carry one, so a PAL song has to be given its own, or its pitches come
                out for an NTSC machine.
            low_notes (`str`):
                What to do with notes of a pulse below 33, which do not fit into its timer: `reject` them, `clip` them
                to the lowest note that sounds, or let the timer `wrap` to some other pitch as the reference does.
                Note 33 itself fits, but at the NTSC clocks the chip mutes it: it stays silent as in the reference,
                unless notes are clipped.

        Raises:
            `NESFormatError`: a note is too low.
        """
        note = self.score[:, :, 0].astype(np.int64)
        low = (note[:, :2] > 0) & (note[:, :2] < LOWEST_OF_PULSE)
        if low.any() and low_notes == "reject":
            step, voice = np.argwhere(low)[0]
            raise NESFormatError(
                f"the note {note[step, voice]} of P{voice + 1} at step {step} is below {LOWEST_OF_PULSE}, too low for "
                f"a pulse; low_notes='clip' plays {lowest_sounding_note(clock)} instead"
            )
        if low_notes == "clip":
            note[:, :2] = np.where(note[:, :2] > 0, np.maximum(note[:, :2], lowest_sounding_note(clock)), 0)
        timers = timers_of_notes(clock)
        timer = np.stack([timers[note[:, 0], 0], timers[note[:, 1], 0], timers[note[:, 2], 1], note[:, 3]], axis=1)
        rows = np.stack([timer >> 8, timer & 0xFF, self.score[:, :, 1], self.score[:, :, 2]], axis=2).astype(np.uint8)
        rows[:, 2, 2:] = 0
        return RawScore(Runs.of(rows), self.rate, self.num_samples, clock)

    @classmethod
    def from_midi(cls, midi: MIDI, rate: Rate = PUBLISHED_RATE) -> "ExpressiveScore":
        return cls._from_runs(midi.to_runs(), rate)

    def to_midi(self) -> MIDI:
        """At 44.1 kHz; a step lasts until the next one, the last one until the end."""
        return MIDI.from_runs(self._runs())

    @classmethod
    def from_separated(cls, separated: "SeparatedScore") -> "ExpressiveScore":
        """All velocities are 15, in silence too, but those of the triangle, 0; all timbres are 0."""
        score = np.zeros((*separated.score.shape, 3), dtype=np.uint8)
        score[:, :, 0] = separated.score
        score[:, [0, 1, 3], 1] = 15
        return cls(score, separated.rate, separated.num_samples)

    @classmethod
    def from_blended(cls, blended: "BlendedScore") -> "ExpressiveScore":
        """The first three notes of a step, from the lowest, go to P1, P2 and TR: velocities 15, 15 and 0, timbre 0."""
        score = np.zeros((len(blended.score), 4, 3), dtype=np.uint8)
        width = min(3, blended.score.shape[1])
        score[:, :width, 0] = blended.score[:, :width]
        score[:, :2, 1] = 15 * (score[:, :2, 0] > 0)
        return cls(score, blended.rate, blended.num_samples)

    def resampled(self, rate: Rate) -> "ExpressiveScore":
        """In steps of another rate; `adaptive` chooses the one that fits the onsets of notes."""
        return self if rate == self.rate else self._from_runs(self._runs(), rate)

    def _runs(self) -> Runs:
        return Runs.of_frames(self.score, self.rate, self.num_samples)

    @classmethod
    def _from_runs(cls, runs: Runs, rate: Rate, as_written: bool = False) -> "ExpressiveScore":
        rate = adaptive_rate(runs) if rate == ADAPTIVE else check_rate(rate)
        check_time(int(runs.length / SAMPLE_RATE * rate), rate, runs.length)
        if rate == SAMPLE_RATE:
            return cls(runs.rows(), rate, runs.length)
        bounds = (written_bounds if as_written else frame_bounds)(num_frames(runs.length, rate), rate)
        return cls(sample_runs(runs, bounds), rate, runs.length)


@dataclass(frozen=True, eq=False)
class SeparatedScore:
    """The notes of the four voices.

    Args:
        score (`np.ndarray`):
            uint8 `[step, voice]` of P1, P2, TR, NO: notes 21 to 108, of NO 1 to 16; 0 is silence.
        rate (`float`):
            Steps a second.
        num_samples (`int`, *optional*):
            Length of the song in samples of 44.1 kHz; without it the shortest that has all steps.

    Raises:
        `NESFormatError`: a note, the rate or the length is not one.
    """

    score: np.ndarray
    rate: float = PUBLISHED_RATE
    num_samples: int = None

    def __post_init__(self):
        _check_score(self, (4,))
        check_most(self.score[:, :, None], _MOST[:, :1], ("note",))
        _check_lowest(self.score[:, :3])

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    @classmethod
    def from_expressive(cls, score: ExpressiveScore) -> "SeparatedScore":
        return cls(score.score[:, :, 0].copy(), score.rate, score.num_samples)


@dataclass(frozen=True, eq=False)
class BlendedScore:
    """The notes that sound, whoever plays them; noise has none.

    Args:
        score (`np.ndarray`):
            uint8 `[step, place]`: notes 21 to 108 from the lowest, several times where several voices play them, then
            zeros.
        rate (`float`):
            Steps a second.
        num_samples (`int`, *optional*):
            Length of the song in samples of 44.1 kHz; without it the shortest that has all steps.

    Raises:
        `NESFormatError`: a note, the order, the rate or the length is not one.
    """

    score: np.ndarray
    rate: float = PUBLISHED_RATE
    num_samples: int = None

    def __post_init__(self):
        _check_score(self, getattr(self.score, "shape", ())[1:2])
        _check_lowest(self.score)
        if (np.where(self.score == 0, 255, self.score) != _ascending(self.score)).any():
            raise NESFormatError("a step of a blended score is not in ascending order")
        if self.score.size and self.score.max() > HIGHEST_NOTE:
            raise NESFormatError(f"the note {self.score.max()} is above {HIGHEST_NOTE}")

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    @classmethod
    def from_expressive(cls, score: ExpressiveScore) -> "BlendedScore":
        notes = _ascending(score.score[:, :3, 0])
        return cls(np.where(notes == 255, 0, notes).astype(np.uint8), score.rate, score.num_samples)

    @classmethod
    def from_chords(cls, chords: list[list[int]], rate: float, num_samples: int | None = None) -> "BlendedScore":
        """From lists of notes, such as `[[36, 48], [], [36]]`."""
        score = np.zeros((len(chords), max([3, *map(len, chords)])), dtype=np.uint8)
        for step, chord in enumerate(chords):
            score[step, : len(chord)] = chord
        return cls(score, rate, num_samples)

    def chords(self) -> list[list[int]]:
        """Lists of notes, one a step."""
        return chords_of(self.score)


def chords_of(score: np.ndarray) -> list[list[int]]:
    """Lists of the notes of each step of `[step, place]`, without the zeros."""
    return [[note for note in row if note] for row in score.tolist()]


def midi_from_raw_score(raw: RawScore) -> MIDI:
    """At 44.1 kHz, as the data set's MIDI files were made."""
    if raw.rate != SAMPLE_RATE:
        return ExpressiveScore.from_raw_score(raw).to_midi()
    return MIDI.from_runs(_expressive_runs(raw))


def _expressive_runs(raw: RawScore) -> Runs:
    """Rows `[step, voice, (note, velocity, timbre)]`."""
    notes = notes_of_timers(raw.clock)
    timer = raw.runs.value[:, :, 0].astype(np.int64) << 8 | raw.runs.value[:, :, 1]
    value = np.zeros((len(timer), 4, 3), dtype=np.uint8)
    value[:, :2, 0] = notes[timer[:, :2], 0]
    value[:, 2, 0] = notes[timer[:, 2], 1]
    value[:, 3, 0] = timer[:, 3]
    value[:, :, 1] = np.where(value[:, :, 0] > 0, raw.runs.value[:, :, 2], 0)
    value[:, :, 2] = raw.runs.value[:, :, 3]
    return Runs(raw.runs.start, value, raw.runs.length).merged()


def _check_score(score, shape: tuple[int, ...]) -> None:
    """Type and shape, rate and length; a length that was not given is filled in."""
    if not isinstance(score.score, np.ndarray):
        raise NESFormatError(
            f"the score of a {type(score).__name__} is a NumPy array, not a {type(score.score).__name__}"
        )
    if score.score.dtype != np.uint8 or score.score.ndim != 1 + len(shape) or score.score.shape[1:] != shape:
        wanted = ", ".join(["step", *map(str, shape)])
        found = f"{score.score.dtype} {score.score.shape}"
        raise NESFormatError(f"the score of a {type(score).__name__} is uint8 [{wanted}], not {found}")
    object.__setattr__(score, "rate", check_rate(score.rate))
    if score.num_samples is None:
        object.__setattr__(score, "num_samples", samples_of_frames(len(score.score), score.rate))
    check_time(len(score.score), score.rate, score.num_samples)


def _check_lowest(notes: np.ndarray) -> None:
    wrong = notes[(notes > 0) & (notes < LOWEST_NOTE)]
    if len(wrong):
        raise NESFormatError(f"the note {wrong[0]} is below {LOWEST_NOTE}")


def _ascending(notes: np.ndarray) -> np.ndarray:
    """Each step's notes from the lowest, then 255 for those that are 0."""
    return np.sort(np.where(notes == 0, 255, notes), axis=1)


def _equal(one, other: object) -> bool:
    return (
        type(one) is type(other)
        and (one.rate, one.num_samples) == (other.rate, other.num_samples)
        and np.array_equal(one.score, other.score)
    )
