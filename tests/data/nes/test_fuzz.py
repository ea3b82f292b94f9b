"""Files that were damaged at random: every reader gives a song or a `NESFormatError`, soon and in little memory.

`make fuzz` runs this with `NES_FUZZ_EXAMPLES=110000`; by default a hundredth of that is done.
"""

import gzip
import io
import os
import pickle
import time
import tracemalloc
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqzoo.data.nes import (
    FORMATS,
    GD3,
    VGM,
    ExpressiveScore,
    Limits,
    NESFormatError,
    RegisterLog,
    convert,
    read_song,
    song_from_bytes,
    song_to_bytes,
)
from seqzoo.data.nes.register_log import RAMBlock


EXAMPLES = int(os.environ.get("NES_FUZZ_EXAMPLES", "1100"))
LIMITS = Limits(max_bytes=2**20, max_seconds=20)
SLOWEST = 5.0
LONGEST_MESSAGE = 400
MOST_MEMORY = 64 * 2**20
# Numbers that sizes and offsets are most easily broken by.
EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
# What parsers of text, and of numbers without end, are most easily broken by.
SNIPPETS = [b"0" * 400, b"(" * 5000, b"-" * 9000, b"\n\t\t", b"'''", b"L", b"\x8a\xa6" + b"\x7f" * 166]


def seeds() -> list[tuple[str, bytes]]:
    """A small file of every kind that is read."""
    rng = np.random.default_rng(0)
    score = np.zeros((12, 4, 3), dtype=np.uint8)
    score[:, :3, 0] = rng.integers(34, 60, (12, 3))
    score[:, 3, 0] = rng.integers(0, 17, 12)
    score[:, [0, 1], 1] = rng.integers(1, 16, (12, 2))
    score[:, 3, 1] = np.where(score[:, 3, 0] > 0, 7, 0)
    score[:, :2, 2] = rng.integers(0, 4, (12, 2))
    score = ExpressiveScore(score)
    found = []
    for name, entry in FORMATS.items():
        song = convert(score, name)
        if isinstance(song, RegisterLog):
            vgm = RegisterLog(song.clock, song.register, song.value, (RAMBlock(3, b"\x00\xc0data"),)).to_vgm()
            tagged = vgm.with_tags(GD3(track="Title", track_japanese="タイトル", notes="x\ny"))
            found += [(".vgm", vgm.data), (".vgm", tagged.data), (".vgz", gzip.compress(tagged.data, mtime=0))]
            convert(convert(vgm, "rawsco"), "exprsco")  # compiles: no file is to be blamed for the time
        found.append((entry.suffix, song_to_bytes(song)))
        if entry.suffix.endswith(".txt"):
            found.append((entry.suffix + ".gz", gzip.compress(song_to_bytes(song), mtime=0)))
    commands = [
        (fields[0], int(fields[1])) for fields in (row.split(",") for row in convert(score, "nlm").to_text().split())
    ]
    for suffix, content in (
        (".exprsco.pkl", (24.0, score.num_samples, score.score)),
        (".seprsco.pkl", (24.0, score.num_samples, score.score[:, :, 0].copy())),
        (".blndsco.pkl", (24.0, score.num_samples, convert(score, "blndsco").chords())),
        (".nlm.pkl", commands),
    ):
        found += [(suffix, pickle.dumps(content, protocol)) for protocol in (0, 2, 4, 5)]
    return found


SEEDS = seeds()
WITH_MEMORY = next(data for suffix, data in SEEDS if suffix == ".vgm" and b"\x67\x66\xc2" in data)


def members(npz: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(content: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return stream.getvalue()


@st.composite
def damaged_files(draw):
    """Of an .npz file the zip, whose checksum finds the damage, or the header of an array inside it."""
    suffix, content = draw(st.sampled_from(SEEDS))
    if suffix.endswith(".npz") and draw(st.booleans()):
        arrays = members(content)
        name = draw(st.sampled_from(sorted(arrays)))
        return suffix, zipped({**arrays, name: draw(damaged(arrays[name], most=128))})
    return suffix, draw(damaged(content, most=len(content)))


@st.composite
def damaged(draw, content, most):
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(most, len(data))))
        kinds = ["set", "set", "flip", "edge", "insert", "snippet", "delete", "repeat", "cut"]
        kind = draw(st.sampled_from(kinds))
        if kind == "set":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "edge":
            number = draw(st.sampled_from(EDGES))
            data[place : place + 4] = number.to_bytes(4, draw(st.sampled_from(["little", "big"])))
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "snippet":
            data[place:place] = draw(st.sampled_from(SNIPPETS))
        elif kind == "delete":
            del data[place : place + draw(st.integers(1, 16))]
        elif kind == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 64))] * draw(st.integers(1, 20))
        elif kind == "cut":
            del data[place:]
    return bytes(data)


