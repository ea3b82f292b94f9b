"""Pictures of NES scores: notes that a walk through the steps confirms, whole files, and a page that needs nothing."""

import base64
import io
import itertools
import json
import re
import sys
import wave
from html.parser import HTMLParser
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.data.nes import drawing
from seqzoo.data.nes.drawing import COLOURS, VOICES, clock, draw_piano_roll, note_name, notes_of, write_page


HOSTILE = "</title></script><script>alert(1)</script> \"x\" 'y' & {{ 7*7 }} $\\frac{$ \x00\n\ud800"


def random_score(steps: int, seed: int, values: int = 2) -> np.ndarray:
    """Few different values, so that notes last and change within."""
    rng = np.random.default_rng(seed)
    score = np.zeros((steps, 4, 3), dtype=np.uint8)
    for voice in range(4):
        score[:, voice, 0] = rng.choice([0, 5, 9] if voice == 3 else [0, 60, 67], steps)
        score[:, voice, 1] = rng.integers(0, values, steps)
        score[:, voice, 2] = rng.integers(0, 2, steps)
    return np.repeat(score, rng.integers(1, 4, steps), axis=0)


@pytest.fixture(scope="module")
def song(shared_data) -> np.ndarray:
    with np.load(shared_data / "nesmdb" / "202_LawnMower_01_02Game" / "scores.npz") as scores:
        return scores["ex24"]


