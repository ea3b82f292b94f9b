"""A data set of NES music as a folder and on a Hub: its card tells what is in it, and plain `datasets` loads it."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import DatasetCard

from seqzoo.__main__ import main
from seqzoo.data.nes import ExpressiveScore, archive, load_nesmdb, write_song


NAMES = {
    "train": ["000_10_YardFight_00_01GameStart", "001_1942_00_01Start", "001_1942_01_02MainBGM"],
    "valid": ["012_AlphaMission_00_01Start"],
    "test": ["002_1943_TheBattleofMidway_00_01Title"],
}


@pytest.fixture
def songs(tmp_path) -> Path:
    """Songs of 1, 2, ... seconds."""
    seconds = 0
    for split, names in NAMES.items():
        (tmp_path / "songs" / split).mkdir(parents=True)
        for name in names:
            seconds += 1
            score = np.zeros((24 * seconds, 4, 3), dtype=np.uint8)
            score[:, 0] = [60, seconds, 1]
            write_song(ExpressiveScore(score), tmp_path / "songs" / split / f"{name}.exprsco.npz")
    return tmp_path / "songs"


@pytest.fixture
def command(tmp_path):
    def run(source, *options: str, out: str = "nes-scores") -> int:
        folders = ["--out", str(tmp_path / out), "--cache-dir", str(tmp_path / "cache")]
        return main(["nes", "dataset", str(source), *folders, "--jobs", "1", *options])

    return run


def rows_of(text: str, section: str) -> list[list[str]]:
    """The table of a section of a card, without its head."""
    part = text.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_the_card_counts_what_is_in_the_data_set(songs, command, tmp_path, capsys):
    (tmp_path / "composers.csv").write_text(
        "name,composers\n1942,Ayako Mori\n001_1942_01_02MainBGM,Ayako Mori; N. N.\n"
    )
    assert command(songs, "--composers", str(tmp_path / "composers.csv")) == 0
    assert "3 train, 1 validation, 1 test songs written to" in capsys.readouterr().out
    card = DatasetCard.load(tmp_path / "nes-scores" / "README.md")
    assert rows_of(card.text, "Splits") == [
        ["train", "3", "2", "2", f"{6 / 3600:.2f}"],
        ["validation", "1", "1", "not recorded", f"{4 / 3600:.2f}"],
        ["test", "1", "1", "not recorded", f"{5 / 3600:.2f}"],
    ]
    assert [row[0].strip("`") for row in rows_of(card.text, "Columns")] == [
        "name", "game", "game_id", "composers", "title", "track", "seconds", "rate", "score"
    ]  # fmt: skip
    assert ["`score`", "uint8 `[step, 4, 3]`"] == rows_of(card.text, "Columns")[-1][:2]
    assert "these are 5." in card.text
    assert "Made from files in a folder named `songs`." in card.text
    assert str(tmp_path) not in card.text
    assert "No game is in two splits. No composer is in two splits." in card.text
    assert "1806.04278" in card.text
    assert "belongs to its composers and publishers" in card.text
    assert card.data.license == "other"
    assert card.data.size_categories == ["n<1K"]
    assert not re.search(r"\{\{|\}\}\n|\{%|  \n|\n\n\n", card.text)


def test_the_card_says_who_is_in_two_splits_and_that_a_collection_is_another(songs, command, tmp_path):
    for number, split in enumerate(("train", "test")):
        score = ExpressiveScore(np.full((24, 4, 3), 0, dtype=np.uint8))
        (songs / split / "Mine").mkdir()
        write_song(score, songs / split / "Mine" / f"0{number} Song.exprsco.npz")
    assert command(songs, "--format", "midi") == 0
    text = (tmp_path / "nes-scores" / "README.md").read_text()
    assert "1 of the games are in several splits." in text
    assert "not all of the songs have names\nas in that data set" in text
    assert "5,278" not in text
    assert rows_of(text, "Columns")[-1] == ["`midi`", "binary", "the bytes of the file"]


def test_the_code_of_the_card_runs(songs, command, tmp_path):
    assert command(songs) == 0
    text = (tmp_path / "nes-scores" / "README.md").read_text()
    plain, ours = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert "seqzoo" not in plain
    plain += "print(score.dtype, score.shape, len(songs['train']))"
    code = f"{plain}\n{ours}\nprint(songs['test'][0]['score'].shape)"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["uint8 (24, 4, 3) 3", "(120, 4, 3)"]


def test_archives_are_verified_and_the_card_says_so(songs, command, tmp_path, capsys, monkeypatch):
    path = tmp_path / "nesmdb24_exprsco.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(songs, arcname="nesmdb24_exprsco")
    assert command(path) == 1
    assert "has the SHA-256" in capsys.readouterr().err
    assert command(path, "--any-archive") == 0
    assert "which is not a published one" in (tmp_path / "nes-scores" / "README.md").read_text()
    monkeypatch.setitem(archive.PUBLISHED, archive.check_published(path, verify=False), "nesmdb24_exprsco.tar.gz")
    assert command(path, out="published") == 0
    card = (tmp_path / "published" / "README.md").read_text()
    assert "Made from the published archive `nesmdb24_exprsco.tar.gz`, whose SHA-256 was verified." in card


def test_broken_songs_stop_it_or_are_left_out(songs, command, tmp_path, capsys):
    (songs / "train" / "broken.mid").write_bytes(b"MThd")
    assert command(songs) == 1
    assert "broken.mid at 4: 4 bytes are missing" in capsys.readouterr().err
    assert not (tmp_path / "nes-scores").exists()
    assert command(songs, "--skip-broken") == 0
    printed = capsys.readouterr()
    assert "left out: " in printed.err
    assert "broken.mid" in printed.err
    assert printed.out.startswith("3 train")


def test_what_is_there_is_not_replaced_and_nothing_is_left_half_written(songs, command, tmp_path, capsys, monkeypatch):
    assert command(songs) == 0
    before = (tmp_path / "nes-scores" / "README.md").read_text()
    assert command(songs) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "nes-scores" / "README.md").read_text() == before
    monkeypatch.setattr("seqzoo.hub_cards.nes_dataset.dataset_card", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(songs, out="second")
    assert not [path.name for path in tmp_path.iterdir() if "second" in path.name]


def test_new_collections_are_split_by_composer(songs, command, tmp_path, capsys):
    composers = tmp_path / "composers.csv"
    composers.write_text("name,composers\n10_YardFight,A\n1942,B\nAlphaMission,C\n1943_TheBattleofMidway,D\n")
    options = ["--composers", str(composers), "--split-by-composer", "0.6", "0.2", "0.2"]
    assert command(songs, *options) == 0
    assert "3 train, 1 validation, 1 test songs" in capsys.readouterr().out
    assert "No composer is in two splits." in (tmp_path / "nes-scores" / "README.md").read_text()
    assert command(songs, *options[2:], out="unknown") == 1
    assert "composers of 5 of 5 songs are unknown" in capsys.readouterr().err


HTTP = """
import sys
import numpy as np
from huggingface_hub import DatasetCard, HfApi
from seqzoo.data.nes import load_nesmdb

