"""Audio from a song of any format."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqzoo.data.nes.conversion import Options, convert
from seqzoo.data.nes.errors import DEFAULT_LIMITS, Limits
from seqzoo.data.nes.files import Song
from seqzoo.data.nes.midi import MIDI
from seqzoo.data.nes.scores import LowNotes, Rate
from seqzoo.data.nes.synthesizer import FILTERS, MODES, VGM_RATE, fade_out, render, render_stems, repeat_loop
from seqzoo.data.nes.vgm import NTSC_CLOCK, VGM


# A MIDI file is played in steps as long as those of the chip's frame counter: no driver's changes are closer.
MIDI_RATE = 240.0
_SAMPLE_RATES = (8_000, 192_000)


@dataclass(frozen=True)
class Rendering:
    """How songs become audio.

    Args:
        sample_rate (`int`):
            Of the audio, 8,000 to 192,000.
        mode (`str`):
            `blep` or `reference`, see [`seqzoo.data.nes.synthesizer`].
        linear (`bool`):
            Mix in a straight line, so that the voices sum to the mix.
        filters (`str`, *optional*):
            `nes` or `famicom`: what is behind the chip.
        loops (`int`):
            How often a song plays the part that its VGM marks as its loop. Without such a mark it plays once.
        fade (`float`):
            Seconds that a song with a loop goes on for after that, while it fades out.
        rate (`float` or `"adaptive"`, *optional*):
            Play the score of this many steps a second instead of the song itself.
        clock (`int`):
            Of the CPU that scores are played by.
        low_notes (`str`):
            `reject`, `clip` or `wrap`: notes that are too low for a pulse.
        limits (`Limits`):
            Loops that make a song longer are refused.

    Raises:
        `ValueError`: an option has no such value.
    """

    sample_rate: int = VGM_RATE
    mode: Literal["blep", "reference"] = "blep"
    linear: bool = False
    filters: Literal["nes", "famicom"] | None = None
    loops: int = 1
    fade: float = 0.0
    rate: Rate | None = None
    clock: int = NTSC_CLOCK
    low_notes: LowNotes = "reject"
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self):
        lowest, highest = _SAMPLE_RATES
        if not lowest <= self.sample_rate <= highest:
            raise ValueError(f"the sample rate is {self.sample_rate}, but takes {lowest} to {highest}")
        if self.loops < 1:
            raise ValueError(f"loops is {self.loops}, but a song plays once (1) at least")
        if not 0 <= self.fade <= self.limits.max_seconds:
            raise ValueError(f"fade is {self.fade} seconds, but takes 0 to {self.limits.max_seconds} (max_seconds)")
        Options("ndr", self.rate, self.clock, self.low_notes)
        for name, choices in (("mode", MODES), ("filters", (None, *FILTERS))):
            if getattr(self, name) not in choices:
                choose = ", ".join(map(str, choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}, but takes one of {choose}")

    def mix(self, song: Song) -> np.ndarray:
        """float32 `[samples]` in [-1, 1]: all voices.

        Raises:
            `NESFormatError`: the song is broken, or its loops are too long.
        """
        *writes, loop = self._writes(song)
        return self._faded(render(*writes, **self._options()), loop)

    def stems(self, song: Song) -> dict[str, np.ndarray]:
        """The same as `mix`, and each voice by itself as `p1`, `p2`, `tr` and `no`."""
        *writes, loop = self._writes(song)
        stems = render_stems(*writes, **self._options())
        return {name: self._faded(audio, loop) for name, audio in stems.items()}

    def _options(self) -> dict:
        return {name: getattr(self, name) for name in ("sample_rate", "mode", "linear", "filters")}

    def _faded(self, audio: np.ndarray, loop: int | None) -> np.ndarray:
        return audio if loop is None else fade_out(audio, self.fade, self.sample_rate)

    def _writes(self, song: Song) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int, int | None]:
        """The first five arguments of [`render`], loops written out, and where the loop starts."""
        rate = MIDI_RATE if self.rate is None and isinstance(song, MIDI) else self.rate
        log = convert(song, "ndr", rate=rate, clock=self.clock, low_notes=self.low_notes)
        writes = (log.write_time, log.write_register, log.write_value, log.num_samples)
        loop = song.loop_start if isinstance(song, VGM) else None
        if loop is not None:
            once = log.num_samples - loop
            self.limits.check_samples(log.num_samples + (self.loops - 1) * once + round(self.fade * VGM_RATE))
            writes = repeat_loop(*writes, loop_start=loop, loops=self.loops, tail=self.fade)
        return *writes, log.clock, loop
