"""`load_nesmdb`: every source gives the same rows, memory-mapped or streamed, on one process or two."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Array3D, DatasetDict, IterableDatasetDict, load_dataset

from seqzoo.data.nes import (
    GD3,
    BlendedScore,
    ExpressiveScore,
    Limits,
    NESFormatError,
    SeparatedScore,
    archive,
    convert,
    load_nesmdb,
    read_song,
    write_song,
)
from seqzoo.data.nes.dataset import features
from seqzoo.data.nes.song_facts import facts_of_name


SONGS = {
    "train": ["000_10_YardFight_00_01GameStart", "003_720__00_01TitleScreen", "001_1942_02_03Restart"],
    "valid": ["012_AlphaMission_00_01Start", "404_ZippyRace_07_08GameOver"],
    "test": ["002_1943_TheBattleofMidway_00_01Title"],
}


def score(seed: int) -> ExpressiveScore:
    """Two seconds of all voices and then some, so that lengths differ."""
    chance = np.random.default_rng(seed)
    steps = 48 + seed
    held = lambda low, high: np.repeat(chance.integers(low, high, size=1 + steps // 6), 6)[:steps]  # noqa: E731
    values = np.zeros((steps, 4, 3), dtype=np.uint8)
    for voice, (low, high) in enumerate(((40, 90), (40, 90), (30, 90), (1, 17))):
        values[:, voice, 0] = held(low, high)
    for voice, timbres in ((0, 4), (1, 4), (3, 2)):
        values[:, voice, 1] = held(1, 16)
        values[:, voice, 2] = held(0, timbres)
    return ExpressiveScore(values, 24.0, steps * 44100 // 24 + 1800)


ALL = {name: score(seed) for seed, name in enumerate(name for names in SONGS.values() for name in names)}


def write(folder: Path, format: str = "midi", suffix: str = ".mid") -> Path:
    for split, names in SONGS.items():
        (folder / split).mkdir(parents=True)
        for name in names:
            write_song(convert(ALL[name], format), folder / split / f"{name}{suffix}")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "songs")


@pytest.fixture
def load(tmp_path):
    """`load_nesmdb` with a cache of the test's own."""

    def run(*arguments, **options):
        return load_nesmdb(*arguments, cache_dir=tmp_path / "cache", **options)

    return run


def as_published(path: Path, members: dict[str, bytes]) -> Path:
    """An archive as the data set's are, and other things that lie about in archives."""
    with tarfile.open(path, "w:gz") as file:
        for name in ("nesmdb", "nesmdb/train"):
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            file.addfile(entry)
        for name, data in {"nesmdb/README": b"read me", "nesmdb/train/._x.mid": b"of a Mac", **members}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


def pickles(of) -> dict[str, bytes]:
    """Name in an archive -> pickle of protocol 0, as the data set's."""
    return {
        f"nesmdb/{split}/{name}{of(ALL[name])[0]}": pickle.dumps(of(ALL[name])[1], protocol=0)
        for split, names in SONGS.items()
        for name in names
    }


def expressive(song: ExpressiveScore):
    return ".exprsco.pkl", (24.0, song.num_samples, song.score)


def separated(song: ExpressiveScore):
    return ".seprsco.pkl", (24.0, song.num_samples, song.score[:, :, 0].copy())


def blended(song: ExpressiveScore):
    return ".blndsco.pkl", (24.0, song.num_samples, BlendedScore.from_expressive(song).chords())


def check_equal(one, other) -> None:
    """Equal values of equal types, in the same order."""
    assert list(one) == list(other)
    for split in one:
        rows, others = list(one[split]), list(other[split])
        assert len(rows) == len(others)
        for row, another in zip(rows, others):
            assert row.keys() == another.keys()
            for key, value in row.items():
                assert type(value) is type(another[key])
                assert getattr(value, "dtype", None) == getattr(another[key], "dtype", None)
                assert np.array_equal(value, another[key])


