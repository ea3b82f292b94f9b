"""Audio: against what the C player made of the same files, and against what a pulse should be."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vgm_writes import read_writes

import seqzoo.data.nes.synthesizer as synthesizer
from seqzoo.data.nes.synthesizer import VGM_RATE, VOICES, fade_out, render, render_stems, repeat_loop, to_int16


CLOCK = 1_789_773
SONGS = [
    "202_LawnMower_00_01Title",
    "202_LawnMower_01_02Game",
    "202_LawnMower_02_03LevelClear",
    "202_LawnMower_03_04OutofFuel",
    "202_LawnMower_04_05WellDone",
]
FUZZ = [
    "fuzz/fuzz_envlen5_102",
    "fuzz/fuzz_general5_105",
    "fuzz/fuzz_general_ntsc_100",
    "fuzz/fuzz_noise_pal_104",
    "fuzz/fuzz_sweep_101",
    "fuzz/fuzz_triangle_103",
]


def golden(shared_data: Path, name: str):
    folder = shared_data / "nesmdb" / name
    return read_writes(folder / f"{folder.name}.vgm"), folder


def steady(timer: int, duty: int = 2, seconds: int = 2, **options) -> np.ndarray:
    """A pulse that does not change, as loud as can be."""
    writes = [(0x15, 0x0F), (0x01, 0x08), (0x00, duty << 6 | 0x3F), (0x02, timer & 0xFF), (0x03, timer >> 8)]
    registers, values = np.array(writes).T
    return render(np.zeros(5, dtype=int), registers, values, seconds * VGM_RATE, CLOCK, **options)


def log_mel(audio: np.ndarray) -> np.ndarray:
    """Natural logarithms of 128 mel energies + 1e-8 in windows of 2048."""

    def mel(hertz):
        return 2595 * np.log10(1 + hertz / 700)

    frequencies = mel(np.fft.rfftfreq(2048, 1 / VGM_RATE))
    edges = np.linspace(0, mel(VGM_RATE / 2), 130)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    bank = np.maximum(0, np.minimum(rising, falling))
    frames = np.lib.stride_tricks.sliding_window_view(audio - audio.mean(), 2048)[::512] * np.hanning(2048)
    return np.log(np.abs(np.fft.rfft(frames)) ** 2 @ bank.T + 1e-8)


def first_seconds(writes, seconds: float):
    times, registers, values, num_samples, clock = writes
    length = min(round(seconds * VGM_RATE), num_samples)
    heard = times < length
    return times[heard], registers[heard], values[heard], length, clock


@pytest.mark.parametrize("name", SONGS + FUZZ)
def test_waveforms_of_pulses_and_triangle_are_those_of_the_c_player(name, shared_data):
    writes, folder = golden(shared_data, name)
    stems = np.load(folder / "ref_audio_stems.npz")
    for voice in ("p1", "p2", "tr"):
        expected = stems[f"pcm_{voice}"] / 32_768
        if not expected.any():
            continue
        ours = render(*first_seconds(writes.only(voice), 3), mode="reference", voices=[voice])[: len(expected)]
        assert np.corrcoef(ours, expected)[0, 1] >= 0.99  # of the same length and delay
        assert ours.std() == pytest.approx(expected.std(), rel=0.05)


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["202_LawnMower_01_02Game", "202_LawnMower_04_05WellDone", "fuzz/fuzz_noise_pal_104"])
def test_the_noise_has_the_c_players_energy_in_every_band(name, shared_data):
    writes, folder = golden(shared_data, name)
    expected = np.load(folder / "ref_audio_stems.npz")["band_no"]
    edges = np.load(folder / "ref_audio_stats.npz")["edges"]
    audio = render(*first_seconds(writes.only("no"), 12), mode="reference", voices=["no"])
    frames = np.lib.stride_tricks.sliding_window_view(audio, 2048)[::1024][: len(expected)] * np.hanning(2048)
    energy = np.abs(np.fft.rfft(frames) / np.hanning(2048).sum()) ** 2
    frequencies = np.fft.rfftfreq(2048, 1 / VGM_RATE)
    for low, high, theirs in zip(edges, edges[1:], expected[: len(frames)].sum(axis=0)):
        if low > 300:  # below that it is few random numbers
            ours = energy[:, (frequencies >= low) & (frequencies < high)].sum()
            assert 10 * np.log10(ours / theirs) == pytest.approx(0, abs=2)


@pytest.mark.compiled
@pytest.mark.parametrize("mode", ["blep", "reference"])
@pytest.mark.parametrize("name", SONGS)
def test_mixes_are_close_to_the_c_players_in_log_mel_energy(name, mode, shared_data):
    soundfile = pytest.importorskip("soundfile")
    writes, folder = golden(shared_data, name)
    expected, _ = soundfile.read(folder / "ref_audio_first10s.flac")
    ours = render(*first_seconds(writes, 10), mode=mode)[: len(expected)]
    expected = expected[: len(ours)]
    assert np.mean((log_mel(ours) - log_mel(expected)) ** 2) <= (0.5 if mode == "blep" else 0.2)


@pytest.mark.compiled
@pytest.mark.parametrize("name", SONGS)
def test_loudness_of_the_whole_song_is_the_c_players(name, shared_data):
    writes, folder = golden(shared_data, name)
    expected = np.load(folder / "ref_audio_stats.npz")
    audio = render(*writes, mode="reference")
    assert len(audio) == expected["n"] + 1
    assert np.sqrt(np.mean(audio.astype(float) ** 2)) == pytest.approx(expected["rms"], rel=0.01)
    assert audio.mean() == pytest.approx(expected["mean"], rel=0.01)
    assert audio.max() == pytest.approx(expected["peak"] / 32_768, rel=0.03)


def between_harmonics(audio: np.ndarray, fundamental: float) -> float:
    """Decibels of what is between a steady tone's harmonics below 18 kHz, beside the harmonics there."""
    audio = audio[VGM_RATE // 2 : -VGM_RATE // 2].astype(float)
    energy = np.abs(np.fft.rfft((audio - audio.mean()) * np.kaiser(len(audio), 20))) ** 2
    frequencies = np.fft.rfftfreq(len(audio), 1 / VGM_RATE)
    harmonic = abs(frequencies - fundamental * np.round(frequencies / fundamental)) < 20
    below = frequencies < 18_000
    return 10 * np.log10(energy[below & ~harmonic].sum() / energy[below & harmonic].sum())


@pytest.mark.parametrize("duty", [0, 1, 2])
@pytest.mark.parametrize("timer", [8, 15, 20, 31, 63, 100, 126, 253, 507, 1000])
def test_nothing_is_heard_between_the_harmonics_of_a_pulse(timer, duty):
    fundamental = CLOCK / 16 / (timer + 1)
    assert between_harmonics(steady(timer, duty), fundamental) <= -60
    averaged = between_harmonics(steady(timer, duty, mode="reference"), fundamental)
    assert averaged >= -50  # what is measured is there to be measured


@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 48_000, 96_000])
def test_any_sample_rate(sample_rate):
    timer = 253
    audio = steady(timer, sample_rate=sample_rate)
    assert len(audio) == 2 * sample_rate
    assert audio.dtype == np.float32
    windowed = (audio - audio.mean()) * np.hanning(len(audio))
    peak = np.abs(np.fft.rfft(windowed)).argmax() / 2
    assert peak == pytest.approx(CLOCK / 16 / (timer + 1), abs=1)
    assert audio[sample_rate:].mean() == pytest.approx(95.88 / (8128 / 15 + 100) / 2, rel=0.01)


