"""Pictures of a score: a piano roll of four voices with dynamics, and a page with the roll and a player.

An expressive score is a uint8 array `[time, voice, (note, velocity, timbre)]`, voices P1, P2, TR and NO. What draws it
works on its notes, not on its steps, so that 44,100 steps a second cost little more than 24.

The triangle has no volume: its velocity is 0 in every score, and it is drawn at one height.
"""

import base64
import io
import math
import os
import wave
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import numpy as np


VOICES = ("Pulse 1", "Pulse 2", "Triangle", "Noise")
TRIANGLE, NOISE = 2, 3
# Told apart with any kind of colour blindness; the page has these too, and lighter ones for a dark background.
COLOURS = ("#2456c7", "#e0601a", "#009e73", "#8a5a9e")
# Lowest and highest note but silence, largest velocity, largest timbre.
RANGES = ((21, 108, 15, 3), (21, 108, 15, 3), (21, 108, 15, 3), (1, 16, 15, 1))
MAX_RATE = 44_100


@dataclass(frozen=True, slots=True)
class Note:
    """A stretch of equal notes of one voice, in steps of the score.

    Args:
        start (`int`):
            First step.
        end (`int`):
            The step behind the last one.
        note (`int`):
            A MIDI note, or 1 to 16 for noise.
        parts (`tuple[tuple[int, int, int, int], ...]`):
            (start, end, velocity, timbre) from change to change; they cover the note.
    """

    start: int
    end: int
    note: int
    parts: tuple[tuple[int, int, int, int], ...]


def notes_of(score: np.ndarray) -> list[list[Note]]:
    """The notes of each voice, in order of time.

    A note ends where another one or silence begins: the chip has no other sign of an onset.

    Raises:
        `ValueError`: it is no expressive score; the message names what is wrong, and where.
    """
    _check_score(score)
    voices = []
    for voice in range(len(VOICES)):
        rows = score[:, voice]
        starts = np.flatnonzero((rows[1:] != rows[:-1]).any(1)) + 1
        bounds = [0, *starts.tolist(), len(score)]
        parts = zip(bounds, bounds[1:], rows[bounds[:-1]].tolist())
        notes = []
        for note, run in groupby(parts, key=lambda part: part[2][0]):
            if note:
                same = tuple((start, end, velocity, timbre) for start, end, (_, velocity, timbre) in run)
                notes.append(Note(same[0][0], same[-1][1], note, same))
        voices.append(notes)
    return voices


def _check_score(score: np.ndarray) -> None:
    if not isinstance(score, np.ndarray) or score.dtype != np.uint8:
        kind = score.dtype if isinstance(score, np.ndarray) else type(score).__name__
        raise ValueError(f"a score is a uint8 array, this is {kind}")
    if score.ndim != 3 or score.shape[1:] != (len(VOICES), 3):
        raise ValueError(f"a score has the shape [time, 4, 3], this one {list(score.shape)}")
    if not len(score):
        raise ValueError("the score is empty: it has no step")
    for voice, (lowest, highest, loudest, timbres) in enumerate(RANGES):
        note, velocity, timbre = score[:, voice].T
        for name, values, wrong, allowed in (
            ("note", note, (note > highest) | ((note < lowest) & (note > 0)), f"0 or {lowest} to {highest}"),
            ("velocity", velocity, velocity > loudest, f"0 to {loudest}"),
            ("timbre", timbre, timbre > timbres, f"0 to {timbres}"),
        ):
            if wrong.any():
                step = int(wrong.argmax())
                raise ValueError(f"{name} of {VOICES[voice]} at step {step} is {values[step]}, but takes {allowed}")