def test_a_folder_becomes_the_published_splits_with_typed_columns(folder, load):
    songs = load(folder, "exprsco", rate=24)
    assert type(songs) is DatasetDict
    assert {split: len(part) for split, part in songs.items()} == {"train": 3, "validation": 2, "test": 1}
    assert songs["train"].features == features("exprsco")
    assert songs["train"].features["score"] == Array3D((None, 4, 3), "uint8")
    for part in songs.values():
        for row in part:
            expected = ALL[row["name"]]
            assert row["score"].dtype == np.uint8
            # What a row holds is a song again, to be converted, drawn and played.
            assert ExpressiveScore(row["score"], row["rate"], round(row["seconds"] * 44100)) == expected
    row = songs["test"][0]
    assert {key: row[key] for key in ("game", "game_id", "title", "track", "composers", "rate")} == {
        "game": "1943_TheBattleofMidway", "game_id": "002", "title": "Title", "track": 1, "composers": [], "rate": 24.0
    }  # fmt: skip


@pytest.mark.parametrize("format", ["exprsco", "seprsco", "blndsco", "midi", "vgm", "nlm", "ndr", "ndf"])
def test_every_format_is_what_convert_makes_and_streams_the_same(format, folder, load):
    songs = load(folder, format)
    check_equal(songs, load_nesmdb(folder, format, streaming=True))
    row = songs["test"][0]
    song = read_song(folder / "test" / f"{row['name']}.mid")
    expected = convert(song, format)
    assert row["seconds"] == ALL[row["name"]].num_samples / 44100
    if format in ("exprsco", "seprsco", "blndsco"):
        assert np.array_equal(row["score"], expected.score)
    elif format == "midi":
        assert row["midi"] == (folder / "test" / f"{row['name']}.mid").read_bytes()
    elif format == "vgm":
        assert row["vgm"] == expected.data
    else:
        assert row[format] == expected.to_text()


def test_rate_and_conversion_options(folder, load):
    assert load(folder, rate=48)["train"][0]["rate"] == 48
    name = SONGS["test"][0]
    assert (
        load(folder, "vgm", clock=1662607)["test"][0]["vgm"]
        == convert(read_song(folder / "test" / f"{name}.mid"), "vgm", clock=1662607).data
    )
    with pytest.raises(ValueError, match="there is no NES clock of 3 Hz"):
        load(folder, clock=3)
    with pytest.raises(TypeError, match="speed"):
        load(folder, speed=2)
    with pytest.raises(ValueError, match="no data set of the format 'rawsco'"):
        load(folder, "rawsco")


def test_scores_keep_their_rate_until_told_otherwise(tmp_path, load):
    (tmp_path / "scores").mkdir()
    for rate in (24.0, 48.0):
        write_song(score(1).resampled(rate), tmp_path / "scores" / f"at{rate:.0f}.exprsco.npz")
    assert load(tmp_path / "scores")["train"]["rate"] == [24.0, 48.0]
    assert load(tmp_path / "scores", rate=24)["train"]["rate"] == [24.0, 24.0]


def test_a_vgm_stays_as_it_is_unless_options_of_conversion_are_given(tmp_path, load, shared_data):
    name = "202_LawnMower_02_03LevelClear"
    original = (shared_data / "nesmdb" / name / f"{name}.vgm").read_bytes()
    (tmp_path / "vgm").mkdir()
    (tmp_path / "vgm" / f"{name}.vgz").write_bytes(gzip.compress(original))
    assert load(tmp_path / "vgm", "vgm")["train"][0]["vgm"] == original
    assert len(load(tmp_path / "vgm", "vgm", simplify=True)["train"][0]["vgm"]) < len(original)


def test_two_processes_give_what_one_gives(folder, tmp_path):
    one = load_nesmdb(folder, cache_dir=tmp_path / "one")
    two = load_nesmdb(folder, cache_dir=tmp_path / "two", num_proc=2)
    check_equal(one, two)


def test_the_cache_is_used_until_a_file_changes(folder, load, monkeypatch):
    first = load(folder)["test"][0]
    with monkeypatch.context() as patch:
        patch.setattr("seqzoo.data.nes.song_sources.read_song", None)  # reading would fail
        check_equal({"test": [load(folder)["test"][0]]}, {"test": [first]})
    write_song(convert(score(9), "midi"), folder / "test" / f"{SONGS['test'][0]}.mid")
    assert np.array_equal(load(folder)["test"][0]["score"], score(9).score)


