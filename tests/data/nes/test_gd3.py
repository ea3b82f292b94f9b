"""GD3 tags: read where they are, kept on request, and never in the way of the music."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.data.nes import GD3, VGM, ExpressiveScore, NESFormatError, RegisterLog, convert


TAGS = GD3(
    track="Level Clear",
    track_japanese="ステージクリア",
    game="Lawn Mower",
    author="Shiru \U0001f3b5 🎶",
    date="2011/04/01",
    notes="two\nlines",
)


@pytest.fixture
def vgm() -> VGM:
    score = np.zeros((24, 4, 3), dtype=np.uint8)
    score[:12, 0] = [60, 9, 2]
    return convert(convert(convert(ExpressiveScore(score), "vgm"), "ndr"), "vgm")  # with adjacent waits merged


def unnamed_writes(vgm: VGM) -> VGM:
    """The same with writes that simplifying takes out."""
    data = vgm.data[:0xC0] + bytes([0xB4, 0x11, 0x40, 0x54, 1, 2]) + vgm.data[0xC0:]
    return VGM(data[:4] + (len(data) - 4).to_bytes(4, "little") + data[8:])


def test_tags_of_real_songs(real):
    tags = real.vgm.tags
    assert tags.game == "Lawn Mower"
    assert tags.system == "Nintendo Entertainment System"
    assert tags.title == f"Lawn Mower: {tags.track}"
    assert real.vgm.simplified().tags == tags  # whose offset is wrong, as in the published files
    written = convert(real.vgm, "ndr").to_vgm()
    assert written.tags is None
    assert written.with_tags(tags).tags == tags


def test_tags_go_through_a_register_log_and_back(vgm):
    tagged = vgm.with_tags(TAGS)
    assert tagged.tags == TAGS
    log = convert(tagged, "ndr")
    assert log.tags == log.shortened(2, 5).tags == TAGS
    assert log == convert(vgm, "ndr")  # tags are no music
    assert log.to_vgm() == vgm
    assert log.to_vgm().with_tags(log.tags) == tagged
    assert convert(log, "vgm", keep_tags=True) == tagged
    assert convert(log, "vgm") == vgm


@pytest.mark.parametrize("options", [{}, {"simplify": False}, {"rate": 24}], ids=["simplified", "as_it_is", "score"])
def test_conversions_from_vgm_to_vgm_keep_tags_on_request(options, vgm):
    source = vgm if "simplify" in options else unnamed_writes(vgm)
    tagged = source.with_tags(TAGS)
    kept = convert(tagged, "vgm", keep_tags=True, **options)
    assert kept.tags == TAGS
    assert kept.data[kept.header(0x14) + 0x14 :] == TAGS.to_bytes()
    assert kept.with_tags(None) == convert(source, "vgm", **options)
    assert convert(tagged, "nlm", keep_tags=True) == convert(source, "nlm")


def test_a_new_tag_takes_the_place_of_the_old_one(vgm):
    once = vgm.with_tags(TAGS)
    assert once.with_tags(replace(TAGS, track="")).with_tags(TAGS) == once
    assert once.with_tags(None) == vgm


@settings(deadline=None, max_examples=50)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), min_size=11, max_size=11
    )
)
def test_any_texts_come_back(texts):
    tags = GD3(*texts)
    assert GD3.from_bytes(b"?" + tags.to_bytes() + b"?", 1) == tags
    assert astuple(tags) == tuple(texts)


def test_titles_are_japanese_where_there_is_no_english():
    assert GD3(game_japanese="芝刈り機", track="Title", track_japanese="タイトル").title == "芝刈り機: Title"
    assert GD3(track="Title").title == "Title"
    assert GD3().title == ""


@pytest.mark.parametrize(("text", "message"), [("a\0b", "track has a zero"), ("\ud800", "track is not Unicode")])
def test_texts_that_cannot_be_written(text, message):
    with pytest.raises(NESFormatError, match=message):
        GD3(track=text)


SOUND = TAGS.to_bytes()
NAMELESS = GD3().to_bytes()
BROKEN = {
    "head cut off": (SOUND[:9], 9, "ends inside the head"),
    "version": (SOUND.replace(b"\0\1\0\0", b"\0\2\0\0", 1), 4, "version of the GD3 tag is 0x200"),
    "cut off": (SOUND[:-2], 8, "bytes more, the file has"),
    "huge": (SOUND[:8] + b"\xff\xff\xff\xff" + SOUND[12:], 8, "4294967295 bytes more"),
    "ten texts": (NAMELESS[:8] + b"\x14\0\0\0" + NAMELESS[12:32], 32, "notes has no end"),
    "odd length": (NAMELESS[:8] + b"\x15\0\0\0" + NAMELESS[12:33], 32, "notes has no end"),
    "half a pair": (SOUND.replace("L".encode("utf-16-le"), b"\x00\xd8"), 12, "track is not UTF-16"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tag_is_a_named_error_for_who_asks_for_it_and_no_other(name, vgm):
    tag, offset, message = BROKEN[name]
    data = bytearray(vgm.data + tag)
    data[0x14:0x18] = (len(vgm.data) - 0x14).to_bytes(4, "little")
    data[0x04:0x08] = (len(data) - 4).to_bytes(4, "little")
    broken = VGM(bytes(data), "song.vgm")
    for ask in (lambda: broken.tags, lambda: convert(broken, "vgm", keep_tags=True)):
        with pytest.raises(NESFormatError, match=message) as error:
            ask()
        assert (error.value.file, error.value.offset) == ("song.vgm", len(vgm.data) + offset)
    log = RegisterLog.from_vgm(broken)
    assert log == RegisterLog.from_vgm(vgm)
    assert log.tags is None


def test_an_offset_that_leads_nowhere(vgm):
    data = vgm.data[:0x14] + b"\xff\xff\xff\xff" + vgm.data[0x18:]
    with pytest.raises(NESFormatError, match=r"song\.vgm at 20: there is no GD3 tag where this says") as error:
        _ = VGM(data, "song.vgm").tags
    assert error.value.offset == 0x14
