"""Files of all formats: which name means which, and their bytes.

A song is read whole: it is small. What comes from outside is held to [`Limits`], also when it is compressed.
"""

import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.data.nes import command_text
from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits, NESFormatError
from seqzoo.data.nes.function_log import FunctionLog
from seqzoo.data.nes.language_log import LanguageLog
from seqzoo.data.nes.midi import MIDI
from seqzoo.data.nes.midi_reader import read_midi
from seqzoo.data.nes.pickles import read_pickle
from seqzoo.data.nes.raw_score import RawScore
from seqzoo.data.nes.register_log import RegisterLog
from seqzoo.data.nes.runs import SAMPLE_RATE, Runs
from seqzoo.data.nes.scores import BlendedScore, ExpressiveScore, SeparatedScore, chords_of
from seqzoo.data.nes.vgm import VGM, gunzip


Log = RegisterLog | FunctionLog | LanguageLog
Song = VGM | Log | RawScore | ExpressiveScore | SeparatedScore | BlendedScore | MIDI
_BYTES_OF_STEP = 16  # of a raw score, the largest
_MOST_NOTES_AT_ONCE = 16
_PART = 100_000  # steps that become text at a time
# As NumPy writes it for numbers. Its reader runs a parser for Python over the header, which a broken one can upset in
# many ways, and makes room for whatever shape is claimed.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?s:(?P<length>..))\{'descr': '(?P<dtype>[<>|](?:[ui][1248]|f[248]))', "
    rb"'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>(?:\d{1,10}, ){0,3}(?:\d{1,10},?)?)\), \} *\n"
)


@dataclass(frozen=True)
class Format:
    """A format that can be written.

    Args:
        type (`type`):
            Of the object.
        suffix (`str`):
            Of the file.
        to_bytes (`Callable`):
            From the object to the file's content.
    """

    type: type
    suffix: str
    to_bytes: Callable[[Any], bytes]