def test_streaming_writes_no_data(folder, tmp_path, monkeypatch):
    cache = tmp_path / "untouched"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    before = sorted(folder.rglob("*"))
    songs = load_nesmdb(folder, streaming=True)
    assert type(songs) is IterableDatasetDict
    assert [row["name"] for row in songs["train"]] == sorted(SONGS["train"])
    assert songs["train"].num_shards == 3
    # `datasets` makes a lock.
    assert {path.stat().st_size for path in cache.rglob("*") if path.is_file()} <= {0}
    assert sorted(folder.rglob("*")) == before


# Archives


@pytest.mark.parametrize(
    ("of", "format", "type"),
    [
        (expressive, "exprsco", ExpressiveScore),
        (separated, "seprsco", SeparatedScore),
        (blended, "blndsco", BlendedScore),
    ],
    ids=["exprsco", "seprsco", "blndsco"],
)
@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_archive_of_pickles_equals_the_folder(of, format, type, num_proc, tmp_path, load):
    path = as_published(tmp_path / "nesmdb24.tar.gz", pickles(of))
    songs = load(path, format, verify=False, num_proc=num_proc)
    check_equal(songs, load_nesmdb(path, format, verify=False, streaming=True))
    for split, part in songs.items():
        assert part["name"] == SONGS["valid" if split == "validation" else split]  # the archive's order
        for row in part:
            song = type(row["score"], row["rate"], round(row["seconds"] * 44100))
            assert song == convert(ALL[row["name"]], format)


def test_an_archive_has_to_be_a_published_one(tmp_path, load, monkeypatch):
    path = as_published(tmp_path / "nesmdb24_exprsco.tar.gz", pickles(expressive))
    with pytest.raises(ValueError, match=r"nesmdb24_exprsco.tar.gz has the SHA-256 .* has 7ca09fdf.*verify=False"):
        load(path)
    other = path.rename(tmp_path / "other.tar.gz")
    with pytest.raises(ValueError, match="no published archive of NES-MDB has that"):
        load(other)
    monkeypatch.setitem(archive.PUBLISHED, archive.check_published(other, verify=False), "nesmdb24_exprsco.tar.gz")
    assert len(load(other)["train"]) == 3


def test_the_checksums_begin_as_the_specification_says():
    prefixes = {name: digest[:8] for digest, name in archive.PUBLISHED.items()}
    assert prefixes == {
        "nesmdb_midi.tar.gz": "37610e2c",
        "nesmdb24_exprsco.tar.gz": "7ca09fdf",
        "nesmdb24_seprsco.tar.gz": "3e2dadfc",
        "nesmdb24_blndsco.tar.gz": "d72027bd",
        "nesmdb_nlm.tar.gz": "5e37a6fe",
        "nesmdb_vgm.tar.gz": "cd442909",
    }
    assert {len(digest) for digest in archive.PUBLISHED} == {64}


# Files that are broken


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_broken_file_is_an_error_that_names_it(num_proc, folder, load):
    broken = folder / "train" / f"{SONGS['train'][0]}.mid"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(NESFormatError, match=f"{broken} at 59: the MTrk chunk"):
        load(folder, num_proc=num_proc)
    with pytest.raises(NESFormatError, match=str(broken)):
        list(load(folder, streaming=True)["train"])


@pytest.mark.parametrize("num_proc", [None, 2])
def test_broken_files_can_be_left_out_and_are_listed_every_time(num_proc, folder, load):
    broken = folder / "train" / f"{SONGS['train'][0]}.mid"
    broken.write_bytes(b"MThd")
    for _ in range(2):  # made, and from the cache
        reasons = []
        songs = load(folder, num_proc=num_proc, on_bad_file=reasons.append)
        assert len(songs["train"]) == 2
        (reason,) = reasons
        assert reason.startswith(f"{broken} at 4: 4 bytes are missing")
    streamed = []
    check_equal(songs, load(folder, streaming=True, on_bad_file=streamed.append))
    assert streamed == reasons


