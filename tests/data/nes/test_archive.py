"""Hostile and broken archives: refused by name and cause, without hanging and without filling memory."""

import contextlib
import gzip
import io
import tarfile
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqzoo.data.nes import Limits, NESFormatError, archive
from seqzoo.data.nes.archive import songs_in


LIMITS = Limits(max_bytes=2**20)


def entry(name: str, size: int = 0, **attributes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def tar(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as file:
        for info, data in entries:
            file.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def read(tmp_path):
    """The songs of an archive with this content."""

    def run(content: bytes, limits: Limits = LIMITS) -> dict[str, bytes]:
        path = tmp_path / "hostile.tar.gz"
        path.write_bytes(content)
        return {str(name): read() for name, read in songs_in(path, limits)}

    return run


GOOD = (entry("train/a.mid", 3), b"abc")


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["gzip", "plain"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_songs_are_read_and_other_files_passed_over(compress, format, read):
    long = "nesmdb24_exprsco/train/" + "x" * 90 + "/" + "y" * 80 + ".mid"
    content = tar(
        GOOD, (entry("train/notes.txt", 2), b"no"), (entry("train/.b.mid", 2), b"no"), (entry(long, 1), b"d")
    )
    assert read(compress(content)) == {"train/a.mid": b"abc", long: b"d"}


@pytest.mark.parametrize("name", ["../evil.mid", "/etc/evil.mid", "train/../../evil.mid", "train\\..\\evil.mid"])
def test_names_that_lead_out_are_refused(name, read):
    with pytest.raises(NESFormatError, match=r"hostile.tar.gz at \d+: .*leads out of the archive"):
        read(gzip.compress(tar(GOOD, (entry(name, 1), b"x"))))


@pytest.mark.parametrize(
    "type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_links_devices_and_sparse_files_are_refused(type, read):
    with pytest.raises(NESFormatError, match=r"hostile.tar.gz.*(is no plain file|broken)"):
        read(gzip.compress(tar(GOOD, (entry("train/b.mid", type=type, linkname="/etc/passwd"), b""))))


@pytest.mark.parametrize("cut", [1, 20, 60, 0.5, 0.9])
def test_archives_that_are_cut_off_are_refused(cut, read):
    data = bytes(range(256)) * 40
    content = gzip.compress(tar(GOOD, (entry("train/b.mid", len(data)), data)), compresslevel=0)
    with pytest.raises(NESFormatError, match=r"hostile.tar.gz: the archive is broken or cut off"):
        read(content[: int(cut * len(content)) if isinstance(cut, float) else -cut])


def test_damage_between_members_is_no_end(read):
    content = bytearray(tar(GOOD, (entry("train/b.mid", 1), b"x")))
    content[1024 + 100] ^= 1  # in the header of the second member, whose checksum is now wrong
    with pytest.raises(NESFormatError, match="no member and no end"):
        read(gzip.compress(bytes(content)))


def test_what_follows_the_end_and_an_end_that_is_missing_are_refused(read):
    with pytest.raises(NESFormatError, match="something follows the end"):
        read(gzip.compress(tar(GOOD) + b"more"))
    with pytest.raises(NESFormatError, match="no member and no end"):
        read(gzip.compress(tar(GOOD)[:1024]))


def test_what_is_no_archive_at_all_is_refused(read):
    for content in (b"", b"PK\3\4", b"\x1f\x8b", gzip.compress(b"hello"), b"\xff" * 600):
        with pytest.raises(NESFormatError, match="broken or cut off"):
            read(content)


def peak(function, *arguments) -> int:
    """Most bytes that Python had at once while it failed."""
    tracemalloc.start()
    try:
        with pytest.raises(NESFormatError) as error:
            function(*arguments)
        return tracemalloc.get_traced_memory()[1], str(error.value)
    finally:
        tracemalloc.stop()


def test_a_song_that_decompresses_to_much_is_never_in_memory(read):
    content = gzip.compress(tar((entry("train/a.mid", 50 * 2**20), bytes(50 * 2**20))))
    most, message = peak(read, content)
    assert "hostile.tar.gz:train/a.mid: the file has 52428800 bytes" in message
    assert most < 5 * 2**20


@pytest.mark.parametrize("type", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["pax", "gnu"])
def test_a_header_that_wants_much_memory_is_refused(type, read):
    header = entry("x", 50 * 2**20, type=type).tobuf(tarfile.USTAR_FORMAT)
    most, message = peak(read, gzip.compress(header + bytes(50 * 2**20)))
    assert "bytes are to be read at once" in message
    assert most < 5 * 2**20


@pytest.mark.parametrize("type", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [-1, -512, -1024, -(2**60)])
def test_negative_sizes_lead_neither_back_nor_to_the_end(type, size, read):
    header = entry("train/a.mid", size, type=type).tobuf(tarfile.GNU_FORMAT)
    content = tar(GOOD)[:1024] + header + bytes(10 * 2**20)
    most, _ = peak(read, gzip.compress(content))
    assert most < 5 * 2**20
    most, _ = peak(read, content)
    assert most < 5 * 2**20


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    changes=st.lists(st.tuples(st.integers(0, 4607), st.integers(0, 255)), min_size=1, max_size=6),
    compressed=st.booleans(),
)
def test_any_damage_is_an_error_of_the_format_or_none(format, changes, compressed, read):
    content = bytearray(tar(GOOD, (entry("train/" + "x" * 120 + "é.mid", 5), b"hello"), format=format))
    for place, value in changes:
        content[place] = value
    for start in range(0, 4608, 512):  # of headers, whose checksums would hide what is behind them
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    with contextlib.suppress(NESFormatError):
        read(gzip.compress(bytes(content)) if compressed else bytes(content))


def test_an_archive_without_end_is_refused(read, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_BYTES", 10 * 2**20)
    with pytest.raises(NESFormatError, match="the archive has more than 10485760 bytes"):
        read(gzip.compress(tar((entry("big.bin", 30 * 2**20), bytes(30 * 2**20)), GOOD)))
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 3)
    with pytest.raises(NESFormatError, match="more than 3 members"):
        read(gzip.compress(tar(*[GOOD] * 5)))


def test_a_member_that_comes_twice_is_refused(tmp_path):
    from seqzoo.data.nes import load_nesmdb

    path = tmp_path / "twice.tar"
    path.write_bytes(tar(GOOD, GOOD))
    with pytest.raises(ValueError, match=r"train/a.mid and train/a.mid have one name"):
        load_nesmdb(path, verify=False, streaming=True)
