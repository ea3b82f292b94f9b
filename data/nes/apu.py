"""The sound chip of the NES: register writes become, cycle by cycle, what each of its four voices plays.

Two passes, both of plain arrays, compiled where numba is installed:

    control      register writes and the frame counter -> rows of what the oscillators are set to, one for each change
    pulses, triangle_and_noise      those rows -> steps of the output, each added at its exact place between samples

The chip's output is the sum of two non-linear mixers, one of both pulses and one of triangle and noise, so that the
two oscillator passes need not know of each other. A step goes from one output level of a mixer to the next; what shape
it has in the output is up to the kernel that it is drawn with (see `synthesizer`).

Time is counted in CPU cycles. Registers are numbered 0x00-0x17 as in VGM files, for 0x4000-0x4017 of the machine. The
sample channel (0x10-0x13) is skipped: its writes are ignored and its level stays 0.
"""

import numpy as np

from seqzoo.data.nes.jit import compiled


# Rows of a state, and what is in its columns.
P1, P2, TR, NO = range(4)
(
    TIMER,  # the noise's: a place in the table of its periods
    DUTY,  # the noise's: its mode
    VOLUME,  # the triangle's: what its linear counter is loaded with
    CONSTANT,  # the volume is VOLUME, not the envelope's
    HALT,  # the length counter stands still, the envelope starts over
    ENABLED,
    LENGTH,
    START,  # the envelope restarts; the triangle's: its linear counter is loaded
    DECAY,  # the envelope's level; the triangle's: its linear counter
    DIVIDER,
    SWEEP_ENABLED,
    SWEEP_PERIOD,
    SWEEP_NEGATE,
    SWEEP_SHIFT,
    SWEEP_DIVIDER,
    SWEEP_RELOAD,
) = range(16)

# Columns of a row of controls: those of a pulse once for each, then the others'.
PERIOD, LEVEL, SHAPE, RESTART = range(4)
TR_PERIOD, TR_RUNNING, NO_PERIOD, NO_LEVEL, NO_MODE = range(8, 13)
COLUMNS = 13
RESTARTS = [RESTART, 4 + RESTART]  # of both pulses

FAR = np.int64(2**62)  # a cycle that never comes

# fmt: off
LENGTHS = np.array([
    10, 254, 20, 2, 40, 4, 80, 6, 160, 8, 60, 10, 14, 12, 26, 14,
    12, 16, 24, 18, 48, 20, 96, 22, 192, 24, 72, 26, 16, 28, 32, 30,
])
NOISE_PERIODS = np.array([
    [4, 8, 16, 32, 64, 96, 128, 160, 202, 254, 380, 508, 762, 1016, 2034, 4068],  # NTSC
    [4, 8, 14, 30, 60, 88, 118, 148, 188, 236, 354, 472, 708, 944, 1890, 3778],  # PAL
])
# Whether a pulse is high, by duty and half-step; a half-step takes timer + 1 cycles, sixteen are a period.
DUTY_WAVES = np.repeat([[0, 1, 0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0, 0],
                        [1, 0, 0, 1, 1, 1, 1, 1]], 2, axis=1)
# fmt: on
# After how many half-steps it is no longer what it is.
DUTY_RUNS = np.array(
    [[next(k for k in range(1, 17) if wave[(i + k) % 16] != wave[i]) for i in range(16)] for wave in DUTY_WAVES]
)


@compiled
def sweep_target(state, voice):
    """Where the sweep would take a pulse's timer; beyond 0x7FF it mutes the pulse, even while it is disabled."""
    timer = state[voice, TIMER]
    change = timer >> state[voice, SWEEP_SHIFT]
    if state[voice, SWEEP_NEGATE]:
        return timer - change - (1 if voice == P1 else 0)  # the first pulse adds the one's complement
    return timer + change


