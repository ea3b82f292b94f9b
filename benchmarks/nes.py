"""The synthesizer of NES music: times real time on one core, for songs and for the worst noise."""

import statistics
from collections.abc import Callable
from functools import partial

import numpy as np

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe, interleaved_medians
from seqzoo.data.nes import jit
from seqzoo.data.nes.synthesizer import MODES, VGM_RATE, render


CLOCK = 1_789_773
SECONDS = 30
REPEATS = 9
FRAME = VGM_RATE // 60
WORST = "shortest-period noise"
NOISE_PERIODS = (1, 5, 9)  # of the drums: places in the chip's table


def song(seed: int, seconds: int) -> tuple:
    """Register writes of music as drivers play it: every frame a few, notes in every voice, drums, vibrato."""
    rng = np.random.default_rng(seed)
    writes = [(0, 0x15, 0x0F), (0, 0x01, 0x08), (0, 0x05, 0x08), (0, 0x0C, 0x30)]
    for frame in range(seconds * 60):
        time = frame * FRAME
        for base, beat in ((0, 8), (4, 16)):
            age = frame % beat
            if age == 0:
                timer = int(rng.integers(100, 600))
                duty = int(rng.integers(4)) << 6
                writes += [(time, base, duty | 0x3F), (time, base + 2, timer & 0xFF), (time, base + 3, timer >> 8)]
            else:
                writes += [(time, base, duty | 0x30 | max(15 - age, 0)), (time, base + 2, timer + age % 3 & 0xFF)]
        if frame % 12 == 0:
            bass = int(rng.integers(200, 1200))
            writes += [(time, 0x08, 0xFF), (time, 0x0A, bass & 0xFF), (time, 0x0B, bass >> 8)]
        if frame % 15 == 0:
            writes += [(time, 0x0E, int(rng.choice(NOISE_PERIODS))), (time, 0x0F, 0x08)]
        writes += [(time, 0x0C, 0x30 | max(15 - 3 * (frame % 15), 0))]
    return (*np.array(writes).T, seconds * VGM_RATE, CLOCK)


def worst(seconds: int) -> tuple:
    """The noise with its shortest period, 447 thousand bits a second, and nothing else."""
    writes = [(0, 0x15, 0x0F), (0, 0x0C, 0x3F), (0, 0x0E, 0x00), (0, 0x0F, 0x08)]
    return (*np.array(writes).T, seconds * VGM_RATE, CLOCK)


def run(progress: Callable[[str], None] = print, seconds: int = SECONDS, repeats: int = REPEATS) -> dict:
    """Median CPU time of rendering each piece in each mode, all in turn.

    Raises:
        `ModuleNotFoundError`: numba is not installed.
    """
    if jit.njit is None:
        raise ModuleNotFoundError("the benchmark is of the compiled synthesizer: pip install 'seqzoo[nes]'")
    pieces = {f"song {seed}": song(seed, seconds) for seed in range(3)} | {WORST: worst(seconds)}
    progress(f"{len(pieces)} pieces of {seconds} s, {repeats} times in each mode")
    contenders = {(name, mode): partial(render, *piece, mode=mode) for name, piece in pieces.items() for mode in MODES}
    times = interleaved_medians(contenders, repeats)
    speeds = {name: {mode: 1000 * seconds / times[name, mode] for mode in MODES} for name in pieces}
    songs = {mode: statistics.median(speed[mode] for name, speed in speeds.items() if name != WORST) for mode in MODES}
    bars = [
        bar("blep, songs, times real time", songs["blep"], ">=", 300),
        bar(f"blep, {WORST}, times real time", speeds[WORST]["blep"], ">=", 65),
        bar("reference, songs, times real time", songs["reference"], ">=", 65),
        bar(f"reference, {WORST}, times real time", speeds[WORST]["reference"], ">=", 65),
    ]
    return {"machine": describe(), "seconds": seconds, "speeds": speeds, "bars": bars}


def to_markdown(result: dict) -> str:
    """A table of speeds and the bars."""
    lines = [
        f"{result['seconds']} s of four voices at 44.1 kHz, one core, compiled before. The C player that NES-MDB was "
        "rendered with was measured at 65 to 80 times real time, on another machine.",
        "",
        "| times real time | " + " | ".join(MODES) + " |",
        "|---|" + "---|" * len(MODES),
    ]
    for name, speeds in result["speeds"].items():
        lines.append(f"| {name} | " + " | ".join(f"{speeds[mode]:.0f}" for mode in MODES) + " |")
    return "\n".join(lines) + "\n\n" + bars_to_markdown(result["bars"])
