"""NES music: rendering and converting against real time, against a plain machine, and in folders of many files."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from seqzoo.benchmarks.machine import bar, bars_to_markdown, describe, interleaved_medians
from seqzoo.benchmarks.nes_per_sample_machine import per_sample_rows
from seqzoo.data.nes import VGM, ExpressiveScore, RegisterLog, convert, jit, song_from_bytes
from seqzoo.data.nes.register_log import WAITING
from seqzoo.data.nes.synthesizer import MODES, VGM_RATE, render


CLOCK = 1_789_773
SECONDS = 30
REPEATS = 9
FRAME = VGM_RATE // 60
WORST = "shortest-period noise"
NOISE_PERIODS = (1, 5, 9)  # of the drums: places in the chip's table
# Real songs, where they lie beside the checkout.
REAL_SONGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "nesmdb"
PLAIN_SECONDS = 2  # of a song: the plain machine takes its time
SLOW_REPEATS = 3
FEW_AND_MANY = (20, 200)  # files
# Prints the seconds that it took, and the most memory in kB that it and its largest worker ever had.
CONVERT_FOLDER = """
import resource, sys, time
from pathlib import Path
from seqzoo.data.nes.batch import process_files
from seqzoo.data.nes.jobs import Convert
if __name__ == "__main__":
    start = time.perf_counter()
    outcomes, _ = process_files([sys.argv[1]], sys.argv[2], Convert("exprsco"), processes=int(sys.argv[3]))
    assert not [outcome for outcome in outcomes if outcome.error]
    print(time.perf_counter() - start)
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(own.split()[1]) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


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


def as_vgm(times, registers, values, num_samples, clock) -> VGM:
    """A file of register writes."""
    waits = np.diff(times, prepend=0)
    kinds = np.stack([np.full(len(times), WAITING), registers], axis=1).ravel()
    numbers = np.stack([waits, values], axis=1).ravel()
    kinds, numbers = np.append(kinds, WAITING), np.append(numbers, num_samples - times[-1])
    kept = (kinds != WAITING) | (numbers > 0)
    return RegisterLog(clock, kinds[kept].astype(np.int16), numbers[kept].astype(np.int64)).to_vgm()


def beginning(vgm: VGM, seconds: float) -> RegisterLog:
    """The first seconds of a song."""
    log = convert(vgm, "ndr")
    length = min(round(seconds * VGM_RATE), log.num_samples)
    heard = log.write_time < length
    writes = (log.write_time[heard], log.write_register[heard], log.write_value[heard])
    return convert(as_vgm(*writes, length, log.clock), "ndr")


def songs() -> dict[str, bytes]:
    """Content of VGM files: five real songs where there are any, else three made here."""
    real = {path.stem: path.read_bytes() for path in sorted(REAL_SONGS.glob("202*/202*.vgm"))}
    return real or {f"song {seed}": as_vgm(*song(seed, SECONDS)).data for seed in range(3)}


def to_score(data: bytes) -> ExpressiveScore:
    return convert(song_from_bytes(data, ".vgm"), "exprsco", rate=24)


def run(
    progress: Callable[[str], None] = print,
    seconds: int = SECONDS,
    repeats: int = REPEATS,
    plain_seconds: float = PLAIN_SECONDS,
    few_and_many: tuple[int, int] = FEW_AND_MANY,
) -> dict:
    """Median CPU times of rendering and converting, all in turn; wall time and memory of converting folders.

    Raises:
        `ModuleNotFoundError`: numba is not installed.
    """
    if jit.njit is None:
        raise ModuleNotFoundError("the benchmark is of compiled code: pip install 'seqzoo[nes]'")
    rendering, render_bars = _rendering(progress, seconds, repeats)
    converting, convert_bars = _converting(progress, repeats, plain_seconds)
    folders, folder_bars = _folders(progress, min(repeats, SLOW_REPEATS), few_and_many)
    return {
        "machine": describe(),
        "seconds": seconds,
        "speeds": rendering,
        "converting": converting,
        "folders": folders,
        "bars": render_bars + convert_bars + folder_bars,
    }


def _rendering(progress: Callable[[str], None], seconds: int, repeats: int) -> tuple[dict, list[dict]]:
    pieces = {f"song {seed}": song(seed, seconds) for seed in range(3)} | {WORST: worst(seconds)}
    progress(f"rendering: {len(pieces)} pieces of {seconds} s, {repeats} times in each mode")
    contenders = {(name, mode): partial(render, *piece, mode=mode) for name, piece in pieces.items() for mode in MODES}
    times = interleaved_medians(contenders, repeats)
    speeds = {name: {mode: 1000 * seconds / times[name, mode] for mode in MODES} for name in pieces}
    typical = {
        mode: statistics.median(speed[mode] for name, speed in speeds.items() if name != WORST) for mode in MODES
    }
    return speeds, [
        bar("blep, songs, times real time", typical["blep"], ">=", 300),
        bar(f"blep, {WORST}, times real time", speeds[WORST]["blep"], ">=", 65),
        bar("reference, songs, times real time", typical["reference"], ">=", 65),
        bar(f"reference, {WORST}, times real time", speeds[WORST]["reference"], ">=", 65),
    ]