def busy_writes():
    """All voices at once, and a song that ends between two frames."""
    writes = [(0, 0x15, 0x0F)]
    for base, first in ((0, 0xBF), (4, 0x7A), (8, 0xFF), (12, 0x3C)):
        writes += [(200 * base, base, first), (200 * base, base + 1, 0x08)]
        writes += [(200 * base, base + 2, 0x60 + base), (200 * base, base + 3, 0x08)]
    writes += [(9000, 0x0E, 0x83), (10_000, 0x02, 0x22), (12_000, 0x00, 0x35)]
    return (*np.array(writes).T, 15_001, CLOCK)


@pytest.mark.parametrize("mode", ["blep", "reference"])
@pytest.mark.parametrize("filters", [None, "nes", "famicom"])
def test_linear_stems_sum_to_the_mix_and_others_do_not(mode, filters):
    stems = render_stems(*busy_writes(), mode=mode, filters=filters, linear=True)
    assert list(stems) == ["mix", *VOICES]
    np.testing.assert_allclose(sum(stems[voice] for voice in VOICES), stems["mix"], atol=2e-6)
    stems = render_stems(*busy_writes(), mode=mode, filters=filters)
    assert np.abs(sum(stems[voice] for voice in VOICES) - stems["mix"]).max() > 0.01
    for voice in VOICES:
        alone = render(*busy_writes(), mode=mode, filters=filters, voices=[voice])
        np.testing.assert_array_equal(alone, stems[voice])
        assert alone.std() > 0.001