@compiled
def write_register(state, register, value):
    """Registers of the four voices and their switches; the frame counter's is the caller's."""
    if register == 0x15:
        for voice in range(4):
            state[voice, ENABLED] = value >> voice & 1
            if not state[voice, ENABLED]:
                state[voice, LENGTH] = 0
        return
    if register > 0x0F:
        return
    voice = register >> 2
    field = register & 3
    if field == 0:
        if voice == TR:
            state[voice, HALT] = value >> 7
            state[voice, VOLUME] = value & 0x7F
        else:
            state[voice, HALT] = value >> 5 & 1
            state[voice, CONSTANT] = value >> 4 & 1
            state[voice, VOLUME] = value & 0x0F
            if voice != NO:
                state[voice, DUTY] = value >> 6
    elif field == 1:
        if voice <= P2:
            state[voice, SWEEP_ENABLED] = value >> 7
            state[voice, SWEEP_PERIOD] = value >> 4 & 7
            state[voice, SWEEP_NEGATE] = value >> 3 & 1
            state[voice, SWEEP_SHIFT] = value & 7
            state[voice, SWEEP_RELOAD] = 1
    elif field == 2:
        if voice == NO:
            state[voice, TIMER] = value & 0x0F
            state[voice, DUTY] = value >> 7
        else:
            state[voice, TIMER] = (state[voice, TIMER] & 0x700) | value
    else:
        if voice != NO:
            state[voice, TIMER] = (state[voice, TIMER] & 0xFF) | (value & 7) << 8
        if state[voice, ENABLED]:
            state[voice, LENGTH] = LENGTHS[value >> 3]
        state[voice, START] = 1


@compiled
def quarter_frame(state):
    """Clock the envelopes and the triangle's linear counter."""
    for voice in range(4):
        if voice == TR:
            if state[TR, START]:
                state[TR, DECAY] = state[TR, VOLUME]
            elif state[TR, DECAY]:
                state[TR, DECAY] -= 1
            if not state[TR, HALT]:
                state[TR, START] = 0
        elif state[voice, START]:
            state[voice, START] = 0
            state[voice, DECAY] = 15
            state[voice, DIVIDER] = state[voice, VOLUME]
        elif state[voice, DIVIDER]:
            state[voice, DIVIDER] -= 1
        else:
            state[voice, DIVIDER] = state[voice, VOLUME]
            if state[voice, DECAY]:
                state[voice, DECAY] -= 1
            elif state[voice, HALT]:
                state[voice, DECAY] = 15


@compiled
def half_frame(state, as_player):
    """Clock the length counters and the sweeps; `as_player` as for [`control`]."""
    for voice in range(4):
        if state[voice, LENGTH] and not state[voice, HALT]:
            state[voice, LENGTH] -= 1
    for voice in range(2):
        if as_player and not state[voice, SWEEP_ENABLED]:
            continue
        due = state[voice, SWEEP_DIVIDER] == 0
        if due and state[voice, SWEEP_ENABLED] and state[voice, SWEEP_SHIFT] and state[voice, TIMER] >= 8:
            target = sweep_target(state, voice)
            if target <= 0x7FF:
                state[voice, TIMER] = max(target, 0)
        if due or state[voice, SWEEP_RELOAD]:
            state[voice, SWEEP_DIVIDER] = state[voice, SWEEP_PERIOD]
            state[voice, SWEEP_RELOAD] = 0
        else:
            state[voice, SWEEP_DIVIDER] -= 1


@compiled
def set_controls(state, restart, noise_periods, row):
    """What the oscillators are set to in this state."""
    for voice in range(2):
        base = 4 * voice
        level = state[voice, VOLUME] if state[voice, CONSTANT] else state[voice, DECAY]
        muted = state[voice, LENGTH] == 0 or state[voice, TIMER] < 8 or sweep_target(state, voice) > 0x7FF
        row[base + PERIOD] = state[voice, TIMER] + 1
        row[base + LEVEL] = 0 if muted else level
        row[base + SHAPE] = state[voice, DUTY]
        row[base + RESTART] = 1 if voice == restart else 0
    row[TR_PERIOD] = state[TR, TIMER] + 1
    # With a timer of 0 it would play 56 kHz; heard is no more than a jump of its mean.
    row[TR_RUNNING] = 1 if state[TR, LENGTH] and state[TR, DECAY] and state[TR, TIMER] else 0
    level = state[NO, VOLUME] if state[NO, CONSTANT] else state[NO, DECAY]
    row[NO_PERIOD] = noise_periods[state[NO, TIMER]]
    row[NO_LEVEL] = level if state[NO, LENGTH] else 0
    row[NO_MODE] = state[NO, DUTY]


