"""The chip without its sound: which timer, volume and duty each voice has at every sample, from the register writes.

A model of the chip in steps of a sample, as the data set's scores were made with: the frame counter counts time in
floating point, and a reset of it takes effect a sample later. Between register writes and ticks of the frame counter
nothing changes, so only the samples that have one are looked at; ticks are found beforehand, since they depend on
nothing but the last reset. The sample channel is ignored.
"""

from functools import lru_cache

import numpy as np

from seqzoo.data.nes.function_log import FUNCTION, FUNCTIONS, FunctionLog
from seqzoo.data.nes.jit import compiled
from seqzoo.data.nes.register_log import WAITING, RegisterLog
from seqzoo.data.nes.runs import SAMPLE_RATE, Runs
from seqzoo.data.nes.vgm import NTSC_CLOCK


VOICES = ("p1", "p2", "tr", "no")
TRIANGLE, NOISE = 2, 3
NEVER = 2**62
# Seconds between ticks of the frame counter, with four and with five steps.
_NTSC_STEPS = (1 / 240, 1 / 192)
_PAL_STEPS = (1 / 200, 1 / 160)

LENGTHS = np.array(
    [
        [10, 254, 20, 2, 40, 4, 80, 6, 160, 8, 60, 10, 14, 12, 26, 14],
        [12, 16, 24, 18, 48, 20, 96, 22, 192, 24, 72, 26, 16, 28, 32, 30],
    ]
).ravel()


def _numbers(name: str) -> np.ndarray:
    """The function of this name of each voice; -1 where it has none."""
    return np.array([FUNCTION.get(f"{voice}_{name}", -1) for voice in VOICES])


_DU, _LH, _CV, _VO = _numbers("du"), _numbers("lh"), _numbers("cv"), _numbers("vo")
_SE, _SP, _SN, _SS = _numbers("se"), _numbers("sp"), _numbers("sn"), _numbers("ss")
_LR = FUNCTION["tr_lr"]
_NL, _NP = FUNCTION["no_nl"], FUNCTION["no_np"]
_MODE = FUNCTION["fc_mo"]

# What setting a function does, beside setting it.
_PLAIN, _LENGTH, _ENABLE, _SWEEP, _TIMER_LOW, _TIMER_HIGH = range(6)
_KINDS = {"ll": _LENGTH, "se": _SWEEP, "tl": _TIMER_LOW, "th": _TIMER_HIGH}
_KIND = np.array(
    [_ENABLE if name.startswith("ch_") else _KINDS.get(name[3:], _PLAIN) for name, *_ in FUNCTIONS], dtype=np.int64
)
_VOICE = np.array(
    [
        VOICES.index(voice) if (voice := name[3:] if name.startswith("ch_") else name[:2]) in VOICES else -1
        for name, *_ in FUNCTIONS
    ]
)


def run_machine(log: RegisterLog) -> Runs:
    """Rows `[sample, voice, (timer high, timer low, volume, timbre)]` of a log.

    All is 0 but the timbre where a voice is silent. The timer of the noise is 16 minus its period; the triangle has
    no volume. Writes after the last wait are lost.
    """
    functions = FunctionLog.from_register_log(log)
    used = (functions.function != WAITING) & ((_VOICE[functions.function] >= 0) | (functions.function == _MODE))
    num_samples = functions.num_samples
    steps = _NTSC_STEPS if abs(log.clock - NTSC_CLOCK) <= 2 else _PAL_STEPS
    enough = max(num_samples + 2, SAMPLE_RATE)
    enough = 1 << (enough - 1).bit_length()  # few distinct lengths: songs share their ticks
    start, value = _run(
        functions.time[used],
        functions.function[used].astype(np.int64),
        functions.value[used],
        num_samples,
        _ticks(steps[0], enough),
        _ticks(steps[1], enough),
    )
    return Runs(start, value, num_samples)


@lru_cache(maxsize=8)
def _ticks(step: float, samples: int) -> np.ndarray:
    """int64 `[tick]`: how many samples after a reset the frame counter ticks."""
    return _count_ticks(step, samples, np.zeros(int(samples / SAMPLE_RATE / step) + 2, dtype=np.int64))


@compiled
def _count_ticks(step, samples, ticks):
    """The sum of sample periods in floating point decides: four ticks are 735 samples, but for its error."""
    count = 0
    time = 0.0
    period = 1 / 44100
    for sample in range(1, samples):
        time += period
        if time > step:
            time -= step
            ticks[count] = sample
            count += 1
    return ticks[:count]


