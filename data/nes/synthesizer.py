"""Audio from register writes as plain arrays: times in samples at 44.1 kHz (the unit of VGM files), registers, values.

Two modes:

    blep       Band-limited steps, mixed as in the machine. What a pulse has between its harmonics below 18 kHz (at
               44.1 kHz) is 60 dB or more below them.
    reference  Every sample is the mean over its time, and all is as in the C player that NES-MDB was rendered with:
               triangle and noise at three quarters of their level, levels cut to 1/8192, sweeps that stand still
               while disabled, and writes that act one sample early, less the four cycles that it counts by.

Either way 1.0 is the machine at its loudest, sample channel included, so that nothing clips. Its output is never
negative; `filters` takes the mean out as its circuits do.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from seqzoo.data.nes.apu import NOISE_PERIODS, RESTARTS, TR, add_cells, control, pulses, triangle_and_noise
from seqzoo.data.nes.jit import compiled


VGM_RATE = 44_100
VOICES = ("p1", "p2", "tr", "no")
MODES = ("blep", "reference")
# Cut-off frequencies in Hz of first-order filters: high-passes, then low-passes.
FILTERS = {"nes": ((90.0, 440.0), (14_000.0,)), "famicom": ((37.0,), ())}

_PAL_CLOCK = 1_662_607
_NTSC_CLOCKS = (1_789_772, 1_789_773)
# Cycles of a step of the frame counter, NTSC and PAL. The machine's steps differ by some cycles from each other; these
# are the C player's, and keep to its time.
_FRAME_STEP = {False: 7458, True: 8314}
# Of the band-limited step: places between two samples, samples on either side, the shape of the Kaiser window, and the
# cut-off as a share of half the rate. At 44.1 kHz it loses 0.4 dB at 18 kHz; what would be mirrored to below that is
# what is above 26.1 kHz, and of that nothing is left.
_PHASES = 64
_HALF_WIDTH = 9
_KAISER_BETA = 6.0
_CUTOFF = 0.96
# A sample's cells for the steps of the noise: those of box averaging at this multiple of the rate.
_NOISE_CELLS = 4
# Samples that are worked on at a time.
_PART = 2**17


def render(
    times: np.ndarray,
    registers: np.ndarray,
    values: np.ndarray,
    num_samples: int,
    clock: int,
    *,
    sample_rate: int = VGM_RATE,
    mode: str = "blep",
    voices: Iterable[str] = VOICES,
    linear: bool = False,
    filters: str | None = None,
) -> np.ndarray:
    """The mix of some voices, or of all of them.

    Args:
        times (`np.ndarray`):
            Of each write, in samples at 44.1 kHz, ascending.
        registers, values (`np.ndarray`):
            What is written where; registers 0x00-0x17 stand for 0x4000-0x4017.
        num_samples (`int`):
            Length at 44.1 kHz; writes at or behind it are not heard.
        clock (`int`):
            Of the CPU in Hz: 1789773 or 1789772 (NTSC) or 1662607 (PAL).
        sample_rate (`int`):
            Of the output.
        mode (`str`):
            `blep` or `reference`.
        voices (`Iterable[str]`):
            Of `p1`, `p2`, `tr` and `no`, those that are heard.
        linear (`bool`):
            Mix by the usual straight-line approximation of the machine's mixers: then the voices sum to the mix.
        filters (`str`, *optional*):
            `nes` or `famicom`: what their circuits behind the chip do. They are linear.

    Returns:
        float32 `[round(num_samples * sample_rate / 44100)]` within [-1, 1].

    Raises:
        `ValueError`: the writes are no such arrays, or an option has no such value.
    """
    sound = _Sound(times, registers, values, num_samples, clock, sample_rate, mode, linear, filters)
    return sound.mix(voices)


def render_stems(
    times: np.ndarray, registers: np.ndarray, values: np.ndarray, num_samples: int, clock: int, **options
) -> dict[str, np.ndarray]:
    """`mix` and each of [`VOICES`] by itself, in one call; arguments are those of [`render`], without `voices`."""
    defaults = {"sample_rate": VGM_RATE, "mode": "blep", "linear": False, "filters": None}
    sound = _Sound(times, registers, values, num_samples, clock, **(defaults | options))
    return {"mix": sound.mix(VOICES)} | {voice: sound.mix((voice,)) for voice in VOICES}


def repeat_loop(
    times: np.ndarray,
    registers: np.ndarray,
    values: np.ndarray,
    num_samples: int,
    *,
    loop_start: int,
    loops: int,
    tail: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Play the part from `loop_start` (in samples at 44.1 kHz) to the end `loops` times, and on for `tail` seconds.

    The tail is there to be faded out. What is written at `loop_start` itself is written again in every loop.

    Returns:
        The first four arguments of [`render`].
    """
    length = num_samples - loop_start
    if loops < 1 or tail < 0:
        raise ValueError(f"loops is {loops} and tail is {tail}; there is 1 loop at least, and no negative time")
    if not 0 <= loop_start < num_samples:
        raise ValueError(f"the loop starts at sample {loop_start} of {num_samples}; it has to start within them")
    total = num_samples + (loops - 1) * length + round(tail * VGM_RATE)
    passes = -(-(total - loop_start) // length)
    inside = (times >= loop_start) & (times < num_samples)
    before = times < loop_start
    shifts = np.arange(passes, dtype=np.int64)[:, None] * length
    times = np.concatenate([times[before], (times[inside] + shifts).ravel()])
    registers, values = (
        np.concatenate([column[before], np.tile(column[inside], passes)]) for column in (registers, values)
    )
    heard = times < total
    return times[heard], registers[heard], values[heard], total


def fade_out(audio: np.ndarray, seconds: float, sample_rate: int) -> np.ndarray:
    """Let the last `seconds` go to silence in a straight line; all of it, if it is shorter."""
    samples = min(round(seconds * sample_rate), len(audio))
    faded = audio.copy()
    if samples:
        faded[-samples:] *= np.linspace(1, 0, samples, dtype=audio.dtype)
    return faded


def to_int16(audio: np.ndarray) -> np.ndarray:
    """16-bit samples, rounded; what is beyond [-1, 1] is cut off."""
    return np.clip(np.round(audio * 32_768.0), -32_768, 32_767).astype(np.int16)


class _Sound:
    """Register writes that were played once against the frame counter, to be mixed from any of the voices."""

    def __init__(self, times, registers, values, num_samples, clock, sample_rate, mode, linear, filters):
        times, registers, values = (_integers(column) for column in (times, registers, values))
        if not len(times) == len(registers) == len(values):
            raise ValueError(f"{len(times)} times, {len(registers)} registers and {len(values)} values are no writes")
        if len(times) and (times[0] < 0 or np.any(np.diff(times) < 0)):
            raise ValueError("times go back or are negative; writes have to be in their order")
        for name, column, most in (("register", registers, 0x17), ("value", values, 0xFF)):
            if len(column) and (column.min() < 0 or column.max() > most):
                raise ValueError(f"a {name} is outside 0x00-0x{most:02X}")
        if clock != _PAL_CLOCK and clock not in _NTSC_CLOCKS:
            raise ValueError(f"a clock of {clock} Hz is neither NTSC (1789773, 1789772) nor PAL ({_PAL_CLOCK})")
        if mode not in MODES:
            raise ValueError(f"there is no mode {mode!r}; choose from {', '.join(MODES)}")
        if filters is not None and filters not in FILTERS:
            raise ValueError(f"there are no filters {filters!r}; choose from {', '.join(FILTERS)}, or None")
        if num_samples < 0 or sample_rate < 1:
            raise ValueError(f"{num_samples} samples at a rate of {sample_rate} cannot be rendered")
        pal = clock == _PAL_CLOCK
        reference = mode == "reference"
        cycles = times * clock // VGM_RATE
        if reference:
            cycles = np.maximum((times - 1) * clock // VGM_RATE + 4, 0)
        end = num_samples * clock // VGM_RATE
        self.score = control(cycles, registers, values, end, _FRAME_STEP[pal], NOISE_PERIODS[int(pal)], reference)
        self.kernel = _box() if reference else _band_limited_step()
        self.noise_cells = 1 if reference else _NOISE_CELLS
        self.mixers = _mixers(linear, reference)
        self.num_samples = round(num_samples * sample_rate / VGM_RATE)
        self.sample_rate = sample_rate
        self.scale = sample_rate / clock
        self.filters = filters

    def mix(self, names: Iterable[str]) -> np.ndarray:
        names = tuple(names)
        for name in names:
            if name not in VOICES:
                raise ValueError(f"there is no voice {name!r}; choose from {', '.join(VOICES)}")
        voices = np.array([int(name in names) for name in VOICES])
        part = _Part(self, voices)
        audio = np.empty(self.num_samples, dtype=np.float32)
        delay = self.kernel.shape[1] // 2 - 1
        filters = self._filters()
        for start in range(0, self.num_samples + delay, _PART):
            block = part.next(start)[delay if start == 0 else 0 :]
            for state, shares in filters:
                _one_pole(block, *shares, state)
            place = max(start - delay, 0)
            block = block[: self.num_samples - place]
            np.clip(block, -1, 1, out=audio[place : place + len(block)], casting="same_kind")
        return audio

    def changes(self, start: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """The rows of [`control`] in the part of the song that begins with this sample; does the first one go on?"""
        changes, controls = self.score
        first, last = (math.ceil(sample / self.scale) for sample in (start, start + _PART))
        row = max(np.searchsorted(changes[:-1], first, side="right") - 1, 0)
        stop = np.searchsorted(changes[:-1], last)
        cut = np.minimum(np.maximum(changes[row : stop + 1], first), last)
        inside = controls[row:stop]
        goes_on = bool(changes[row] < first)
        if goes_on and len(inside):
            inside = inside.copy()
            inside[0, RESTARTS] = 0
        return cut, inside, goes_on

    def _filters(self) -> list[tuple[np.ndarray, tuple[float, float, float]]]:
        """State and shares of each [`_one_pole`]."""
        high_passes, low_passes = FILTERS[self.filters] if self.filters else ((), ())
        filters = []
        for frequency in high_passes:
            warped = np.tan(np.pi * frequency / self.sample_rate)
            filters.append((np.zeros(2), (1 / (1 + warped), -1 / (1 + warped), (1 - warped) / (1 + warped))))
        for frequency in low_passes:
            if frequency < self.sample_rate / 2:
                warped = np.tan(np.pi * frequency / self.sample_rate)
                share = warped / (1 + warped)
                filters.append((np.zeros(2), (share, share, (1 - warped) / (1 + warped))))
        return filters


class _Part:
    """The sum of some voices, a part of the song after the other, so that a long one costs little memory."""

    def __init__(self, sound: _Sound, voices: np.ndarray):
        self.sound = sound
        self.voices = voices
        self.taps = sound.kernel.shape[1] + 2
        self.steps = np.zeros(_PART + self.taps)  # differences, those that begin in this part and end in the next too
        self.cells = np.zeros((_PART + 2, sound.noise_cells)) if voices[TR:].any() else None
        self.level = 0.0
        self.pulses = np.array([[0, 0], [1, 1], [1, 1]]), np.array([sound.mixers[0][0]])
        self.others = np.array([0, 1, 1, 1, 0]), np.array([sound.mixers[1][0, 0]])

    def next(self, start: int) -> np.ndarray:
        """float64 `[_PART]` from sample `start`, to be called for one after the other."""
        sound, steps = self.sound, self.steps
        *rows, goes_on = sound.changes(start)
        common = (*rows, self.voices)
        place = (sound.scale, sound.kernel, steps, start)
        if self.voices[:TR].any():
            pulses(*common, sound.mixers[0], *place, *self.pulses)
        if self.cells is not None:
            self.cells[:] = 0
            cells = self.cells.reshape(-1), sound.noise_cells
            triangle_and_noise(*common, sound.mixers[1], *place, *self.others, goes_on, *cells)
            add_cells(self.cells, sound.kernel, steps)
        steps[0] += self.level
        block = np.cumsum(steps[:_PART])
        self.level = block[-1]
        steps[: self.taps] = steps[_PART:]
        steps[self.taps :] = 0
        return block


def _integers(column: np.ndarray) -> np.ndarray:
    column = np.asarray(column)
    if column.ndim != 1 or (len(column) and not np.issubdtype(column.dtype, np.integer)):
        raise ValueError(f"writes are rows of integers, not {column.dtype} of shape {column.shape}")
    return column.astype(np.int64)


def _mixers(linear: bool, reference: bool) -> tuple[np.ndarray, np.ndarray]:
    """The output by the sum of both pulses' levels, and by the levels of triangle and noise."""
    pulse = np.arange(31.0)
    triangle, noise = np.mgrid[:16.0, :16.0]
    if linear:
        pulse_mixer, other_mixer = 0.00752 * pulse, 0.00851 * triangle + 0.00494 * noise
    else:
        with np.errstate(divide="ignore"):  # nothing that is divided by 0 is heard
            pulse_mixer = 95.88 / (8128 / pulse + 100)
            other_mixer = 159.79 / (1 / (triangle / 8227 + noise / 12_241) + 100)
    if reference:
        other_mixer = 0.75 * other_mixer
        if not linear:
            pulse_mixer, other_mixer = (np.floor(8192 * mixer) / 8192 for mixer in (pulse_mixer, other_mixer))
    return pulse_mixer, other_mixer


def _box() -> np.ndarray:
    """A step whose every sample is the mean over its time."""
    return np.array([[1.0, 0.0], [0.0, 1.0]])


@lru_cache(maxsize=1)
def _band_limited_step() -> np.ndarray:
    """A step without what is above half the sample rate, by its place between two samples, as differences."""
    fine = 16 * _PHASES
    time = np.arange(-_HALF_WIDTH * fine, _HALF_WIDTH * fine + 1) / fine
    impulse = np.sinc(_CUTOFF * time) * np.kaiser(len(time), _KAISER_BETA)
    rise = np.concatenate([[0.0], np.cumsum(impulse[:-1] + impulse[1:])])
    rise /= rise[-1]
    # A sample stands for the middle of its time, as the mean does.
    taps = 2 * _HALF_WIDTH + 2
    places = np.arange(_PHASES + 1)[:, None] / _PHASES
    edges = np.arange(taps + 1) - _HALF_WIDTH - 0.5 - places
    return np.diff(np.interp(edges, time, rise), axis=1)


@compiled
def _one_pole(audio, now, before, kept, state):
    """Filter in place: shares of this sample, of the one before, and of the last output, both of which `state` has."""
    last, value = state[0], state[1]
    for n in range(len(audio)):
        value = now * audio[n] + before * last + kept * value
        last = audio[n]
        audio[n] = value
    state[0], state[1] = last, value
