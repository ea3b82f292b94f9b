"""Every conversion of the reference that there is golden data for, to the byte and the value."""

import hashlib
import json

import numpy as np
import pytest

from seqzoo.data.nes import (
    BlendedScore,
    ExpressiveScore,
    FunctionLog,
    LanguageLog,
    RawScore,
    RegisterLog,
    SeparatedScore,
    convert,
    song_from_bytes,
)
from seqzoo.data.nes.pitch import notes_of_timers, timers_of_notes
from seqzoo.data.nes.runs import Runs


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def same(one: Runs, other: Runs) -> bool:
    return (
        one.length == other.length
        and np.array_equal(one.start, other.start)
        and np.array_equal(one.value, other.value)
    )


def expressive(golden, key: str = "ex24", rate: float = 24.0) -> ExpressiveScore:
    scores = golden.scores
    return ExpressiveScore(scores[key], rate, int(scores["nsamps"]))


def test_logs_as_text_and_back(golden):
    for form, cls in (("ndr", RegisterLog), ("ndf", FunctionLog), ("nlm", LanguageLog)):
        log = convert(golden.vgm, form)
        assert log.to_text() == golden.text(form)
        assert cls.from_text(golden.text(form)) == log


def test_raw_score_at_every_sample(golden):
    raw = convert(golden.vgm, "rawsco")
    assert same(raw.runs, golden.runs("rawsco"))
    assert (raw.clock, raw.rate) == (golden.scores["clock"], 44100)
    for log in ("ndf", "nlm"):  # what a language model sees sounds the same
        assert same(convert(convert(golden.vgm, log), "rawsco").runs, raw.runs)


@pytest.mark.parametrize("rate", [24, 48, 60, 100])
def test_expressive_score_at_a_rate(golden, rate):
    if f"ex{rate}" not in golden.scores:
        assert golden.name.startswith("fuzz")
        return
    assert convert(golden.vgm, "exprsco", rate=rate) == expressive(golden, f"ex{rate}", rate)


def test_expressive_score_at_every_sample_and_from_it(golden):
    score = convert(golden.vgm, "exprsco", rate=44100)
    assert same(Runs.of(score.score), golden.runs("exprsco44k"))
    assert convert(score, "exprsco", rate=24) == expressive(golden)


def test_adaptive_rate(real):
    score = convert(real.vgm, "exprsco", rate="adaptive")
    assert score == expressive(real, "exadapt", float(real.scores["exadapt_rate"]))


def test_separated_and_blended_scores_and_back(real):
    scores = real.scores
    separated = convert(real.vgm, "seprsco")
    assert np.array_equal(separated.score, scores["seprsco24"])
    assert np.array_equal(convert(separated, "exprsco").score, scores["seprsco24_to_exprsco"])
    blended = convert(real.vgm, "blndsco")
    assert blended.chords() == json.loads(real.file("blndsco24.json"))
    assert np.array_equal(convert(blended, "exprsco").score, scores["blndsco24_to_exprsco"])


def test_midi_and_back(golden):
    assert convert(golden.vgm, "midi").to_bytes() == golden.midi
    midi = song_from_bytes(golden.midi, ".mid")
    assert midi.to_bytes() == golden.midi
    assert same(midi.to_runs(), golden.runs("exprsco44k"))
    assert convert(midi, "exprsco") == expressive(golden)


def test_simplified_vgm(golden):
    simplified = golden.vgm.simplified()
    info = golden.info
    if "simplify" in info:
        assert (sha256(simplified.data), simplified.removed) == (info["simplify"]["sha256"], info["simplify"]["ndel"])
        for voice in ("p1", "p2", "tr", "no"):
            rest = golden.vgm.simplified([name for name in ("p1", "p2", "tr", "no") if name != voice])
            expected = info["simplify_drop"][f"no{voice}"]
            assert (sha256(rest.data), rest.removed) == (expected["sha256"], expected["ndel"])
    else:
        assert (simplified.data, simplified.removed) == (golden.file("simplified.vgm"), info["ndel"])


def test_shortened_vgm(real):
    log = convert(real.vgm, "ndr").shortened(400, 1000)
    assert sha256(log.to_vgm().data) == real.info["shorten_start400_n1000"]["sha256"]


def test_vgm_from_logs(golden):
    info = golden.info
    if "ndr_back_vgm" in info:
        for form in ("ndr", "ndf"):
            back = convert(convert(golden.vgm, form), "vgm", simplify=False)
            assert sha256(back.data) == info[f"{form}_back_vgm"]["sha256"]
        assert convert(convert(golden.vgm, "nlm"), "vgm").data == golden.file("nlm_back.vgm")
    else:
        assert sha256(convert(convert(golden.vgm, "nlm"), "vgm").data) == info["nlm_back_sha256"]


def test_vgm_from_an_expressive_score(golden):
    score = expressive(golden)
    raw = convert(score, "rawsco")
    assert np.array_equal(raw.score, golden.scores["ex24_to_rawsco"])
    if golden.name.startswith("202"):
        assert convert(score, "ndf").to_text() == golden.text("ex24_back_ndf")
    assert convert(score, "vgm").data == golden.file("ex24_back.vgm")
    midi = song_from_bytes(golden.midi, ".mid")
    assert convert(midi, "vgm", rate=24).data == golden.file("ex24_back.vgm")


def test_vgm_from_separated_and_blended_scores(real):
    scores = real.scores
    separated = SeparatedScore(scores["seprsco24"], 24, int(scores["nsamps"]))
    assert convert(separated, "vgm").data == real.file("sep24_back.vgm")
    blended = BlendedScore.from_chords(json.loads(real.file("blndsco24.json")), 24, int(scores["nsamps"]))
    assert convert(blended, "vgm", low_notes="wrap").data == real.file("blnd24_back.vgm")


@pytest.mark.parametrize("clock", [1662607, 1789772, 1789773])
def test_pitches_of_every_timer_and_timers_of_every_pitch(clock, shared_data):
    with np.load(shared_data / "nesmdb" / "pitch_tables.npz") as tables:
        assert np.array_equal(notes_of_timers(clock), tables[f"timer_to_note_{clock}"])
        high_and_low = tables[f"note_to_thtl_{clock}"].astype(np.int64)
        assert np.array_equal(timers_of_notes(clock), high_and_low[:, :, 0] << 8 | high_and_low[:, :, 1])


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_published_midi_files_and_their_published_scores(split, shared_data):
    """Hundreds of songs: our writer makes the same MIDI from what our reader read, and the 24 Hz scores are equal."""
    folder = shared_data / "nes_songs"
    with np.load(folder / f"exprsco24_{split}.npz") as scores:
        paths = sorted((folder / "midi" / split).glob("*.mid"))
        assert len(paths) >= 50
        for path in paths:
            midi = song_from_bytes(path.read_bytes(), ".mid", path.name)
            assert midi.to_bytes() == path.read_bytes(), path.name
            published = ExpressiveScore(scores[path.stem], 24, int(scores[f"{path.stem}|nsamps"]))
            assert convert(midi, "exprsco") == published, path.name


def test_a_raw_score_is_checked():
    rows = np.zeros((1, 4, 4), dtype=np.uint8)
    rows[0, 1, 2] = 16
    with pytest.raises(ValueError, match="the volume of P2 is 16 in row 0, above 15"):
        RawScore(Runs.of(rows), 24, 1838, 1789773)
