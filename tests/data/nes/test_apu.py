"""The sound chip: what emulator authors test for, each by a few register writes."""

import numpy as np
import pytest

from seqzoo.data.nes.apu import (
    COLUMNS,
    DUTY_WAVES,
    LENGTHS,
    LEVEL,
    NO_LEVEL,
    NOISE_PERIODS,
    P1,
    P2,
    PERIOD,
    RESTART,
    TR_RUNNING,
    control,
)
from seqzoo.data.nes.synthesizer import render


CLOCK = 1_789_773
STEP = 7458  # cycles of a step of the frame counter
VOICES_ON = (0, 0x15, 0x0F)
FOREVER = 0x30  # length counter and envelope off


def controls(*writes, end, as_player=False):
    """Cycles and controls after writes of (cycle, register, value)."""
    cycles, registers, values = np.array(writes, dtype=np.int64).T
    return control(cycles, registers, values, end, STEP, NOISE_PERIODS[0], as_player)


def history(column, *writes, end, as_player=False):
    """[(cycle, value)] of one column, where it changes."""
    changes, rows = controls(*writes, end=end, as_player=as_player)
    entries = []
    for cycle, value in zip(changes.tolist(), rows[:, column].tolist()):
        if not entries or entries[-1][1] != value:
            entries.append((cycle, value))
    return entries


