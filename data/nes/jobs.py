"""What [`seqzoo.data.nes.batch`] does with every song: convert, render or draw it.

A job says how the names of its files end, and writes them for a song; each file whole or not at all.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from seqzoo.data.nes.audio_file import write_audio
from seqzoo.data.nes.conversion import Options, convert
from seqzoo.data.nes.drawing import draw_piano_roll, write_page
from seqzoo.data.nes.errors import NESFormatError
from seqzoo.data.nes.files import FORMATS, Song, write_song
from seqzoo.data.nes.register_log import RegisterLog
from seqzoo.data.nes.rendering import Rendering
from seqzoo.data.nes.synthesizer import VOICES
from seqzoo.data.nes.vgm import VGM


class Job(Protocol):
    """What is done with every song."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The ends of the names of the files that are written for a song."""

    def __call__(self, song: Song, *paths: Path) -> None:
        """Write them; `paths` are in the order of the suffixes."""


@dataclass(frozen=True)
class Convert:
    """Into another format.

    Args:
        to (`str`):
            The format.
        options (`dict[str, Any]`):
            Of [`seqzoo.data.nes.conversion.convert`].

    Raises:
        `ValueError`: an option has no such value.
    """

    to: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        Options(self.to, **self.options)

    @property
    def suffixes(self) -> tuple[str, ...]:
        return (FORMATS[self.to].suffix,)

    def __call__(self, song: Song, *paths: Path) -> None:
        write_song(convert(song, self.to, **self.options), *paths)


@dataclass(frozen=True)
class Render:
    """Into audio files.

    Args:
        rendering (`Rendering`):
            How.
        kind (`str`):
            `wav` or `flac`.
        stems (`bool`):
            Also a file for each voice: `<name>.p1.wav` and so on.
    """

    rendering: Rendering
    kind: Literal["wav", "flac"] = "wav"
    stems: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        return tuple(f"{part}.{self.kind}" for part in ("", *(f".{voice}" for voice in VOICES if self.stems)))

    def __call__(self, song: Song, *paths: Path) -> None:
        audio = self.rendering.stems(song).values() if self.stems else [self.rendering.mix(song)]
        for path, part in zip(paths, audio, strict=True):
            write_audio(path, part, self.rendering.sample_rate)


@dataclass(frozen=True)
class Plot:
    """Into pictures.

    Args:
        kind (`str`):
            `png` or `svg`.
        page (`Rendering`, *optional*):
            Also write an HTML page that plays the song like this.
        options (`dict[str, Any]`):
            Of [`seqzoo.data.nes.conversion.convert`], for the score that is drawn.

    Raises:
        `ValueError`: an option has no such value.
    """

    kind: Literal["png", "svg"] = "png"
    page: Rendering | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        Options("exprsco", **self.options)

    @property
    def suffixes(self) -> tuple[str, ...]:
        return (f".{self.kind}", ".html")[: 2 if self.page else 1]

    def __call__(self, song: Song, *paths: Path) -> None:
        score = convert(song, "exprsco", **self.options)
        title = paths[0].stem
        with suppress(NESFormatError):  # a tag may be broken
            title = (isinstance(song, VGM | RegisterLog) and song.tags and song.tags.title) or title
        draw_piano_roll(score.score, score.rate, paths[0], title=title)
        if self.page:
            audio = self.page.mix(song)
            write_page(score.score, score.rate, paths[1], title=title, audio=audio, audio_rate=self.page.sample_rate)