@settings(
    deadline=None,
    max_examples=EXAMPLES,
    database=None,
    derandomize="NES_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(damaged_files())
def test_damaged_files_are_songs_or_named_errors(damaged):
    suffix, data = damaged
    begin = time.perf_counter()
    try:
        song = song_from_bytes(data, suffix, "damaged", LIMITS)
        if isinstance(song, VGM):
            with suppress(NESFormatError):  # whose music may be sound
                assert song.tags is None or song.with_tags(song.tags).tags == song.tags
        convert(song, "exprsco", low_notes="clip")
        convert(song, "vgm", low_notes="clip")
    except NESFormatError as error:
        assert len(str(error)) < LONGEST_MESSAGE  # noqa: PT017
    assert time.perf_counter() - begin < SLOWEST


def gzip_bomb() -> bytes:
    return gzip.compress(gzip.compress(bytes(2**26)) + b"x" + bytes(2**26), mtime=0)


def vgm_with(offset: int, number: int) -> bytes:
    data = bytearray(SEEDS[0][1])
    data[offset : offset + 4] = number.to_bytes(4, "little")
    return bytes(data)


def npz_with(**fields) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **fields)
    return stream.getvalue()


def npz_with_header(text: str) -> bytes:
    """An .npz file whose score has this header."""
    header = text.encode() + b"\n"
    score = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12)
    return zipped({**members(npz_with(rate=24.0, num_samples=1838)), "score.npy": score})


def midi_of(tracks: int, delta: bytes) -> bytes:
    data = bytearray(next(data for suffix, data in SEEDS if suffix == ".mid"))
    data[10:12] = tracks.to_bytes(2)
    data[18:22] = (int.from_bytes(data[18:22]) + len(delta) - 3).to_bytes(4)
    place = data.index(b"\xff\x58\x04\x01")
    return bytes(data[: place - 3]) + delta + bytes(data[place:])