def test_what_a_pickle_or_an_array_hides_and_names_that_are_no_text_are_left_out_too(tmp_path, load):
    folder = tmp_path / "songs"
    folder.mkdir()
    write_song(score(1), folder / "good.exprsco.npz")
    (folder / "huge.exprsco.pkl").write_bytes(pickle.dumps((10**400, 1838, score(1).score), 2))
    Path(str(folder) + "/a\udcff.mid").write_bytes(convert(score(1), "midi").to_bytes())
    reasons = []
    assert load(folder, on_bad_file=reasons.append)["train"]["name"][:] == ["good"]
    assert len(reasons) == 2
    assert "a\udcff.mid: the name is not in UTF-8" in reasons[0]
    assert "rate is no number" in reasons[1]
    with pytest.raises(NESFormatError, match="the name is not in UTF-8"):
        load(folder)
    path = as_published(
        tmp_path / "a.tar", {"train/b\udcff.mid": b"MThd", "train/c.mid": convert(score(1), "midi").to_bytes()}
    )
    streamed = load(path, "midi", verify=False, streaming=True, on_bad_file=reasons.append)
    assert [row["name"] for row in streamed["train"]] == ["c"]


def test_folders_of_splits_are_known_in_capitals_too(folder, load):
    for split in SONGS:
        (folder / split).rename(folder / split.upper())
    songs = load_nesmdb(folder, streaming=True)
    assert {split: len(list(part)) for split, part in songs.items()} == {"train": 3, "validation": 2, "test": 1}


def test_options_that_mean_nothing_are_refused_before_a_song_is_read(tmp_path):
    for options, message in (({"rate": float("nan")}, "the rate is nan"), ({"low_notes": "drop"}, "low_notes is")):
        with pytest.raises(ValueError, match=message):
            load_nesmdb(tmp_path / "nothing", **options)


def test_a_folder_in_which_all_songs_are_broken(tmp_path, load):
    (tmp_path / "a.mid").write_bytes(b"")
    with pytest.raises(NESFormatError, match=r"a.mid at 0"):
        load(tmp_path)
    reasons = []
    with pytest.raises(ValueError, match="none of the songs of train can be read"):
        load(tmp_path, on_bad_file=reasons.append)
    assert len(reasons) == 1


def test_a_file_that_can_be_read_only_later_is_not_lost(folder, load, monkeypatch):
    def fail(path, limits):
        if "YardFight" in path:
            raise OSError(f"{path} is away")
        return read_song(path, limits)

    with monkeypatch.context() as patch:
        patch.setattr("seqzoo.data.nes.song_sources.read_song", fail)
        with pytest.raises(OSError, match=r"YardFight.*is away"):
            load(folder)
    with pytest.raises(OSError, match=r"could not be read and now can: remove .*cache"):
        load(folder)


def test_a_song_that_cannot_be_converted_is_named_too(folder, load):
    low = np.full((24, 4, 3), 0, dtype=np.uint8)
    low[:, 0] = [25, 9, 0]
    write_song(ExpressiveScore(low), folder / "test" / "low.exprsco.npz")
    with pytest.raises(NESFormatError, match=r"low.exprsco.npz: .*low"):
        load(folder, "vgm")
    assert len(load(folder, "vgm", low_notes="clip")["test"]) == 2


def test_broken_members_of_an_archive_are_named_and_can_be_left_out(tmp_path, load):
    members = pickles(expressive)
    first = next(iter(members))
    members[first] = b"cos\nsystem\n(S'true'\ntR."
    path = as_published(tmp_path / "a.tar.gz", members)
    with pytest.raises(NESFormatError, match=rf"a.tar.gz:{first} at 0: .*os.system"):
        load(path, verify=False)
    reasons = []
    songs = load(path, verify=False, on_bad_file=reasons.append, num_proc=2)
    assert len(songs["train"]) == 2
    (reason,) = reasons
    assert "os.system" in reason


def test_files_above_the_limit_are_refused(folder, load):
    with pytest.raises(NESFormatError, match=r"max_bytes"):
        load(folder, limits=Limits(max_bytes=100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "neither a folder here"),
        (lambda folder: folder / "train" / f"{SONGS['train'][0]}.mid", "is no archive"),
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", "there are no songs"),
    ],
    ids=["none", "a song", "empty"],
)
def test_what_is_no_source_is_refused(make, message, folder, load):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(make(folder))


def test_splits_and_names_that_are_ambiguous_are_refused(folder, load):
    write_song(convert(score(7), "midi"), folder / "aside.mid")
    with pytest.raises(ValueError, match="some songs are in folders of splits"):
        load(folder)
    (folder / "aside.mid").unlink()
    write_song(score(7), folder / "test" / f"{SONGS['test'][0]}.exprsco.npz")
    with pytest.raises(ValueError, match="have one name in test"):
        load(folder)