@compiled
def _run(times, functions, values, num_samples, ticks_of_four, ticks_of_five):
    """Starts and rows of the runs. Order within a sample: frame counter, envelopes, lengths and sweeps, writes."""
    state = np.zeros(len(_KIND), dtype=np.int64)  # the value of every function
    enabled = np.ones(4, dtype=np.int64)
    length = np.zeros(4, dtype=np.int64)
    restart = np.zeros(4, dtype=np.int64)  # of the envelope; of the linear counter of the triangle
    level = np.zeros(4, dtype=np.int64)
    divider = np.zeros(4, dtype=np.int64)
    timer = np.zeros(4, dtype=np.int64)
    target = np.zeros(2, dtype=np.int64)
    sweep_divider = np.ones(2, dtype=np.int64)
    sweep_restart = np.zeros(2, dtype=np.int64)
    linear = 0

    ticks = ticks_of_four
    reset = -1
    tick = 0
    forced = NEVER
    write = 0
    row = np.zeros(16, dtype=np.int64)
    starts = np.zeros(1024, dtype=np.int64)
    rows = np.zeros((1024, 16), dtype=np.uint8)
    count = 1 if num_samples > 0 else 0

    while True:
        next_tick = reset + ticks[tick] if tick < len(ticks) else NEVER
        next_write = times[write] if write < len(times) else NEVER
        sample = min(next_tick, next_write, forced)
        if sample >= num_samples:
            break
        quarter = sample == next_tick or sample == forced
        half = (sample == next_tick and tick % 2 == 1) or sample == forced
        if sample == next_tick:
            tick += 1
        if sample == forced:
            forced = NEVER

        if quarter:
            linear = state[_LR] if restart[TRIANGLE] else linear - 1
            if not state[_LH[TRIANGLE]]:
                restart[TRIANGLE] = 0
            for voice in (0, 1, 3):
                if restart[voice]:
                    restart[voice] = 0
                    level[voice] = 15
                    divider[voice] = 0
                    continue
                divider[voice] += 1
                if divider[voice] > state[_VO[voice]]:
                    divider[voice] = 0
                    if level[voice] > 0:
                        level[voice] -= 1
                    elif state[_LH[voice]]:
                        level[voice] = 15

        if half:
            for voice in range(4):
                if not state[_LH[voice]]:
                    length[voice] -= 1
            for voice in range(2):
                if not state[_SE[voice]]:
                    continue
                negate = state[_SN[voice]]
                shift = state[_SS[voice]]
                sweep_divider[voice] -= 1
                if sweep_divider[voice] <= 0:
                    # Negated, P1 subtracts one more than P2.
                    target[voice] = timer[voice] + ((timer[voice] >> shift) ^ -negate) + negate * voice
                    if timer[voice] >= 8 and target[voice] < 0x800 and shift > 0:
                        timer[voice] = max(target[voice], 0)
                    sweep_divider[voice] = state[_SP[voice]] + 1
                if sweep_restart[voice]:
                    sweep_divider[voice] = state[_SP[voice]] + 1
                    sweep_restart[voice] = 0

        while write < len(times) and times[write] == sample:
            function = functions[write]
            value = values[write]
            write += 1
            state[function] = value
            if function == _MODE:
                ticks = ticks_of_five if value else ticks_of_four
                reset = sample
                tick = 0
                forced = sample + 1
                continue
            voice = _VOICE[function]
            kind = _KIND[function]
            if kind == _LENGTH:
                if enabled[voice]:
                    length[voice] = LENGTHS[value]
                restart[voice] = 1
            elif kind == _ENABLE:
                enabled[voice] = value
                if not value:
                    length[voice] = 0
            elif kind == _TIMER_LOW:
                timer[voice] = (timer[voice] & 0x700) | value
            elif kind == _TIMER_HIGH:
                timer[voice] = (timer[voice] & 0xFF) | (value << 8)
            elif kind == _SWEEP:
                sweep_restart[voice] = 1
            if voice < 2 and kind >= _SWEEP:
                # The sweep is switched before its period, sign and shift are set: those are still the old ones.
                negate = state[_SN[voice]]
                target[voice] = timer[voice] + ((timer[voice] >> state[_SS[voice]]) ^ -negate) + negate * voice

        row[:] = 0
        for voice in range(2):
            volume = state[_VO[voice]] if state[_CV[voice]] else level[voice]
            row[4 * voice + 3] = state[_DU[voice]]
            if length[voice] > 0 and volume > 0 and timer[voice] >= 8 and target[voice] < 0x800:
                row[4 * voice] = timer[voice] >> 8
                row[4 * voice + 1] = timer[voice] & 0xFF
                row[4 * voice + 2] = volume
        if length[TRIANGLE] > 0 and linear > 0:
            row[4 * TRIANGLE] = timer[TRIANGLE] >> 8
            row[4 * TRIANGLE + 1] = timer[TRIANGLE] & 0xFF
        volume = state[_VO[NOISE]] if state[_CV[NOISE]] else level[NOISE]
        row[4 * NOISE + 3] = state[_NL]
        if length[NOISE] > 0 and volume > 0:
            row[4 * NOISE + 1] = 16 - state[_NP]
            row[4 * NOISE + 2] = volume

        if (rows[count - 1] != row).any():
            if sample > 0:
                if count == len(starts):
                    starts = np.concatenate((starts, np.zeros_like(starts)))
                    rows = np.concatenate((rows, np.zeros_like(rows)))
                starts[count] = sample
                count += 1
            rows[count - 1] = row

    return starts[:count], rows[:count].copy().reshape(count, 4, 4)
