"""Mono audio into 16-bit files: WAV by the standard library, FLAC by soundfile (`pip install 'seqzoo[flac]'`)."""

import io
import os
import wave
from pathlib import Path

import numpy as np

from seqzoo.data.nes.synthesizer import to_int16


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write a file in one step; its ending, `.wav` or `.flac`, says what it is.

    Args:
        path (`str | Path`):
            A file there is replaced.
        audio (`np.ndarray`):
            `[samples]`, floats in [-1, 1] or int16.
        sample_rate (`int`):
            Of the audio.

    Raises:
        `ValueError`: the ending is another, or the audio is not of one channel.
        `ImportError`: it is FLAC and soundfile is not installed.
    """
    path = Path(path)
    writer = {".wav": _write_wav, ".flac": _write_flac}.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"{path} ends in neither .wav nor .flac")
    if audio.ndim != 1:
        raise ValueError(f"audio is one row of samples, but has the shape {audio.shape}")
    if audio.dtype != np.int16:
        audio = to_int16(audio)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        writer(unfinished, audio, sample_rate)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_wav(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    with open(path, "wb") as raw, wave.open(raw) as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(audio.astype("<i2").tobytes())


def _write_flac(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("FLAC needs soundfile: pip install 'seqzoo[flac]', or write .wav") from error
    content = io.BytesIO()  # of a file that cannot be written, the library does not say why
    soundfile.write(content, audio, sample_rate, format="FLAC", subtype="PCM_16")
    path.write_bytes(content.getbuffer())