# Names and composers


def test_names_tell_game_and_title(shared_data):
    with gzip.open(shared_data / "nes_songs" / "official_splits.json.gz") as file:
        names = [name for part in json.load(file).values() for name in part]
    facts = {name: facts_of_name(name) for name in names}
    assert len(facts) == 5278
    assert len({row["game_id"] for row in facts.values()}) == 397
    assert len({(row["game_id"], row["game"]) for row in facts.values()}) == 397
    assert [name for name, row in facts.items() if row["track"] is None] == [
        "211_M82GameSelectableWorkingProductDisplay_00_M82GameSelectableWorkingProductDisplay01MainMusic"
    ]
    assert facts["371_VegasDream_13_141000000"] | {"game": ""} == {
        "game": "", "game_id": "371", "track": 14, "title": "1000000"
    }  # fmt: skip
    assert facts["003_720__00_01TitleScreenRampSlalomTheme"]["game"] == "720_"
    assert facts["000_10_YardFight_00_01GameStart"]["title"] == "GameStart"
    assert all(name.startswith(f"{row['game_id']}_{row['game']}_") for name, row in facts.items())
    assert all(name.endswith(row["title"]) for name, row in facts.items())


def test_names_of_other_collections():
    assert facts_of_name("Mother (NES)/03 Pollyanna") == {
        "game": "Mother (NES)", "game_id": None, "track": 3, "title": "Pollyanna"
    }  # fmt: skip
    assert facts_of_name("mine") == {"game": None, "game_id": None, "track": None, "title": "mine"}


def test_tags_of_vgm_files_tell_composers_and_of_other_collections_game_and_title(tmp_path, load):
    tag = GD3(track="Pollyanna", game="Mother", author="Keiichi Suzuki, Hirokazu Tanaka")
    vgm = convert(score(1), "vgm").with_tags(tag)
    (tmp_path / "tagged" / "folder").mkdir(parents=True)
    names = ["01 a", "02 b", "246_Mother_02_03Pollyanna", "folder/c"]
    write_song(vgm, tmp_path / "tagged" / "01 a.vgm")
    write_song(vgm.with_tags(None), tmp_path / "tagged" / "02 b.vgm")
    write_song(vgm, tmp_path / "tagged" / f"{names[2]}.vgm")
    (tmp_path / "tagged" / "folder" / "c.vgm").write_bytes(vgm.data.replace(b"Gd3 ", b"Gd4 "))
    tagged, plain, published, lost = load(tmp_path / "tagged", composers={"02 b": ["Somebody"]})["train"]
    both = ["Keiichi Suzuki", "Hirokazu Tanaka"]
    assert [tagged[key] for key in ("game", "title", "track", "composers")] == ["Mother", "Pollyanna", 1, both]
    assert [plain[key] for key in ("game", "title", "composers")] == [None, "b", ["Somebody"]]
    assert [published[key] for key in ("game_id", "title", "composers")] == ["246", "Pollyanna", both]
    assert [lost[key] for key in ("game", "title", "composers")] == ["folder", "c", []]


@pytest.mark.parametrize("form", ["csv", "json", "mapping"])
def test_composers_of_games_and_songs(form, folder, tmp_path, load):
    composers = {"720_": ["A", "B C"], "001_1942": ["D"], "000_10_YardFight_00_01GameStart": ["E"], "None": ["F"]}
    if form == "csv":
        source = tmp_path / "composers.csv"
        rows = [f"{key},{'; '.join(names)}" for key, names in composers.items()]
        source.write_text("\n".join(["name,composers", *rows]))
    elif form == "json":
        source = tmp_path / "composers.json"
        source.write_text(json.dumps(composers))
    else:
        source = composers
    songs = load(folder, composers=source)
    assert {row["name"][:3]: row["composers"] for row in songs["train"]} == {
        "000": ["E"], "001": ["D"], "003": ["A", "B C"]
    }  # fmt: skip
    assert songs["test"][0]["composers"] == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", "game;who\nx;y", "no CSV file with the columns name and composers"),
        ("c.json", "{", "is no JSON"),
        ("c.json", "[1]", "no JSON object"),
        ("c.json", '{"1942": [1]}', "the composers of 1942 are"),
        ("c.json", '{"1942": ["A"], "1942": ["B"]}', "c.json .*'1942' is there twice"),
        ("c.json", "[" * 100_000, "c.json is no JSON"),
        ("c.csv", "name,composers\n720_,A\n720_,B", "c.csv .*'720_' is there twice"),
        ("c.csv", "name,composers\n720_,A,B", "c.csv .*line 2 has more columns than the first"),
        ("c.csv", "name,composers\n720_," + "A" * 200_000, "c.csv .*field larger than field limit"),
        ("c.csv", b"name,composers\n720_,\xe9", "c.csv is not in UTF-8 .*save it as UTF-8"),
        ("c.json", '{"Elsewhere": ["A"]}', "a composer of none of these songs; the first is 000_10_YardFight"),
    ],
)
def test_composer_files_that_say_nothing_are_refused(name, content, message, folder, tmp_path, load):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message):
        load(folder, composers=tmp_path / name)