@compiled
def control(cycles, registers, values, end, frame_step, noise_periods, as_player):
    """Play register writes against the frame counter.

    Args:
        cycles, registers, values: The writes in their order, all int64.
        end: The cycle to stop at.
        frame_step: Cycles of a step of the frame counter. It clocks quarter frames at all steps and half frames at
            every other, and in the mode of five steps does nothing at the fourth.
        noise_periods: A row of `NOISE_PERIODS`.
        as_player: A sweep that is disabled stands still, as in the C player; in the machine its divider runs on.

    Returns:
        Cycles at which something changes, int64 `[rows + 1]`, the last being `end`, and controls, int32
        `[rows, COLUMNS]`. Writes within one cycle have a row each: what they do to the oscillators adds up.
    """
    most = len(cycles) + end // frame_step + 2
    changes = np.zeros(most + 1, dtype=np.int64)
    controls = np.zeros((most, COLUMNS), dtype=np.int32)
    state = np.zeros((4, 16), dtype=np.int64)
    for voice in range(4):
        state[voice, ENABLED] = 1
    rows = write = mode = step = 0
    frame_start = np.int64(0)
    while True:
        tick = frame_start + max(frame_step * (step + 1 + (mode and step == 3)), 1)
        written = write < len(cycles) and cycles[write] < tick
        now = cycles[write] if written else tick
        if now >= end:
            break
        restart = -1  # the pulse that goes back to the start of its period
        if not written:
            quarter_frame(state)
            if step % 2:
                half_frame(state, as_player)
            step += 1
            if step == 4:
                step = 0
                frame_start = now
        else:
            register, value = registers[write], values[write]
            write += 1
            if register == 0x17:
                if step < 0:
                    quarter_frame(state)
                    half_frame(state, as_player)
                mode = value >> 7
                step = -1 if mode else 0  # the mode of five steps clocks both in the next cycle
                frame_start = now
            else:
                write_register(state, register, value)
                if register == 0x03 or register == 0x07:
                    restart = register >> 2
        changes[rows] = now
        set_controls(state, restart, noise_periods, controls[rows])
        changed = rows == 0 or restart >= 0
        for column in range(COLUMNS):
            changed = changed or controls[rows, column] != controls[rows - 1, column]
        if changed:
            rows += 1
    changes[rows] = end
    return changes[: rows + 1], controls[:rows]


@compiled
def add_step(output, kernel, position, height):
    """Add a step that happens between two samples to the differences of the output."""
    first = int(position)
    place = (position - first) * (len(kernel) - 1)
    phase = int(place)
    later = height * (place - phase)
    sooner = height - later
    taps = kernel.shape[1]
    for k in range(taps):
        output[first + k] += sooner * kernel[phase, k] + later * kernel[phase + 1, k]


