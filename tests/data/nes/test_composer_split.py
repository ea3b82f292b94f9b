"""`composer_disjoint_split`: nobody, and no game, in two splits; sizes near the fractions; deterministic."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.data.nes import composer_disjoint_split
from seqzoo.data.nes.dataset import features


COLUMNS = {name: features("midi")[name] for name in ("name", "game", "game_id", "composers")}


def collection(songs: list[tuple[list[str], str | None]]) -> Dataset:
    """From the composers and the game of every song."""
    columns = {
        "name": [f"song{number:04}" for number in range(len(songs))],
        "game": [game for _, game in songs],
        "game_id": [None] * len(songs),
        "composers": [composers for composers, _ in songs],
    }
    return Dataset.from_dict(columns, features=type(features("midi"))(COLUMNS))


def group_sizes(songs: Dataset) -> np.ndarray:
    """Of songs that hang together, found by spreading from every song until nothing changes."""
    label = list(range(len(songs)))
    keys = [set(row["composers"]) | ({f"game {row['game']}"} if row["game"] else set()) for row in songs]
    changed = True
    while changed:
        changed = False
        for one in range(len(keys)):
            for other in range(one):
                if keys[one] & keys[other] and label[one] != label[other]:
                    label[one] = label[other] = min(label[one], label[other])
                    changed = True
    return np.unique(label, return_counts=True)[1]


SONGS = st.lists(
    st.tuples(
        st.lists(st.sampled_from("ABCDEFGHIJKLMN"), min_size=1, max_size=3, unique=True),
        st.one_of(st.none(), st.sampled_from([f"game{number}" for number in range(12)])),
    ),
    min_size=3,
    max_size=40,
)
FRACTIONS = st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.9, 0.0, 0.1), (1 / 3, 1 / 3, 1 / 3)])


@settings(max_examples=100, deadline=None)
@given(songs=SONGS, fractions=FRACTIONS, seed=st.integers(0, 3))
def test_nobody_is_in_two_splits_and_sizes_are_near(songs, fractions, seed):
    songs = collection(songs)
    wanted = {name: part for name, part in zip(("train", "validation", "test"), fractions) if part}
    sizes = group_sizes(songs)
    if len(sizes) < len(wanted):
        with pytest.raises(ValueError, match=rf"make {len(sizes)} group.*too few for {len(wanted)} splits"):
            composer_disjoint_split(songs, fractions, seed)
        return
    splits = composer_disjoint_split(songs, fractions, seed)
    assert list(splits) == list(wanted)
    assert sorted(name for part in splits.values() for name in part["name"]) == songs["name"]
    for kind in ("composers", "game"):
        seen = [
            {key for row in part for key in (row[kind] if kind == "composers" else [row[kind]]) if key}
            for part in splits.values()
        ]
        assert sum(map(len, seen)) == len(set().union(*seen))
    for split, fraction in wanted.items():
        assert 0 < len(splits[split]) < fraction * len(songs) + sizes.max()
    assert {split: part["name"][:] for split, part in composer_disjoint_split(songs, fractions, seed).items()} == {
        split: part["name"][:] for split, part in splits.items()
    }


def many() -> Dataset:
    return collection([([f"composer {number // 5}"], f"game {number // 3}") for number in range(300)])


def test_sizes_of_a_collection_of_many_groups():
    splits = composer_disjoint_split(many(), (0.8, 0.1, 0.1))
    assert {split: len(part) for split, part in splits.items()} == {"train": 240, "validation": 30, "test": 30}


def test_the_order_of_rows_changes_nothing_and_the_seed_does():
    songs = many()
    one, two = composer_disjoint_split(songs), composer_disjoint_split(songs.shuffle(seed=1))
    assert {split: sorted(part["name"]) for split, part in one.items()} == {
        split: sorted(part["name"]) for split, part in two.items()
    }
    assert set(composer_disjoint_split(songs, seed=1)["test"]["name"]) != set(one["test"]["name"])


def test_the_splits_of_a_dictionary_are_put_together():
    songs = many()
    parts = DatasetDict(train=songs.select(range(100)), test=songs.select(range(100, 300)))
    assert composer_disjoint_split(parts)["test"]["name"][:] == composer_disjoint_split(songs)["test"]["name"][:]


@pytest.mark.parametrize(
    ("songs", "fractions", "message"),
    [
        ([(["A"], None), ([], None), (["Unknown"], None)], (0.8, 0.1, 0.1), "of 2 of 3 songs .* as song0001"),
        ([(["A"], "x"), (["B"], "x"), (["C"], "y")], (0.8, 0.1, 0.1), "make 2 group.*too few for 3 splits"),
        ([(["A"], None), (["a "], None)], (0.5, 0.5, 0), "make 1 group"),
        ([(["A"], None)] * 3, (0.8, 0.1), "are not three parts that add up to 1"),
        ([(["A"], None), ([""], None), ([None], None)], (0.8, 0.1, 0.1), "of 2 of 3 songs .* as song0001"),
        ([(["A"], None)] * 3, (float("nan"), 0, 1), "are not three parts that add up to 1"),
        ([(["A"], None)] * 3, (float("nan"),) * 3, "are not three parts that add up to 1"),
        ([(["A"], None)] * 3, (0.8, 0.1, 0.2), "are not three parts that add up to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(songs, fractions, message):
    with pytest.raises(ValueError, match=message):
        composer_disjoint_split(collection(songs), fractions)


def test_streams_cannot_be_split():
    with pytest.raises(TypeError, match="without streaming"):
        composer_disjoint_split(many().to_iterable_dataset())