def test_composer_files_of_spreadsheets_begin_with_a_mark(folder, tmp_path, load):
    (tmp_path / "c.csv").write_bytes("name,composers\r\n720_,É;B\r\n".encode("utf-8-sig"))
    songs = load_nesmdb(folder, composers=tmp_path / "c.csv", streaming=True)
    assert [row["composers"] for row in songs["train"]] == [[], [], ["É", "B"]]


# Arrow copies


def test_a_copy_that_was_saved_to_disk(folder, tmp_path, load):
    songs = load(folder)
    songs.save_to_disk(tmp_path / "saved")
    check_equal(songs, load(tmp_path / "saved"))
    check_equal(songs, load(tmp_path / "saved", streaming=True))
    check_equal(songs, load(tmp_path / "saved", rate=24))
    songs["train"].save_to_disk(tmp_path / "one")
    check_equal({"train": songs["train"]}, load(tmp_path / "one"))


def test_a_copy_in_parquet_files(folder, tmp_path, load):
    songs = load(folder)
    (tmp_path / "copy").mkdir()
    for split, part in songs.items():
        part.to_parquet(tmp_path / "copy" / f"{split}.parquet")
    check_equal(songs, load(tmp_path / "copy"))
    check_equal(songs, load(tmp_path / "copy", streaming=True))
    plain = load_dataset(str(tmp_path / "copy"), cache_dir=str(tmp_path / "cache"))
    assert plain["test"][0]["score"] == ALL[SONGS["test"][0]].score.tolist()


def test_a_copy_is_checked_for_format_and_rate(folder, tmp_path, load):
    load(folder, "seprsco").save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="is no data set of the format exprsco"):
        load(tmp_path / "saved", "exprsco")
    with pytest.raises(ValueError, match="scores at 24 Hz, not 48"):
        load(tmp_path / "saved", "seprsco", rate=48)
    with pytest.raises(ValueError, match="scores at 24 Hz, not 48"):
        next(iter(load(tmp_path / "saved", "seprsco", rate=48, streaming=True)["test"]))
    with pytest.raises(ValueError, match="belong to its making"):
        load(tmp_path / "saved", "seprsco", composers={"1942": ["A"]})


# The real songs


@pytest.fixture(params=[pytest.param(20, id="some"), pytest.param(None, id="all", marks=pytest.mark.slow)])
def real_songs(request, shared_data, tmp_path) -> Path:
    for path in (shared_data / "nes_songs" / "midi").glob("*"):
        (tmp_path / "real" / path.name).mkdir(parents=True)
        for song in sorted(path.glob("*.mid"))[: request.param]:
            (tmp_path / "real" / path.name / song.name).symlink_to(song)
    return tmp_path / "real"


def test_real_midi_files_become_the_published_scores(real_songs, shared_data, load):
    songs = load(real_songs)
    assert list(songs) == ["train", "validation", "test"]
    for split, part in songs.items():
        folder = "valid" if split == "validation" else split
        assert len(part) == len(list((real_songs / folder).glob("*.mid")))
        published = np.load(shared_data / "nes_songs" / f"exprsco24_{folder}.npz")
        for row in part:
            assert np.array_equal(row["score"], published[row["name"]])
            assert round(row["seconds"] * 44100) == published[f"{row['name']}|nsamps"]