def wave(*writes, samples, sample_rate=CLOCK, **options):
    """The output of the reference at one sample a cycle: every level exactly as long as it lasts."""
    times, registers, values = np.array(writes, dtype=np.int64).T
    num_samples = -(-samples * 44_100 // sample_rate)
    options = {"mode": "reference", "sample_rate": sample_rate} | options
    return render(times, registers, values, num_samples, CLOCK, **options)[:samples]


def pulse_writes(base, timer, first=FOREVER | 0x0F, sweep=0x08, length=1):
    return [
        (0, base, first),
        (0, base + 1, sweep),
        (0, base + 2, timer & 0xFF),
        (0, base + 3, length << 3 | timer >> 8),
    ]


@pytest.mark.parametrize("duty", range(4))
def test_a_pulse_plays_its_duty_from_the_start_and_a_period_is_16_times_its_timer_plus_one(duty):
    timer = 9
    played = wave(VOICES_ON, *pulse_writes(0, timer, duty << 6 | FOREVER | 0x0F), samples=3 * 160 + 10)
    high = np.flatnonzero(np.diff((played > 0).astype(int)))
    once = np.repeat(DUTY_WAVES[duty], timer + 1)
    assert once.mean() == [1 / 8, 1 / 4, 1 / 2, 3 / 4][duty]
    edges = np.flatnonzero(np.diff(np.tile(once, 3)))
    shift = high[-1] - edges[-1]
    assert abs(shift) <= timer + 1  # the half-step that was under way
    np.testing.assert_array_equal(high[-4:] - shift, edges[-4:])


def test_the_triangle_walks_32_levels():
    writes = [VOICES_ON, (0, 0x08, 0xFF), (0, 0x0A, 49), (0, 0x0B, 0x08)]
    played = wave(*writes, samples=20_000)
    levels = np.unique(played)
    assert len(levels) == 16
    steps = np.flatnonzero(np.diff(played))[:60]
    assert set(np.diff(steps)) == {50, 100}  # its highest and lowest level are held for two steps
    assert steps[30] - steps[0] == 32 * 50


@pytest.mark.parametrize(("timer", "sweep", "sounds"), [
    (0x3FF, 0x00, True),  # target 0x7FE
    (0x400, 0x00, False),  # target 0x800, though the sweep is off
    (0x400, 0x08, True),  # downwards nothing is out of reach
    (0x400, 0x01, True),
    (0x7FF, 0x01, False),
    (0x7FF, 0x07, False),  # 0x7FF + 0xF
    (0x7F0, 0x07, True),
    (7, 0x08, False),  # too short
    (8, 0x08, True),
])  # fmt: skip
def test_a_sweep_mutes_where_its_target_is_out_of_reach_even_while_disabled(timer, sweep, sounds):
    for voice in (P1, P2):
        entries = history(4 * voice + LEVEL, VOICES_ON, *pulse_writes(4 * voice, timer, sweep=sweep), end=STEP)
        assert (entries[-1][1] > 0) == sounds


def test_downwards_the_first_pulse_goes_one_further():
    for voice, expected in ((P1, 0x200 - 0x80 - 1), (P2, 0x200 - 0x80)):
        writes = [VOICES_ON, *pulse_writes(4 * voice, 0x200, sweep=0x80 | 0x08 | 2)]
        assert history(4 * voice + PERIOD, *writes, end=2 * STEP + 1)[-1] == (2 * STEP, expected + 1)


@pytest.mark.parametrize("period", [0, 1, 7])
def test_a_sweep_moves_every_half_frame_of_its_period_until_it_mutes(period):
    writes = [VOICES_ON, *pulse_writes(0, 0x100, sweep=0x80 | period << 4 | 1)]
    clocks = [2 * STEP * (1 + moved * (period + 1)) for moved in range(5)]
    moves = history(PERIOD, *writes, end=2 * clocks[-1])
    # The last one's target, 0xB64, is out of reach.
    timers = [0x180, 0x240, 0x360, 0x510, 0x798]
    assert moves[-5:] == [(clock, timer + 1) for clock, timer in zip(clocks, timers)]
    assert history(LEVEL, *writes, end=2 * clocks[-1])[-1] == (clocks[-1], 0)


def test_a_sweep_with_a_shift_of_0_moves_nothing():
    assert len(history(PERIOD, VOICES_ON, *pulse_writes(0, 0x100, sweep=0x80 | 0x08), end=20 * STEP)) <= 3
    assert history(PERIOD, VOICES_ON, *pulse_writes(0, 0x100, sweep=0x80), end=20 * STEP)[-1][1] == 0x101


def test_the_divider_of_a_disabled_sweep_runs_in_the_machine_and_stands_still_in_the_player():
    writes = [VOICES_ON, *pulse_writes(0, 0x100, sweep=0x71), (5 * STEP, 0x01, 0x81)]
    assert history(PERIOD, *writes, end=6 * STEP + 1, as_player=True)[-1] == (6 * STEP, 0x181)
    assert history(PERIOD, *writes, end=8 * STEP + 1)[-1] == (8 * STEP, 0x181)


@pytest.mark.parametrize("index", range(32))
def test_the_length_counter_ends_every_voice_after_so_many_half_frames(index):
    writes = [VOICES_ON]
    for base in (0, 4, 0x0C):
        writes += [(0, base, 0x1F), (0, base + 1, 0x08), (0, base + 2, 0x80), (0, base + 3, index << 3)]
    writes += [(0, 0x08, 0x7F), (0, 0x0A, 0x80), (0, 0x0B, index << 3)]
    end = STEP * 2 * int(LENGTHS[index]) + 1
    for column in (LEVEL, 4 + LEVEL, NO_LEVEL):
        assert history(column, *writes, end=end)[-1] == (end - 1, 0)
    if end < 127 * STEP:  # the linear counter would be first
        assert history(TR_RUNNING, *writes, end=end)[-1] == (end - 1, 0)


def test_length_counters_of_voices_that_are_off_or_halted():
    on = (2 * STEP + 5, 0x15, 0x0F)
    off = (0, 0x15, 0x0E)
    writes = pulse_writes(0, 0x80)
    assert history(LEVEL, off, *writes, on, end=9 * STEP)[-1] == (0, 0)  # it was not loaded while off
    assert history(LEVEL, VOICES_ON, *writes, (99, 0x15, 0x0E), on, end=9 * STEP)[-1] == (99, 0)  # and is cleared
    assert history(LEVEL, VOICES_ON, *writes, end=2000 * STEP)[-1][1] == 15  # halted
    assert history(LEVEL, *writes, end=STEP)[-1][1] == 15  # all are on at the start


@pytest.mark.parametrize("reload", [0, 1, 5, 127])
def test_the_linear_counter_ends_the_triangle_after_so_many_quarter_frames(reload):
    writes = [VOICES_ON, (0, 0x08, reload), (0, 0x0A, 0x80), (0, 0x0B, 0x08)]
    entries = history(TR_RUNNING, *writes, end=STEP * (reload + 2))
    expected = [(0, 0), (STEP, 1), (STEP * (reload + 1), 0)]
    assert entries == (expected if reload else expected[:1])
    halted = [VOICES_ON, (0, 0x08, 0x80 | reload), *writes[2:]]
    assert history(TR_RUNNING, *halted, end=1000 * STEP)[-1] == ((STEP, 1) if reload else (0, 0))


def test_a_stopped_triangle_keeps_its_level():
    writes = [VOICES_ON, (0, 0x08, 0xFF), (0, 0x0A, 0x80), (0, 0x0B, 0x08), (700, 0x15, 0x00)]
    played = wave(*writes, samples=60_000)
    stop = 699 * CLOCK // 44_100  # writes act one sample early in the reference
    assert len(np.unique(played[:stop])) == 16
    assert np.ptp(played[stop + 1 :]) == 0
    assert played[-1] == played[stop] > 0


def test_a_triangle_without_a_timer_stands_still():
    writes = [VOICES_ON, (0, 0x08, 0xFF), (0, 0x0A, 0), (0, 0x0B, 0x08)]
    assert np.ptp(wave(*writes, samples=20_000)) == 0


def test_writes_to_the_frame_counter():
    """Seen by a length counter of 2, which two half frames end."""
    writes = [VOICES_ON, *pulse_writes(0, 0x80, first=0x1F, length=3)]
    assert LENGTHS[3] == 2

    def silent(*frame_writes):
        return history(LEVEL, *writes, *frame_writes, end=20 * STEP)[-1][0]

    assert silent() == 4 * STEP
    assert silent((100, 0x17, 0x00)) == 100 + 4 * STEP  # starts over
    assert silent((100, 0x17, 0x40)) == 100 + 4 * STEP  # whether or not there are interrupts
    assert silent((100, 0x17, 0x80)) == 100 + 2 * STEP  # clocks at once, then at its second step
    assert silent((100, 0x17, 0x80), (200, 0x17, 0xC0)) == 201
    assert silent((100, 0x17, 0x80), (100, 0x17, 0x80)) == 101  # none is lost
    assert silent((100, 0x17, 0x80), (100, 0x17, 0x00)) == 100 + 2 * STEP
    assert silent((3 * STEP, 0x17, 0x00)) == 3 * STEP + 2 * STEP


def test_five_steps_have_four_quarter_frames():
    writes = [VOICES_ON, (0, 0x17, 0x80), (0, 0x0C, 0x00), (0, 0x0E, 0), (0, 0x0F, 0x08)]
    falls = [cycle for cycle, _ in history(NO_LEVEL, *writes, end=11 * STEP)[1:]]
    assert falls == [1] + [STEP * k for k in (1, 2, 3, 5, 6, 7, 8, 10)]
    writes[1] = (0, 0x17, 0x00)
    falls = [cycle for cycle, _ in history(NO_LEVEL, *writes, end=9 * STEP)[1:]]
    assert falls == [STEP * k for k in range(1, 9)]


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("period", [0, 3, 15])
def test_envelopes(period, loop):
    writes = [VOICES_ON, *pulse_writes(0, 0x80, first=(0x20 if loop else 0) | period)]
    entries = history(LEVEL, *writes, end=STEP * (17 * (period + 1) + 1) + 1)
    assert [level for _, level in entries[1:17]] == list(range(15, -1, -1))
    assert entries[1][0] == STEP
    assert set(np.diff([cycle for cycle, _ in entries[1:17]])) == {STEP * (period + 1)}
    assert entries[17:] == (
        [(STEP * (16 * (period + 1) + 1), 15), (STEP * (17 * (period + 1) + 1), 14)] if loop else []
    )


@pytest.mark.parametrize(("mode", "length", "primes"), [(0x00, 32_767, (7, 31, 151)), (0x80, 93, (3, 31))])
def test_the_noise_repeats_after_its_length_and_not_before(mode, length, primes):
    writes = [VOICES_ON, (0, 0x0C, FOREVER | 0x0F), (0, 0x0E, mode), (0, 0x0F, 0x08)]
    bits = wave(*writes, samples=4 * length * 2 + 400)[100::4] > 0  # a bit takes 4 cycles
    np.testing.assert_array_equal(bits[:length], bits[length : 2 * length])
    for prime in primes:
        assert not np.array_equal(bits[:length], bits[length // prime :][:length])


@pytest.mark.parametrize("index", range(16))
def test_noise_periods(index):
    writes = [VOICES_ON, (0, 0x0C, FOREVER | 0x0F), (0, 0x0E, index), (0, 0x0F, 0x08)]
    period = int(NOISE_PERIODS[0, index])
    played = wave(*writes, samples=period * 100)
    flips = np.flatnonzero(np.diff(played))
    assert np.gcd.reduce(np.diff(flips)) == period


@pytest.mark.parametrize("mode", ["blep", "reference"])
def test_mixer_levels(mode):
    """Of tones and noise that are so slow that the output comes to rest at every level."""
    share = 0.75 if mode == "reference" else 1.0
    exact = 1 / 8192 if mode == "reference" else 1e-6

    def levels(*writes, samples=20_000):
        played = wave(VOICES_ON, *writes, samples=samples, mode=mode)
        return np.unique(played.round(6))[[0, -1]] if mode == "reference" else np.quantile(played, [0.1, 0.6])

    for volume in range(1, 16):
        low, high = levels(*pulse_writes(0, 400, 3 << 6 | FOREVER | volume))
        assert low == pytest.approx(0, abs=exact)
        assert high == pytest.approx(95.88 / (8128 / volume + 100), abs=exact)
        both = wave(
            VOICES_ON,
            *pulse_writes(0, 2000, 0xC0 | FOREVER | volume),
            *pulse_writes(4, 2000, 0xC0 | FOREVER | 15),
            samples=40_000,
            mode=mode,
        )
        assert np.median(both) == pytest.approx(95.88 / (8128 / (volume + 15) + 100), abs=exact)
        noise = wave(VOICES_ON, (0, 0x0C, FOREVER | volume), (0, 0x0E, 15), (0, 0x0F, 8), samples=90_000, mode=mode)
        expected = share * 159.79 / (1 / (volume / 12_241) + 100)
        assert min(abs(noise[2000::4068] - expected)) == pytest.approx(0, abs=exact)
    held = wave(VOICES_ON, (0, 0x08, 0xFF), (0, 0x0A, 0xFF), (0, 0x0B, 0x0F), samples=2048 * 60, mode=mode)
    for level in range(16):
        expected = share * 159.79 / (1 / (level / 8227) + 100) if level else 0
        assert min(abs(held - expected)) == pytest.approx(0, abs=exact)


def test_writes_elsewhere_do_nothing():
    writes = [VOICES_ON, *pulse_writes(0, 0x80)]
    more = [(9, register, 0xFF) for register in (0x09, 0x0D, 0x10, 0x11, 0x12, 0x13, 0x14, 0x16)]
    for column in set(range(COLUMNS)) - {4 * P1 + RESTART, 4 * P2 + RESTART}:
        assert history(column, *writes, *more, end=9 * STEP) == history(column, *writes, end=9 * STEP)