def draw_piano_roll(score: np.ndarray, rate: float, path: str | Path, *, title: str = "") -> None:
    """Draw a score into a PNG or SVG file. Needs the extra `plot`.

    Melodic voices share one grid of semitones, noise has a strip below. Louder is taller and darker. Music of more
    than half a minute continues in the next line, as in print.

    Args:
        score (`np.ndarray`):
            uint8 `[time, 4, 3]`.
        rate (`float`):
            Steps a second.
        path (`str` or `Path`):
            Ends in .png or .svg.
        title (`str`):
            Stands above.

    Raises:
        `ValueError`: no score, rate or suffix of these kinds.
        `OSError`: the file cannot be written; what was there before stays.
        `ImportError`: matplotlib is missing.
    """
    path = _checked_path(path, (".png", ".svg"))
    notes = notes_of(score)
    _check_rate(rate)
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError("piano rolls need matplotlib: pip install 'seqzoo[plot]'") from error

    seconds = len(score) / rate
    lines = min(math.ceil(seconds / 30), 10)
    a_line = seconds if lines == 1 else math.ceil(seconds / lines)
    lines = math.ceil(seconds / a_line)
    lowest, highest = _pitch_range(notes)
    # Inches.
    semitones = highest - lowest + 1
    roll = min(max(semitones * 0.09, 2.4), 5) if lines == 1 else min(max(semitones * 0.06, 1.5), 3.4)
    width, left, right, top, strip, gap, below = 14, 0.6, 0.25, 0.75, 0.5, 0.06, 0.42
    height = top + lines * (roll + gap + strip + below)
    figure = Figure(figsize=(width, height))
    for line in range(lines):
        begin = line * a_line
        end = min(begin + a_line, seconds)
        line_width = (width - left - right) * (end - begin) / a_line / width
        bottom = height - top - line * (roll + gap + strip + below) - roll
        pitch_axes = figure.add_axes((left / width, bottom / height, line_width, roll / height))
        noise_axes = figure.add_axes((left / width, (bottom - gap - strip) / height, line_width, strip / height))
        _prepare_pitches(pitch_axes, lowest, highest, roll * 72 / semitones)
        noise_axes.set(ylim=(-0.5, 17.5), yticks=[8.5], yticklabels=["noise"])
        noise_axes.tick_params(axis="y", length=0)
        for axes in (pitch_axes, noise_axes):
            _prepare_time(axes, begin, end, a_line)
        pitch_axes.tick_params(axis="x", length=0, labelbottom=False)
        for voice in (TRIANGLE, 1, 0, NOISE):  # what is drawn last is on top
            axes = noise_axes if voice == NOISE else pitch_axes
            for velocity, bars in _bars_by_velocity(notes[voice], voice, rate, begin, end).items():
                axes.add_patch(
                    _compound(bars, facecolor=COLOURS[voice], alpha=0.45 + 0.55 * _loudness(voice, velocity))
                )
    heading = _plain(title)
    heading = heading if len(heading) <= 80 else heading[:79] + "…"
    figure.text(left / width, 1 - 0.4 / height, heading, size=14, weight="bold", va="center", parse_math=False)
    figure.legend(
        handles=[Patch(color=colour, label=voice) for voice, colour in zip(VOICES, COLOURS)],
        loc="center right",
        bbox_to_anchor=(1 - right / width, 1 - 0.4 / height),
        ncols=len(VOICES),
        frameon=False,
        borderaxespad=0,
        handlelength=1,
        columnspacing=1.4,
    )
    content = io.BytesIO()
    kind = path.suffix[1:].lower()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "seqzoo"}):
        figure.savefig(content, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    # Bars end on pixels: smoothed edges of two that touch would let the background through.
    sharp = b"path{shape-rendering:crispEdges}</style>"
    _write(path, content.getvalue().replace(b"</style>", sharp, 1) if kind == "svg" else content.getvalue())


def _pitch_range(notes: list[list[Note]]) -> tuple[int, int]:
    """Lowest and highest semitone to show: those of the melodic voices with one to spare, two octaves at least."""
    pitches = [note.note for voice in notes[:NOISE] for note in voice] or [60]
    lowest, highest = min(pitches) - 1, max(pitches) + 1
    missing = max(0, 24 - (highest - lowest))
    return lowest - missing // 2, highest + missing - missing // 2


def _loudness(voice: int, velocity: int) -> float:
    return 0.7 if voice == TRIANGLE else velocity / 15


def _bars_by_velocity(notes: list[Note], voice: int, rate: float, begin: float, end: float) -> dict[int, list]:
    """What of the notes lies within a line, as bars (left, right, bottom, top) in seconds and semitones.

    Pulse 1 stands a little high in its row and pulse 2 a little low, so that both are seen where they play in unison.
    """
    raised = (0.2, -0.2, 0, 0)[voice]
    thinnest, growth = (1.2, 1.6) if voice == NOISE else (0.35, 0.65)
    bars: dict[int, list] = {}
    for note in notes:
        if note.end > begin * rate and note.start < end * rate:
            for start, stop, velocity, _ in note.parts:
                left, right = max(start / rate, begin), min(stop / rate, end)
                if left < right:
                    half = (thinnest + growth * _loudness(voice, velocity)) / 2
                    middle = note.note + raised
                    bars.setdefault(velocity, []).append((left, right, middle - half, middle + half))
    return bars


def _compound(bars: list[tuple[float, float, float, float]], **style):
    """Bars as one patch: thousands of single ones would be slow to draw, and an SVG of them large."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    left, right, bottom, top = np.array(bars).T
    corners = np.stack([left, bottom, right, bottom, right, top, left, top, left, bottom], axis=1).reshape(-1, 2)
    codes = [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY] * len(bars)
    return PathPatch(Outline(corners, codes), linewidth=0, snap=True, **style)


def _prepare_pitches(axes, lowest: int, highest: int, points: float) -> None:
    """Rows of semitones, black keys shaded; all naturals are named where `points` a row leave room, else the Cs."""
    rows = range(lowest, highest + 1)
    axes.set_ylim(lowest - 0.5, highest + 0.5)
    black = [(0, 1, row - 0.5, row + 0.5) for row in rows if row % 12 in (1, 3, 6, 8, 10)]
    axes.add_patch(_compound(black, facecolor="#f1f3f5", transform=axes.get_yaxis_transform(), zorder=0))
    for row in rows:
        if row % 12 == 0:
            axes.axhline(row - 0.5, color="#c9ced4", linewidth=0.7, zorder=0.5)
    named = [row for row in rows if row % 12 in ((0, 2, 4, 5, 7, 9, 11) if points >= 7 else (0,))]
    axes.set_yticks(named, [note_name(row) for row in named], size=7.5 if points >= 7 else 9)
    axes.tick_params(axis="y", length=0)


def _prepare_time(axes, begin: float, end: float, a_line: float) -> None:
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30) if a_line / step <= 16), 60)
    axes.set_xlim(begin, end)
    ticks = [i * step for i in range(math.ceil(begin / step - 1e-9), math.floor(end / step + 1e-9) + 1)]
    axes.set_xticks(ticks, [clock(tick, step) for tick in ticks], size=9)
    axes.grid(axis="x", color="#dde1e5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=3, color="#9aa1a8")
    axes.spines[:].set_visible(False)
    axes.spines[["left", "bottom"]].set(visible=True, color="#9aa1a8", linewidth=0.8)


def note_name(note: int) -> str:
    """Of a MIDI note: 60 is C4."""
    return f"{('C', 'C♯', 'D', 'D♯', 'E', 'F', 'F♯', 'G', 'G♯', 'A', 'A♯', 'B')[note % 12]}{note // 12 - 1}"


def clock(seconds: float, step: float = 1) -> str:
    """m:ss, with tenths where the `step` between times is no whole second."""
    tenths = round(seconds * 10)
    text = f"{tenths // 600}:{tenths // 10 % 60:02}"
    return text if float(step).is_integer() else f"{text}.{tenths % 10}"


def write_page(
    score: np.ndarray,
    rate: float,
    path: str | Path,
    *,
    title: str = "",
    audio: np.ndarray | None = None,
    audio_rate: int | None = None,
) -> None:
    """Write a page with the roll of a score and, given audio, a player that it follows.

    The page is one file that needs no network. Audio is embedded as 16-bit FLAC if `soundfile` is installed, else as a
    16-bit WAV, which takes about twice the room.

    Args:
        score (`np.ndarray`):
            uint8 `[time, 4, 3]`.
        rate (`float`):
            Steps a second.
        path (`str` or `Path`):
            Ends in .html.
        title (`str`):
            Stands above; any text.
        audio (`np.ndarray`, *optional*):
            Float samples in [-1, 1], one channel.
        audio_rate (`int`, *optional*):
            Samples a second of `audio`.

    Raises:
        `ValueError`: no score, rate, audio or suffix of these kinds.
        `OSError`: the file cannot be written; what was there before stays.
    """
    from jinja2 import Environment

    path = _checked_path(path, (".html",))
    voices = notes_of(score)
    _check_rate(rate)
    if (audio is None) != (audio_rate is None):
        raise ValueError("audio and audio_rate go together; give both or neither")
    seconds = len(score) / rate
    if audio is not None:
        source = _data_uri(audio, audio_rate)
        seconds = max(seconds, len(audio) / audio_rate)
    parts = [
        [(start, end, note.note, *rest) for note in notes for start, end, *rest in note.parts] for notes in voices
    ]
    environment = Environment(autoescape=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    template = environment.from_string(files("seqzoo.data.nes").joinpath("page.html").read_text(encoding="utf-8"))
    page = template.render(
        title=_plain(title) or "NES score",
        duration=clock(seconds),
        voices=list(zip(VOICES, COLOURS)),
        score={"rate": rate, "seconds": seconds, "range": _pitch_range(voices), "voices": parts},
        audio=None if audio is None else source,
    )
    _write(path, page.encode("utf-8"))


def _data_uri(audio: np.ndarray, rate: int) -> str:
    if not isinstance(audio, np.ndarray) or audio.ndim != 1 or audio.dtype.kind != "f" or not len(audio):
        found = f"{audio.dtype} {list(audio.shape)}" if isinstance(audio, np.ndarray) else type(audio).__name__
        raise ValueError(f"audio is a float array of one dimension with at least one sample, this is {found}")
    if not 1 <= rate <= 655_350 or rate != int(rate):
        raise ValueError(f"audio_rate is {rate}, but takes a whole number from 1 to 655,350")
    largest = np.abs(audio).max()
    if not largest <= 1:
        raise ValueError(f"audio lies in [-1, 1], but the largest absolute sample is {largest}; divide it by that")
    samples = np.round(audio * 32767).astype("<i2")
    content = io.BytesIO()
    try:
        import soundfile
    except ImportError:
        kind = "wav"
        with wave.open(content, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(int(rate))
            file.writeframes(samples.tobytes())
    else:
        kind = "flac"
        soundfile.write(content, samples, int(rate), format="FLAC", subtype="PCM_16")
    return f"data:audio/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _check_rate(rate: float) -> None:
    if not 0 < rate <= MAX_RATE:
        raise ValueError(f"rate is {rate} steps a second, but takes more than 0 and at most {MAX_RATE:,}")


def _plain(text: str) -> str:
    """One line of what can be shown: XML allows no control characters, and UTF-8 no lone surrogates."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _checked_path(path: str | Path, suffixes: tuple[str, ...]) -> Path:
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} ends in {path.suffix or 'no suffix'}, but takes {' or '.join(suffixes)}")
    return path


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        if unfinished.is_file():
            unfinished.unlink()
        raise type(error)(f"cannot write {path}: {error.strerror}") from error
