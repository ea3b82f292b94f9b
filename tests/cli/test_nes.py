"""`seqzoo nes convert`: many files, some of them broken."""

import contextlib
import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest

from seqzoo.__main__ import main
from seqzoo.data.nes import ExpressiveScore, batch, convert, jobs, read_song, write_song


@pytest.fixture
def songs(tmp_path) -> Path:
    """Five scores in a folder, one of them below it, and a file of another kind."""
    folder = tmp_path / "songs"
    (folder / "more").mkdir(parents=True)
    for number in range(5):
        score = np.zeros((24, 4, 3), dtype=np.uint8)
        score[:12, 0] = [60 + number, 9, 2]
        write_song(ExpressiveScore(score), folder / ("more" if number == 4 else ".") / f"song{number}.exprsco.npz")
    (folder / "notes.pdf").write_bytes(b"")
    return folder


def test_a_folder_on_all_cores_and_back(songs, tmp_path, capsys):
    out, back = tmp_path / "out", tmp_path / "back"
    assert main(["nes", "convert", str(songs), "--to", "midi", "--out", str(out), "--jobs", "2"]) == 0
    assert "5 of 5 files converted to midi" in capsys.readouterr().out
    assert {str(path.relative_to(out)) for path in out.rglob("*.mid")} == {
        "song0.mid", "song1.mid", "song2.mid", "song3.mid", "more/song4.mid"
    }  # fmt: skip
    assert (
        main(["nes", "convert", str(out), "--to", "exprsco", "--rate", "24", "--out", str(back), "--jobs", "1"]) == 0
    )
    for path in songs.rglob("*.npz"):
        assert read_song(back / path.relative_to(songs)) == read_song(path)


def test_broken_files_are_listed_with_their_reason_and_stop_nothing(songs, tmp_path, capsys):
    (songs / "cut.mid").write_bytes(b"MThd")
    (songs / "bomb.vgz").write_bytes(gzip.compress(bytes(10**7)))
    out = tmp_path / "out"
    command = ["nes", "convert", str(songs), "--to", "vgm", "--out", str(out), "--max-bytes", "1000000"]
    assert main([*command, "--jobs", "2"]) == 1
    printed = capsys.readouterr()
    assert "5 of 7 files converted" in printed.out
    failed = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert [line.split(":")[1].strip().split(" ")[0] for line in failed] == [
        str(songs / "bomb.vgz"),
        str(songs / "cut.mid"),
    ]
    assert "max_bytes" in failed[0]
    assert "4 bytes are missing" in failed[1]
    assert len(list(out.rglob("*"))) == 6  # five songs and a folder, nothing half written


