"""Music of the Nintendo Entertainment System: the formats of the NES Music Database, sound and pictures.

What belongs here: formats, what the chip does to registers, synthesis, events, drawing. What does not: models and
tokenizers (`modeling/`), and downloading: files are local. A song is one object, arrays with named axes; files that
are broken or hostile are `NESFormatError`s with file, offset and cause.

    from seqzoo.data.nes import convert, read_song, write_song
    score = convert(read_song("song.vgm"), to="exprsco", rate=24)

    vgm.py               VGM: the container         gd3.py            its tag
    register_log.py      NDR: register writes (for synthesizers)
    function_log.py      NDF: their functions       language_log.py   NLM: without what changes nothing
    register_machine.py  the chip without sound     raw_score.py      timers, volumes and timbres
    scores.py            expressive, separated and blended scores; pitch.py, resampling.py and runs.py serve them
    midi.py              MIDI at 44.1 kHz, with its strict midi_reader.py
    pickles.py           the published pickles, without unpickling
    files.py             names and bytes            conversion.py     `convert`
    apu.py               the sound of the chip      synthesizer.py    mixes and stems of register writes
    rendering.py         audio from every format    audio_file.py     WAV and FLAC
    drawing.py           piano rolls, and a page (page.html) that plays
    batch.py             many files on all cores    jobs.py           what is done with each
    events.py            TX1: scores as rows of events
    score_classes.py     the columns of scores as classes; score_batches.py, windows of them to train on
    jit.py               numba where it is there    errors.py         the one error, and limits
    dataset.py           `load_nesmdb`, of what song_sources.py, archive.py and song_facts.py find
    composer_split.py    splits of new collections
"""

from importlib import import_module

from seqzoo.data.nes.conversion import convert
from seqzoo.data.nes.errors import Limits, NESFormatError
from seqzoo.data.nes.files import FORMATS, read_song, song_from_bytes, song_to_bytes, write_song
from seqzoo.data.nes.function_log import FunctionLog
from seqzoo.data.nes.gd3 import GD3
from seqzoo.data.nes.language_log import LanguageLog
from seqzoo.data.nes.midi import MIDI
from seqzoo.data.nes.raw_score import RawScore
from seqzoo.data.nes.register_log import RegisterLog
from seqzoo.data.nes.scores import BlendedScore, ExpressiveScore, SeparatedScore
from seqzoo.data.nes.vgm import VGM


__all__ = [
    "FORMATS",
    "GD3",
    "MIDI",
    "VGM",
    "BlendedScore",
    "ExpressiveScore",
    "FunctionLog",
    "LanguageLog",
    "Limits",
    "NESFormatError",
    "RawScore",
    "RegisterLog",
    "SeparatedScore",
    "convert",
    "read_song",
    "song_from_bytes",
    "song_to_bytes",
    "write_song",
]

_LATER = {
    "Rendering": "rendering",
    "composer_disjoint_split": "composer_split",
    "draw_piano_roll": "drawing",
    "load_nesmdb": "dataset",
    "write_audio": "audio_file",
    "write_page": "drawing",
}


def __getattr__(name: str):
    """What not every conversion needs; the import of `datasets` alone takes longer than to convert a song."""
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