HOSTILE = {
    "vgz bomb": (".vgz", gzip_bomb(), "max_bytes"),
    "text bomb": (".ndr.txt.gz", gzip_bomb(), "max_bytes"),
    "cut gzip": (".vgz", gzip.compress(SEEDS[0][1])[:-9], "cut off"),
    "long song": (".vgm", vgm_with(0x18, 2**32 - 1), "max_seconds"),
    "wrong length": (".vgm", vgm_with(0x18, 5), "waits add up to"),
    "wrong size": (".vgm", vgm_with(0x04, 5), "at 4: the header says that the file has 9 bytes"),
    "wrong version": (".vgm", vgm_with(0x08, 0x150), "version is 150"),
    "two chips": (".vgm", vgm_with(0x84, 1789773 | 1 << 30), "two NES chips"),
    "FDS": (".vgm", vgm_with(0x84, 1789773 | 1 << 31), "an FDS"),
    "other clock": (".vgm", vgm_with(0x84, 1000000), "clock is 1000000"),
    "data beyond": (".vgm", vgm_with(0x34, 2**32 - 1), "data is said to begin"),
    "huge block": (
        ".vgm",
        WITH_MEMORY.replace(b"\x67\x66\xc2\x06\x00", b"\x67\x66\xc2\xff\xff"),
        "inside the command",
    ),
    "other block": (".vgm", WITH_MEMORY.replace(b"\x67\x66\xc2", b"\x67\x66\x00"), "not memory of the NES"),
    "long wait": (".nlm.txt", b"clock,1789773\nw,4294967295", "max_seconds"),
    "many digits": (".nlm.txt", b"clock,1789773\nw," + b"9" * 10**5, "at 2: .* no number"),
    "no clock": (".ndf.txt", b"wait,5", "at 1: the first command is not `clock,N`"),
    "unknown register": (".ndr.txt", b"clock,1789773\napu,zz,00", "at 2: 'zz' is no number"),
    "wrong offset": (".ndf.txt", b"clock,1789773\napu,p1,vo,1,0,3", "p1_vo is at offset 0, not 3"),
    "large value": (".ndf.txt", b"clock,1789773\napu,p1,vo,16,0,0", "no number from 0 to 15"),
    "not in the language": (".nlm.txt", b"clock,1789773\ndm_iq,1", "neither"),
    "binary text": (".ndr.txt", b"\xff\xfe", "bytes above 127"),
    "array bomb": (".exprsco.npz", npz_with(score=np.zeros(2**26, "u1"), rate=24.0, num_samples=9), "max_seconds"),
    "objects": (".exprsco.npz", npz_with(score=np.array([{}]), rate=24.0, num_samples=9), "broken|not of numbers"),
    "no rate": (".exprsco.npz", npz_with(score=np.zeros((0, 4, 3), "u1"), num_samples=9), "has no rate"),
    **{
        f"npy header {number}": (".exprsco.npz", npz_with_header(header), "header is not as NumPy writes it")
        for number, header in enumerate(
            (
                "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 3L",
                "(" * 5000,
                "'''",
                "-" * 9000 + "1",
                "{'descr': (), 'fortran_order': False, 'shape': (1, 4, 3), }",
                "{'descr': ('<u1',), 'fortran_order': False, 'shape': (1, 4, 3), }",
                "{[]: 1}",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 4, 3), }",
                "{'descr': '|O', 'fortran_order': False, 'shape': (1, 4, 3), }",
                "{'descr': '<f1', 'fortran_order': False, 'shape': (1, 4, 3), }",
                "\t\tx\n y",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 3), }" + " " * 11_000 + "x",
            )
        )
    },
    "claimed room": (
        ".exprsco.npz",
        npz_with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999, 9999999999, 3), }"),
        "does not fit to its bytes",
    ),
    "no zip": (".rawsco.npz", b"PK\x03\x04", "npz file is broken"),
    "deep json": (".blndsco.json", b"[" * 100_000, "no JSON"),
    "json of NaN": (".blndsco.json", b'{"rate": NaN, "num_samples": 0, "score": []}', "rate is no number"),
    "json of a huge rate": (
        ".blndsco.json",
        b'{"rate": 1%s, "num_samples": 0, "score": []}' % (b"0" * 400),
        "rate is no number of 64 bits",
    ),
    "json of a huge length": (
        ".blndsco.json",
        b'{"rate": 24, "num_samples": 1%s, "score": []}' % (b"0" * 400),
        "num_samples is no number of 64 bits",
    ),
    "json of a tiny rate": (".blndsco.json", b'{"rate": 1e-320, "num_samples": 0, "score": []}', "the rate is 1e-320"),
    "huge rate": (".exprsco.pkl", pickle.dumps((10**400, 9, np.zeros((1, 4, 3), "u1")), 2), "rate is no number"),
    "huge length": (".exprsco.pkl", pickle.dumps((24.0, 10**400, None), 2), "num_samples is no number"),
    "long pause": (".mid", midi_of(5, b"\xff\xff\xff\x7f"), "max_seconds"),
    "endless number": (".mid", midi_of(5, b"\xff" * 9), "more than four bytes"),
    "six tracks": (".mid", midi_of(6, b"\x81\xac\x47"), "five tracks"),
    "wrong kind": (".exprsco.pkl", pickle.dumps([1, 2]), r"is not `\(rate, num_samples, score\)`"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_named_errors_in_little_memory(name):
    suffix, data, message = HOSTILE[name]
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(NESFormatError, match=message) as error:
        convert(song_from_bytes(data, suffix, "hostile", LIMITS), "ndr", simplify=False)
    taken = time.perf_counter() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.file == "hostile"
    assert taken < SLOWEST
    assert peak < MOST_MEMORY


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.vgm"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(NESFormatError, match=r"large.vgm: the file has 8589934592 bytes"):
        read_song(path)
    with pytest.raises(NESFormatError, match="the name does not end in one of"):
        read_song(tmp_path / "song.wav")
    with pytest.raises(FileNotFoundError):
        read_song(tmp_path / "none.vgm")


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.vgm")
    with pytest.raises(NESFormatError, match=r"pipe.vgm: this is no plain file"):
        read_song(tmp_path / "pipe.vgm")


@pytest.mark.parametrize("options", [{"max_seconds": float("nan")}, {"max_seconds": 1e308}, {"max_bytes": 0}])
def test_a_limit_that_limits_nothing_is_refused(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))} is .*, but takes a number above 0"):
        Limits(**options)
