"""16-bit files: what was written is what others read."""

import resource
import sys
import wave

import numpy as np
import pytest

from seqzoo.data.nes.audio_file import write_audio


AUDIO = np.sin(np.arange(1000) / 7).astype(np.float32)


def test_wav(tmp_path):
    path = tmp_path / "tone.WAV"
    path.write_text("what was there before")
    write_audio(path, AUDIO, 48_000)
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (1, 2, 48_000, 1000)
        samples = np.frombuffer(file.readframes(1000), dtype="<i2")
    np.testing.assert_allclose(samples / 32_768, AUDIO, atol=1 / 32_768)
    assert list(tmp_path.iterdir()) == [path]


def test_flac(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    samples = (AUDIO * 32_767).astype(np.int16)
    write_audio(tmp_path / "tone.flac", samples, 44_100)
    read, rate = soundfile.read(tmp_path / "tone.flac", dtype="int16")
    assert rate == 44_100
    np.testing.assert_array_equal(read, samples)
    assert soundfile.info(tmp_path / "tone.flac").subtype == "PCM_16"


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_file_that_cannot_be_written_is_an_error_that_says_why(kind, tmp_path):
    if kind == "flac":
        pytest.importorskip("soundfile")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_audio(tmp_path / f"tone.{kind}", AUDIO, 44_100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_leaves_no_file(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"tone\.mp3 ends in neither \.wav nor \.flac"):
        write_audio(tmp_path / "tone.mp3", AUDIO, 44_100)
    with pytest.raises(ValueError, match=r"has the shape \(500, 2\)"):
        write_audio(tmp_path / "tone.wav", AUDIO.reshape(-1, 2), 44_100)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"pip install 'seqzoo\[flac\]', or write \.wav"):
        write_audio(tmp_path / "tone.flac", AUDIO, 44_100)
    with pytest.raises(FileNotFoundError):
        write_audio(tmp_path / "nowhere" / "tone.wav", AUDIO, 44_100)
    assert list(tmp_path.iterdir()) == []
