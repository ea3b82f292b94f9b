"""The chip as one would write it down: an object a voice, one step a sample. Slow; the fast one has to equal it."""

import numpy as np

from seqzoo.data.nes import RegisterLog


LENGTHS = [10, 254, 20, 2, 40, 4, 80, 6, 160, 8, 60, 10, 14, 12, 26, 14, 12, 16, 24, 18, 48, 20, 96, 22, 192, 24, 72]
LENGTHS += [26, 16, 28, 32, 30]


class Envelope:
    def __init__(self):
        self.constant = self.volume = self.loop = self.level = self.divider = 0
        self.restart = False

    def write(self, value):
        self.loop, self.constant, self.volume = value >> 5 & 1, value >> 4 & 1, value & 15

    def quarter(self):
        if self.restart:
            self.restart, self.level, self.divider = False, 15, 0
            return
        self.divider += 1
        if self.divider > self.volume:
            self.divider = 0
            if self.level == 0 and self.loop:
                self.level = 15
            elif self.level > 0:
                self.level -= 1

    @property
    def output(self):
        return self.volume if self.constant else self.level


class Length:
    def __init__(self):
        self.enabled = True
        self.count = 0

    def load(self, index):
        if self.enabled:
            self.count = LENGTHS[index]

    def enable(self, on):
        self.enabled = bool(on)
        if not on:
            self.count = 0


class Pulse:
    def __init__(self, number):
        self.number = number
        self.envelope, self.length = Envelope(), Length()
        self.duty = self.timer = self.target = 0
        self.sweeps = self.period = self.negate = self.shift = 0
        self.divider = 1
        self.reload = False

    def aim(self):
        change = self.timer >> self.shift
        self.target = self.timer + (change if not self.negate else -change - 1 if self.number == 0 else -change)

    def write(self, register, value):
        if register == 0:
            self.duty = value >> 6
            self.envelope.write(value)
        elif register == 1:
            self.sweeps = value >> 7
            self.reload = True
            self.aim()  # with what was there before
            self.period, self.negate, self.shift = value >> 4 & 7, value >> 3 & 1, value & 7
        elif register == 2:
            self.timer = self.timer & 0x700 | value
            self.aim()
        else:
            self.length.load(value >> 3)
            self.envelope.restart = True
            self.timer = self.timer & 0xFF | (value & 7) << 8
            self.aim()

    def half(self):
        if not self.envelope.loop:
            self.length.count -= 1
        if self.sweeps:
            self.divider -= 1
            if self.divider <= 0:
                self.aim()
                if self.timer >= 8 and self.target < 0x800 and self.shift > 0:
                    self.timer = max(self.target, 0)
                self.divider = self.period + 1
            if self.reload:
                self.divider = self.period + 1
                self.reload = False

    @property
    def row(self):
        volume = self.envelope.output
        if self.length.count > 0 and volume > 0 and self.timer >= 8 and self.target < 0x800:
            return [self.timer >> 8, self.timer & 0xFF, volume, self.duty]
        return [0, 0, 0, self.duty]


class Triangle:
    def __init__(self):
        self.length = Length()
        self.control = self.reload_value = self.linear = self.timer = 0
        self.reload = False

    def write(self, register, value):
        if register == 0:
            self.control, self.reload_value = value >> 7, value & 0x7F
        elif register == 2:
            self.timer = self.timer & 0x700 | value
        elif register == 3:
            self.length.load(value >> 3)
            self.reload = True
            self.timer = self.timer & 0xFF | (value & 7) << 8

    def quarter(self):
        self.linear = self.reload_value if self.reload else self.linear - 1
        if not self.control:
            self.reload = False

    def half(self):
        if not self.control:
            self.length.count -= 1

    @property
    def row(self):
        sounds = min(self.length.count, self.linear) > 0
        return [self.timer >> 8, self.timer & 0xFF, 0, 0] if sounds else [0, 0, 0, 0]


class Noise:
    def __init__(self):
        self.envelope, self.length = Envelope(), Length()
        self.mode = self.period = 0

    def write(self, register, value):
        if register == 0:
            self.envelope.write(value)
        elif register == 2:
            self.mode, self.period = value >> 7, value & 15
        elif register == 3:
            self.length.load(value >> 3)
            self.envelope.restart = True

    def half(self):
        if not self.envelope.loop:
            self.length.count -= 1

    @property
    def row(self):
        volume = self.envelope.output
        sounds = self.length.count > 0 and volume > 0
        return [0, 16 - self.period, volume, self.mode] if sounds else [0, 0, 0, self.mode]


def per_sample_rows(log: RegisterLog) -> np.ndarray:
    """uint8 `[sample, voice, field]`."""
    writes = {}
    for time, register, value in zip(
        log.write_time.tolist(), log.write_register.tolist(), log.write_value.tolist(), strict=True
    ):
        writes.setdefault(time, []).append((register, value))
    steps = (1 / 200, 1 / 160) if log.clock == 1662607 else (1 / 240, 1 / 192)
    voices = [Pulse(0), Pulse(1), Triangle(), Noise()]
    enveloped = [voices[0].envelope, voices[1].envelope, voices[2], voices[3].envelope]
    step, time, tick, forced = steps[0], 0.0, 0, False
    rows = np.zeros((log.num_samples, 4, 4), dtype=np.uint8)
    for sample in range(log.num_samples):
        quarter = half = forced
        forced = False
        time += 1 / 44100
        if time > step:
            quarter = True
            half = half or tick % 2 == 1
            time -= step
            tick += 1
        if quarter:
            for unit in enveloped:
                unit.quarter()
        if half:
            for voice in voices:
                voice.half()
        for register, value in writes.get(sample, ()):
            if register < 0x10:
                voices[register // 4].write(register % 4, value)
            elif register == 0x15:
                for number, voice in enumerate(voices):
                    voice.length.enable(value >> number & 1)
            elif register == 0x17:
                step, time, tick, forced = steps[value >> 7], 0.0, 0, True
        rows[sample] = [voice.row for voice in voices]
    return rows