def test_single_files_and_options(songs, tmp_path):
    out = tmp_path / "out"
    path = str(songs / "song0.exprsco.npz")
    assert main(["nes", "convert", path, "--to", "vgm", "--clock", "1662607", "--out", str(out)]) == 0
    vgm = read_song(out / "song0.vgm")
    assert vgm == convert(read_song(path), "vgm", clock=1662607)
    assert (
        main(["nes", "convert", str(out / "song0.vgm"), "--to", "exprsco", "--rate", "44100", "--out", str(out)]) == 0
    )
    assert read_song(out / "song0.exprsco.npz").score.shape == (vgm.num_samples, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.vgm", "--to", "midi"], "there is no file or folder none.vgm"),
        (["EMPTY", "--to", "midi"], "there are no songs in"),
        (["SONGS", "SONGS/song0.exprsco.npz", "SONGS/more/../song1.exprsco.npz", "--to", "midi"], "would both become"),
    ],
    ids=["none", "empty", "twice"],
)
def test_errors_before_anything_is_done(arguments, message, songs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = [a.replace("SONGS", str(songs)).replace("EMPTY", str(tmp_path / "empty")) for a in arguments]
    assert main(["nes", "convert", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_is_never_replaced_by_its_own_conversion(songs, capsys):
    before = (songs / "song0.exprsco.npz").read_bytes()
    path = str(songs / "song0.exprsco.npz")
    assert main(["nes", "convert", path, "--to", "exprsco", "--rate", "12", "--out", str(songs)]) == 1
    assert "would replace the input" in capsys.readouterr().err
    assert (songs / "song0.exprsco.npz").read_bytes() == before


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to], ids=["itself", "symlink", "hard link"])
def test_a_file_that_is_still_to_be_read_is_never_replaced(link, songs, tmp_path, capsys):
    """`song0` would become `more/song0`, which is another song."""
    out = songs / "more"
    later = out / "song0.exprsco.npz"
    if link:
        out = tmp_path / "out"
        out.mkdir()
        link(out / "song0.exprsco.npz", songs / "song1.exprsco.npz")
        later = songs / "song1.exprsco.npz"
    else:
        later.write_bytes((songs / "song1.exprsco.npz").read_bytes())
    before = later.read_bytes()
    command = ["nes", "convert", str(songs), "--to", "exprsco", "--rate", "12", "--out", str(out), "--jobs", "1"]
    assert main(command) == 1
    assert f"would replace the input {later}" in capsys.readouterr().err
    assert later.read_bytes() == before


def test_messages_are_one_line_each_and_print_nothing_that_moves_the_cursor(songs, tmp_path, capsys):
    (songs / "a\n\x1b[2J.mid").write_bytes(b"MThd")
    (songs / "b.exprsco.pkl").write_bytes(b"cos\n\x1b[31msystem\n(tR.")
    (songs / "c\udcff.mid").write_bytes(b"MThd")
    assert main(["nes", "convert", str(songs), "--to", "vgm", "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    lines = [line for line in capsys.readouterr().err.split("\n") if line.startswith("failed: ")]
    for line, escaped in zip(lines, ("a\\n\\x1b[2J.mid at 4", "os.\\x1b[31msystem", "c\\udcff.mid at 4"), strict=True):
        assert escaped in line
        assert line.isprintable()
    assert main(["nes", "convert", "no\nfile", "--to", "vgm", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "seqzoo nes: error: there is no file or folder no\\nfile\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "nan"], "argument --rate: 'nan' is neither a rate nor `adaptive`: the rate is nan Hz"),
        (["--rate", "inf"], "argument --rate: .*the rate is inf Hz"),
        (["--rate", "1e-320"], "argument --rate: .*takes a number from 0.001 to 44100"),
        (["--rate", "fast"], "argument --rate: 'fast' is neither a rate nor `adaptive`"),
        (["--max-seconds", "nan"], "error: max_seconds is nan"),
        (["--clock", "5"], "error: there is no NES clock of 5 Hz"),
        (["--out", ""], "argument --out: the name is empty"),
    ],
)
def test_options_are_checked_once_before_a_file_is_read(options, message, songs, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["nes", "convert", str(songs), "--to", "vgm", "--out", str(out), *options]
    with contextlib.suppress(SystemExit):  # as argparse leaves
        assert main(command) == 1
    printed = capsys.readouterr().err
    assert re.search(message, printed)
    assert "failed: " not in printed
    assert not out.exists()


def _die_of_song2(task, job, limits):
    if task.source.name.startswith("song2"):
        os._exit(9)
    return batch.Outcome(str(task.source))


def test_a_process_that_dies_takes_only_its_own_file_along(songs, tmp_path, monkeypatch):
    """A forked process has the replaced function; a spawned one would not."""
    monkeypatch.setattr(batch, "_do", _die_of_song2)
    monkeypatch.setattr(batch.multiprocessing, "get_context", lambda _: batch.multiprocessing.context.ForkContext())
    outcomes, total = batch.process_files([str(songs)], tmp_path / "out", jobs.Convert("midi"), processes=2)
    outcomes = list(outcomes)
    assert len(outcomes) == total == 5
    (failed,) = [outcome for outcome in outcomes if outcome.error]
    assert failed.source.endswith("song2.exprsco.npz")
    assert "died" in failed.error


def test_an_unexpected_error_is_an_outcome_too(songs, tmp_path, monkeypatch):
    def fail(song, to, **options):
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(jobs, "convert", fail)
    outcomes, _ = batch.process_files([str(songs / "song0.exprsco.npz")], tmp_path, jobs.Convert("midi"))
    assert [outcome.error for outcome in outcomes] == [f"{songs}/song0.exprsco.npz: ZeroDivisionError: by chance"]