def _converting(progress: Callable[[str], None], repeats: int, plain_seconds: float) -> tuple[dict, list[dict]]:
    """VGM to 24 Hz scores; beside the plain machine, which stops at the rows of every sample, on the songs' start."""
    found = songs()
    starts = {name: beginning(song_from_bytes(data, ".vgm"), plain_seconds) for name, data in found.items()}
    progress(f"converting: {len(found)} songs {repeats} times, {plain_seconds} s of each by the plain machine")
    whole = interleaved_medians({name: partial(to_score, data) for name, data in found.items()}, repeats)
    contenders = {("plain", name): partial(per_sample_rows, log) for name, log in starts.items()}
    contenders |= {("ours", name): partial(to_score, log.to_vgm().data) for name, log in starts.items()}
    parts = interleaved_medians(contenders, min(repeats, SLOW_REPEATS))
    result = {
        name: {
            "seconds": song_from_bytes(data, ".vgm").num_samples / VGM_RATE,
            "milliseconds": whole[name],
            "start_milliseconds": parts["ours", name],
            "plain_milliseconds": parts["plain", name],
        }
        for name, data in found.items()
    }
    real_time = statistics.median(1000 * row["seconds"] / row["milliseconds"] for row in result.values())
    plain = statistics.median(row["plain_milliseconds"] / row["start_milliseconds"] for row in result.values())
    return result, [
        bar("VGM to 24 Hz score, times real time", real_time, ">=", 200),
        bar("VGM to 24 Hz score, plain machine / ours", plain, ">=", 50),
    ]


def _folders(progress: Callable[[str], None], repeats: int, few_and_many: tuple[int, int]) -> tuple[dict, list[dict]]:
    """Wall time of one process and of all cores in turn; memory where there are few files and many."""
    few, many = few_and_many
    cores = os.cpu_count() or 1
    progress(f"folders of {few} and {many} files, with 1 process and {cores}")
    data = max(songs().values(), key=len)
    with TemporaryDirectory() as scratch:
        for count in few_and_many:
            (Path(scratch) / f"{count}").mkdir()
            for number in range(count):
                (Path(scratch) / f"{count}" / f"{number}.vgm").write_bytes(data)

        def measured(count: int, processes: int) -> list[float]:
            command = [sys.executable, "-c", CONVERT_FOLDER, f"{scratch}/{count}", f"{scratch}/out", f"{processes}"]
            return [float(line) for line in subprocess.check_output(command, text=True).split()]

        _, few_memory = measured(few, cores)
        runs = [(measured(many, 1), measured(many, cores)) for _ in range(repeats)]
    alone, together = (statistics.median(run[place][0] for run in runs) for place in (0, 1))
    many_memory = max(run[1][1] for run in runs)
    result = {
        "files": {f"{few}": {"peak_kilobytes": few_memory}, f"{many}": {"peak_kilobytes": many_memory}},
        "processes": {"1": {"seconds": alone}, f"{cores}": {"seconds": together}},
    }
    return result, [
        bar(f"a folder of {many} files, 1 process / {cores}", alone / together, ">=", 0.6 * cores),
        bar(f"peak memory, {many} files / {few}", many_memory / few_memory, "<=", 1.1),
    ]


def to_markdown(result: dict) -> str:
    """Tables of speeds, and the bars."""
    lines = [
        f"{result['seconds']} s of four voices at 44.1 kHz, one core, compiled before. The C player that NES-MDB was "
        "rendered with was measured at 65 to 80 times real time, on another machine.",
        "",
        "| times real time | " + " | ".join(MODES) + " |",
        "|---|" + "---|" * len(MODES),
    ]
    for name, speeds in result["speeds"].items():
        lines.append(f"| {name} | " + " | ".join(f"{speeds[mode]:.0f}" for mode in MODES) + " |")
    lines += [
        "",
        "From the bytes of a VGM to a score at 24 Hz, one core. The plain machine is an object a voice and a step a "
        "sample, in Python; it has the start of each song only, and stops at the rows of every sample.",
        "",
        "| VGM to 24 Hz score | seconds of music | ms | times real time | plain machine / ours |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["converting"].items():
        real_time = 1000 * row["seconds"] / row["milliseconds"]
        plain = row["plain_milliseconds"] / row["start_milliseconds"]
        lines.append(f"| {name} | {row['seconds']:.1f} | {row['milliseconds']:.1f} | {real_time:.0f} | {plain:.0f} |")
    folders = result["folders"]
    took = ", ".join(f"{count}: {entry['seconds']:.1f} s" for count, entry in folders["processes"].items())
    peaks = ", ".join(f"{count}: {entry['peak_kilobytes'] / 1024:.0f} MB" for count, entry in folders["files"].items())
    lines += ["", f"Folders. Time by processes, their start included: {took}. Peak memory by files: {peaks}.", ""]
    return "\n".join(lines) + "\n" + bars_to_markdown(result["bars"])