def read_song(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> Song:
    """Read a file; the end of its name says what it is.

    .vgm .vgz .ndr.txt .ndf.txt .nlm.txt (each also .gz) .rawsco.npz .exprsco.npz .seprsco.npz .blndsco.json .mid, and
    the published data set's .exprsco.pkl .seprsco.pkl .blndsco.pkl .nlm.pkl.

    Raises:
        `NESFormatError`: the file is broken, exceeds a limit, or is nothing of this.
        `OSError`: it cannot be read.
    """
    path = Path(path)
    suffix = song_suffix(path)
    if suffix is None:
        raise NESFormatError(f"the name does not end in one of {', '.join(_READERS)}", str(path))
    if path.exists() and not path.is_file():  # opening a named pipe would wait for somebody to write
        raise NESFormatError("this is no plain file", str(path))
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.max_bytes:
            raise NESFormatError(f"the file has {size} bytes, the limit is {limits.max_bytes} (max_bytes)", str(path))
        data = file.read(limits.max_bytes)
    return song_from_bytes(data, suffix, str(path), limits)


def song_suffix(path: str | Path) -> str | None:
    """The part of a file's name that says its format; None where there is none."""
    name = Path(path).name.lower()
    return next((suffix for suffix in _READERS if name.endswith(suffix)), None)


def song_from_bytes(data: bytes, suffix: str, file: str | None = None, limits: Limits = DEFAULT_LIMITS) -> Song:
    """The same from the content of a file, for a suffix of those that [`read_song`] knows, such as `.vgm`.

    Raises:
        `NESFormatError`: as [`read_song`].
        `ValueError`: no such suffix.
    """
    if suffix not in _READERS:
        raise ValueError(f"there is no suffix {suffix!r}; choose from {', '.join(_READERS)}")
    if suffix.endswith(".gz"):
        data = gunzip(data, file, limits)
    try:
        return _READERS[suffix](data, file, limits)
    except NESFormatError as error:
        if error.file == file:
            raise
        raise NESFormatError(error.cause, file, error.offset) from error  # an object that knows no file refused


def write_song(song: Song, path: str | Path) -> None:
    """Write a file, all or nothing. The format is the object's.

    Raises:
        `ValueError`: the name ends like that of another format, and could not be read again.
        `OSError`: it cannot be written.
    """
    path = Path(path)
    entry, suffix = FORMATS[format_of(song)], song_suffix(path)
    if suffix not in (None, entry.suffix):
        raise ValueError(
            f"{path} ends as another format than {format_of(song)}, which is {entry.suffix}: convert the song first"
        )
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(song_to_bytes(song))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def song_to_bytes(song: Song) -> bytes:
    """The content of a file in the object's format."""
    return FORMATS[format_of(song)].to_bytes(song)


def format_of(song: Song) -> str:
    """The name of an object's format, a key of `FORMATS`."""
    for name, entry in FORMATS.items():
        if type(song) is entry.type:
            return name
    raise TypeError(f"a {type(song).__name__} is nothing of the NES: {', '.join(FORMATS)}")


def _npz(song: Any) -> bytes:
    fields = {"score": song.score, "rate": np.float64(song.rate), "num_samples": np.int64(song.num_samples)}
    if isinstance(song, RawScore):
        fields["clock"] = np.int64(song.clock)
    stream = io.BytesIO()
    np.savez_compressed(stream, **fields)
    return stream.getvalue()


def _blended_json(song: BlendedScore) -> bytes:
    facts = json.dumps({"rate": song.rate, "num_samples": song.num_samples}, separators=(",", ":"))
    # Part by part: lists of lists of numbers are a hundred times as large as the file.
    parts = [
        json.dumps(chords_of(song.score[start : start + _PART]), separators=(",", ":"))[1:-1]
        for start in range(0, len(song.score), _PART)
    ]
    return f'{facts[:-1]},"score":[{",".join(parts)}]}}'.encode()


def _text_reader(cls: type) -> Callable[[bytes, str | None, Limits], Song]:
    return lambda data, file, limits: cls.from_text(command_text.decode(data, file), file, limits)


def _text_writer(song: Log) -> bytes:
    return song.to_text().encode("ascii")


def _read_arrays(data: bytes, file: str | None, limits: Limits) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, of which none may be larger than the raw score of the longest song."""
    most = int(limits.max_seconds * SAMPLE_RATE * _BYTES_OF_STEP) + 4096
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in ("score", "rate", "num_samples", "clock"):
                if f"{name}.npy" not in archive.namelist():
                    continue
                entry = archive.getinfo(f"{name}.npy")
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.file_size > most:
                    raise NESFormatError(
                        f"{name} has {entry.file_size} bytes, the limit is {most} (max_seconds)", file
                    )
                with archive.open(entry) as stream:
                    arrays[name] = _array(stream.read(entry.file_size))
    except NESFormatError as error:
        raise NESFormatError(error.cause, file) from error
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise NESFormatError(f"the .npz file is broken ({error})", file) from error
    return arrays


def _array(data: bytes) -> np.ndarray:
    """From the content of an .npy file."""
    header = _NPY_HEADER.match(data)
    if not header or header.end() != 10 + int.from_bytes(header["length"], "little"):
        raise NESFormatError("an array is not of numbers, or its header is not as NumPy writes it")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(size) for size in header["shape"].replace(b" ", b"").split(b",") if size)
    if math.prod(shape) * dtype.itemsize != len(data) - header.end():
        raise NESFormatError(f"an array of {dtype} and shape {shape} does not fit to its bytes")
    order = "F" if header["fortran"] == b"True" else "C"
    return np.frombuffer(data, dtype, offset=header.end()).reshape(shape, order=order)


def _npz_reader(cls: type) -> Callable[[bytes, str | None, Limits], Song]:
    def read(data: bytes, file: str | None, limits: Limits) -> Song:
        arrays = _read_arrays(data, file, limits)
        names = ["score", "rate", "num_samples", *(["clock"] if cls is RawScore else [])]
        for name in names:
            if name not in arrays:
                raise NESFormatError(f"the file has no {name}; it needs {', '.join(names)}", file)
            if name != "score" and arrays[name].shape != ():
                raise NESFormatError(f"{name} is not one number", file)
        rate, num_samples = arrays["rate"].item(), arrays["num_samples"].item()
        clock = arrays["clock"].item() if cls is RawScore else None
        return _score(cls, arrays["score"], rate, num_samples, clock, file, limits)

    return read


def _score(cls: type, score: Any, rate: Any, num_samples: Any, clock: Any, file: str | None, limits: Limits) -> Song:
    """A score from parts that came from outside."""
    for name, value, kinds in (("rate", rate, (int, float)), ("num_samples", num_samples, (int,))):
        if type(value) not in kinds or not -(2**63) <= value < 2**63:
            raise NESFormatError(f"{name} is no number of 64 bits", file)
    limits.check_samples(num_samples, file)
    if cls is BlendedScore:
        return BlendedScore.from_chords(_checked_chords(score, limits, file), float(rate), num_samples)
    if not isinstance(score, np.ndarray):
        raise NESFormatError("the score is no array", file)
    if cls is RawScore:
        if score.dtype != np.uint8 or score.ndim != 3:
            raise NESFormatError(f"a raw score is uint8 [step, 4, 4], not {score.dtype} {score.shape}", file)
        return RawScore(Runs.of(score), float(rate), num_samples, clock)
    return cls(score, float(rate), num_samples)


def _checked_chords(chords: Any, limits: Limits, file: str | None) -> list[list[int]]:
    if type(chords) not in (list, tuple) or len(chords) > limits.max_seconds * SAMPLE_RATE:
        raise NESFormatError("the score is no list of steps, or has too many", file)
    for step, chord in enumerate(chords):
        if (
            type(chord) not in (list, tuple)
            or len(chord) > _MOST_NOTES_AT_ONCE
            or not all(type(note) is int and 0 < note < 128 for note in chord)
        ):
            raise NESFormatError(f"step {step} is no list of at most {_MOST_NOTES_AT_ONCE} notes", file)
    return chords


def _read_blended_json(data: bytes, file: str | None, limits: Limits) -> BlendedScore:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NESFormatError(f"this is no JSON ({error})", file, getattr(error, "pos", None)) from error
    if type(content) is not dict or not {"rate", "num_samples", "score"} <= content.keys():
        raise NESFormatError("this is no object with rate, num_samples and score", file)
    return _score(BlendedScore, content["score"], content["rate"], content["num_samples"], None, file, limits)


def _pickle_reader(cls: type) -> Callable[[bytes, str | None, Limits], Song]:
    def read(data: bytes, file: str | None, limits: Limits) -> Song:
        content = read_pickle(data, file)
        if cls is LanguageLog:
            return _read_commands(content, file, limits)
        if type(content) is not tuple or len(content) != 3:
            raise NESFormatError("the pickle is not `(rate, num_samples, score)`", file)
        rate, num_samples, score = content
        return _score(cls, score, rate, num_samples, None, file, limits)

    return read


def _read_commands(content: Any, file: str | None, limits: Limits) -> LanguageLog:
    """From `[("clock", N), ("w", N), (function, value), ...]`."""
    if type(content) is not list:
        raise NESFormatError("the pickle is no list of commands", file)
    lines = []
    for number, command in enumerate(content):
        if type(command) not in (tuple, list) or len(command) != 2 or type(command[0]) is not str:
            raise NESFormatError(f"command {number} is no name and number", file)
        if type(command[1]) is not int or len(command[0]) > 8:
            raise NESFormatError(f"command {number} is no name and number", file)
        lines.append(f"{command[0]},{command[1]}")
    return LanguageLog.from_text("\n".join(lines), file, limits)


_READERS: dict[str, Callable[[bytes, str | None, Limits], Song]] = {
    ".vgm": VGM.from_bytes,
    ".vgz": VGM.from_bytes,
    ".mid": read_midi,
    ".rawsco.npz": _npz_reader(RawScore),
    ".exprsco.npz": _npz_reader(ExpressiveScore),
    ".seprsco.npz": _npz_reader(SeparatedScore),
    ".blndsco.json": _read_blended_json,
    ".exprsco.pkl": _pickle_reader(ExpressiveScore),
    ".seprsco.pkl": _pickle_reader(SeparatedScore),
    ".blndsco.pkl": _pickle_reader(BlendedScore),
    ".nlm.pkl": _pickle_reader(LanguageLog),
}
for _suffix, _class in ((".ndr.txt", RegisterLog), (".ndf.txt", FunctionLog), (".nlm.txt", LanguageLog)):
    _READERS[_suffix] = _READERS[f"{_suffix}.gz"] = _text_reader(_class)

FORMATS = {
    "vgm": Format(VGM, ".vgm", lambda vgm: vgm.data),
    "ndr": Format(RegisterLog, ".ndr.txt", _text_writer),
    "ndf": Format(FunctionLog, ".ndf.txt", _text_writer),
    "nlm": Format(LanguageLog, ".nlm.txt", _text_writer),
    "rawsco": Format(RawScore, ".rawsco.npz", _npz),
    "exprsco": Format(ExpressiveScore, ".exprsco.npz", _npz),
    "seprsco": Format(SeparatedScore, ".seprsco.npz", _npz),
    "blndsco": Format(BlendedScore, ".blndsco.json", _blended_json),
    "midi": Format(MIDI, ".mid", MIDI.to_bytes),
}
