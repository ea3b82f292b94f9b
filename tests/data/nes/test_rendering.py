"""Songs of every format as audio, with their loops."""

import numpy as np
import pytest

from seqzoo.data.nes import FORMATS, VGM, ExpressiveScore, Limits, NESFormatError, convert
from seqzoo.data.nes.rendering import Rendering
from seqzoo.data.nes.synthesizer import render


@pytest.fixture(scope="module")
def score() -> ExpressiveScore:
    """A second: two notes of P1, one of the triangle, a drum."""
    score = np.zeros((24, 4, 3), dtype=np.uint8)
    score[:12, 0] = [60, 9, 2]
    score[12:20, 0] = [64, 12, 1]
    score[4:24, 2] = [40, 0, 0]
    score[6:8, 3] = [9, 7, 0]
    return ExpressiveScore(score)


def looped(vgm: VGM, length: int) -> VGM:
    data = bytearray(vgm.data)
    data[0x1C:0x20] = (0xC0 - 0x1C).to_bytes(4, "little")
    data[0x20:0x24] = length.to_bytes(4, "little")
    return VGM(bytes(data), "song.vgm")


def pitch(audio: np.ndarray) -> float:
    """Of the first note, in Hz."""
    audio = audio[1000:7000]
    spectrum = np.abs(np.fft.rfft((audio - audio.mean()) * np.hanning(6000)))
    return spectrum[: 400 * 6000 // 44_100].argmax() * 44_100 / 6000


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_heard(name, score):
    audio = Rendering().mix(convert(score, name, low_notes="clip"))
    assert audio.dtype == np.float32
    assert abs(len(audio) - 44_100) < 2
    if name != "blndsco":  # whose lowest note goes to P1
        assert pitch(audio) == pytest.approx(261.6, abs=4)


def test_logs_sound_as_the_writes_in_them(score):
    vgm = convert(score, "vgm")
    log = convert(vgm, "ndr")
    expected = render(log.write_time, log.write_register, log.write_value, log.num_samples, log.clock)
    for name in ("vgm", "ndr", "ndf", "nlm"):
        np.testing.assert_array_equal(Rendering().mix(convert(vgm, name)), expected)


@pytest.mark.compiled
def test_midi_is_not_cut_into_24_steps_a_second(short_song):
    def spectrum(song, rate):
        audio = Rendering(mode="reference", rate=rate).stems(song)["tr"]
        frames = np.lib.stride_tricks.sliding_window_view(audio, 2048)[::1024] * np.hanning(2048)
        return np.log(np.abs(np.fft.rfft(frames)) ** 2 + 1e-6)

    midi = convert(short_song.vgm, "midi")
    own = spectrum(short_song.vgm, None)
    loss = {rate: np.mean((spectrum(midi, rate) - own) ** 2) for rate in (None, 24)}
    assert loss[None] < loss[24] / 4


def test_options_arrive(score):
    vgm = convert(score, "vgm")
    stems = Rendering(sample_rate=22_050, mode="reference", linear=True, filters="famicom").stems(vgm)
    assert list(stems) == ["mix", "p1", "p2", "tr", "no"]
    np.testing.assert_allclose(sum(stems[voice] for voice in ("p1", "p2", "tr", "no")), stems["mix"], atol=2e-6)
    assert len(stems["mix"]) == 22_050
    assert abs(stems["mix"].mean()) < 0.01 < Rendering().mix(vgm).mean()
    pal = Rendering(clock=1_662_607).mix(score)
    assert pitch(pal) == pytest.approx(261.6, abs=4)


def test_the_part_that_a_vgm_marks_is_repeated_and_faded(score):
    vgm = convert(score, "vgm")
    song = looped(vgm, 22_050)
    assert song.loop_start == vgm.num_samples - 22_050
    once = Rendering(mode="reference").mix(vgm)
    np.testing.assert_array_equal(Rendering(mode="reference").mix(song), once)
    audio = Rendering(mode="reference", loops=3, fade=0.25).mix(song)
    assert len(audio) == len(once) + 2 * 22_050 + 11_025
    np.testing.assert_array_equal(audio[:40_000], once[:40_000])
    tail = audio[-11_025:]
    assert np.abs(tail[:2000]).max() > 10 * np.abs(tail[-200:]).max()
    assert tail[-1] == 0
    assert not np.array_equal(audio[-12_000:-11_025], np.zeros(975))
    stems = Rendering(mode="reference", loops=3, fade=0.25).stems(song)
    np.testing.assert_array_equal(stems["mix"], audio)
    assert stems["tr"][-1] == 0


def test_loops_of_songs_without_a_mark_change_nothing(score):
    vgm = convert(score, "vgm")
    assert vgm.loop_start is None
    np.testing.assert_array_equal(Rendering(loops=5, fade=9).mix(vgm), Rendering().mix(vgm))


def test_loops_that_contradict_the_song_or_last_too_long(score):
    vgm = convert(score, "vgm")
    with pytest.raises(NESFormatError, match=r"song.vgm at 32: the loop is said to last 99999 samples"):
        Rendering().mix(looped(vgm, 99_999))
    with pytest.raises(NESFormatError, match="max_seconds"):
        Rendering(loops=10**9).mix(looped(vgm, 22_050))
    with pytest.raises(NESFormatError, match="the song lasts 4 s, the limit is 3 s"):
        Rendering(loops=2, fade=2.4, limits=Limits(max_seconds=3)).mix(looped(vgm, 22_050))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 7}, "the sample rate is 7, but takes 8000 to 192000"),
        ({"sample_rate": 10**9}, "the sample rate is 1000000000"),
        ({"loops": 0}, "loops is 0"),
        ({"fade": -1.0}, "fade is -1.0"),
        ({"fade": float("nan")}, "fade is nan"),
        ({"fade": 1e9}, "max_seconds"),
        ({"mode": "fast"}, "mode is 'fast', but takes one of blep, reference"),
        ({"filters": "snes"}, "filters is 'snes', but takes one of None, nes, famicom"),
        ({"clock": 5}, "no NES clock of 5 Hz; choose from 1662607, 1789772, 1789773"),
    ],
)
def test_options_that_mean_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        Rendering(**options)