class Page(HTMLParser):
    """Elements, their attributes and the text in each."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text = [], {}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.setdefault(self.elements[-1][0] if self.elements else "", []).append(data)

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def score(self):
        return json.loads(re.search(r'<script type="application/json" id="score">(.*?)</script>', self.source)[1])

    @property
    def audio(self) -> tuple[str, bytes]:
        (audio,) = self.tags("audio")
        head, _, content = audio["src"].partition(",")
        return head, base64.b64decode(content, validate=True)


@settings(deadline=None)
@given(steps=st.integers(1, 30), seed=st.integers(0, 10_000), values=st.integers(1, 16))
def test_notes_are_what_a_walk_through_the_steps_finds(steps, seed, values):
    score = random_score(steps, seed, values)
    for voice, notes in enumerate(notes_of(score)):
        walked, last = [], 0
        for step, (note, velocity, timbre) in enumerate(score[:, voice].tolist()):
            if note and note != last:
                walked.append([note, step, step + 1, [[step, step + 1, velocity, timbre]]])
            elif note:
                walked[-1][2] = step + 1
                if walked[-1][3][-1][2:] == [velocity, timbre]:
                    walked[-1][3][-1][1] = step + 1
                else:
                    walked[-1][3].append([step, step + 1, velocity, timbre])
            last = note
        assert [[n.note, n.start, n.end, [list(part) for part in n.parts]] for n in notes] == walked


def test_notes_of_a_real_song_rebuild_what_sounds(song):
    rebuilt = np.zeros_like(song)
    for voice, notes in enumerate(notes_of(song)):
        for note in notes:
            for start, end, velocity, timbre in note.parts:
                rebuilt[start:end, voice] = note.note, velocity, timbre
    sounding = song[..., 0] > 0
    assert sounding.any(0).all()
    assert (rebuilt[sounding] == song[sounding]).all()
    assert not rebuilt[~sounding].any()


def test_names_and_times():
    assert [note_name(note) for note in (21, 60, 61, 108)] == ["A0", "C4", "C♯4", "C8"]
    assert [clock(0), clock(65), clock(600), clock(59.96, 0.5), clock(2.5, 0.5)] == [
        "0:00",
        "1:05",
        "10:00",
        "1:00.0",
        "0:02.5",
    ]


def test_a_song_is_drawn_as_png_with_all_four_colours(song, tmp_path):
    from matplotlib.image import imread

    draw_piano_roll(song, 24, tmp_path / "song.png", title="Lawn Mower")
    pixels = (imread(tmp_path / "song.png")[..., :3] * 255).round().astype(int)
    assert pixels.shape[1] == 14 * 120
    below_the_legend = pixels[100:]
    for colour in COLOURS:  # some opacity of it on white
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        tints = [255 + (wanted - 255) * (0.45 + 0.55 * loud) for loud in (0.7, *np.arange(16) / 15)]
        assert any((abs(below_the_legend - tint).max(-1) <= 2).sum() > 50 for tint in tints), colour


def test_louder_is_taller_and_darker(tmp_path):
    from matplotlib.image import imread

    score = np.zeros((48, 4, 3), dtype=np.uint8)
    score[:24, 0] = 60, 15, 0
    score[24:, 0] = 60, 3, 0
    draw_piano_roll(score, 24, tmp_path / "roll.png")
    red = imread(tmp_path / "roll.png")[100:, :, 0]  # of blue bars, far from white and grey
    width = red.shape[1]
    loud, quiet = (red[:, int(width * place)] for place in (0.3, 0.7))
    assert (loud < 0.7).sum() > (quiet < 0.7).sum() > 2
    assert loud.min() < quiet.min() - 0.1


@pytest.mark.parametrize("steps", [1, 24 * 5, 24 * 300], ids=lambda steps: f"{steps}_steps")
def test_svg_is_sound_xml_whatever_the_title_and_length(steps, tmp_path):
    score = np.zeros((steps, 4, 3), dtype=np.uint8)
    score[:, 0] = 60, 15, 0
    draw_piano_roll(score, 24, tmp_path / "roll.SVG", title=HOSTILE)
    text = "".join(ElementTree.parse(tmp_path / "roll.SVG").getroot().itertext())
    assert "</title></script><script>alert(1)" in text
    assert "C4" in text
    assert ("4:30" in text) == (steps == 24 * 300)


def test_the_same_score_gives_the_same_files(tmp_path):
    score = random_score(40, 0, 16)
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        draw_piano_roll(score, 24, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_page_has_the_notes_and_needs_no_network(song, tmp_path):
    path = tmp_path / "song.html"
    write_page(song, 24, path, title="Lawn Mower", audio=np.zeros(100, dtype=np.float32), audio_rate=8000)
    page = Page(path)
    assert page.score["voices"] == [
        [[start, end, note.note, *rest] for note in notes for start, end, *rest in note.parts]
        for notes in notes_of(song)
    ]
    assert page.score["rate"] == 24
    assert page.score["seconds"] == len(song) / 24
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page.source.replace(page.tags("audio")[0]["src"], ""))
    addresses = [a[key] for _, a in page.elements for key in ("src", "href", "data", "poster") if key in a]
    assert len(addresses) == 2  # the sound, and an icon that keeps browsers from asking for one
    assert all(address.startswith("data:") for address in addresses)
    assert "default-src 'none'" in page.source
    assert [voice in page.text["b"] for voice in VOICES] == [True] * 4


def test_a_hostile_title_is_text(tmp_path):
    write_page(random_score(9, 0), 24, tmp_path / "page.html", title=HOSTILE)
    write_page(random_score(9, 0), 24, tmp_path / "plain.html", title="plain")
    page, plain = Page(tmp_path / "page.html"), Page(tmp_path / "plain.html")
    shown = "</title></script><script>alert(1)</script> \"x\" 'y' & {{ 7*7 }} $\\frac{$"
    assert shown in "".join(page.text["h1"])
    assert page.elements == plain.elements
    assert page.tags("audio") == []


def test_without_soundfile_the_sound_is_a_wav_of_the_samples(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    audio = np.random.default_rng(0).uniform(-1, 1, 999).astype(np.float32)
    audio[:2] = 1, -1
    write_page(random_score(9, 0), 24, tmp_path / "page.html", audio=audio, audio_rate=44_100)
    head, content = Page(tmp_path / "page.html").audio
    assert head == "data:audio/wav;base64"
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 44_100)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(samples) == len(audio)
    assert abs(samples / 32767 - audio).max() <= 0.5 / 32767 + 1e-7


def test_with_soundfile_the_sound_is_smaller_and_the_same(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    audio = (0.5 * np.sin(np.arange(44_100) * 0.05)).astype(np.float32)
    write_page(random_score(9, 0), 24, tmp_path / "page.html", audio=audio, audio_rate=44_100)
    head, content = Page(tmp_path / "page.html").audio
    assert head == "data:audio/flac;base64"
    samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 44_100
    assert len(content) < 2 * len(audio)
    assert (samples == np.round(audio * 32767)).all()


def test_the_page_lasts_as_long_as_the_longer_of_sound_and_score(tmp_path):
    score = random_score(9, 0)[:12]
    for samples, seconds in ((1000, len(score) / 24), (80_000, 10)):
        audio = np.zeros(samples, dtype=np.float32)
        write_page(score, 24, tmp_path / "page.html", audio=audio, audio_rate=8000)
        assert Page(tmp_path / "page.html").score["seconds"] == seconds


GOOD = random_score(9, 0)


def changed(voice: int, column: int, value: int) -> np.ndarray:
    score = GOOD.copy()
    score[2, voice, column] = value
    return score


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (GOOD.tolist(), "this is list"),
        (GOOD.astype(np.int64), "this is int64"),
        (GOOD[:, :3], r"\[time, 4, 3\], this one \[\d+, 3, 3\]"),
        (GOOD[0], r"this one \[4, 3\]"),
        (GOOD[:0], "no step"),
        (changed(0, 0, 109), "note of Pulse 1 at step 2 is 109, but takes 0 or 21 to 108"),
        (changed(2, 0, 20), "note of Triangle at step 2 is 20"),
        (changed(3, 0, 17), "note of Noise at step 2 is 17, but takes 0 or 1 to 16"),
        (changed(1, 1, 16), "velocity of Pulse 2 at step 2 is 16"),
        (changed(3, 2, 2), "timbre of Noise at step 2 is 2, but takes 0 to 1"),
    ],
    ids=["list", "int64", "three_voices", "one_step", "empty", "high", "low", "noise", "velocity", "timbre"],
)
def test_what_is_no_score_is_refused(score, message, tmp_path):
    for write, name in ((draw_piano_roll, "a.png"), (write_page, "a.html")):
        with pytest.raises(ValueError, match=message):
            write(score, 24, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [0, -24, 44_101, float("nan"), float("inf")])
def test_rates_that_no_score_has_are_refused(rate, tmp_path):
    for write, name in ((draw_piano_roll, "a.png"), (write_page, "a.html")):
        with pytest.raises(ValueError, match=r"rate is .* at most 44,100"):
            write(GOOD, rate, tmp_path / name)


def test_unknown_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.pdf, but takes \.png or \.svg"):
        draw_piano_roll(GOOD, 24, tmp_path / "a.pdf")
    with pytest.raises(ValueError, match=r"ends in no suffix, but takes \.html"):
        write_page(GOOD, 24, tmp_path / "a")


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(9, np.float32), None, "give both or neither"),
        (None, 8000, "give both or neither"),
        (np.zeros((9, 2), np.float32), 8000, r"this is float32 \[9, 2\]"),
        (np.zeros(9, np.int16), 8000, r"this is int16"),
        (np.zeros(0, np.float32), 8000, "at least one sample"),
        (np.full(9, 1.5), 8000, "largest absolute sample is 1.5"),
        (np.full(9, np.nan), 8000, "largest absolute sample is nan"),
        (np.zeros(9), 0, "audio_rate is 0"),
        (np.zeros(9), 0.5 + 8000, "whole number"),
    ],
    ids=["no_rate", "no_audio", "stereo", "integers", "empty", "loud", "nan", "rate_0", "rate_half"],
)
def test_sound_that_cannot_be_embedded_is_refused(audio, rate, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_page(GOOD, 24, tmp_path / "a.html", audio=audio, audio_rate=rate)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*nowhere.a\.png"):
        draw_piano_roll(GOOD, 24, tmp_path / "nowhere" / "a.png")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*folder\.html"):
        write_page(GOOD, 24, tmp_path / "folder.html")
    (tmp_path / "a.html").write_text("before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing.os, "replace", fail)
    with pytest.raises(OSError, match=r"cannot write .*a\.html: No space left"):
        write_page(GOOD, 24, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "folder.html"]


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'seqzoo\[plot\]'"):
        draw_piano_roll(GOOD, 24, tmp_path / "a.png")


# Linear RGB as seen with protanopia, deuteranopia and tritanopia: Machado, Oliveira and Fernandes 2009, severity 1.
SIGHT = {
    "all_cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("background", ["light", "dark"])
def test_colours_are_told_apart_with_any_sight(sight, background):
    """Euclidean distance in CIELAB of 20 and more; 2 is just noticeable."""
    template = files("seqzoo.data.nes").joinpath("page.html").read_text(encoding="utf-8")
    colours = COLOURS if background == "light" else re.findall(r"--voice\d: (#\w{6})", template)
    assert len(colours) == 4

    def lab(colour):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(np.array(SIGHT[sight]) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
        xyz = xyz / [0.9505, 1, 1.089]
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(lab(one) - lab(other)) >= 20, (one, other)
