"""`seqzoo nes render` and `seqzoo nes plot`: what they write, and what they say of bad input."""

import sys
import wave
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from seqzoo.__main__ import main
from seqzoo.data.nes import GD3, VGM, ExpressiveScore, batch, convert, jobs, read_song, write_song
from seqzoo.data.nes.rendering import Rendering


@pytest.fixture
def songs(tmp_path) -> Path:
    """A tagged VGM with a loop, below it a MIDI and a score."""
    folder = tmp_path / "songs"
    (folder / "more").mkdir(parents=True)
    score = np.zeros((24, 4, 3), dtype=np.uint8)
    score[:12, 0] = [60, 9, 2]
    score[6:20, 2] = [45, 0, 0]
    score = ExpressiveScore(score)
    vgm = bytearray(convert(score, "vgm").with_tags(GD3(game="Game", track="Über <b>")).data)
    vgm[0x1C:0x24] = (0xC0 - 0x1C).to_bytes(4, "little") + (22_050).to_bytes(4, "little")
    write_song(VGM(bytes(vgm)), folder / "looped.vgm")
    write_song(convert(score, "midi"), folder / "more" / "plain.mid")
    write_song(score, folder / "more" / "score.exprsco.npz")
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def samples(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(int), file.getframerate()


def test_a_folder_becomes_wav_files(songs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["nes", "render", str(songs), "--out", str(out), "--jobs", "2"]) == 0
    assert "3 of 3 files rendered in" in capsys.readouterr().out
    assert names(out) == {"looped.wav", "more/plain.wav", "more/score.wav"}
    audio, rate = samples(out / "looped.wav")
    assert rate == 44_100
    expected = Rendering().mix(read_song(songs / "looped.vgm"))
    np.testing.assert_allclose(audio / 32_768, expected, atol=1 / 32_768)


def test_stems_sum_to_the_mix(songs, tmp_path):
    out = tmp_path / "out"
    command = [
        "nes",
        "render",
        str(songs / "looped.vgm"),
        "--stems",
        "--linear",
        "--filters",
        "nes",
        "--out",
        str(out),
    ]
    assert main([*command, "--sample-rate", "16000", "--mode", "reference"]) == 0
    assert names(out) == {"looped.wav", *(f"looped.{voice}.wav" for voice in ("p1", "p2", "tr", "no"))}
    mix, rate = samples(out / "looped.wav")
    assert (rate, len(mix)) == (16_000, 16_000)
    parts = [samples(out / f"looped.{voice}.wav")[0] for voice in ("p1", "p2", "tr", "no")]
    assert np.abs(sum(parts) - mix).max() <= 3  # of rounding
    assert np.abs(parts[0]).max() > 1000
    assert np.abs(parts[2]).max() > 100


def test_flac_loops_and_fade(songs, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    command = ["nes", "render", str(songs), "--flac", "--loops", "3", "--fade", "0.5", "--jobs", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    looped, _ = soundfile.read(tmp_path / "out" / "looped.flac")
    assert len(looped) == 44_100 + 2 * 22_050 + 22_050
    assert looped[-1] == 0
    assert len(soundfile.read(tmp_path / "out" / "more" / "plain.flac")[0]) == 44_100


def test_piano_rolls_and_pages(songs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["nes", "plot", str(songs), "--svg", "--html", "--out", str(out), "--jobs", "1"]) == 0
    assert "3 of 3 files drawn in" in capsys.readouterr().out
    assert names(out) == {
        f"{name}.{kind}" for name in ("looped", "more/plain", "more/score") for kind in ("svg", "html")
    }
    page = (out / "looped.html").read_text()
    assert "<h1>Game: Über &lt;b&gt;</h1>" in page  # from the tag
    assert 'src="data:audio/' in page
    assert "<h1>plain</h1>" in (out / "more" / "plain.html").read_text()
    assert "Game: Über <b>" in "".join(ElementTree.parse(out / "looped.svg").getroot().itertext())
    assert main(["nes", "plot", str(songs / "looped.vgm"), "--rate", "60", "--out", str(out)]) == 0
    assert (out / "looped.png").read_bytes()[:4] == b"\x89PNG"


def test_a_song_with_a_broken_tag_is_drawn_under_its_name(songs, tmp_path):
    data = (songs / "looped.vgm").read_bytes().replace(b"Gd3 ", b"Gd4 ")
    (songs / "broken.vgm").write_bytes(data)
    assert main(["nes", "plot", str(songs / "broken.vgm"), "--html", "--out", str(tmp_path)]) == 0
    assert "<h1>broken</h1>" in (tmp_path / "broken.html").read_text()


@pytest.mark.parametrize("command", ["render", "plot"])
def test_broken_files_are_listed_with_their_reason_and_stop_nothing(command, songs, tmp_path, capsys):
    (songs / "cut.mid").write_bytes(b"MThd")
    (songs / "noise.vgm").write_bytes(b"Vgm " + bytes(300))
    out = tmp_path / "out"
    assert main(["nes", command, str(songs), "--out", str(out), "--jobs", "1"]) == 1
    printed = capsys.readouterr()
    assert "3 of 5 files" in printed.out
    failed = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert failed[0].startswith(f"failed: {songs / 'cut.mid'} at 4: 4 bytes are missing")
    assert failed[1].startswith(f"failed: {songs / 'noise.vgm'} at 4: the header says")
    assert len(names(out)) == 3


def test_keep_tags(songs, tmp_path):
    command = ["nes", "convert", str(songs / "looped.vgm"), "--to", "vgm", "--out"]
    assert main([*command, str(tmp_path / "kept"), "--keep-tags", "--rate", "24"]) == 0
    assert read_song(tmp_path / "kept" / "looped.vgm").tags == GD3(game="Game", track="Über <b>")
    assert main([*command, str(tmp_path / "dropped"), "--rate", "24"]) == 0
    assert read_song(tmp_path / "dropped" / "looped.vgm").tags is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.vgm"], "there is no file or folder none.vgm"),
        (["EMPTY"], "there are no songs in"),
        (["SONGS", "--out", "SONGS/looped.vgm"], "looped.vgm is a file; name a folder to write to"),
        (["SONGS", "--loops", "0"], "loops is 0"),
        (["SONGS", "--fade", "-1"], "fade is -1.0"),
        (["SONGS", "--fade", "nan"], "fade is nan"),
        (["SONGS", "--sample-rate", "7"], "the sample rate is 7, but takes 8000 to 192000"),
        (["SONGS", "--clock", "5"], "no NES clock of 5 Hz"),
        (["SONGS", "--jobs", "0"], "0 processes do nothing"),
        (["STEM", "--stems"], "would both become"),
    ],
    ids=["none", "empty", "out", "loops", "fade", "nan", "rate", "clock", "jobs", "stems"],
)
def test_errors_before_anything_is_done(arguments, message, songs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "stem").mkdir()
    for name in ("a", "a.p1"):
        (tmp_path / "stem" / f"{name}.vgm").write_bytes((songs / "looped.vgm").read_bytes())
    folders = {"SONGS": songs, "EMPTY": tmp_path / "empty", "STEM": tmp_path / "stem"}
    for name, folder in folders.items():
        arguments = [argument.replace(name, str(folder)) for argument in arguments]
    assert main(["nes", "render", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_song_or_option_is_said(songs, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("la la")
    assert main(["nes", "render", str(tmp_path / "notes.txt"), "--out", str(tmp_path / "out")]) == 1
    assert f"failed: {tmp_path / 'notes.txt'}: the name does not end in one of .vgm" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["nes", "render", str(songs), "--out", str(tmp_path / "out"), "--mode", "fast"])
    assert "invalid choice: 'fast'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["nes", "plot", str(songs), "--out", str(tmp_path / "out"), "--rate", "quick"])


def test_a_folder_that_cannot_be_written_to(songs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batch.os, "access", lambda path, mode: False)
    assert main(["nes", "render", str(songs), "--out", str(tmp_path / "out")]) == 1
    assert f"nothing can be written to {tmp_path / 'out'}" in capsys.readouterr().err
    assert names(tmp_path / "out") == set()


def test_an_extra_that_is_missing_is_said_once(songs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["nes", "plot", str(songs), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    assert capsys.readouterr().err.count("pip install 'seqzoo[plot]'") == 1


def test_a_disk_that_is_full_leaves_no_half_file(songs, tmp_path, capsys, monkeypatch):
    def fail(path, audio, rate):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(jobs, "write_audio", fail)
    assert main(["nes", "render", str(songs), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("No space left on device") == 3
    assert "0 of 3 files rendered" in printed.out