@compiled
def pulses(changes, controls, voices, mixer, scale, kernel, output, offset, state, heard):
    """Add the steps of the pulses.

    It can be called for one part of a song after the other.

    A half-step that is under way when the timer changes takes the new time, and is over at once if that has passed:
    so it is in the C player, and the phase of low notes depends on it.

    Args:
        changes, controls: As [`control`] returns them.
        voices: int64 `[4]`, 1 for those that are heard.
        mixer: The output for every sum of both levels, float64 `[31]`.
        scale: Samples a cycle.
        kernel: float64 `[phases + 1, taps]`: a step's differences by its place between two samples.
        output: float64; a step at sample `offset + n` begins in place n.
        state, heard: What goes on from part to part, changed in place: int64 `[3, 2]`, at first 0, 1, 1, and float64
            `[1]`, at first the output without a voice.
    """
    phase, period = state[0], state[1]
    due = state[2]  # the cycle of the next half-step
    edge = np.zeros(2, dtype=np.int64)  # and of the next one at which the wave changes
    duty = np.zeros(2, dtype=np.int64)
    high = np.zeros(2, dtype=np.int64)  # the level when the wave is high
    level = np.zeros(2, dtype=np.int64)
    for row in range(len(controls)):
        now, end = changes[row], changes[row + 1]
        for voice in range(2):
            base = 4 * voice
            steps = max((now - due[voice]) // period[voice] + 1, 0)
            due[voice] += steps * period[voice]
            phase[voice] = 0 if controls[row, base + RESTART] else (phase[voice] + steps) & 15
            due[voice] = max(due[voice] + controls[row, base + PERIOD] - period[voice], now + 1)
            period[voice] = controls[row, base + PERIOD]
            duty[voice] = controls[row, base + SHAPE]
            high[voice] = controls[row, base + LEVEL] * voices[voice]
            level[voice] = high[voice] * DUTY_WAVES[duty[voice], phase[voice]]
            edge[voice] = FAR
            if high[voice]:
                edge[voice] = due[voice] + (DUTY_RUNS[duty[voice], phase[voice]] - 1) * period[voice]
        while now < end:
            mixed = mixer[level[0] + level[1]]
            if mixed != heard[0]:
                add_step(output, kernel, now * scale - offset, mixed - heard[0])
                heard[0] = mixed
            voice = 0 if edge[0] <= edge[1] else 1
            now = edge[voice]
            if now < end:
                phase[voice] = (phase[voice] + DUTY_RUNS[duty[voice], phase[voice]]) & 15
                due[voice] = now + period[voice]
                edge[voice] = now + DUTY_RUNS[duty[voice], phase[voice]] * period[voice]
                level[voice] = high[voice] - level[voice]


@compiled
def triangle_and_noise(
    changes,
    controls,
    voices,
    mixer,
    scale,
    kernel,
    output,
    offset,
    state,
    heard_before,
    goes_on,
    cells,
    count,
):
    """Add the steps of triangle and noise.

    A triangle that is stopped keeps its level, and what was left of its step. The noise stands still where it is not
    heard: nobody can tell where its bits went on.

    Args:
        changes, controls, voices, scale, kernel, output, offset: As for [`pulses`].
        mixer: The output by the levels of triangle and noise, float64 `[16, 16]`.
        state, heard_before: As for [`pulses`]: int64 `[5]`, at first 0, 1, 1, 1, 0.
        goes_on: The first row is the rest of one of the part before: nothing changes there.
        cells: float64, for the steps of the noise alone, of which there are too many to draw each: parts of a sample.
            A step is shared by the two cells between whose beginnings it is. See [`add_cells`].
        count: Cells of a sample.
    """
    phase, period, left = int(state[0]), int(state[1]), int(state[2])  # of the triangle's step
    bits, next_bit = int(state[3]), int(state[4])
    heard = heard_before[0]
    cell_scale = scale * count
    first_cell = offset * count
    levels = np.zeros(2)  # the output by the noise's last bit
    for row in range(len(controls)):
        now, end = changes[row], changes[row + 1]
        least = 0 if row == 0 and goes_on else 1
        left = max(left + controls[row, TR_PERIOD] - period, least)
        period = np.int64(controls[row, TR_PERIOD])
        step = now + left if controls[row, TR_RUNNING] and voices[TR] else FAR
        noise_period = np.int64(controls[row, NO_PERIOD])
        tap = 6 if controls[row, NO_MODE] else 1
        high = controls[row, NO_LEVEL] * voices[NO]
        next_bit = max(next_bit, now + least)
        bit = next_bit if high else FAR
        while now < end:
            triangle = min(phase, 31 - phase)
            levels[0] = mixer[triangle, high]
            levels[1] = mixer[triangle, 0]
            if levels[bits & 1] != heard:
                add_step(output, kernel, now * scale - offset, levels[bits & 1] - heard)
                heard = levels[bits & 1]
            now = min(step, end)
            # No branch in here: what a bit will be cannot be predicted.
            while bit < now:
                bits = bits >> 1 | ((bits ^ bits >> tap) & 1) << 14
                place = bit * cell_scale - first_cell
                first = int(place)
                height = levels[bits & 1] - heard
                later = height * (place - first)
                cells[first] += height - later
                cells[first + 1] += later
                heard = levels[bits & 1]
                bit += noise_period
            if step < end:
                phase = (phase + 1) & 31
                step += period
        if step != FAR:
            left = step - end
        if bit != FAR:
            next_bit = bit
    state[0], state[1], state[2], state[3], state[4] = phase, period, left, bits, next_bit
    heard_before[0] = heard


@compiled
def add_cells(cells, kernel, output):
    """Draw the steps that [`triangle_and_noise`] left in `cells`, float64 `[samples, cells of each]`."""
    samples, count = cells.shape
    block = 1024  # stays in the cache
    column = np.zeros(block)
    for start in range(0, samples, block):
        length = min(block, samples - start)
        for cell in range(count):
            phase = cell * (len(kernel) - 1) // count
            silent = True
            for n in range(length):
                column[n] = cells[start + n, cell]
                silent = silent and column[n] == 0
            if silent:
                continue
            for tap in range(kernel.shape[1]):
                weight = kernel[phase, tap]
                drawn = output[start + tap : start + tap + length]
                for n in range(length):
                    drawn[n] += weight * column[n]
