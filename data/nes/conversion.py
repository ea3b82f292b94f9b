"""From any format of the NES to any other, over the steps between.

    vgm - ndr - ndf - nlm          ndr -> rawsco -> ndf          rawsco - exprsco - seprsco
                                                                 rawsco -> midi - exprsco - blndsco

Lines go both ways. A raw score is made from the register log, not from the functional log: only a register write sets
all functions of its register, as the chip has it. The same goes for a language log of what a score wrote.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from seqzoo.data.nes.files import FORMATS, Song, format_of
from seqzoo.data.nes.function_log import FunctionLog
from seqzoo.data.nes.language_log import LanguageLog
from seqzoo.data.nes.midi import MIDI
from seqzoo.data.nes.raw_score import RawScore
from seqzoo.data.nes.register_log import RegisterLog
from seqzoo.data.nes.runs import SAMPLE_RATE, check_rate
from seqzoo.data.nes.scores import (
    ADAPTIVE,
    PUBLISHED_RATE,
    BlendedScore,
    ExpressiveScore,
    LowNotes,
    Rate,
    SeparatedScore,
    midi_from_raw_score,
)
from seqzoo.data.nes.vgm import CLOCKS, NTSC_CLOCK, VGM


@dataclass(frozen=True)
class Options:
    """The options of [`convert`], which says what they mean.

    Raises:
        `ValueError`: one has no such value.
    """

    to: str
    rate: Rate | None = None
    clock: int = NTSC_CLOCK
    low_notes: LowNotes = "reject"
    simplify: bool = True
    as_written: bool = False
    keep_tags: bool = False

    def __post_init__(self):
        if self.to not in FORMATS:
            raise ValueError(f"there is no format {self.to!r}; choose from {', '.join(FORMATS)}")
        if self.rate is not None and self.rate != ADAPTIVE:
            check_rate(self.rate)
        if self.clock not in CLOCKS:
            raise ValueError(f"there is no NES clock of {self.clock} Hz; choose from {', '.join(map(str, CLOCKS))}")
        if self.low_notes not in ("reject", "clip", "wrap"):
            raise ValueError(f"low_notes is {self.low_notes!r}; choose from reject, clip, wrap")


def _read_vgm(vgm: VGM, options: Options) -> RegisterLog:
    return RegisterLog.from_vgm(vgm.simplified() if options.simplify else vgm)


def _sample(raw: RawScore, options: Options) -> ExpressiveScore:
    default = PUBLISHED_RATE if raw.rate == SAMPLE_RATE else None
    rate = default if options.rate is None else options.rate
    return ExpressiveScore.from_raw_score(raw, rate, as_written=options.as_written)


def _sample_midi(midi: MIDI, options: Options) -> ExpressiveScore:
    return ExpressiveScore.from_midi(midi, PUBLISHED_RATE if options.rate is None else options.rate)


def _resample(score: ExpressiveScore, options: Options) -> ExpressiveScore:
    return score if options.rate is None else score.resampled(options.rate)


def _whole_registers(log: FunctionLog) -> FunctionLog:
    """With all functions of each register that is written. Of a score only those are in the log that change, and a
    language log, which drops what does not change, would lose that a note begins."""
    return FunctionLog.from_register_log(log.to_register_log())


_STEPS: dict[tuple[str, str], Callable[[Any, Options], Song]] = {
    ("vgm", "ndr"): _read_vgm,
    ("ndr", "vgm"): lambda log, options: log.to_vgm(),
    ("ndr", "ndf"): lambda log, options: FunctionLog.from_register_log(log),
    ("ndf", "ndr"): lambda log, options: log.to_register_log(),
    ("ndf", "nlm"): lambda log, options: LanguageLog.from_function_log(_whole_registers(log)),
    ("nlm", "ndf"): lambda log, options: log.to_function_log(),
    ("ndr", "rawsco"): lambda log, options: RawScore.from_register_log(log),
    ("rawsco", "ndf"): lambda raw, options: raw.to_function_log(),
    ("rawsco", "exprsco"): _sample,
    ("rawsco", "midi"): lambda raw, options: midi_from_raw_score(raw),
    ("exprsco", "rawsco"): lambda score, options: score.to_raw_score(options.clock, options.low_notes),
    ("exprsco", "midi"): lambda score, options: score.to_midi(),
    ("midi", "exprsco"): _sample_midi,
    ("exprsco", "seprsco"): lambda score, options: SeparatedScore.from_expressive(score),
    ("seprsco", "exprsco"): lambda score, options: _resample(ExpressiveScore.from_separated(score), options),
    ("exprsco", "blndsco"): lambda score, options: BlendedScore.from_expressive(score),
    ("blndsco", "exprsco"): lambda score, options: _resample(ExpressiveScore.from_blended(score), options),
}


def convert(
    song: Song,
    to: str,
    *,
    rate: Rate | None = None,
    clock: int = NTSC_CLOCK,
    low_notes: LowNotes = "reject",
    simplify: bool = True,
    as_written: bool = False,
    keep_tags: bool = False,
) -> Song:
    """Turn a song into another format, by the shortest way.

    Args:
        song:
            An object of one of the formats.
        to (`str`):
            `vgm`, `ndr`, `ndf`, `nlm`, `rawsco`, `exprsco`, `seprsco`, `blndsco` or `midi`.
        rate (`float` or `"adaptive"`, *optional*):
            Steps a second of the expressive score that the song is taken through; with a rate, every conversion goes
            through one. Without, what comes from 44.1 kHz is sampled at 24 Hz if a score is asked for, and scores
            keep their rate.
        clock (`int`):
            Of the CPU that a score is written for; scores carry none.
        low_notes (`str`):
            `reject`, `clip` or `wrap`: notes that are too low for a pulse, see [`ExpressiveScore.to_raw_score`].
        simplify (`bool`):
            Simplify a VGM before anything else, see [`VGM.simplified`], as everything in the data set was.
        as_written (`bool`):
            The log or VGM was written from a score of this rate: take its steps from where they were put, see
            [`ExpressiveScore.from_raw_score`], which gives exactly that score.
        keep_tags (`bool`):
            A VGM gets the GD3 tag of the VGM or register log that is converted. The reference writes none.

    Raises:
        `NESFormatError`: the song, or the tag that is to be kept, is broken or does not fit into the format.
        `ValueError`: an option has no such value.
    """
    options = Options(to, rate, clock, low_notes, simplify, as_written, keep_tags)
    converted = _convert(song, options)
    if keep_tags and to == "vgm" and isinstance(song, VGM | RegisterLog):
        return converted.with_tags(song.tags)
    return converted


def _convert(song: Song, options: Options) -> Song:
    if options.rate is None and options.to == format_of(song) == "vgm":
        return song.simplified() if options.simplify else song
    if isinstance(song, ExpressiveScore):
        song = _resample(song, options)
    for stop in [options.to] if options.rate is None else ["exprsco", options.to]:
        way = _way(format_of(song), stop)
        for step in pairwise(way):
            song = _STEPS[step](song, options)
    return song


@lru_cache
def _way(source: str, to: str) -> tuple[str, ...]:
    """The formats on the shortest way, both ends included."""
    ways = deque([(source,)])
    while ways[0][-1] != to:
        way = ways.popleft()
        ways += [(*way, after) for before, after in _STEPS if before == way[-1] and after not in way]
    return ways[0]