@pytest.mark.parametrize("mode", ["blep", "reference"])
@pytest.mark.parametrize("name", ["202_LawnMower_02_03LevelClear", "fuzz/fuzz_noise_pal_104"])
def test_a_song_in_small_parts_is_the_same_song(name, mode, shared_data, monkeypatch):
    writes, _ = golden(shared_data, name)
    whole = render(*writes, mode=mode, filters="nes")
    monkeypatch.setattr(synthesizer, "_PART", 1000)
    assert np.array_equal(render(*writes, mode=mode, filters="nes"), whole)


def test_filters():
    impulse = np.zeros(VGM_RATE)
    impulse[0] = 1

    def decibels(hertz):
        return 20 * np.log10(np.abs(np.fft.rfft(filtered))[hertz])

    for frequency in (37, 90, 440):
        filtered = impulse.copy()
        warped = np.tan(np.pi * frequency / VGM_RATE)
        synthesizer._one_pole(filtered, 1 / (1 + warped), -1 / (1 + warped), (1 - warped) / (1 + warped), np.zeros(2))
        assert decibels(frequency) == pytest.approx(-3.01, abs=0.05)
        assert decibels(frequency // 10) == pytest.approx(-20, abs=2)
        assert decibels(10_000) == pytest.approx(0, abs=0.05)


def test_filters_take_out_the_mean_and_the_treble():
    plain, nes, famicom = (steady(253, filters=filters) for filters in (None, "nes", "famicom"))
    assert plain.min() > -0.02
    for filtered in (nes, famicom):
        assert abs(filtered[VGM_RATE:].mean()) < 1e-4

    def decibels(audio, harmonic):
        spectrum = np.abs(np.fft.rfft(audio[VGM_RATE // 2 :] * np.hanning(len(audio) - VGM_RATE // 2)))
        place = round(harmonic * CLOCK / 16 / 254 * 1.5)
        return 20 * np.log10(spectrum[place - 3 : place + 4].max())

    for harmonic, hertz in ((1, 440.4), (31, 13_652)):
        high_passes = sum(-10 * np.log10(1 + (cut / hertz) ** 2) for cut in (90, 440))
        low_pass = -3 if harmonic == 31 else 0
        change = decibels(nes, harmonic) - decibels(plain, harmonic)
        assert change == pytest.approx(high_passes + low_pass, abs=0.4)


def test_a_low_pass_above_half_the_rate_is_left_out():
    low_rate = steady(253, sample_rate=16_000, filters="nes")
    assert np.isfinite(low_rate).all()
    assert abs(low_rate[16_000:].mean()) < 1e-4


def test_a_loop_is_repeated():
    times, registers, values, num_samples, clock = busy_writes()
    start = 9000
    again = repeat_loop(times, registers, values, num_samples, loop_start=start, loops=3, tail=0.05)
    length = num_samples - start
    assert again[3] == num_samples + 2 * length + 2205
    in_loop = times[times >= start]
    expected = [*times, *(in_loop + length), *(in_loop + 2 * length), *(in_loop + 3 * length)]
    np.testing.assert_array_equal(again[0], [time for time in expected if time < again[3]])
    assert np.all(np.diff(again[0]) >= 0)
    kept = again[0] >= start + length
    np.testing.assert_array_equal(again[1][kept][:3], registers[times >= start])
    assert render(*again, clock).shape == (again[3],)
    once = repeat_loop(times, registers, values, num_samples, loop_start=start, loops=1)
    for array, same in zip(once, (times, registers, values, num_samples)):
        np.testing.assert_array_equal(array, same)
    with pytest.raises(ValueError, match="starts at sample 15001 of 15001"):
        repeat_loop(times, registers, values, num_samples, loop_start=num_samples, loops=2)
    with pytest.raises(ValueError, match="loops is 0"):
        repeat_loop(times, registers, values, num_samples, loop_start=0, loops=0)


def test_fading():
    audio = np.ones(1000, dtype=np.float32)
    faded = fade_out(audio, 0.01, 44_100)
    assert audio.min() == 1
    assert (faded[:559] == 1).all()
    assert faded[-1] == 0
    assert faded[-221] == pytest.approx(0.5, abs=0.01)
    assert (fade_out(audio, 0, 44_100) == audio).all()
    assert fade_out(audio, 9, 44_100)[500] == pytest.approx(0.5, abs=0.01)


def test_16_bits():
    audio = np.array([-1.5, -1, 0, 0.5, 1, 1.00002e-4], dtype=np.float32)
    np.testing.assert_array_equal(to_int16(audio), [-32_768, -32_768, 0, 16_384, 32_767, 3])


def test_nothing_at_all():
    empty = np.zeros(0, dtype=np.int64)
    assert not render(empty, empty, empty, 100, CLOCK).any()
    assert render(empty, empty, empty, 0, CLOCK).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clock": 21_477_272}, "a clock of 21477272 Hz is neither NTSC"),
        ({"mode": "fast"}, "there is no mode 'fast'; choose from blep, reference"),
        ({"filters": "snes"}, "there are no filters 'snes'; choose from nes, famicom"),
        ({"voices": ["p3"]}, "there is no voice 'p3'; choose from p1, p2, tr, no"),
        ({"times": np.array([1, 0])}, "times go back"),
        ({"times": np.array([-1, 0])}, "times go back or are negative"),
        ({"times": np.array([0.5, 1.0])}, "rows of integers, not float64"),
        ({"times": np.array([1])}, "1 times, 2 registers and 2 values"),
        ({"registers": np.array([0, 0x18])}, "a register is outside 0x00-0x17"),
        ({"values": np.array([0, 256])}, "a value is outside 0x00-0xFF"),
        ({"num_samples": -1}, "-1 samples"),
        ({"sample_rate": 0}, "at a rate of 0"),
    ],
)
def test_what_is_refused(change, message):
    pair = np.array([0, 1])
    arguments = {"times": pair, "registers": pair, "values": pair, "num_samples": 10, "clock": CLOCK} | change
    with pytest.raises(ValueError, match=message):
        render(**arguments)


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
if sys.argv[1] == "without":
    sys.modules["numba"] = None
from seqzoo.data.nes.synthesizer import render_stems
arrays = np.load(sys.argv[2])
arguments = [arrays[f"arr_{index}"] for index in range(3)]
for mode in ("blep", "reference"):
    stems = render_stems(*arguments, 15_001, 1_789_773, mode=mode, filters="nes")
    np.savez(f"{sys.argv[3]}_{mode}.npz", **stems)
"""


@pytest.mark.parametrize("how", ["without", "disabled"])
def test_without_numba_and_without_its_compiler_the_same_comes_out(how, tmp_path):
    writes = busy_writes()
    np.savez(tmp_path / "writes.npz", *writes[:3])
    environment = os.environ | ({"NUMBA_DISABLE_JIT": "1"} if how == "disabled" else {})
    command = [sys.executable, "-c", PROGRAM, how, tmp_path / "writes.npz", tmp_path / "out"]
    subprocess.run(command, check=True, env=environment)
    for mode in ("blep", "reference"):
        expected = render_stems(*writes, mode=mode, filters="nes")
        with np.load(tmp_path / f"out_{mode}.npz") as stems:
            for name, audio in expected.items():
                # The compiler may fuse a product and a sum.
                np.testing.assert_allclose(stems[name], audio, atol=1e-6)