folder, by_folder, by_push = sys.argv[1:]
local = load_nesmdb(folder)
HfApi().create_repo(by_folder, repo_type="dataset")
HfApi().upload_folder(repo_id=by_folder, repo_type="dataset", folder_path=folder)
local.push_to_hub(by_push)
for repository in (by_folder, by_push):
    for songs in (load_nesmdb(repository), load_nesmdb(repository, streaming=True)):
        assert list(songs) == list(local)
        for split in local:
            rows = list(songs[split])
            assert len(rows) == len(local[split])
            for row, expected in zip(rows, local[split]):
                assert {key: type(value) for key, value in row.items()} == {k: type(v) for k, v in expected.items()}
                assert all(np.array_equal(row[key], value) for key, value in expected.items())
                assert row["score"].dtype == np.uint8
print(DatasetCard.load(by_folder).text.count("this folder, or its id on the Hub"))
"""


def test_a_copy_on_the_hub(songs, command, hub, tmp_path):
    """Real HTTP: as a folder that was uploaded, and as `push_to_hub` writes it; memory-mapped and streamed."""
    assert command(songs) == 0
    environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", HTTP, str(tmp_path / "nes-scores"), "someone/uploaded", "someone/pushed"],
        env=environment, capture_output=True, text=True, cwd=tmp_path
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "1"
    assert any(asked.startswith("GET /datasets/someone/pushed/resolve/") for asked in hub.requests)


def test_an_id_that_the_hub_does_not_give_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'someone/nothing' is neither a folder here .* nor a data set"):
        load_nesmdb("someone/nothing", cache_dir=tmp_path)
